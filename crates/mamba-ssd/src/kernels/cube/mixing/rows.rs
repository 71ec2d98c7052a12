//! What is summed over columns: a cube for every head and tile of tokens, from its own tile back to the first that it
//! sees. The squares of a row, and in reverse the gradients of C and D and a row's part of that of the decays.

use cubecl::prelude::*;

use super::entry::{OfRow, difference, off_diagonal, on_diagonal};
use super::sizes::{Sizes, own_spot};
use crate::kernels::cube::attention::tile::{Fold, NEVER, first_of, late_first, over_quad};
use crate::kernels::cube::chunks::{Blocks, up_to_own};
use crate::kernels::cube::decays::{Decays, Tokens};
use crate::kernels::cube::mma::{One, Pair, Row, as_a, times_columns, zeros};
use crate::kernels::cube::tiles::{arrive, fetch, flush, put_rows, sync_rows};

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    Squares,
    Gradients,
}

#[cube(launch)]
pub(super) fn rows<E: Float, W: Size, O: Size, I: Int>(
    log_a: &[f32],           // b t h
    b: &[Vector<E, W>],      // b t g n, in strides
    c: &[Vector<E, W>],      // b t g n, in strides
    d: &[f32],               // h
    q: &[Vector<E, W>],      // b t h e, in strides
    k: &[Vector<E, W>],      // b t kv e, in strides
    first: &[I],             // b t
    logs: &[f32],            // b h t
    slopes: &[f32],          // b h t: the gradients of the squares
    dc: &mut [Vector<E, W>], // b t h n
    sums: &mut [f32],        // b h t: squares, or Σ_s of N M off the diagonal
    corners: &mut [f32],     // b h t: N[l, l]
    sizes: Sizes,
    #[comptime] blocks: Blocks,
    #[comptime] wanted: Wanted,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let (size, tile, stride) = comptime!((blocks.chunk(), blocks.n_tile(), blocks.n_stride()));
    let (width, tiles) = comptime!((blocks.n, blocks.n_tiles()));
    let depth = comptime!(blocks.n / 16);
    let gradients = comptime!(wanted == Wanted::Gradients);
    let token = late_first(CUBE_POS_Y as usize, CUBE_COUNT_Y as usize) * size;
    let spot = own_spot(&sizes, token);
    let mut cs = Shared::<[One<E>]>::new_aligned_slice(tile, 16usize);
    let mut qs = Shared::<[One<E>]>::new_aligned_slice(tile, 16usize);
    let mut bs = Shared::<[One<E>]>::new_aligned_slice(comptime!(2 * tile), 16usize);
    let mut ks = Shared::<[One<E>]>::new_aligned_slice(comptime!(2 * tile), 16usize);
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(blocks.scratch()));
    let mut decays = Decays::new(blocks);

    let count = token / size - first_of::<I>(first, spot.batch, token, sizes.t) / size + 1;
    let own = 16 * spot.block + spot.g;
    let upper_first = first_of::<I>(first, spot.batch, token + own, sizes.t);
    let lower_first = first_of::<I>(first, spot.batch, token + own + 8, sizes.t);

    let from = sizes.projections(&sizes.c, &spot, token);
    fetch::<E, W>(&mut cs, 0usize, c, &from, width, stride, blocks);
    let from = sizes.queries(&spot, token);
    fetch::<E, W>(&mut qs, 0usize, q, &from, width, stride, blocks);
    let from = sizes.projections(&sizes.b, &spot, token);
    fetch::<E, W>(&mut bs, 0usize, b, &from, width, stride, blocks);
    let from = sizes.keys(&spot, token);
    fetch::<E, W>(&mut ks, 0usize, k, &from, width, stride, blocks);
    decays.put_log(sizes.log(log_a, token, &spot, blocks), 0usize, blocks);
    let before = token - min(1usize, count - 1) * size;
    decays.put_log(sizes.log(log_a, before, &spot, blocks), 1usize, blocks);
    sync_cube();
    decays.tabulate(0usize, blocks);
    arrive(blocks);
    sync_cube();
    let queries = Row::<E>::new(&qs, 0usize, spot.block, depth, stride, blocks);
    let outputs = Row::<E>::new(&cs, 0usize, spot.block, depth, stride, blocks);

    // Of a unit's two rows.
    let row = (spot.batch * sizes.heads + spot.head) * sizes.t + token + own;
    let (mut upper_log, mut lower_log) = (f32::new(NEVER), f32::new(NEVER));
    let (mut upper_slope, mut lower_slope) = (f32::new(0.0), f32::new(0.0));
    let to_powers = f32::new(core::f32::consts::LOG2_E);
    if token + own < sizes.t {
        upper_log = logs[row] * to_powers;
        upper_slope = 2.0 * slopes[row];
    }
    if token + own + 8 < sizes.t {
        lower_log = logs[row + 8] * to_powers;
        lower_slope = 2.0 * slopes[row + 8];
    }
    let (upper, lower) = (decays.row(0usize, own, blocks), decays.row(0usize, own + 8, blocks));
    let skip = d[spot.head];

    let scale = sizes.scale();
    let mut of_outputs = zeros(comptime!(2 * tiles));
    let (mut upper_sum, mut lower_sum) = (f32::new(0.0), f32::new(0.0));
    let (mut upper_corner, mut lower_corner) = (f32::new(0.0), f32::new(0.0));
    // The sum of the blocks' logarithms between a block and the unit's own.
    let mut between = f32::new(0.0);
    for index in 0..count {
        let column = token - index * size;
        let turn = index % 2;
        let at = turn * tile;
        if index > 0 {
            arrive(blocks);
            sync_cube();
        }
        if index + 1 < count {
            let next = column - size;
            let from = sizes.projections(&sizes.b, &spot, next);
            fetch::<E, W>(&mut bs, tile - at, b, &from, width, stride, blocks);
            let from = sizes.keys(&spot, next);
            fetch::<E, W>(&mut ks, tile - at, k, &from, width, stride, blocks);
        }
        let after_next = token - min(index + 2, count - 1) * size;
        let log = sizes.log(log_a, after_next, &spot, blocks);
        decays.tabulate(1 - turn, blocks);

        let distant = index > 0;
        let here = select(distant, comptime!(blocks.rows).runtime(), up_to_own(&spot, blocks));
        for step in 0..here {
            let j = here - 1 - step;
            let mut products = outputs.cross(&cs, &bs, at, j, stride, &mut scratch, blocks);
            let scores = queries.cross(&qs, &ks, at, j, stride, &mut scratch, blocks);
            let decay = decays.of_block::<O>(
                turn,
                j,
                distant,
                between,
                upper,
                lower,
                &spot,
                comptime!(Tokens::Queries),
                blocks,
            );
            between += select(distant || j < spot.block, decays.total(turn, j, blocks), f32::new(0.0));
            let mut apart = zeros(4usize);
            #[unroll]
            for i in 0..4usize {
                products[i] *= decay[i];
                let upper = comptime!(i % 2 == 0);
                let of = OfRow {
                    token: token + own + comptime!(i % 2 * 8),
                    first: if comptime!(upper) { upper_first } else { lower_first },
                    log: if comptime!(upper) { upper_log } else { lower_log },
                };
                let place = column + 16 * j + comptime!(i / 2 * 8) + spot.i;
                let mut pair = products[i];
                #[unroll]
                for half in 0..2usize {
                    let score = scores[i].extract(half) * scale;
                    let entry = difference(pair.extract(half), score, skip, place + half, &of, blocks);
                    pair.insert(half, entry);
                }
                apart[i] = pair;
                let mut terms = pair * pair;
                if comptime!(gradients) {
                    let slope = if comptime!(upper) { upper_slope } else { lower_slope };
                    let slopes = pair * Pair::new(slope);
                    let corner = on_diagonal(slopes, place, of.token);
                    if comptime!(upper) {
                        upper_corner += corner;
                    } else {
                        lower_corner += corner;
                    }
                    terms = off_diagonal(slopes * products[i], place, of.token);
                    apart[i] = slopes * decay[i];
                }
                let sum = terms.extract(0usize) + terms.extract(1usize);
                if comptime!(upper) {
                    upper_sum += sum;
                } else {
                    lower_sum += sum;
                }
            }
            if comptime!(gradients) {
                let left = as_a::<E>(&apart);
                let sums = &mut of_outputs;
                times_columns::<E>(&left, &bs, at, 16 * j, sums, depth, stride, &mut scratch, blocks);
            }
        }
        decays.put_log(log, turn, blocks);
    }

    let (upper_sum, lower_sum) =
        over_quad(upper_sum, lower_sum, &mut scratch, &spot, comptime!(Fold::Sum), blocks);
    let (upper_corner, lower_corner) =
        over_quad(upper_corner, lower_corner, &mut scratch, &spot, comptime!(Fold::Sum), blocks);
    if spot.i == 0 {
        if token + own < sizes.t {
            sums[row] = upper_sum;
            if comptime!(gradients) {
                corners[row] = upper_corner;
            }
        }
        if token + own + 8 < sizes.t {
            sums[row + 8] = lower_sum;
            if comptime!(gradients) {
                corners[row + 8] = lower_corner;
            }
        }
    }
    if comptime!(gradients) {
        put_rows::<E, O>(&of_outputs, &mut cs, 0usize, &spot, tiles, stride, blocks);
        sync_rows(blocks);
        let target = sizes.per_head(&spot, token);
        let (lane, row) = (UNIT_POS as usize % 32, 16 * spot.block);
        flush::<E, W>(&cs, 0usize, dc, &target, 16usize, row, lane, 32usize, width, stride, blocks);
    }
}
