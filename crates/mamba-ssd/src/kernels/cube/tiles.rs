//! Tiles between global memory, registers and shared memory.
//!
//! What lies beyond a sequence's or a row's end reads as 0 and is not written. A unit holds of a product
//! pairs of neighbouring numbers, row `g` and columns `i` and `i + 1` of every block of 16 by 8.

use cubecl::prelude::barrier::copy_async_checked;
use cubecl::prelude::*;

use super::chunks::{Blocks, ChunkSizes, Spot};
use super::mma::{One, Pair};

/// Rows of a tile in global memory.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Source {
    /// Place of its first number, and from a row to the next.
    pub first: usize,
    pub pitch: usize,
    /// What of it lies inside the array.
    pub rows: usize,
    pub columns: usize,
}

/// The tile of x, or of its gradient, at a token.
#[cube]
pub(super) fn values_at(token: usize, spot: &Spot, sizes: &ChunkSizes) -> Source {
    Source {
        first: ((spot.batch * sizes.t + token) * sizes.heads + spot.head) * sizes.p + spot.p,
        pitch: sizes.heads * sizes.p,
        rows: spot.end - token,
        columns: sizes.p - spot.p,
    }
}

/// The tile of B or C at a token.
#[cube]
pub(super) fn projections_at(token: usize, spot: &Spot, sizes: &ChunkSizes) -> Source {
    Source {
        first: ((spot.batch * sizes.t + token) * sizes.groups + spot.group) * sizes.n,
        pitch: sizes.groups * sizes.n,
        rows: spot.end - token,
        columns: sizes.n,
    }
}

/// The tile of the state that enters the chunk at a token.
#[cube]
pub(super) fn borders_at(
    token: usize,
    spot: &Spot,
    sizes: &ChunkSizes,
    #[comptime] blocks: Blocks,
) -> Source {
    let q = comptime!(blocks.chunk());
    let row = (CUBE_POS_X as usize * sizes.t.div_ceil(q) + token / q) * sizes.p + spot.p;
    Source { first: row * sizes.n, pitch: sizes.n, rows: sizes.p - spot.p, columns: sizes.n }
}

/// Starts to copy a tile of `width` columns into shared memory from place `start` on, zeros beyond its end.
#[cube]
pub(super) fn fetch<E: Float, W: Size>(
    to: &mut Shared<[One<E>]>,
    start: usize,
    from: &[Vector<E, W>],
    source: &Source,
    #[comptime] width: usize,
    #[comptime] stride: usize,
    #[comptime] blocks: Blocks,
) {
    let (wide, units) = comptime!((blocks.wide, blocks.units()));
    let count = comptime!(blocks.chunk() * width / wide);
    let wider = to.with_vector_size_mut::<W>();
    let (first, pitch) = (source.first / wide, source.pitch / wide);
    #[unroll]
    for j in 0..comptime!(count.div_ceil(units)) {
        let unit = UNIT_POS as usize;
        if comptime!(count.is_multiple_of(units)) || j * units + unit < count {
            let (row, column) = place_in_tile(unit, j, units, comptime!(width / wide));
            let inside = row < source.rows && column * wide < source.columns;
            let place = start / wide + row * comptime!(stride / wide) + column;
            let origin = select(inside, first + row * pitch + column, 0usize);
            if comptime!(blocks.emulated) {
                let mut value = Vector::<E, W>::new(E::new(0.0));
                if inside {
                    value = from[origin];
                }
                wider[place] = value;
            } else {
                copy_async_checked(
                    &from[origin..origin + usize::cast_from(inside)],
                    &mut wider[place..place + 1],
                    comptime!(wide as u32),
                );
            }
        }
    }
}

/// Row and column of the `j`-th access of a unit to a tile of `per_row` columns.
#[cube]
fn place_in_tile(
    unit: usize,
    #[comptime] j: usize,
    #[comptime] units: usize,
    #[comptime] per_row: usize,
) -> (usize, usize) {
    if comptime!(units.is_multiple_of(per_row)) {
        (unit / per_row + comptime!(j * units / per_row), unit % per_row)
    } else {
        let at = unit + comptime!(j * units);
        (at / per_row, at % per_row)
    }
}

/// Waits for a unit's own copies.
#[cube]
pub(super) fn arrive(#[comptime] blocks: Blocks) {
    if comptime!(!blocks.emulated) {
        gpu_asm!("cp.async.wait_all;");
    }
}

/// A tile of `width` columns in shared memory, from place `start` on, to global memory: rows
/// `first_row..` of `rows` rows, by `units` units of which this one is `unit`.
#[cube]
pub(super) fn flush<E: Float, W: Size>(
    from: &Shared<[One<E>]>,
    start: usize,
    to: &mut [Vector<E, W>],
    target: &Source,
    #[comptime] rows: usize,
    first_row: usize,
    unit: usize,
    #[comptime] units: usize,
    #[comptime] width: usize,
    #[comptime] stride: usize,
    #[comptime] blocks: Blocks,
) {
    let wide = comptime!(blocks.wide);
    let count = comptime!(rows * width / wide);
    let wider = from.with_vector_size::<W>();
    let (first, pitch) = (target.first / wide, target.pitch / wide);
    #[unroll]
    for j in 0..comptime!(count.div_ceil(units)) {
        if comptime!(count.is_multiple_of(units)) || j * units + unit < count {
            let (row, column) = place_in_tile(unit, j, units, comptime!(width / wide));
            let row = first_row + row;
            if row < target.rows && column * wide < target.columns {
                let place = start / wide + row * comptime!(stride / wide) + column;
                to[first + row * pitch + column] = wider[place];
            }
        }
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

/// Waits for the plane, whose rows of a tile it shares. Emulated, a plane may be part of one of 32 units.
#[cube]
pub(super) fn sync_rows(#[comptime] blocks: Blocks) {
    if comptime!(blocks.emulated) {
        sync_cube();
    } else {
        sync_plane();
    }
}

#[cube]
pub(super) fn scale_rows(sums: &mut Array<Pair<f32>>, upper: f32, lower: f32, #[comptime] tiles: usize) {
    #[unroll]
    for tile in 0..tiles {
        sums[comptime!(2 * tile)] *= Pair::new(upper);
        sums[comptime!(2 * tile + 1)] *= Pair::new(lower);
    }
}

#[cube]
pub(super) fn rounded<E: Float>(sums: &Array<Pair<f32>>, #[comptime] tiles: usize) -> Array<Pair<E>> {
    let mut pairs = Array::<Pair<E>>::new(comptime!(2 * tiles));
    #[unroll]
    for i in 0..comptime!(2 * tiles) {
        pairs[i] = Pair::<E>::cast_from(sums[i]);
    }
    pairs
}

/// A plane's rows of a product, rounded, into its rows of a tile from place `start` on.
#[cube]
pub(super) fn put_rows<E: Float, O: Size>(
    sums: &Array<Pair<f32>>,
    to: &mut Shared<[One<E>]>,
    start: usize,
    spot: &Spot,
    #[comptime] tiles: usize,
    #[comptime] stride: usize,
    #[comptime] blocks: Blocks,
) {
    put_pairs::<E, O>(&rounded::<E>(sums, tiles), to, start, spot, tiles, stride, blocks);
}

#[cube]
pub(super) fn put_pairs<E: Float, O: Size>(
    from: &Array<Pair<E>>,
    to: &mut Shared<[One<E>]>,
    start: usize,
    spot: &Spot,
    #[comptime] tiles: usize,
    #[comptime] stride: usize,
    #[comptime] blocks: Blocks,
) {
    let pairs = to.with_vector_size_mut::<O>();
    #[unroll]
    for i in 0..comptime!(2 * tiles) {
        let row = 16 * spot.block + spot.g + comptime!(i % 2 * 8);
        let at = start + row * stride + comptime!(i / 2 * 8) + spot.i;
        write_pair::<E, O>(pairs, at, from[i], blocks);
    }
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
pub(super) fn load_state<O: Size>(
    state: &mut Array<Pair<f32>>,
    from: &[Vector<f32, O>],
    spot: &Spot,
    sizes: &ChunkSizes,
    #[comptime] blocks: Blocks,
) {
    let slot = CUBE_POS_X as usize * CUBE_COUNT_Z as usize + CUBE_POS_Z as usize;
    #[unroll]
    for i in 0..comptime!(blocks.n_columns() / 4) {
        let row = spot.p + 16 * spot.block + spot.g + comptime!(i % 2 * 8);
        let column = spot.half * comptime!(blocks.n_columns()) + comptime!(i / 2 * 8) + spot.i;
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
    #[unroll]
    for i in 0..comptime!(blocks.n_columns() / 4) {
        let row = spot.p + 16 * spot.block + spot.g + comptime!(i % 2 * 8);
        let column = spot.half * comptime!(blocks.n_columns()) + comptime!(i / 2 * 8) + spot.i;
        if row < sizes.p {
            write_inside::<f32, O>(to, (first + row) * sizes.n, column, sizes.n, state[i], blocks);
        }
    }
}
