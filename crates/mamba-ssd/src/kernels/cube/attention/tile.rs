//! What attention's kernels share, in parts with those of mixing matrices: sizes, places, scores and their masks.

use cubecl::prelude::*;

use crate::kernels::cube::chunks::{Blocks, Spot};
use crate::kernels::cube::mma::{One, Pair};
use crate::kernels::cube::tiles::{Source, fetch};

/// A score that exponentiates to exactly 0 against every maximum, and what maxima begin with.
const HIDDEN: f32 = -2e30;
pub(super) const LEAST: f32 = -1e30;

/// The log of a row's sum where there is no row: its probabilities are 0.
pub const NEVER: f32 = 1e30;

/// From row to row of the batch, token to token and head to head.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Strides {
    pub batch: usize,
    pub token: usize,
    pub head: usize,
}

/// Sizes of the map, and how its arrays lie in memory.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Sizes {
    /// Rows of a head.
    pub t: usize,
    /// Tokens that they are of: as many, or one, whose query heads are the rows of the head that they share.
    pub tokens: usize,
    pub s: usize,
    pub heads: usize,
    pub kv: usize,
    pub d: usize,
    pub q: Strides,
    pub k: Strides,
    pub v: Strides,
    pub out: Strides,
}

#[cube]
impl Sizes {
    /// The tile of `length` tokens or columns of which `at` is the first.
    pub fn tile(&self, strides: &Strides, length: usize, batch: usize, at: usize, head: usize) -> Source {
        Source {
            first: batch * strides.batch + at * strides.token + head * strides.head,
            pitch: strides.token,
            rows: length - min(at, length),
            columns: self.d,
        }
    }

    /// How a contiguous array `[b length heads d]` lies in memory.
    pub fn contiguous(&self, length: usize, heads: usize) -> Strides {
        Strides { batch: length * heads * self.d, token: heads * self.d, head: self.d }
    }

    /// What turns scores into exponents of two.
    pub fn scale(&self) -> f32 {
        f32::new(core::f32::consts::LOG2_E) / f32::cast_from(self.d).sqrt()
    }

    /// Columns in front of the first token.
    pub fn past(&self) -> usize {
        self.s - self.tokens
    }

    /// A row's own column, the last one that it sees; beyond the end that of the last row.
    pub fn own(&self, row: usize) -> usize {
        self.past() + min(row, self.tokens - 1)
    }
}

/// Where a unit works: the cube's row of the batch and head, of `heads`, the unit's plane and its place in it.
#[cube]
pub fn spot(heads: usize, share: usize, first: usize, end: usize) -> Spot {
    let index = CUBE_POS_X as usize;
    let lane = UNIT_POS as usize % 32;
    let head = index % heads;
    Spot {
        batch: index / heads,
        head,
        group: head / share,
        p: 0usize.runtime(),
        first,
        end,
        block: UNIT_POS as usize / 32,
        half: 0usize.runtime(),
        g: lane / 4,
        i: lane % 4 * 2,
    }
}

/// The tile of tokens of a cube. Late tokens see most: they begin first.
#[cube]
pub fn late_first(cube: usize, count: usize) -> usize {
    count - 1 - cube
}

/// The first column that a token sees; tokens beyond the end see what the last one does.
#[cube]
pub fn first_of<I: Int>(first: &[I], batch: usize, token: usize, t: usize) -> usize {
    usize::cast_from(first[batch * t + min(token, t - 1)])
}

/// What a cube's tile of tokens sees: `count` tiles of columns from `start` on. Cubes along z share them.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Columns {
    pub start: usize,
    pub count: usize,
    /// The first column that all of its tokens see, if it is in front of their own.
    inner: usize,
    /// The first token's own column.
    own: usize,
}

#[cube]
impl Columns {
    pub fn new<I: Int>(
        first: &[I],
        token: usize,
        spot: &Spot,
        sizes: &Sizes,
        #[comptime] blocks: Blocks,
    ) -> Columns {
        let size = comptime!(blocks.chunk());
        let start = first_of::<I>(first, spot.batch, token, sizes.tokens);
        let end = min(sizes.past() + token + size, sizes.s);
        let count = (end - start).div_ceil(size);
        let share = count.div_ceil(CUBE_COUNT_Z as usize);
        let before = min(CUBE_POS_Z as usize * share, count);
        Columns {
            start: start + before * size,
            count: min(share, count - before),
            inner: first_of::<I>(first, spot.batch, token + size - 1, sizes.tokens),
            own: sizes.own(token),
        }
    }

    /// Whether some token does not see some column of the tile at `column`.
    pub fn hides(&self, column: usize, #[comptime] blocks: Blocks) -> bool {
        column < self.inner || column + comptime!(blocks.chunk()) > self.own + 1
    }
}

/// Starts to copy a tile of keys and values to place `at`.
#[cube]
pub(super) fn fetch_columns<E: Float, W: Size>(
    ks: &mut Shared<[One<E>]>,
    vs: &mut Shared<[One<E>]>,
    at: usize,
    k: &[Vector<E, W>],
    v: &[Vector<E, W>],
    column: usize,
    spot: &Spot,
    sizes: &Sizes,
    #[comptime] blocks: Blocks,
) {
    let ns = comptime!(blocks.n_stride());
    let keys = sizes.tile(&sizes.k, sizes.s, spot.batch, column, spot.group);
    fetch::<E, W>(ks, at, k, &keys, blocks.n, ns, blocks);
    let values = sizes.tile(&sizes.v, sizes.s, spot.batch, column, spot.group);
    fetch::<E, W>(vs, at, v, &values, blocks.n, ns, blocks);
}

/// What a unit's two rows of tokens may see.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Visible {
    pub upper_first: usize,
    pub upper_last: usize,
    pub lower_first: usize,
    pub lower_last: usize,
}

#[cube]
pub(super) fn visible<I: Int>(first: &[I], row: usize, spot: &Spot, sizes: &Sizes) -> Visible {
    Visible {
        upper_first: first_of::<I>(first, spot.batch, row, sizes.tokens),
        upper_last: sizes.own(row),
        lower_first: first_of::<I>(first, spot.batch, row + 8, sizes.tokens),
        lower_last: sizes.own(row + 8),
    }
}

/// Hides what the rows may not see, of scores against the columns from `column` on.
#[cube]
pub(super) fn hide(
    scores: &mut Array<Pair<f32>>,
    column: usize,
    may: &Visible,
    spot: &Spot,
    #[comptime] blocks: Blocks,
) {
    #[unroll]
    for i in 0..comptime!(4 * blocks.rows) {
        let (from, to) = if comptime!(i % 2 == 0) {
            (may.upper_first, may.upper_last)
        } else {
            (may.lower_first, may.lower_last)
        };
        let at = column + comptime!(i / 2 * 8) + spot.i;
        let mut pair = scores[i];
        #[unroll]
        for j in 0..2usize {
            let seen = at + j >= from && at + j <= to;
            pair.insert(j, select(seen, pair.extract(j), f32::new(HIDDEN)));
        }
        scores[i] = pair;
    }
}

/// `2^x`.
#[cube]
pub fn power_of_two(x: f32, #[comptime] blocks: Blocks) -> f32 {
    if comptime!(blocks.emulated) {
        (x * f32::new(core::f32::consts::LN_2)).exp()
    } else {
        let y: f32;
        gpu_asm!("ex2.approx.ftz.f32 {}, {};", out(_) y, in(_) x, options(pure, nomem));
        y
    }
}

/// `2^(scores - of_row)` in place, for the two rows of a unit.
#[cube]
pub(super) fn powers(scores: &mut Array<Pair<f32>>, upper: f32, lower: f32, #[comptime] blocks: Blocks) {
    #[unroll]
    for i in 0..comptime!(4 * blocks.rows) {
        let of_row = if comptime!(i % 2 == 0) { upper } else { lower };
        let mut pair = scores[i];
        #[unroll]
        for j in 0..2usize {
            pair.insert(j, power_of_two(pair.extract(j) - of_row, blocks));
        }
        scores[i] = pair;
    }
}

/// Four pairs of a row of blocks: the `j`-th block of 16 by 16.
#[cube]
pub(super) fn block_of(sums: &Array<Pair<f32>>, #[comptime] j: usize) -> Array<Pair<f32>> {
    let mut block = Array::<Pair<f32>>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        block[i] = sums[comptime!(4 * j + i)];
    }
    block
}

#[cube]
pub(super) fn scale_all(sums: &mut Array<Pair<f32>>, by: f32, #[comptime] count: usize) {
    #[unroll]
    for i in 0..count {
        sums[i] *= Pair::new(by);
    }
}

/// What becomes of the four parts of a row that a quad of units holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fold {
    Sum,
    Largest,
}

/// Two rows' parts, of all four units of a quad.
#[cube]
pub fn over_quad(
    upper: f32,
    lower: f32,
    scratch: &mut Shared<[f32]>,
    spot: &Spot,
    #[comptime] fold: Fold,
    #[comptime] blocks: Blocks,
) -> (f32, f32) {
    if comptime!(blocks.emulated) {
        let row = 4 * (16 * spot.block + spot.g);
        sync_cube();
        scratch[row + spot.i / 2] = upper;
        scratch[row + 32 + spot.i / 2] = lower;
        sync_cube();
        let (mut one, mut other) = (scratch[row], scratch[row + 32]);
        #[unroll]
        for i in 1..4usize {
            one = folded(one, scratch[row + i], fold);
            other = folded(other, scratch[row + 32 + i], fold);
        }
        (one, other)
    } else {
        let one = folded(upper, plane_shuffle_xor(upper, 1u32), fold);
        let other = folded(lower, plane_shuffle_xor(lower, 1u32), fold);
        let one = folded(one, plane_shuffle_xor(one, 2u32), fold);
        let other = folded(other, plane_shuffle_xor(other, 2u32), fold);
        (one, other)
    }
}

#[cube]
fn folded(a: f32, b: f32, #[comptime] fold: Fold) -> f32 {
    if comptime!(fold == Fold::Sum) { a + b } else { max(a, b) }
}
