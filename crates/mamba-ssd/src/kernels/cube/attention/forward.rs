//! Outputs: a cube for every head and tile of tokens, over the columns that the tile sees; or several, each over a part
//! of the columns, where there is one token and too few heads to keep a device busy (Dao et al. 2023, Flash-Decoding).
//!
//! The maximum of a row's scores and the sum of their exponentials are carried from tile to tile of columns, and what
//! was added up is scaled whenever the maximum grows (Milakov and Gimelshein 2018; FlashAttention, algorithm 1).

use cubecl::prelude::*;

use super::tile::{
    Columns, Fold, LEAST, Sizes, block_of, fetch_columns, hide, late_first, over_quad, power_of_two, powers,
    scale_all, spot, visible,
};
use crate::kernels::cube::chunks::Blocks;
use crate::kernels::cube::mma::{One, Row, as_a, times_columns, zeros};
use crate::kernels::cube::tiles::{arrive, fetch, flush, put_rows, scale_rows, sync_rows};

/// A sum of exponentials that stands for none.
const NOTHING: f32 = 1e-30;

#[cube(launch)]
pub(super) fn attend<E: Float, W: Size, O: Size, I: Int>(
    q: &[Vector<E, W>],       // b t h d, in strides
    k: &[Vector<E, W>],       // b s kv d, in strides
    v: &[Vector<E, W>],       // b s kv d, in strides
    first: &[I],              // b t
    out: &mut [Vector<E, W>], // b t h d, in strides, for every cube along z
    logs: &mut [f32],         // b h t, for every cube along z
    sizes: Sizes,
    #[comptime] blocks: Blocks,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let (size, tile, ns) = comptime!((blocks.chunk(), blocks.n_tile(), blocks.n_stride()));
    let (depth, n_tiles, rows) = comptime!((blocks.n / 16, blocks.n_tiles(), blocks.rows));
    let token = late_first(CUBE_POS_Y as usize, CUBE_COUNT_Y as usize) * size;
    let spot = spot(sizes.heads, sizes.heads / sizes.kv, token, sizes.t);
    let mut qs = Shared::<[One<E>]>::new_aligned_slice(tile, 16usize);
    let mut ks = Shared::<[One<E>]>::new_aligned_slice(comptime!(2 * tile), 16usize);
    let mut vs = Shared::<[One<E>]>::new_aligned_slice(comptime!(2 * tile), 16usize);
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(blocks.scratch()));

    let columns = Columns::new::<I>(first, token, &spot, &sizes, blocks);
    let own = 16 * spot.block + spot.g;
    let may = visible::<I>(first, token + own, &spot, &sizes);

    let queries = sizes.tile(&sizes.q, sizes.t, spot.batch, token, spot.head);
    fetch::<E, W>(&mut qs, 0usize, q, &queries, blocks.n, ns, blocks);
    fetch_columns::<E, W>(&mut ks, &mut vs, 0usize, k, v, columns.start, &spot, &sizes, blocks);
    arrive(blocks);
    sync_cube();
    let queries = Row::<E>::new(&qs, 0usize, spot.block, depth, ns, blocks);

    let scale = sizes.scale();
    let mut sums = zeros(comptime!(2 * n_tiles));
    let (mut upper_top, mut lower_top) = (f32::new(LEAST), f32::new(LEAST));
    let (mut upper_sum, mut lower_sum) = (f32::new(0.0), f32::new(0.0));
    for index in 0..columns.count {
        let column = columns.start + index * size;
        let at = index % 2 * tile;
        if index > 0 {
            arrive(blocks);
            sync_cube();
        }
        if index + 1 < columns.count {
            let next = column + size;
            fetch_columns::<E, W>(&mut ks, &mut vs, tile - at, k, v, next, &spot, &sizes, blocks);
        }
        let mut scores = zeros(comptime!(4 * rows));
        queries.times_rows(&qs, &ks, at, &mut scores, rows, ns, &mut scratch, blocks);
        scale_all(&mut scores, scale, comptime!(4 * rows));
        if columns.hides(column, blocks) {
            hide(&mut scores, column, &may, &spot, blocks);
        }

        let (mut upper, mut lower) = (upper_top, lower_top);
        #[unroll]
        for i in 0..comptime!(2 * rows) {
            let (one, other) = (scores[comptime!(2 * i)], scores[comptime!(2 * i + 1)]);
            upper = max(upper, max(one.extract(0usize), one.extract(1usize)));
            lower = max(lower, max(other.extract(0usize), other.extract(1usize)));
        }
        let (upper, lower) = over_quad(upper, lower, &mut scratch, &spot, comptime!(Fold::Largest), blocks);
        let (upper_scale, lower_scale) =
            (power_of_two(upper_top - upper, blocks), power_of_two(lower_top - lower, blocks));
        upper_top = upper;
        lower_top = lower;
        powers(&mut scores, upper, lower, blocks);
        upper_sum *= upper_scale;
        lower_sum *= lower_scale;
        #[unroll]
        for i in 0..comptime!(2 * rows) {
            let (one, other) = (scores[comptime!(2 * i)], scores[comptime!(2 * i + 1)]);
            upper_sum += one.extract(0usize) + one.extract(1usize);
            lower_sum += other.extract(0usize) + other.extract(1usize);
        }
        scale_rows(&mut sums, upper_scale, lower_scale, n_tiles);
        #[unroll]
        for j in 0..rows {
            let left = as_a::<E>(&block_of(&scores, j));
            times_columns::<E>(&left, &vs, at, comptime!(16 * j), &mut sums, depth, ns, &mut scratch, blocks);
        }
    }

    let (upper_sum, lower_sum) =
        over_quad(upper_sum, lower_sum, &mut scratch, &spot, comptime!(Fold::Sum), blocks);
    // A part of the columns may hold none that a row sees.
    let (upper_sum, lower_sum) = (max(upper_sum, f32::new(NOTHING)), max(lower_sum, f32::new(NOTHING)));
    let part = CUBE_POS_Z as usize * CUBE_COUNT_X as usize * sizes.t;
    scale_rows(&mut sums, f32::new(1.0) / upper_sum, f32::new(1.0) / lower_sum, n_tiles);
    if spot.i == 0 {
        let row = part + (spot.batch * sizes.heads + spot.head) * sizes.t + token + own;
        let to_natural = f32::new(core::f32::consts::LN_2);
        if token + own < sizes.t {
            logs[row] = upper_top * to_natural + upper_sum.ln();
        }
        if token + own + 8 < sizes.t {
            logs[row + 8] = lower_top * to_natural + lower_sum.ln();
        }
    }
    put_rows::<E, O>(&sums, &mut qs, 0usize, &spot, n_tiles, ns, blocks);
    sync_rows(blocks);
    let mut target = sizes.tile(&sizes.out, sizes.t, spot.batch, token, spot.head);
    target.first += part * sizes.d;
    let (lane, row) = (UNIT_POS as usize % 32, 16 * spot.block);
    flush::<E, W>(&qs, 0usize, out, &target, 16usize, row, lane, 32usize, blocks.n, ns, blocks);
}

/// The outputs of parts of the columns as one: a mean, weighted with the sums of their exponentials.
#[cube(launch)]
pub(super) fn combine<E: Float>(
    outs: &[E],       // parts rows d
    logs: &[f32],     // parts rows
    out: &mut [E],    // rows d
    sums: &mut [f32], // rows, logs again
    parts: usize,
    rows: usize,
    d: usize,
    #[define(E)] _dtype: ElemType,
) {
    let row = ABSOLUTE_POS / d;
    if row >= rows {
        terminate!();
    }
    let mut top = logs[row];
    for part in 1..parts {
        top = max(top, logs[part * rows + row]);
    }
    let (mut sum, mut mean) = (f32::new(0.0), f32::new(0.0));
    for part in 0..parts {
        let weight = (logs[part * rows + row] - top).exp();
        sum += weight;
        mean += weight * f32::cast_from(outs[part * rows * d + ABSOLUTE_POS]);
    }
    out[ABSOLUTE_POS] = E::cast_from(mean / sum);
    if row * d == ABSOLUTE_POS {
        sums[row] = top + sum.ln();
    }
}
