//! What is summed over tokens: a cube for every head and tile of columns, from its own tile on to the last that sees it.
//! The gradient of B, and a column's part of that of the decays.
//!
//! Rows are columns of the matrices here, and the columns of a product are tokens.

use cubecl::prelude::*;

use super::entry::{OfRow, difference, off_diagonal};
use super::sizes::{Sizes, own_spot};
use crate::kernels::cube::attention::tile::{Fold, over_quad};
use crate::kernels::cube::attention::tokens::{OfTokens, of_token, seeing};
use crate::kernels::cube::chunks::Blocks;
use crate::kernels::cube::decays::{Decays, Tokens};
use crate::kernels::cube::mma::{One, Pair, Row, as_a, times_columns, zeros};
use crate::kernels::cube::tiles::{arrive, fetch, flush, put_rows, sync_rows};

#[cube(launch)]
pub(super) fn columns<E: Float, W: Size, O: Size, I: Int>(
    log_a: &[f32],           // b t h
    b: &[Vector<E, W>],      // b t g n, in strides
    c: &[Vector<E, W>],      // b t g n, in strides
    d: &[f32],               // h
    q: &[Vector<E, W>],      // b t h e, in strides
    k: &[Vector<E, W>],      // b t kv e, in strides
    first: &[I],             // b t
    logs: &[f32],            // b h t
    slopes: &[f32],          // b h t: the gradients of the squares
    db: &mut [Vector<E, W>], // b t h n
    sums: &mut [f32],        // b h t: Σ_l of N M off the diagonal
    sizes: Sizes,
    #[comptime] blocks: Blocks,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let (size, tile, stride) = comptime!((blocks.chunk(), blocks.n_tile(), blocks.n_stride()));
    let (width, tiles, depth) = comptime!((blocks.n, blocks.n_tiles(), blocks.n / 16));
    let column = CUBE_POS_Y as usize * size;
    let spot = own_spot(&sizes, column);
    let mut bs = Shared::<[One<E>]>::new_aligned_slice(tile, 16usize);
    let mut ks = Shared::<[One<E>]>::new_aligned_slice(tile, 16usize);
    let mut cs = Shared::<[One<E>]>::new_aligned_slice(comptime!(2 * tile), 16usize);
    let mut qs = Shared::<[One<E>]>::new_aligned_slice(comptime!(2 * tile), 16usize);
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(blocks.scratch()));
    let mut decays = Decays::new(blocks);
    let mut of_tokens = OfTokens::new(blocks);

    let begin = column / size;
    let last = min(column + size, sizes.t) - 1;
    let count = seeing::<I>(first, begin, last, spot.batch, sizes.t, blocks) - begin;
    let row = (spot.batch * sizes.heads + spot.head) * sizes.t;

    let from = sizes.projections(&sizes.b, &spot, column);
    fetch::<E, W>(&mut bs, 0usize, b, &from, width, stride, blocks);
    let from = sizes.keys(&spot, column);
    fetch::<E, W>(&mut ks, 0usize, k, &from, width, stride, blocks);
    let from = sizes.projections(&sizes.c, &spot, column);
    fetch::<E, W>(&mut cs, 0usize, c, &from, width, stride, blocks);
    let from = sizes.queries(&spot, column);
    fetch::<E, W>(&mut qs, 0usize, q, &from, width, stride, blocks);
    let of_first = of_token::<I>(first, logs, slopes, row, column, spot.batch, sizes.t, blocks);
    of_tokens.put(of_first, 0usize, blocks);
    decays.put_log(sizes.log(log_a, column, &spot, blocks), 0usize, blocks);
    decays.put_log(sizes.log(log_a, column + size, &spot, blocks), 1usize, blocks);
    sync_cube();
    decays.tabulate(0usize, blocks);
    arrive(blocks);
    sync_cube();
    let inputs = Row::<E>::new(&bs, 0usize, spot.block, depth, stride, blocks);
    let keys = Row::<E>::new(&ks, 0usize, spot.block, depth, stride, blocks);

    // Of a unit's two rows.
    let own = 16 * spot.block + spot.g;
    let (upper, lower) = (decays.column(0usize, own, blocks), decays.column(0usize, own + 8, blocks));
    let skip = d[spot.head];

    let scale = sizes.scale();
    let mut of_inputs = zeros(comptime!(2 * tiles));
    let (mut upper_sum, mut lower_sum) = (f32::new(0.0), f32::new(0.0));
    // The sum of the blocks' logarithms between the unit's own and a block.
    let mut between = f32::new(0.0);
    for index in 0..count {
        let token = column + index * size;
        let turn = index % 2;
        let at = turn * tile;
        if index > 0 {
            arrive(blocks);
            sync_cube();
        }
        let next = token + size;
        if index + 1 < count {
            let from = sizes.projections(&sizes.c, &spot, next);
            fetch::<E, W>(&mut cs, tile - at, c, &from, width, stride, blocks);
            let from = sizes.queries(&spot, next);
            fetch::<E, W>(&mut qs, tile - at, q, &from, width, stride, blocks);
        }
        let of_next = of_token::<I>(first, logs, slopes, row, next, spot.batch, sizes.t, blocks);
        let log = sizes.log(log_a, next + size, &spot, blocks);
        decays.tabulate(1 - turn, blocks);

        let distant = index > 0;
        let nearest = if comptime!(blocks.emulated) { 0usize.runtime() } else { spot.block };
        let nearest = select(distant, 0usize, nearest);
        for j in nearest..comptime!(blocks.rows) {
            let mut products = inputs.cross(&bs, &cs, at, j, stride, &mut scratch, blocks);
            let scores = keys.cross(&ks, &qs, at, j, stride, &mut scratch, blocks);
            let decay = decays.of_block::<O>(
                turn,
                j,
                distant,
                between,
                upper,
                lower,
                &spot,
                comptime!(Tokens::Keys),
                blocks,
            );
            between += select(distant || j > spot.block, decays.total(turn, j, blocks), f32::new(0.0));
            let mut apart = zeros(4usize);
            #[unroll]
            for i in 0..4usize {
                products[i] *= decay[i];
                let inside = 16 * j + comptime!(i / 2 * 8) + spot.i;
                let place = column + own + comptime!(i % 2 * 8);
                let logs = of_tokens.log::<O>(turn, inside, blocks);
                let mut pair = products[i];
                #[unroll]
                for half in 0..2usize {
                    let of = OfRow {
                        token: token + inside + half,
                        first: of_tokens.first(turn, inside + half, blocks),
                        log: logs.extract(half),
                    };
                    let score = scores[i].extract(half) * scale;
                    pair.insert(half, difference(pair.extract(half), score, skip, place, &of, blocks));
                }
                let slopes = pair * of_tokens.number::<O>(turn, inside, blocks) * Pair::new(2.0);
                let terms = off_diagonal(slopes * products[i], token + inside, place);
                let sum = terms.extract(0usize) + terms.extract(1usize);
                if comptime!(i % 2 == 0) {
                    upper_sum += sum;
                } else {
                    lower_sum += sum;
                }
                apart[i] = slopes * decay[i];
            }
            let left = as_a::<E>(&apart);
            let sums = &mut of_inputs;
            times_columns::<E>(&left, &cs, at, 16 * j, sums, depth, stride, &mut scratch, blocks);
        }
        of_tokens.put(of_next, 1 - turn, blocks);
        decays.put_log(log, turn, blocks);
    }

    let (upper_sum, lower_sum) =
        over_quad(upper_sum, lower_sum, &mut scratch, &spot, comptime!(Fold::Sum), blocks);
    if spot.i == 0 {
        if column + own < sizes.t {
            sums[row + column + own] = upper_sum;
        }
        if column + own + 8 < sizes.t {
            sums[row + column + own + 8] = lower_sum;
        }
    }
    put_rows::<E, O>(&of_inputs, &mut bs, 0usize, &spot, tiles, stride, blocks);
    sync_rows(blocks);
    let target = sizes.per_head(&spot, column);
    let (lane, first_row) = (UNIT_POS as usize % 32, 16 * spot.block);
    flush::<E, W>(&bs, 0usize, db, &target, 16usize, first_row, lane, 32usize, width, stride, blocks);
}
