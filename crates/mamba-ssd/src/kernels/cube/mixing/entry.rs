//! One entry of the difference of two matrices.

use cubecl::prelude::*;

use crate::kernels::cube::attention::tile::power_of_two;
use crate::kernels::cube::chunks::Blocks;
use crate::kernels::cube::mma::Pair;

/// What a row of the matrices is.
#[derive(CubeType, Clone, Copy)]
pub(super) struct OfRow {
    pub token: usize,
    /// The first column that it sees.
    pub first: usize,
    /// Of the teacher's row, in powers of two.
    pub log: f32,
}

/// `M - P` at a column, where `product` is `(C_l · B_s) a_{s+1} ⋯ a_l` and `score` in powers of two.
#[cube]
pub(super) fn difference(
    product: f32,
    score: f32,
    skip: f32,
    column: usize,
    of: &OfRow,
    #[comptime] blocks: Blocks,
) -> f32 {
    let seen = column >= of.first && column <= of.token;
    let p = select(seen, power_of_two(score - of.log, blocks), f32::new(0.0));
    product + select(column == of.token, skip, f32::new(0.0)) - p
}

/// Of two neighbours from `place` on, what lies at `own`.
#[cube]
pub(super) fn on_diagonal(pair: Pair<f32>, place: usize, own: usize) -> f32 {
    let mut corner = f32::new(0.0);
    #[unroll]
    for half in 0..2usize {
        corner += select(place + half == own, pair.extract(half), f32::new(0.0));
    }
    corner
}

/// The same with 0 at `own`.
#[cube]
pub(super) fn off_diagonal(pair: Pair<f32>, place: usize, own: usize) -> Pair<f32> {
    let mut others = pair;
    #[unroll]
    for half in 0..2usize {
        others.insert(half, select(place + half == own, f32::new(0.0), pair.extract(half)));
    }
    others
}
