//! Gradients chunk by chunk on tensor cores, the gradient of the state on chip.
//!
//! The reverse of [`super::chunks`]. With `G` the gradient of the state that leaves a chunk, `H` the state
//! that entered it, `W = L ∘ C Bᵀ`, `D = L ∘ dy xᵀ`, `d_l = a_1 ⋯ a_l` and `e_s = a_{s+1} ⋯ a_Q`,
//!
//! ```text
//! dx = Wᵀ dy + diag(e) B Gᵀ
//! dB = Dᵀ C  + diag(e) x G
//! dC = D B   + diag(d) dy H
//! G ← d_Q G + (diag(d) dy)ᵀ C
//! ```
//!
//! and the gradient of the log decays as in [`super::decay`]: sums of `M = D ∘ C Bᵀ` over `s < r ≤ l`, where
//! the sums over `l ≥ r` are a product with a triangle of ones, and of what entered and what leaves.
//! `Wᵀ` and `Dᵀ` are computed as products of their own, so that no matrix passes through memory.

use cubecl::prelude::*;

use super::chunks::{Blocks, ChunkSizes, Spot, decay_table, spot};
use super::mma::{One, Pair, SCRATCH, as_a, load_a, load_b, multiply};
use super::tiles::{
    clear, decay_pair, fetch_log, fetch_projections, fetch_values, load_state, put, put_state, read_inside,
    store_pair, store_state, write_inside, write_pair,
};

#[cube(launch)]
pub(super) fn gradients<E: Float, W: Size, O: Size>(
    x: &[Vector<E, W>],            // b t h p
    b: &[Vector<E, W>],            // b t g n
    c: &[Vector<E, W>],            // b t g n
    dy: &[Vector<E, W>],           // b t h p
    log_a: &[f32],                 // b t h
    entering: &[Vector<f32, O>],   // b h spans p n
    borders: &[Vector<f32, O>],    // b h chunks p n
    dx: &mut [Vector<E, O>],       // b t h p
    db: &mut [Vector<E, O>],       // b t h tiles n
    dc: &mut [Vector<E, O>],       // b t h tiles n
    dlog_a: &mut [f32],            // b t h tiles
    states: &mut [Vector<f32, O>], // b h spans p n
    sizes: ChunkSizes,
    #[comptime] blocks: Blocks,
    #[define(E)] _dtype: ElemType,
) {
    let q = comptime!(blocks.chunk());
    let (ps, ns, ls) = comptime!((blocks.p_stride(), blocks.n_stride(), blocks.decay_stride()));
    let rows = comptime!(blocks.rows);
    let (p_tiles, n_tiles) = comptime!((blocks.p_tiles(), blocks.n_tiles()));
    let (p_depth, n_depth) = comptime!((blocks.rows, blocks.n / 16)); // sixteens of P and of N
    let parts = comptime!(4 * blocks.planes); // of a row's sum: a quad of units in every plane
    let emulated = comptime!(blocks.emulated);
    let unit = UNIT_POS as usize;
    let spot = spot(&sizes, blocks);

    let mut xs = Shared::<[One<E>]>::new_aligned_slice(comptime!(q * ps), 16usize);
    let mut ys = Shared::<[One<E>]>::new_aligned_slice(comptime!(q * ps), 16usize);
    let mut bs = Shared::<[One<E>]>::new_aligned_slice(comptime!(q * ns), 16usize);
    let mut cs = Shared::<[One<E>]>::new_aligned_slice(comptime!(q * ns), 16usize);
    let mut hs = Shared::<[One<E>]>::new_aligned_slice(comptime!(q * ns), 16usize);
    let mut gs = Shared::<[One<E>]>::new_aligned_slice(comptime!(q * ns), 16usize);
    let mut decays = Shared::<[One<f32>]>::new_aligned_slice(comptime!(q * ls), 16usize);
    let mut from_start = Shared::<[f32]>::new_slice(q);
    let mut logs = Shared::<[f32]>::new_slice(q);
    let mut inside = Shared::<[f32]>::new_slice(comptime!(8 * rows * q));
    let mut entered = Shared::<[f32]>::new_slice(comptime!(parts * q));
    let mut leaving = Shared::<[f32]>::new_slice(comptime!(parts * q));
    let mut corner = Shared::<[f32]>::new_slice(comptime!(blocks.units()));
    let mut scratch =
        Shared::<[f32]>::new_slice(comptime!(if emulated { rows * blocks.planes * SCRATCH } else { 1 }));

    let mut next_x = Array::<Vector<E, W>>::new(comptime!(blocks.share(q)));
    let mut next_y = Array::<Vector<E, W>>::new(comptime!(blocks.share(q)));
    let mut next_b = Array::<Vector<E, W>>::new(comptime!(blocks.share(blocks.n)));
    let mut next_c = Array::<Vector<E, W>>::new(comptime!(blocks.share(blocks.n)));
    let mut adjoint = Array::<Pair<f32>>::new(comptime!(2 * n_tiles));
    load_state::<O>(&mut adjoint, entering, &spot, &sizes, blocks);

    let count = (spot.end - spot.first).div_ceil(q);
    let last = spot.first + (count - 1) * q;
    fetch_values::<E, W>(&mut next_x, x, last, &spot, &sizes, blocks);
    fetch_values::<E, W>(&mut next_y, dy, last, &spot, &sizes, blocks);
    fetch_projections::<E, W>(&mut next_b, b, last, &spot, &sizes, blocks);
    fetch_projections::<E, W>(&mut next_c, c, last, &spot, &sizes, blocks);
    let mut log_decay = fetch_log(log_a, last, &spot, &sizes, blocks);

    let row = 16 * spot.block + spot.g;
    for index in 0..count {
        let token = spot.first + (count - 1 - index) * q;
        sync_cube();
        put::<E, W>(&next_x, &mut xs, q, ps, blocks);
        put::<E, W>(&next_y, &mut ys, q, ps, blocks);
        put::<E, W>(&next_b, &mut bs, blocks.n, ns, blocks);
        put::<E, W>(&next_c, &mut cs, blocks.n, ns, blocks);
        put_state::<E, O>(&adjoint, &mut gs, &spot, blocks);
        let product = put_border::<E, O>(&adjoint, borders, &mut hs, token / q, &spot, &sizes, blocks);
        corner[unit] = product;
        if unit < q {
            logs[unit] = log_decay;
        }
        sync_cube();
        if index + 1 < count {
            fetch_values::<E, W>(&mut next_x, x, token - q, &spot, &sizes, blocks);
            fetch_values::<E, W>(&mut next_y, dy, token - q, &spot, &sizes, blocks);
            fetch_projections::<E, W>(&mut next_b, b, token - q, &spot, &sizes, blocks);
            fetch_projections::<E, W>(&mut next_c, c, token - q, &spot, &sizes, blocks);
            log_decay = fetch_log(log_a, token - q, &spot, &sizes, blocks);
        }
        decay_table(&logs, &mut decays, &mut from_start, blocks);
        sync_cube();
        let end = comptime!(q - 1).runtime();
        let (upper, lower) =
            (decays[end * ls + row].extract(0usize), decays[end * ls + row + 8].extract(0usize));

        // Wᵀ, Dᵀ and Mᵀ, a block of rows s
        let mut keys = Array::<Pair<f32>>::new(comptime!(4 * rows));
        clear(&mut keys, comptime!(4 * rows));
        product_rows::<E>(&bs, &cs, &mut keys, &spot, n_depth, ns, &mut scratch, blocks);
        let mut values = Array::<Pair<f32>>::new(comptime!(4 * rows));
        clear(&mut values, comptime!(4 * rows));
        product_rows::<E>(&xs, &ys, &mut values, &spot, p_depth, ps, &mut scratch, blocks);
        let mut terms = Array::<Pair<f32>>::new(comptime!(4 * rows));
        #[unroll]
        for i in 0..comptime!(4 * rows) {
            let s = row + comptime!(i % 2 * 8);
            let l = comptime!(i / 2 * 8) + spot.i;
            let mut decay = Pair::<f32>::new(decays[l * ls + s].extract(0usize));
            decay.insert(1usize, decays[(l + 1) * ls + s].extract(0usize));
            values[i] *= decay;
            terms[i] = keys[i] * values[i];
            keys[i] *= decay;
        }
        sum_inside::<E>(&terms, &mut inside, &spot, &mut scratch, blocks);

        // dx, the plane's part of the columns of P
        let mut sums = Array::<Pair<f32>>::new(comptime!(2 * p_tiles));
        clear(&mut sums, comptime!(2 * p_tiles));
        #[unroll]
        for k in 0..n_depth {
            let left = load_a::<E>(&bs, 16 * spot.block, comptime!(16 * k), ns, false, emulated);
            #[unroll]
            for tile in 0..p_tiles {
                let column = 8 * (spot.half * p_tiles + tile);
                let right = load_b::<E>(&gs, comptime!(16 * k), column, ns, false, emulated);
                multiply::<E>(&left, &right, &mut sums, tile, &mut scratch, emulated);
            }
        }
        scale_rows(&mut sums, upper, lower, p_tiles);
        dot_rows::<E>(&sums, &xs, &mut leaving, ps, &spot, p_tiles, parts);
        #[unroll]
        for k in 0..rows {
            let left = as_a::<E>(&keys, comptime!(2 * k));
            #[unroll]
            for tile in 0..p_tiles {
                let column = 8 * (spot.half * p_tiles + tile);
                let right = load_b::<E>(&ys, comptime!(16 * k), column, ps, true, emulated);
                multiply::<E>(&left, &right, &mut sums, tile, &mut scratch, emulated);
            }
        }
        #[unroll]
        for i in 0..comptime!(2 * p_tiles) {
            let column = spot.p + 8 * (spot.half * p_tiles + comptime!(i / 2)) + spot.i;
            store_pair::<E, O>(
                dx,
                sums[i],
                token + row + comptime!(i % 2 * 8),
                column,
                &spot,
                &sizes,
                blocks,
            );
        }

        // dB, the plane's part of the columns of N
        let mut sums = Array::<Pair<f32>>::new(comptime!(2 * n_tiles));
        clear(&mut sums, comptime!(2 * n_tiles));
        product_columns::<E>(&xs, &gs, &mut sums, &spot, &mut scratch, blocks);
        scale_rows(&mut sums, upper, lower, n_tiles);
        times_columns::<E>(&values, &cs, &mut sums, &spot, &mut scratch, blocks);
        store_projection::<E, O>(db, &sums, token, &spot, &sizes, blocks);

        // dC: D, a block of rows l, and the plane's part of the columns of N
        clear(&mut values, comptime!(4 * rows));
        product_rows::<E>(&ys, &xs, &mut values, &spot, p_depth, ps, &mut scratch, blocks);
        #[unroll]
        for i in 0..comptime!(4 * rows) {
            values[i] *= decay_pair::<O>(
                &decays,
                row + comptime!(i % 2 * 8),
                comptime!(i / 2 * 8) + spot.i,
                ls,
                blocks,
            );
        }
        clear(&mut sums, comptime!(2 * n_tiles));
        product_columns::<E>(&ys, &hs, &mut sums, &spot, &mut scratch, blocks);
        scale_rows(&mut sums, from_start[row], from_start[row + 8], n_tiles);
        dot_rows::<E>(&sums, &cs, &mut entered, ns, &spot, n_tiles, parts);
        times_columns::<E>(&values, &bs, &mut sums, &spot, &mut scratch, blocks);
        store_projection::<E, O>(dc, &sums, token, &spot, &sizes, blocks);

        // G ← decay G + (decays ∘ dy)ᵀ C, the plane's part of the columns of N
        let whole = from_start[end];
        #[unroll]
        for i in 0..comptime!(2 * n_tiles) {
            adjoint[i] *= Pair::new(whole);
        }
        #[unroll]
        for k in 0..rows {
            let mut left = load_a::<E>(&ys, 16 * spot.block, comptime!(16 * k), ps, true, emulated);
            #[unroll]
            for i in 0..4usize {
                let l = comptime!(16 * k + i / 2 * 8) + spot.i;
                let mut scale = Pair::<f32>::new(from_start[l]);
                scale.insert(1usize, from_start[l + 1]);
                left[i] = Pair::<E>::cast_from(Pair::<f32>::cast_from(left[i]) * scale);
            }
            #[unroll]
            for tile in 0..n_tiles {
                let column = 8 * (spot.half * n_tiles + tile);
                let right = load_b::<E>(&cs, comptime!(16 * k), column, ns, true, emulated);
                multiply::<E>(&left, &right, &mut adjoint, tile, &mut scratch, emulated);
            }
        }

        // The gradient of the log decays
        sync_cube();
        let groups = comptime!(blocks.units() / 16);
        if unit < 16 {
            let mut part = f32::new(0.0);
            for i in 0..groups {
                part += corner[unit * groups + i];
            }
            logs[unit] = part;
        }
        if unit < q {
            let (mut u, mut v) = (f32::new(0.0), f32::new(0.0));
            #[unroll]
            for i in 0..parts {
                u += entered[unit * parts + i];
                v += leaving[unit * parts + i];
            }
            decays[unit] = One::new(u);
            decays[ls + unit] = One::new(v);
        }
        sync_cube();
        if unit < q && token + unit < spot.end {
            let mut gradient = f32::new(0.0);
            for i in 0..16usize {
                gradient += logs[i];
            }
            gradient *= whole;
            for i in 0..comptime!(8 * rows) {
                gradient += inside[i * q + unit];
            }
            for i in 0..q {
                gradient += decays[select(i >= unit, i, ls + i)].extract(0usize);
            }
            let place = (spot.batch * sizes.t + token + unit) * sizes.heads + spot.head;
            dlog_a[place * CUBE_COUNT_Y as usize + CUBE_POS_Y as usize] = gradient;
        }
    }
    store_state::<O>(&adjoint, states, CUBE_POS_Z as usize, CUBE_COUNT_Z as usize, &spot, &sizes, blocks);
}

/// Adds `left rightᵀ` over `16 depth` columns: the plane's block of rows of `left`, all rows of `right`.
#[cube]
fn product_rows<E: Float>(
    left: &Shared<[One<E>]>,
    right: &Shared<[One<E>]>,
    sums: &mut Array<Pair<f32>>,
    spot: &Spot,
    #[comptime] depth: usize,
    #[comptime] stride: usize,
    scratch: &mut Shared<[f32]>,
    #[comptime] blocks: Blocks,
) {
    let emulated = comptime!(blocks.emulated);
    #[unroll]
    for k in 0..depth {
        let a = load_a::<E>(left, 16 * spot.block, comptime!(16 * k), stride, false, emulated);
        #[unroll]
        for tile in 0..comptime!(2 * blocks.rows) {
            let b = load_b::<E>(right, comptime!(16 * k), comptime!(8 * tile), stride, false, emulated);
            multiply::<E>(&a, &b, sums, tile, scratch, emulated);
        }
    }
}

/// Adds `left state`: the plane's block of rows of `left [tokens p]`, the plane's part of the columns of `state [p n]`.
#[cube]
fn product_columns<E: Float>(
    left: &Shared<[One<E>]>,
    state: &Shared<[One<E>]>,
    sums: &mut Array<Pair<f32>>,
    spot: &Spot,
    scratch: &mut Shared<[f32]>,
    #[comptime] blocks: Blocks,
) {
    let (emulated, n_tiles) = comptime!((blocks.emulated, blocks.n_tiles()));
    #[unroll]
    for k in 0..blocks.rows {
        let a = load_a::<E>(
            left,
            16 * spot.block,
            comptime!(16 * k),
            comptime!(blocks.p_stride()),
            false,
            emulated,
        );
        #[unroll]
        for tile in 0..n_tiles {
            let column = 8 * (spot.half * n_tiles + tile);
            let b =
                load_b::<E>(state, comptime!(16 * k), column, comptime!(blocks.n_stride()), true, emulated);
            multiply::<E>(&a, &b, sums, tile, scratch, emulated);
        }
    }
}

/// Adds `weights projection` for weights in registers and the plane's part of the columns of `projection [tokens n]`.
#[cube]
fn times_columns<E: Float>(
    weights: &Array<Pair<f32>>,
    projection: &Shared<[One<E>]>,
    sums: &mut Array<Pair<f32>>,
    spot: &Spot,
    scratch: &mut Shared<[f32]>,
    #[comptime] blocks: Blocks,
) {
    let (emulated, n_tiles) = comptime!((blocks.emulated, blocks.n_tiles()));
    #[unroll]
    for k in 0..blocks.rows {
        let a = as_a::<E>(weights, comptime!(2 * k));
        #[unroll]
        for tile in 0..n_tiles {
            let column = 8 * (spot.half * n_tiles + tile);
            let b = load_b::<E>(
                projection,
                comptime!(16 * k),
                column,
                comptime!(blocks.n_stride()),
                true,
                emulated,
            );
            multiply::<E>(&a, &b, sums, tile, scratch, emulated);
        }
    }
}

#[cube]
fn scale_rows(sums: &mut Array<Pair<f32>>, upper: f32, lower: f32, #[comptime] tiles: usize) {
    #[unroll]
    for tile in 0..tiles {
        sums[comptime!(2 * tile)] *= Pair::new(upper);
        sums[comptime!(2 * tile + 1)] *= Pair::new(lower);
    }
}

/// A unit's part of every row's product with the same row of a tile.
#[cube]
fn dot_rows<E: Float>(
    sums: &Array<Pair<f32>>,
    tile: &Shared<[One<E>]>,
    parts: &mut Shared<[f32]>,
    #[comptime] stride: usize,
    spot: &Spot,
    #[comptime] tiles: usize,
    #[comptime] count: usize,
) {
    #[unroll]
    for i in 0..2usize {
        let row = 16 * spot.block + spot.g + comptime!(i * 8);
        let mut dot = f32::new(0.0);
        #[unroll]
        for j in 0..tiles {
            let at = row * stride + 8 * (spot.half * tiles + j) + spot.i;
            let sum = sums[comptime!(2 * j + i)];
            dot += sum.extract(0usize) * f32::cast_from(tile[at].extract(0usize));
            dot += sum.extract(1usize) * f32::cast_from(tile[at + 1].extract(0usize));
        }
        parts[row * count + spot.half * 4 + spot.i / 2] = dot;
    }
}

/// `Σ Mᵀ[s, l]` over `l ≥ r` and a unit's rows `s < r`: a product with a triangle of ones, its left factor in
/// two parts so that nothing of it is rounded away.
#[cube]
fn sum_inside<E: Float>(
    terms: &Array<Pair<f32>>,
    inside: &mut Shared<[f32]>,
    spot: &Spot,
    scratch: &mut Shared<[f32]>,
    #[comptime] blocks: Blocks,
) {
    let (emulated, tiles) = comptime!((blocks.emulated, blocks.p_tiles())); // as many columns as of P
    let mut sums = Array::<Pair<f32>>::new(comptime!(2 * tiles));
    clear(&mut sums, comptime!(2 * tiles));
    #[unroll]
    for k in 0..blocks.rows {
        let high = as_a::<E>(terms, comptime!(2 * k));
        let mut low = Array::<Pair<E>>::new(4usize);
        #[unroll]
        for i in 0..4usize {
            low[i] = Pair::<E>::cast_from(terms[comptime!(4 * k + i)] - Pair::<f32>::cast_from(high[i]));
        }
        #[unroll]
        for tile in 0..tiles {
            let r = 8 * (spot.half * tiles + tile) + spot.g;
            let mut ones = Array::<Pair<E>>::new(2usize);
            #[unroll]
            for i in 0..2usize {
                let l = comptime!(16 * k + 8 * i) + spot.i;
                let mut pair = Pair::<E>::new(E::cast_from(select(l >= r, f32::new(1.0), f32::new(0.0))));
                pair.insert(1usize, E::cast_from(select(l + 1 >= r, f32::new(1.0), f32::new(0.0))));
                ones[i] = pair;
            }
            multiply::<E>(&high, &ones, &mut sums, tile, scratch, emulated);
            multiply::<E>(&low, &ones, &mut sums, tile, scratch, emulated);
        }
    }
    let s = 16 * spot.block + spot.g;
    #[unroll]
    for tile in 0..tiles {
        #[unroll]
        for j in 0..2usize {
            let r = 8 * (spot.half * tiles + tile) + spot.i + j;
            let mut sum = f32::new(0.0);
            if s < r {
                sum += sums[comptime!(2 * tile)].extract(j);
            }
            if s + 8 < r {
                sum += sums[comptime!(2 * tile + 1)].extract(j);
            }
            inside[(8 * spot.block + spot.g) * comptime!(blocks.chunk()) + r] = sum;
        }
    }
}

/// The state that entered a chunk, rounded, as a tile, and a unit's part of its product with the adjoint.
#[cube]
fn put_border<E: Float, O: Size>(
    adjoint: &Array<Pair<f32>>,
    borders: &[Vector<f32, O>],
    to: &mut Shared<[One<E>]>,
    chunk: usize,
    spot: &Spot,
    sizes: &ChunkSizes,
    #[comptime] blocks: Blocks,
) -> f32 {
    let chunks = sizes.t.div_ceil(comptime!(blocks.chunk()));
    let first = (CUBE_POS_X as usize * chunks + chunk) * sizes.p + spot.p;
    let n_tiles = comptime!(blocks.n_tiles());
    let pairs = to.with_vector_size_mut::<O>();
    let mut product = f32::new(0.0);
    #[unroll]
    for i in 0..comptime!(2 * n_tiles) {
        let row = 16 * spot.block + spot.g + comptime!(i % 2 * 8);
        let column = 8 * (spot.half * n_tiles + comptime!(i / 2)) + spot.i;
        let mut pair = Pair::<f32>::new(0.0);
        if spot.p + row < sizes.p {
            pair = read_inside::<f32, O>(borders, (first + row) * sizes.n, column, sizes.n, blocks);
        }
        let with = pair * adjoint[i];
        product += with.extract(0usize) + with.extract(1usize);
        let at = row * comptime!(blocks.n_stride()) + column;
        write_pair::<E, O>(pairs, at, Pair::<E>::cast_from(pair), blocks);
    }
    product
}

/// A gradient of B or C, the tile's share of it.
#[cube]
fn store_projection<E: Float, O: Size>(
    to: &mut [Vector<E, O>],
    sums: &Array<Pair<f32>>,
    token: usize,
    spot: &Spot,
    sizes: &ChunkSizes,
    #[comptime] blocks: Blocks,
) {
    let n_tiles = comptime!(blocks.n_tiles());
    #[unroll]
    for i in 0..comptime!(2 * n_tiles) {
        let t = token + 16 * spot.block + spot.g + comptime!(i % 2 * 8);
        let column = 8 * (spot.half * n_tiles + comptime!(i / 2)) + spot.i;
        if t < spot.end {
            let head = (spot.batch * sizes.t + t) * sizes.heads + spot.head;
            let row = (head * CUBE_COUNT_Y as usize + CUBE_POS_Y as usize) * sizes.n;
            write_inside::<E, O>(to, row, column, sizes.n, Pair::<E>::cast_from(sums[i]), blocks);
        }
    }
}
