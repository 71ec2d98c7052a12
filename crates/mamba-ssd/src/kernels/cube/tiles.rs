//! Tiles between global memory, registers and shared memory.
//!
//! What lies beyond a sequence's or a row's end reads as 0 and is not written. A unit holds of a product
//! pairs of neighbouring numbers, row `g` and columns `i` and `i + 1` of every block of 16 by 8.

use cubecl::prelude::*;

use super::chunks::{Blocks, ChunkSizes, Spot};
use super::mma::{One, Pair};

#[cube]
pub(super) fn clear(sums: &mut Array<Pair<f32>>, #[comptime] count: usize) {
    #[unroll]
    for i in 0..count {
        sums[i] = Pair::new(0.0);
    }
}

/// A unit's share of a chunk of x, 0 beyond its ends.
#[cube]
pub(super) fn fetch_values<E: Float, W: Size>(
    to: &mut Array<Vector<E, W>>,
    from: &[Vector<E, W>],
    token: usize,
    spot: &Spot,
    sizes: &ChunkSizes,
    #[comptime] blocks: Blocks,
) {
    let per_row = comptime!(blocks.chunk() / blocks.wide);
    #[unroll]
    for j in 0..comptime!(blocks.share(blocks.chunk())) {
        let at = j * comptime!(blocks.units()) + UNIT_POS as usize;
        let t = token + at / per_row;
        let column = spot.p + at % per_row * comptime!(blocks.wide);
        let mut value = Vector::<E, W>::new(E::new(0.0));
        if t < spot.end && column < sizes.p && at < comptime!(blocks.chunk()) * per_row {
            let row = (spot.batch * sizes.t + t) * sizes.heads + spot.head;
            value = from[(row * sizes.p + column) / comptime!(blocks.wide)];
        }
        to[j] = value;
    }
}

/// A unit's share of a chunk of B or C.
#[cube]
pub(super) fn fetch_projections<E: Float, W: Size>(
    to: &mut Array<Vector<E, W>>,
    from: &[Vector<E, W>],
    token: usize,
    spot: &Spot,
    sizes: &ChunkSizes,
    #[comptime] blocks: Blocks,
) {
    let per_row = comptime!(blocks.n / blocks.wide);
    #[unroll]
    for j in 0..comptime!(blocks.share(blocks.n)) {
        let at = j * comptime!(blocks.units()) + UNIT_POS as usize;
        let t = token + at / per_row;
        let column = at % per_row * comptime!(blocks.wide);
        let mut value = Vector::<E, W>::new(E::new(0.0));
        if t < spot.end && column < sizes.n && at < comptime!(blocks.chunk()) * per_row {
            let row = (spot.batch * sizes.t + t) * sizes.groups + spot.group;
            value = from[(row * sizes.n + column) / comptime!(blocks.wide)];
        }
        to[j] = value;
    }
}

#[cube]
pub(super) fn fetch_log(
    log_a: &[f32],
    token: usize,
    spot: &Spot,
    sizes: &ChunkSizes,
    #[comptime] blocks: Blocks,
) -> f32 {
    let t = token + UNIT_POS as usize;
    let mut value = f32::new(0.0);
    if (UNIT_POS as usize) < comptime!(blocks.chunk()) && t < spot.end {
        value = log_a[(spot.batch * sizes.t + t) * sizes.heads + spot.head];
    }
    value
}

/// From registers to a tile of `width` columns in shared memory.
#[cube]
pub(super) fn put<E: Float, W: Size>(
    from: &Array<Vector<E, W>>,
    to: &mut Shared<[One<E>]>,
    #[comptime] width: usize,
    #[comptime] stride: usize,
    #[comptime] blocks: Blocks,
) {
    let wide = comptime!(blocks.wide);
    let per_row = comptime!(width / wide);
    let wider = to.with_vector_size_mut::<W>();
    #[unroll]
    for j in 0..comptime!(blocks.share(width)) {
        let at = j * comptime!(blocks.units()) + UNIT_POS as usize;
        if at < comptime!(blocks.chunk()) * per_row {
            wider[at / per_row * comptime!(stride / wide) + at % per_row] = from[j];
        }
    }
}

/// The state, rounded, as a tile in shared memory.
#[cube]
pub(super) fn put_state<E: Float, O: Size>(
    state: &Array<Pair<f32>>,
    to: &mut Shared<[One<E>]>,
    spot: &Spot,
    #[comptime] blocks: Blocks,
) {
    let n_tiles = comptime!(blocks.n_tiles());
    let pairs = to.with_vector_size_mut::<O>();
    #[unroll]
    for i in 0..comptime!(2 * n_tiles) {
        let row = 16 * spot.block + spot.g + comptime!(i % 2 * 8);
        let column = 8 * (spot.half * n_tiles + comptime!(i / 2)) + spot.i;
        let at = row * comptime!(blocks.n_stride()) + column;
        write_pair::<E, O>(pairs, at, Pair::<E>::cast_from(state[i]), blocks);
    }
}

#[cube]
pub(super) fn decay_pair<O: Size>(
    decays: &Shared<[One<f32>]>,
    l: usize,
    s: usize,
    #[comptime] stride: usize,
    #[comptime] blocks: Blocks,
) -> Pair<f32> {
    read_pair::<f32, O>(decays.with_vector_size::<O>(), l * stride + s, blocks)
}

/// Two numbers from an even place on.
#[cube]
pub(super) fn read_pair<E: Float, O: Size>(
    from: &[Vector<E, O>],
    at: usize,
    #[comptime] blocks: Blocks,
) -> Pair<E> {
    if comptime!(blocks.pair == 2) {
        Pair::<E>::cast_from(from[at / 2])
    } else {
        let mut pair = Pair::<E>::new(from[at].extract(0usize));
        pair.insert(1usize, from[at + 1].extract(0usize));
        pair
    }
}

#[cube]
pub(super) fn write_pair<E: Float, O: Size>(
    to: &mut [Vector<E, O>],
    at: usize,
    pair: Pair<E>,
    #[comptime] blocks: Blocks,
) {
    if comptime!(blocks.pair == 2) {
        to[at / 2] = Vector::<E, O>::cast_from(pair);
    } else {
        to[at] = Vector::<E, O>::new(pair.extract(0usize));
        to[at + 1] = Vector::<E, O>::new(pair.extract(1usize));
    }
}

/// Writes what of a pair lies before column `width` of a row that starts at `row`.
#[cube]
pub(super) fn write_inside<E: Float, O: Size>(
    to: &mut [Vector<E, O>],
    row: usize,
    column: usize,
    width: usize,
    pair: Pair<E>,
    #[comptime] blocks: Blocks,
) {
    if comptime!(blocks.pair == 2) {
        if column < width {
            to[(row + column) / 2] = Vector::<E, O>::cast_from(pair);
        }
    } else {
        #[unroll]
        for j in 0..2usize {
            if column + j < width {
                to[row + column + j] = Vector::<E, O>::new(pair.extract(j));
            }
        }
    }
}

/// What of a pair lies before column `width`, and 0 beyond.
#[cube]
pub(super) fn read_inside<E: Float, O: Size>(
    from: &[Vector<E, O>],
    row: usize,
    column: usize,
    width: usize,
    #[comptime] blocks: Blocks,
) -> Pair<E> {
    let mut pair = Pair::<E>::new(E::new(0.0));
    if comptime!(blocks.pair == 2) {
        if column < width {
            pair = Pair::<E>::cast_from(from[(row + column) / 2]);
        }
    } else {
        #[unroll]
        for j in 0..2usize {
            if column + j < width {
                pair.insert(j, from[row + column + j].extract(0usize));
            }
        }
    }
    pair
}

#[cube]
pub(super) fn store_pair<E: Float, O: Size>(
    to: &mut [Vector<E, O>],
    pair: Pair<f32>,
    token: usize,
    column: usize,
    spot: &Spot,
    sizes: &ChunkSizes,
    #[comptime] blocks: Blocks,
) {
    if token < spot.end {
        let row = (spot.batch * sizes.t + token) * sizes.heads + spot.head;
        write_inside::<E, O>(to, row * sizes.p, column, sizes.p, Pair::<E>::cast_from(pair), blocks);
    }
}

#[cube]
pub(super) fn load_state<O: Size>(
    state: &mut Array<Pair<f32>>,
    from: &[Vector<f32, O>],
    spot: &Spot,
    sizes: &ChunkSizes,
    #[comptime] blocks: Blocks,
) {
    let slot = CUBE_POS_X as usize * CUBE_COUNT_Z as usize + CUBE_POS_Z as usize;
    let n_tiles = comptime!(blocks.n_tiles());
    #[unroll]
    for i in 0..comptime!(2 * n_tiles) {
        let row = spot.p + 16 * spot.block + spot.g + comptime!(i % 2 * 8);
        let column = 8 * (spot.half * n_tiles + comptime!(i / 2)) + spot.i;
        let mut pair = Pair::<f32>::new(0.0);
        if row < sizes.p {
            let first = (slot * sizes.p + row) * sizes.n;
            pair = read_inside::<f32, O>(from, first, column, sizes.n, blocks);
        }
        state[i] = pair;
    }
}

#[cube]
pub(super) fn store_state<O: Size>(
    state: &Array<Pair<f32>>,
    to: &mut [Vector<f32, O>],
    slot: usize,
    slots: usize,
    spot: &Spot,
    sizes: &ChunkSizes,
    #[comptime] blocks: Blocks,
) {
    let first = (CUBE_POS_X as usize * slots + slot) * sizes.p;
    let n_tiles = comptime!(blocks.n_tiles());
    #[unroll]
    for i in 0..comptime!(2 * n_tiles) {
        let row = spot.p + 16 * spot.block + spot.g + comptime!(i % 2 * 8);
        let column = 8 * (spot.half * n_tiles + comptime!(i / 2)) + spot.i;
        if row < sizes.p {
            write_inside::<f32, O>(to, (first + row) * sizes.n, column, sizes.n, state[i], blocks);
        }
    }
}
