//! The gradients of keys and values: a cube for every key-value head and tile of columns, over the tokens that see it,
//! of all query heads that share the head.
//!
//! Rows are columns of the matrix here, and the columns of a product are tokens.

use cubecl::prelude::*;

use super::tile::{Sizes, block_of, power_of_two, scale_all, spot};
use super::tokens::{OfTokens, of_token, seeing};
use crate::kernels::cube::chunks::{Blocks, Spot};
use crate::kernels::cube::mma::{One, Row, as_a, times_columns, zeros};
use crate::kernels::cube::tiles::{arrive, fetch, flush, put_rows, sync_rows};

#[cube(launch)]
pub(super) fn keys<E: Float, W: Size, O: Size, I: Int>(
    q: &[Vector<E, W>],      // b t h d, in strides
    k: &[Vector<E, W>],      // b s kv d, in strides
    v: &[Vector<E, W>],      // b s kv d, in strides
    first: &[I],             // b t
    logs: &[f32],            // b h t
    deltas: &[f32],          // b h t
    grad: &[Vector<E, W>],   // b t h d
    dk: &mut [Vector<E, W>], // b s kv d
    dv: &mut [Vector<E, W>], // b s kv d
    sizes: Sizes,
    #[comptime] blocks: Blocks,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let (size, tile, ns) = comptime!((blocks.chunk(), blocks.n_tile(), blocks.n_stride()));
    let (depth, n_tiles, rows) = comptime!((blocks.n / 16, blocks.n_tiles(), blocks.rows));
    let column = CUBE_POS_Y as usize * size;
    let share = sizes.heads / sizes.kv;
    // Here the head is one of keys and values.
    let spot = spot(sizes.kv, 1usize.runtime(), column, sizes.s);
    let mut ks = Shared::<[One<E>]>::new_aligned_slice(tile, 16usize);
    let mut vs = Shared::<[One<E>]>::new_aligned_slice(tile, 16usize);
    let mut qs = Shared::<[One<E>]>::new_aligned_slice(comptime!(2 * tile), 16usize);
    let mut gs = Shared::<[One<E>]>::new_aligned_slice(comptime!(2 * tile), 16usize);
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(blocks.scratch()));
    let mut of_tokens = OfTokens::new(blocks);

    // The tiles of tokens that see the columns.
    let past = sizes.past();
    let begin = (column - min(column, past)) / size;
    let end = seeing::<I>(first, begin, min(column + size, sizes.s) - 1, spot.batch, sizes.t, blocks);
    let tiles = end - min(begin, end);
    let count = share * tiles;

    let from = sizes.tile(&sizes.k, sizes.s, spot.batch, column, spot.head);
    fetch::<E, W>(&mut ks, 0usize, k, &from, blocks.n, ns, blocks);
    let from = sizes.tile(&sizes.v, sizes.s, spot.batch, column, spot.head);
    fetch::<E, W>(&mut vs, 0usize, v, &from, blocks.n, ns, blocks);
    let strides = sizes.contiguous(sizes.t, sizes.heads);
    let next = work(0usize, tiles, begin, share, &spot, blocks);
    if count > 0 {
        let from = sizes.tile(&sizes.q, sizes.t, spot.batch, next.token, next.head);
        fetch::<E, W>(&mut qs, 0usize, q, &from, blocks.n, ns, blocks);
        let from = sizes.tile(&strides, sizes.t, spot.batch, next.token, next.head);
        fetch::<E, W>(&mut gs, 0usize, grad, &from, blocks.n, ns, blocks);
        let row = (spot.batch * sizes.heads + next.head) * sizes.t;
        of_tokens.put(
            of_token::<I>(first, logs, deltas, row, next.token, spot.batch, sizes.t, blocks),
            0usize,
            blocks,
        );
    }
    arrive(blocks);
    sync_cube();
    let keys = Row::<E>::new(&ks, 0usize, spot.block, depth, ns, blocks);
    let values = Row::<E>::new(&vs, 0usize, spot.block, depth, ns, blocks);

    let scale = sizes.scale();
    let mut of_keys = zeros(comptime!(2 * n_tiles));
    let mut of_values = zeros(comptime!(2 * n_tiles));
    let own = column + 16 * spot.block + spot.g;
    for index in 0..count {
        let here = work(index, tiles, begin, share, &spot, blocks);
        let turn = index % 2;
        let at = turn * tile;
        if index > 0 {
            arrive(blocks);
            sync_cube();
        }
        let next = work(min(index + 1, count - 1), tiles, begin, share, &spot, blocks);
        if index + 1 < count {
            let from = sizes.tile(&sizes.q, sizes.t, spot.batch, next.token, next.head);
            fetch::<E, W>(&mut qs, tile - at, q, &from, blocks.n, ns, blocks);
            let from = sizes.tile(&strides, sizes.t, spot.batch, next.token, next.head);
            fetch::<E, W>(&mut gs, tile - at, grad, &from, blocks.n, ns, blocks);
        }
        let row = (spot.batch * sizes.heads + next.head) * sizes.t;
        let of_next = of_token::<I>(first, logs, deltas, row, next.token, spot.batch, sizes.t, blocks);

        let mut p = zeros(comptime!(4 * rows));
        keys.times_rows(&ks, &qs, at, &mut p, rows, ns, &mut scratch, blocks);
        #[unroll]
        for i in 0..comptime!(4 * rows) {
            let tokens = comptime!(i / 2 * 8) + spot.i;
            let log = of_tokens.log::<O>(turn, tokens, blocks);
            let row = own + comptime!(i % 2 * 8);
            let mut pair = p[i];
            #[unroll]
            for j in 0..2usize {
                let first = of_tokens.first(turn, tokens + j, blocks);
                let seen = row >= first && row <= past + here.token + tokens + j;
                let power = power_of_two(pair.extract(j) * scale - log.extract(j), blocks);
                pair.insert(j, select(seen, power, f32::new(0.0)));
            }
            p[i] = pair;
        }
        #[unroll]
        for j in 0..rows {
            let left = as_a::<E>(&block_of(&p, j));
            times_columns::<E>(
                &left,
                &gs,
                at,
                comptime!(16 * j),
                &mut of_values,
                depth,
                ns,
                &mut scratch,
                blocks,
            );
        }
        let mut ds = zeros(comptime!(4 * rows));
        values.times_rows(&vs, &gs, at, &mut ds, rows, ns, &mut scratch, blocks);
        #[unroll]
        for i in 0..comptime!(4 * rows) {
            let delta = of_tokens.number::<O>(turn, comptime!(i / 2 * 8) + spot.i, blocks);
            ds[i] = p[i] * (ds[i] - delta);
        }
        #[unroll]
        for j in 0..rows {
            let left = as_a::<E>(&block_of(&ds, j));
            times_columns::<E>(
                &left,
                &qs,
                at,
                comptime!(16 * j),
                &mut of_keys,
                depth,
                ns,
                &mut scratch,
                blocks,
            );
        }
        of_tokens.put(of_next, 1 - turn, blocks);
    }

    scale_all(&mut of_keys, f32::new(1.0) / f32::cast_from(sizes.d).sqrt(), comptime!(2 * n_tiles));
    put_rows::<E, O>(&of_keys, &mut ks, 0usize, &spot, n_tiles, ns, blocks);
    put_rows::<E, O>(&of_values, &mut vs, 0usize, &spot, n_tiles, ns, blocks);
    sync_rows(blocks);
    let strides = sizes.contiguous(sizes.s, sizes.kv);
    let target = sizes.tile(&strides, sizes.s, spot.batch, column, spot.head);
    let (lane, row) = (UNIT_POS as usize % 32, 16 * spot.block);
    flush::<E, W>(&ks, 0usize, dk, &target, 16usize, row, lane, 32usize, blocks.n, ns, blocks);
    flush::<E, W>(&vs, 0usize, dv, &target, 16usize, row, lane, 32usize, blocks.n, ns, blocks);
}

/// A tile of tokens of a query head.
#[derive(CubeType, Clone, Copy)]
struct Work {
    token: usize,
    head: usize,
}

#[cube]
fn work(
    index: usize,
    tiles: usize,
    begin: usize,
    share: usize,
    spot: &Spot,
    #[comptime] blocks: Blocks,
) -> Work {
    let tiles = max(tiles, 1usize);
    Work {
        token: (begin + index % tiles) * comptime!(blocks.chunk()),
        head: spot.head * share + index / tiles,
    }
}
