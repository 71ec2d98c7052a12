//! The gradient of the queries, and δ: a cube for every head and tile of tokens, over the columns that it sees.

use cubecl::prelude::*;

use super::tile::{
    Columns, Fold, Sizes, block_of, fetch_columns, hide, late_first, over_quad, powers, scale_all, spot,
    visible,
};
use crate::kernels::cube::chunks::{Blocks, Spot};
use crate::kernels::cube::mma::{One, Pair, Row, as_a, times_columns, zeros};
use crate::kernels::cube::tiles::{arrive, fetch, flush, put_rows, read_pair, sync_rows};

#[cube(launch)]
pub(super) fn queries<E: Float, W: Size, O: Size, I: Int>(
    q: &[Vector<E, W>],      // b t h d, in strides
    k: &[Vector<E, W>],      // b s kv d, in strides
    v: &[Vector<E, W>],      // b s kv d, in strides
    first: &[I],             // b t
    out: &[Vector<E, W>],    // b t h d
    logs: &[f32],            // b h t
    grad: &[Vector<E, W>],   // b t h d
    dq: &mut [Vector<E, W>], // b t h d
    deltas: &mut [f32],      // b h t
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
    let mut gs = Shared::<[One<E>]>::new_aligned_slice(tile, 16usize);
    let mut ks = Shared::<[One<E>]>::new_aligned_slice(comptime!(2 * tile), 16usize);
    let mut vs = Shared::<[One<E>]>::new_aligned_slice(comptime!(2 * tile), 16usize);
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(blocks.scratch()));

    let columns = Columns::new::<I>(first, token, &spot, &sizes, blocks);
    let own = 16 * spot.block + spot.g;
    let may = visible::<I>(first, token + own, &spot, &sizes);
    let strides = sizes.contiguous(sizes.t, sizes.heads);
    let target = sizes.tile(&strides, sizes.t, spot.batch, token, spot.head);

    // δ from the outputs, which lie where values will.
    let from = sizes.tile(&sizes.q, sizes.t, spot.batch, token, spot.head);
    fetch::<E, W>(&mut qs, 0usize, q, &from, blocks.n, ns, blocks);
    fetch::<E, W>(&mut gs, 0usize, grad, &target, blocks.n, ns, blocks);
    fetch::<E, W>(&mut vs, tile, out, &target, blocks.n, ns, blocks);
    fetch_columns::<E, W>(&mut ks, &mut vs, 0usize, k, v, columns.start, &spot, &sizes, blocks);
    arrive(blocks);
    sync_cube();
    let queries = Row::<E>::new(&qs, 0usize, spot.block, depth, ns, blocks);
    let grads = Row::<E>::new(&gs, 0usize, spot.block, depth, ns, blocks);
    let (upper, lower) = dots::<E, O>(&gs, 0usize, &vs, tile, &spot, blocks);
    let (upper_delta, lower_delta) =
        over_quad(upper, lower, &mut scratch, &spot, comptime!(Fold::Sum), blocks);
    let row = (spot.batch * sizes.heads + spot.head) * sizes.t + token + own;
    let (mut upper_log, mut lower_log) = (f32::new(0.0), f32::new(0.0));
    let to_powers = f32::new(core::f32::consts::LOG2_E);
    if token + own < sizes.t {
        upper_log = logs[row] * to_powers;
        if spot.i == 0 {
            deltas[row] = upper_delta;
        }
    }
    if token + own + 8 < sizes.t {
        lower_log = logs[row + 8] * to_powers;
        if spot.i == 0 {
            deltas[row + 8] = lower_delta;
        }
    }
    sync_cube(); // what lay where values will is read

    let scale = sizes.scale();
    let mut sums = zeros(comptime!(2 * n_tiles));
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
        let mut p = zeros(comptime!(4 * rows));
        queries.times_rows(&qs, &ks, at, &mut p, rows, ns, &mut scratch, blocks);
        scale_all(&mut p, scale, comptime!(4 * rows));
        if columns.hides(column, blocks) {
            hide(&mut p, column, &may, &spot, blocks);
        }
        powers(&mut p, upper_log, lower_log, blocks);
        let mut ds = zeros(comptime!(4 * rows));
        grads.times_rows(&gs, &vs, at, &mut ds, rows, ns, &mut scratch, blocks);
        #[unroll]
        for i in 0..comptime!(4 * rows) {
            let delta = if comptime!(i % 2 == 0) { upper_delta } else { lower_delta };
            ds[i] = p[i] * (ds[i] - Pair::new(delta));
        }
        #[unroll]
        for j in 0..rows {
            let left = as_a::<E>(&block_of(&ds, j));
            times_columns::<E>(&left, &ks, at, comptime!(16 * j), &mut sums, depth, ns, &mut scratch, blocks);
        }
    }

    scale_all(&mut sums, f32::new(1.0) / f32::cast_from(sizes.d).sqrt(), comptime!(2 * n_tiles));
    put_rows::<E, O>(&sums, &mut qs, 0usize, &spot, n_tiles, ns, blocks);
    sync_rows(blocks);
    let (lane, row) = (UNIT_POS as usize % 32, 16 * spot.block);
    flush::<E, W>(&qs, 0usize, dq, &target, 16usize, row, lane, 32usize, blocks.n, ns, blocks);
}

/// A unit's part of the products of its two rows of two tiles.
#[cube]
fn dots<E: Float, O: Size>(
    one: &Shared<[One<E>]>,
    one_at: usize,
    other: &Shared<[One<E>]>,
    other_at: usize,
    spot: &Spot,
    #[comptime] blocks: Blocks,
) -> (f32, f32) {
    let ns = comptime!(blocks.n_stride());
    let (one, other) = (one.with_vector_size::<O>(), other.with_vector_size::<O>());
    let mut dots = Array::<f32>::new(2usize);
    dots[0usize] = f32::new(0.0);
    dots[1usize] = f32::new(0.0);
    #[unroll]
    for i in 0..comptime!(2 * blocks.n_tiles()) {
        let place = (16 * spot.block + spot.g + comptime!(i % 2 * 8)) * ns + comptime!(i / 2 * 8) + spot.i;
        let a = Pair::<f32>::cast_from(read_pair::<E, O>(one, one_at + place, blocks));
        let b = Pair::<f32>::cast_from(read_pair::<E, O>(other, other_at + place, blocks));
        let product = a * b;
        dots[comptime!(i % 2)] += product.extract(0usize) + product.extract(1usize);
    }
    (dots[0usize], dots[1usize])
}
