//! Sizes of two stacks of matrices, and where their factors lie in memory.

use cubecl::prelude::*;

use crate::kernels::cube::attention::tile::{self, Strides};
use crate::kernels::cube::chunks::{Blocks, Spot};
use crate::kernels::cube::tiles::Source;

/// Tokens, heads of both, groups of the student and key-value heads of the teacher, state size and head dimension.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Sizes {
    pub t: usize,
    pub heads: usize,
    pub groups: usize,
    pub n: usize,
    pub kv: usize,
    pub e: usize,
    pub b: Strides,
    pub c: Strides,
    pub q: Strides,
    pub k: Strides,
}

/// Where a unit works: the cube's row of the batch and head, of the tile of tokens at `token`.
#[cube]
pub(super) fn own_spot(sizes: &Sizes, token: usize) -> Spot {
    tile::spot(sizes.heads, sizes.heads / sizes.groups, token, sizes.t)
}

#[cube]
impl Sizes {
    /// The tile of B or C at a token.
    pub fn projections(&self, strides: &Strides, spot: &Spot, token: usize) -> Source {
        self.tile(strides, spot, token, spot.group, self.n)
    }

    /// The tile of queries at a token.
    pub fn queries(&self, spot: &Spot, token: usize) -> Source {
        self.tile(&self.q, spot, token, spot.head, self.e)
    }

    /// The tile of keys at a token.
    pub fn keys(&self, spot: &Spot, token: usize) -> Source {
        self.tile(&self.k, spot, token, spot.head / (self.heads / self.kv), self.e)
    }

    /// The tile of a contiguous array `[b t h n]` at a token.
    pub fn per_head(&self, spot: &Spot, token: usize) -> Source {
        let row = self.heads * self.n;
        let strides = Strides { batch: self.t * row, token: row, head: self.n };
        self.tile(&strides, spot, token, spot.head, self.n)
    }

    fn tile(&self, strides: &Strides, spot: &Spot, token: usize, head: usize, width: usize) -> Source {
        Source {
            first: spot.batch * strides.batch + token * strides.token + head * strides.head,
            pitch: strides.token,
            rows: self.t - min(token, self.t),
            columns: width,
        }
    }

    /// A unit's logarithm of a decay, of its token of the tile at `token`.
    pub fn log(&self, log_a: &[f32], token: usize, spot: &Spot, #[comptime] blocks: Blocks) -> f32 {
        let t = token + UNIT_POS as usize;
        let mut value = f32::new(0.0);
        if (UNIT_POS as usize) < comptime!(blocks.chunk()) && t < self.t {
            value = log_a[(spot.batch * self.t + t) * self.heads + spot.head];
        }
        value
    }

    /// What turns scores into exponents of two.
    pub fn scale(&self) -> f32 {
        f32::new(core::f32::consts::LOG2_E) / f32::cast_from(self.e).sqrt()
    }
}
