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
//! and, with `M = D ∘ C Bᵀ`, the gradient of the log decays
//!
//! ```text
//! dlog_a_r = Σ over l ≥ r of (d_l dy_lᵀ H C_l + Σ_s M[l, s] - Σ_s M[s, l])
//!          + Σ over s < r of e_s x_sᵀ G B_s + d_Q ⟨H, G⟩
//! ```
//!
//! where the two sums of M leave `M[l, s]` over `s < r ≤ l`: every term that cancels is the same number in
//! f32. `Wᵀ` and `Dᵀ` are computed as products of their own, so that no matrix passes through memory, and
//! blocks above the diagonal are skipped. A plane computes a block of rows of every product.

use cubecl::prelude::*;

use super::chunks::{Blocks, ChunkSizes, Spot, add_keys, chunk_at, spot, up_to_own};
use super::decays::{Decays, Tokens};
use super::mma::{One, Pair, Row, as_a, times_columns, zeros};
use super::tiles::{
    Source, arrive, borders_at, fetch, fetch_log, flush, load_state, projections_at, put_pairs, put_rows,
    read_pair, rounded, scale_rows, store_state, sync_rows, values_at, write_pair,
};

#[cube(launch)]
pub(super) fn gradients<E: Float, W: Size, O: Size>(
    x: &[Vector<E, W>],            // b t h p
    b: &[Vector<E, W>],            // b t g n
    c: &[Vector<E, W>],            // b t g n
    dy: &[Vector<E, W>],           // b t h p
    log_a: &[f32],                 // b t h
    entering: &[Vector<f32, O>],   // b h spans p n
    borders: &[Vector<E, W>],      // b h chunks p n
    dx: &mut [Vector<E, W>],       // b t h p
    db: &mut [Vector<E, W>],       // b t h tiles n
    dc: &mut [Vector<E, W>],       // b t h tiles n
    dlog_a: &mut [f32],            // b t h tiles
    states: &mut [Vector<f32, O>], // b h spans p n
    sizes: ChunkSizes,
    #[comptime] blocks: Blocks,
    #[define(E)] _dtype: ElemType,
) {
    let q = comptime!(blocks.chunk());
    let (ps, ns) = comptime!((blocks.p_stride(), blocks.n_stride()));
    let (p_tile, n_tile, stages) = comptime!((blocks.p_tile(), blocks.n_tile(), blocks.stages));
    let n_tiles = comptime!(blocks.n_tiles());
    let spot = spot(&sizes, blocks);

    let mut tiles = Tiles::<E> {
        xs: Shared::<[One<E>]>::new_aligned_slice(comptime!(stages * p_tile), 16usize),
        ys: Shared::<[One<E>]>::new_aligned_slice(comptime!(stages * p_tile), 16usize),
        bs: Shared::<[One<E>]>::new_aligned_slice(comptime!(stages * n_tile), 16usize),
        cs: Shared::<[One<E>]>::new_aligned_slice(comptime!(stages * n_tile), 16usize),
        hs: Shared::<[One<E>]>::new_aligned_slice(comptime!(stages * n_tile), 16usize),
        gs: Shared::<[One<E>]>::new_aligned_slice(n_tile, 16usize),
    };
    let mut sums = Sums::new(blocks);
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(blocks.scratch()));
    let mut decays = Decays::new(blocks);

    let mut adjoint = Array::<Pair<f32>>::new(comptime!(2 * n_tiles));
    load_state::<O>(&mut adjoint, entering, &spot, &sizes, blocks);
    put_rows::<E, O>(&adjoint, &mut tiles.gs, 0usize, &spot, n_tiles, ns, blocks);
    let count = (spot.end - spot.first).div_ceil(q);
    let (last, before) = (chunk_at(0usize, count, &spot, blocks), chunk_at(1usize, count, &spot, blocks));
    decays.put_log(fetch_log(log_a, last, &spot, &sizes, blocks), 0usize, blocks);
    decays.put_log(fetch_log(log_a, before, &spot, &sizes, blocks), 1usize, blocks);
    sync_cube();
    decays.tabulate(0usize, blocks);
    if comptime!(stages == 2) {
        tiles.fetch::<W>(x, dy, b, c, borders, 0usize, last, &spot, &sizes, blocks);
    }
    for index in 0..count {
        let token = chunk_at(index, count, &spot, blocks);
        let turn = index % 2;
        let stage = index % stages;
        if comptime!(stages == 1) {
            sync_cube();
            tiles.fetch::<W>(x, dy, b, c, borders, 0usize, token, &spot, &sizes, blocks);
        }
        arrive(blocks);
        sync_cube();
        if comptime!(stages == 2) && index + 1 < count {
            let next = chunk_at(index + 1, count, &spot, blocks);
            tiles.fetch::<W>(x, dy, b, c, borders, 1 - stage, next, &spot, &sizes, blocks);
        }
        let after_next = chunk_at(index + 2, count, &spot, blocks);
        let log = fetch_log(log_a, after_next, &spot, &sizes, blocks);
        decays.tabulate(1 - turn, blocks);
        if index > 0 {
            sums.write::<O>(dlog_a, token + q, &spot, &sizes, blocks);
        }
        let at = At { p: stage * p_tile, n: stage * n_tile, turn };
        let end = decays.before(turn, blocks.rows, blocks).exp();

        let corner = end * corner::<E, O>(&adjoint, &tiles.hs, at.n, &spot, blocks);
        let of_keys = keys::<E, O>(&tiles, &at, corner, &decays, &mut sums, &spot, &mut scratch, blocks);
        let of_queries =
            queries::<E, O>(&tiles, &at, &of_keys, &decays, &mut sums, &spot, &mut scratch, blocks);
        #[unroll]
        for i in 0..comptime!(2 * n_tiles) {
            adjoint[i] *= Pair::new(end);
        }
        let (p_at, n_at) = (at.p, at.n);
        add_keys::<E, O>(
            &tiles.ys,
            &tiles.cs,
            p_at,
            n_at,
            turn,
            &mut adjoint,
            &decays,
            &spot,
            &mut scratch,
            blocks,
        );
        decays.put_log(log, turn, blocks);

        sync_cube(); // tiles are free, and sums complete
        put_rows::<E, O>(&adjoint, &mut tiles.gs, 0usize, &spot, n_tiles, ns, blocks);
        put_pairs::<E, O>(&of_keys.dx, &mut tiles.xs, at.p, &spot, comptime!(blocks.p_tiles()), ps, blocks);
        put_pairs::<E, O>(&of_keys.db, &mut tiles.bs, at.n, &spot, n_tiles, ns, blocks);
        put_pairs::<E, O>(&of_queries, &mut tiles.cs, at.n, &spot, n_tiles, ns, blocks);
        sync_rows(blocks);
        let (lane, row) = (UNIT_POS as usize % 32, 16 * spot.block);
        let values = values_at(token, &spot, &sizes);
        let projections = shares_at(token, &spot, &sizes);
        flush::<E, W>(&tiles.xs, at.p, dx, &values, 16usize, row, lane, 32usize, q, ps, blocks);
        flush::<E, W>(&tiles.bs, at.n, db, &projections, 16usize, row, lane, 32usize, blocks.n, ns, blocks);
        flush::<E, W>(&tiles.cs, at.n, dc, &projections, 16usize, row, lane, 32usize, blocks.n, ns, blocks);
        sums.add_up(blocks);
    }
    sync_cube();
    sums.write::<O>(dlog_a, spot.first, &spot, &sizes, blocks);
    store_state::<O>(&adjoint, states, CUBE_POS_Z as usize, CUBE_COUNT_Z as usize, &spot, &sizes, blocks);
}

/// A chunk of x, dy, B, C, the state that entered it, and the gradient of the one that leaves.
#[derive(CubeType)]
struct Tiles<E: Float> {
    xs: Shared<[One<E>]>,
    ys: Shared<[One<E>]>,
    bs: Shared<[One<E>]>,
    cs: Shared<[One<E>]>,
    hs: Shared<[One<E>]>,
    gs: Shared<[One<E>]>,
}

/// Where in the tiles a chunk begins, and which tables are its decays.
#[derive(CubeType, Clone, Copy)]
struct At {
    p: usize,
    n: usize,
    turn: usize,
}

/// A plane's rows of the gradients of x and B, rounded.
#[derive(CubeType)]
struct OfKeys<E: Float> {
    dx: Array<Pair<E>>,
    db: Array<Pair<E>>,
    /// `Σ M[l, s]` over l, a unit's part of it, of its two rows s, less the unit's part of `d_Q ⟨H, G⟩`.
    upper: f32,
    lower: f32,
}

#[cube]
impl<E: Float> Tiles<E> {
    fn fetch<W: Size>(
        &mut self,
        x: &[Vector<E, W>],
        dy: &[Vector<E, W>],
        b: &[Vector<E, W>],
        c: &[Vector<E, W>],
        borders: &[Vector<E, W>],
        stage: usize,
        token: usize,
        spot: &Spot,
        sizes: &ChunkSizes,
        #[comptime] blocks: Blocks,
    ) {
        let (q, ps, ns) = comptime!((blocks.chunk(), blocks.p_stride(), blocks.n_stride()));
        let (p_at, n_at) = (stage * comptime!(blocks.p_tile()), stage * comptime!(blocks.n_tile()));
        let (values, projections) = (values_at(token, spot, sizes), projections_at(token, spot, sizes));
        let entered = borders_at(token, spot, sizes, blocks);
        fetch::<E, W>(&mut self.xs, p_at, x, &values, q, ps, blocks);
        fetch::<E, W>(&mut self.ys, p_at, dy, &values, q, ps, blocks);
        fetch::<E, W>(&mut self.bs, n_at, b, &projections, blocks.n, ns, blocks);
        fetch::<E, W>(&mut self.cs, n_at, c, &projections, blocks.n, ns, blocks);
        fetch::<E, W>(&mut self.hs, n_at, borders, &entered, blocks.n, ns, blocks);
    }
}

/// The cube's share of a gradient of B or C.
#[cube]
fn shares_at(token: usize, spot: &Spot, sizes: &ChunkSizes) -> Source {
    let tiles = CUBE_COUNT_Y as usize;
    let row = ((spot.batch * sizes.t + token) * sizes.heads + spot.head) * tiles + CUBE_POS_Y as usize;
    Source {
        first: row * sizes.n,
        pitch: sizes.heads * tiles * sizes.n,
        rows: spot.end - token,
        columns: sizes.n,
    }
}

/// Gradients of x and B: a plane's rows s, and the tokens l from s on.
#[cube]
fn keys<E: Float, O: Size>(
    tiles: &Tiles<E>,
    at: &At,
    corner: f32,
    decays: &Decays,
    sums: &mut Sums,
    spot: &Spot,
    scratch: &mut Shared<[f32]>,
    #[comptime] blocks: Blocks,
) -> OfKeys<E> {
    let (ps, ns) = comptime!((blocks.p_stride(), blocks.n_stride()));
    let (p_tiles, n_tiles) = comptime!((blocks.p_tiles(), blocks.n_tiles()));
    let (rows, depth) = comptime!((blocks.rows, blocks.n / 16));
    let row = 16 * spot.block + spot.g;
    let (upper, lower) = (decays.column(at.turn, row, blocks), decays.column(at.turn, row + 8, blocks));
    let bs = Row::<E>::new(&tiles.bs, at.n, spot.block, depth, ns, blocks);
    let xs = Row::<E>::new(&tiles.xs, at.p, spot.block, rows, ps, blocks);

    // what left the chunk
    let after = decays.after(at.turn, spot.block, blocks).exp();
    let mut dx = zeros(comptime!(2 * p_tiles));
    bs.times_rows(&tiles.bs, &tiles.gs, 0usize, &mut dx, rows, ns, scratch, blocks);
    scale_rows(&mut dx, after * upper, after * lower, p_tiles);
    let (leaving_upper, leaving_lower) = xs.dot(&tiles.xs, &dx, blocks);
    sums.put_leaving(leaving_upper + corner, leaving_lower, spot, blocks);
    let mut db = zeros(comptime!(2 * n_tiles));
    xs.times_columns(&tiles.xs, &tiles.gs, 0usize, &mut db, depth, ns, scratch, blocks);
    scale_rows(&mut db, after * upper, after * lower, n_tiles);

    let (mut of_upper, mut of_lower) = (f32::new(0.0), f32::new(0.0));
    let mut between = f32::new(0.0);
    let first = if comptime!(blocks.emulated) { 0usize.runtime() } else { spot.block };
    for j in first..rows {
        let decay = decays.of_block::<O>(
            at.turn,
            j,
            false,
            between,
            upper,
            lower,
            spot,
            comptime!(Tokens::Keys),
            blocks,
        );
        between += select(j > spot.block, decays.total(at.turn, j, blocks), f32::new(0.0));
        let mut weights = bs.cross(&tiles.bs, &tiles.cs, at.n, j, ns, scratch, blocks);
        let mut values = xs.cross(&tiles.xs, &tiles.ys, at.p, j, ps, scratch, blocks);
        #[unroll]
        for half in 0..2usize {
            let l = 16 * j + comptime!(8 * half) + spot.i;
            let mut terms = Array::<Pair<f32>>::new(2usize);
            #[unroll]
            for eight in 0..2usize {
                let i = comptime!(2 * half + eight);
                values[i] *= decay[i];
                terms[eight] = without_diagonal(weights[i] * values[i], l, row + comptime!(8 * eight));
                weights[i] *= decay[i];
            }
            of_upper += terms[0usize].extract(0usize) + terms[0usize].extract(1usize);
            of_lower += terms[1usize].extract(0usize) + terms[1usize].extract(1usize);
            sums.put_inside::<O>(terms[0usize] + terms[1usize], l, spot, blocks);
        }
        let (left, right) = (as_a::<E>(&weights), as_a::<E>(&values));
        times_columns::<E>(&left, &tiles.ys, at.p, 16 * j, &mut dx, rows, ps, scratch, blocks);
        times_columns::<E>(&right, &tiles.cs, at.n, 16 * j, &mut db, depth, ns, scratch, blocks);
    }
    OfKeys::<E> {
        dx: rounded::<E>(&dx, p_tiles),
        db: rounded::<E>(&db, n_tiles),
        upper: of_upper - corner,
        lower: of_lower,
    }
}

/// A pair of `M[l, s]` and `M[l + 1, s]`, 0 where the token is the same: such terms would cancel.
#[cube]
fn without_diagonal(pair: Pair<f32>, l: usize, s: usize) -> Pair<f32> {
    let mut others = pair;
    #[unroll]
    for i in 0..2usize {
        others.insert(i, select(l + i != s, pair.extract(i), f32::new(0.0)));
    }
    others
}

/// The gradient of C: a plane's rows l, and the tokens s up to l.
#[cube]
fn queries<E: Float, O: Size>(
    tiles: &Tiles<E>,
    at: &At,
    of_keys: &OfKeys<E>,
    decays: &Decays,
    sums: &mut Sums,
    spot: &Spot,
    scratch: &mut Shared<[f32]>,
    #[comptime] blocks: Blocks,
) -> Array<Pair<E>> {
    let (ps, ns) = comptime!((blocks.p_stride(), blocks.n_stride()));
    let n_tiles = comptime!(blocks.n_tiles());
    let (rows, depth) = comptime!((blocks.rows, blocks.n / 16));
    let row = 16 * spot.block + spot.g;
    let (upper, lower) = (decays.row(at.turn, row, blocks), decays.row(at.turn, row + 8, blocks));
    let ys = Row::<E>::new(&tiles.ys, at.p, spot.block, rows, ps, blocks);

    // what entered the chunk
    let before = decays.before(at.turn, spot.block, blocks).exp();
    let mut dc = zeros(comptime!(2 * n_tiles));
    ys.times_columns(&tiles.ys, &tiles.hs, at.n, &mut dc, depth, ns, scratch, blocks);
    scale_rows(&mut dc, before * upper, before * lower, n_tiles);
    let cs = Row::<E>::new(&tiles.cs, at.n, spot.block, depth, ns, blocks);
    let (entered_upper, entered_lower) = cs.dot(&tiles.cs, &dc, blocks);
    sums.put_own(entered_upper - of_keys.upper, entered_lower - of_keys.lower, spot, blocks);

    let mut between = f32::new(0.0);
    let count = up_to_own(spot, blocks);
    for step in 0..count {
        let j = count - 1 - step;
        let mut values = ys.cross(&tiles.ys, &tiles.xs, at.p, j, ps, scratch, blocks);
        let decay = decays.of_block::<O>(
            at.turn,
            j,
            false,
            between,
            upper,
            lower,
            spot,
            comptime!(Tokens::Queries),
            blocks,
        );
        between += select(j < spot.block, decays.total(at.turn, j, blocks), f32::new(0.0));
        #[unroll]
        for i in 0..4usize {
            values[i] *= decay[i];
        }
        let left = as_a::<E>(&values);
        times_columns::<E>(&left, &tiles.bs, at.n, 16 * j, &mut dc, depth, ns, scratch, blocks);
    }
    rounded::<E>(&dc, n_tiles)
}

/// A unit's part of `⟨H, G⟩`.
#[cube]
fn corner<E: Float, O: Size>(
    adjoint: &Array<Pair<f32>>,
    hs: &Shared<[One<E>]>,
    first: usize,
    spot: &Spot,
    #[comptime] blocks: Blocks,
) -> f32 {
    let mut product = f32::new(0.0);
    #[unroll]
    for i in 0..comptime!(2 * blocks.n_tiles()) {
        let row = 16 * spot.block + spot.g + comptime!(i % 2 * 8);
        let at = first + row * comptime!(blocks.n_stride()) + comptime!(i / 2 * 8) + spot.i;
        let pair = read_pair::<E, O>(hs.with_vector_size::<O>(), at, blocks);
        let with = Pair::<f32>::cast_from(pair) * adjoint[i];
        product += with.extract(0usize) + with.extract(1usize);
    }
    product
}

/// Parts of the gradient of the log decays, in rows of [`Blocks::p_stride`] numbers, free of bank conflicts.
#[derive(CubeType)]
struct Sums {
    /// Of every token l and eighth row of a block of s: `Σ M[l, s]`.
    inside: Shared<[One<f32>]>,
    /// Of every token and unit of a quad: what entered less `Σ M[l, s]` over l, and what leaves. Both have the
    /// unit's part of `d_Q ⟨H, G⟩`: of every token one of the two is added up.
    own: Shared<[f32]>,
    leaving: Shared<[f32]>,
    /// Of every token, what it adds to the tokens up to itself, and to those after it.
    upto: Shared<[One<f32>]>,
    after: Shared<[One<f32>]>,
}

#[cube]
impl Sums {
    fn new(#[comptime] blocks: Blocks) -> Self {
        let q = comptime!(blocks.chunk());
        Sums {
            inside: Shared::<[One<f32>]>::new_aligned_slice(
                comptime!(8 * blocks.rows * blocks.p_stride()),
                16usize,
            ),
            own: Shared::<[f32]>::new_slice(comptime!(4 * blocks.p_stride())),
            leaving: Shared::<[f32]>::new_slice(comptime!(4 * blocks.p_stride())),
            upto: Shared::<[One<f32>]>::new_aligned_slice(q, 16usize),
            after: Shared::<[One<f32>]>::new_aligned_slice(q, 16usize),
        }
    }

    fn put_inside<O: Size>(&mut self, pair: Pair<f32>, l: usize, spot: &Spot, #[comptime] blocks: Blocks) {
        let at = (8 * spot.block + spot.g) * comptime!(blocks.p_stride()) + l;
        write_pair::<f32, O>(self.inside.with_vector_size_mut::<O>(), at, pair, blocks);
    }

    fn put_own(&mut self, upper: f32, lower: f32, spot: &Spot, #[comptime] blocks: Blocks) {
        let at = spot.i / 2 * comptime!(blocks.p_stride()) + 16 * spot.block + spot.g;
        self.own[at] = upper;
        self.own[at + 8] = lower;
    }

    fn put_leaving(&mut self, upper: f32, lower: f32, spot: &Spot, #[comptime] blocks: Blocks) {
        let at = spot.i / 2 * comptime!(blocks.p_stride()) + 16 * spot.block + spot.g;
        self.leaving[at] = upper;
        self.leaving[at + 8] = lower;
    }

    /// What each token adds, from what the units put down. Two units for each token.
    fn add_up(&mut self, #[comptime] blocks: Blocks) {
        let q = comptime!(blocks.chunk());
        let unit = UNIT_POS as usize;
        let token = unit % q;
        let mut sum = f32::new(0.0);
        if unit < q {
            #[unroll]
            for i in 0..4usize {
                sum += self.own[token + i * comptime!(blocks.p_stride())];
            }
            for i in 0..8 * (token / 16 + 1) {
                sum += self.inside[i * comptime!(blocks.p_stride()) + token].extract(0usize);
            }
            self.upto[token] = One::new(sum);
        } else {
            #[unroll]
            for i in 0..4usize {
                sum += self.leaving[token + i * comptime!(blocks.p_stride())];
            }
            self.after[token] = One::new(sum);
        }
    }

    fn write<O: Size>(
        &self,
        to: &mut [f32],
        token: usize,
        spot: &Spot,
        sizes: &ChunkSizes,
        #[comptime] blocks: Blocks,
    ) {
        let unit = UNIT_POS as usize;
        let q = comptime!(blocks.chunk());
        if unit < q && token + unit < spot.end {
            let mut gradient = f32::new(0.0);
            #[unroll]
            for i in 0..comptime!(q / 2) {
                let upto = read_pair::<f32, O>(self.upto.with_vector_size::<O>(), comptime!(2 * i), blocks);
                let after = read_pair::<f32, O>(self.after.with_vector_size::<O>(), comptime!(2 * i), blocks);
                #[unroll]
                for j in 0..2usize {
                    gradient += select(unit > comptime!(2 * i + j), after.extract(j), upto.extract(j));
                }
            }
            let place = (spot.batch * sizes.t + token + unit) * sizes.heads + spot.head;
            to[place * CUBE_COUNT_Y as usize + CUBE_POS_Y as usize] = gradient;
        }
    }
}
