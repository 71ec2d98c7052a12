//! Outputs chunk by chunk on tensor cores, the state on chip.
//!
//! Dao and Gu (2024), section 6, with steps 1 to 4 fused into one pass. For a chunk of Q tokens, with
//! `L[l, s] = a_{s+1} ⋯ a_l` and the state `H` that enters it,
//!
//! ```text
//! y = (L ∘ C Bᵀ) x + diag(a_1 ⋯ a_l) C Hᵀ
//! H ← (a_1 ⋯ a_Q) H + (diag(a_{s+1} ⋯ a_Q) x)ᵀ B
//! ```
//!
//! One cube walks over a span of one head with a tile of P rows of the state. The state stays in
//! registers in f32; products take their factors in the dtype of x and add up in f32. While a chunk is
//! computed the next one is on its way to shared memory, and blocks above the diagonal are not multiplied by x.

use cubecl::prelude::*;

use super::decays::{Decays, Tokens};
use super::mma::{One, Pair, Role, Row, as_a, load, times_columns, zeros};
use super::tiles::{
    arrive, borders_at, fetch, fetch_log, flush, load_state, projections_at, put_rows, scale_rows,
    store_state, sync_rows, values_at,
};

/// Most bytes of shared memory of a cube of which a multiprocessor of a current GPU runs two at a time.
const HALF_OF_SHARED: usize = 113 * 1024;

/// Numbers in sixteen bytes, an access to global memory.
pub(super) const WIDE: usize = 8;

/// What is compiled into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Blocks {
    /// Sixteens in a chunk of tokens, and in a tile of P.
    pub rows: usize,
    /// Planes for each sixteen rows of the state, which share its columns out: 2 where only states are wanted, and
    /// columns can be halved.
    pub planes: usize,
    /// The state size, padded to a multiple of 16.
    pub n: usize,
    /// Numbers in an access of a unit to a tile in global memory.
    pub wide: usize,
    /// Numbers in an access to what a unit holds of a product: 2, or 1 where memory cannot be reinterpreted.
    pub pair: usize,
    /// Chunks in shared memory, 2 where the next one is copied while one is computed.
    pub stages: usize,
    /// Tiles of the state in shared memory, 2 where the next one is written while one is read.
    pub ring: usize,
    /// Whether outputs are wanted, or only states.
    pub outputs: bool,
    /// Whether the states that enter every chunk are wanted.
    pub save: bool,
    /// From the last token to the first: only states, the gradients of states if x is dy and B is C.
    pub reverse: bool,
    /// Without tensor cores.
    pub emulated: bool,
}

impl Blocks {
    /// Tiles of 64 rows, whose other side is padded to a multiple of 16.
    pub fn new(n: usize) -> Self {
        Self {
            rows: 4,
            planes: 1,
            n: n.next_multiple_of(16),
            wide: WIDE,
            pair: 2,
            stages: 1,
            ring: 1,
            outputs: true,
            save: false,
            reverse: false,
            emulated: false,
        }
    }

    /// The same computed in shared memory, number by number.
    pub fn emulated(self, rows: usize) -> Self {
        Self { rows, wide: 1, pair: 1, emulated: true, ..self }
    }

    /// The same with as many planes as pay: outputs would compute `C Bᵀ` twice.
    pub fn spread(self) -> Self {
        let halves = !self.outputs && self.n.is_multiple_of(32);
        Self { planes: if halves { 2 } else { 1 }, ..self }
    }

    /// Tokens of a chunk, and rows of a tile of the state.
    pub fn chunk(&self) -> usize {
        16 * self.rows
    }

    pub fn units(&self) -> usize {
        32 * self.rows * self.planes
    }

    /// Columns of the state that a plane keeps.
    pub fn n_columns(&self) -> usize {
        self.n / self.planes
    }

    /// Eights of P in a tile, and of N.
    pub fn p_tiles(&self) -> usize {
        2 * self.rows
    }

    pub fn n_tiles(&self) -> usize {
        self.n / 8
    }

    /// Padded lengths of rows of P and N in shared memory, free of bank conflicts.
    pub fn p_stride(&self) -> usize {
        self.chunk() + 8
    }

    pub fn n_stride(&self) -> usize {
        self.n + 8
    }

    /// Numbers of a tile of P, and of N.
    pub fn p_tile(&self) -> usize {
        self.chunk() * self.p_stride()
    }

    pub fn n_tile(&self) -> usize {
        self.chunk() * self.n_stride()
    }

    /// Padded length of rows of C, which hold rows of outputs later.
    pub fn c_stride(&self) -> usize {
        self.n.max(self.chunk()) + 8
    }

    pub fn c_tile(&self) -> usize {
        self.chunk() * self.c_stride()
    }

    /// Bytes of shared memory of [`chunks`], for two bytes a number.
    pub fn chunks_bytes(&self) -> usize {
        let c_tiles = if self.outputs { self.stages * self.c_tile() } else { 0 };
        let tiles = self.stages * (self.p_tile() + self.n_tile()) + c_tiles + self.ring * self.n_tile();
        2 * tiles + 4 * (8 * self.chunk() + 1)
    }

    /// Bytes of shared memory of [`super::gradients`], for two bytes a number.
    pub fn gradients_bytes(&self) -> usize {
        let q = self.chunk();
        let tiles = self.stages * (2 * self.p_tile() + 3 * self.n_tile()) + self.n_tile();
        2 * tiles + 4 * (10 * q + 8 * (self.rows + 1) * self.p_stride() + 1)
    }

    /// The same with as much copied ahead as leaves room for two cubes in a multiprocessor, and for one in
    /// `limit` bytes.
    pub fn staged(self, limit: usize, bytes: impl Fn(&Self) -> usize) -> Self {
        if self.emulated {
            return self;
        }
        let choices = [(2, 2), (2, 1), (1, 1)].map(|(stages, ring)| Self { stages, ring, ..self });
        choices.into_iter().find(|blocks| bytes(blocks) <= HALF_OF_SHARED.min(limit)).unwrap_or(self)
    }

    /// Numbers of shared memory that the emulated products of a plane need.
    pub fn scratch_of_plane(&self) -> usize {
        let depth = self.n / 16;
        256 * (depth * (1 + self.rows)).max(2 * self.rows).max(1 + depth)
    }

    pub fn scratch(&self) -> usize {
        if self.emulated { self.rows * self.planes * self.scratch_of_plane() } else { 1 }
    }
}

/// Sizes of the map.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct ChunkSizes {
    pub t: usize,
    pub heads: usize,
    pub groups: usize,
    pub p: usize,
    pub n: usize,
    pub span: usize,
}

/// Where a cube works.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Spot {
    pub batch: usize,
    pub head: usize,
    pub group: usize,
    /// First row of the tile of the state.
    pub p: usize,
    /// First token of the span, and the one after its last.
    pub first: usize,
    pub end: usize,
    /// Which block of rows the unit's plane computes, and which half of their columns, if they are halved.
    pub block: usize,
    pub half: usize,
    /// Row in a block, and first column in a block, of what the unit holds of a product.
    pub g: usize,
    pub i: usize,
}

#[cube(launch)]
pub(super) fn chunks<E: Float, W: Size, O: Size>(
    x: &[Vector<E, W>],            // b t h p
    b: &[Vector<E, W>],            // b t g n
    c: &[Vector<E, W>],            // b t g n
    log_a: &[f32],                 // b t h
    entering: &[Vector<f32, O>],   // b h spans p n
    y: &mut [Vector<E, W>],        // b t h p
    borders: &mut [Vector<E, W>],  // b h chunks p n
    states: &mut [Vector<f32, O>], // b h spans p n
    sizes: ChunkSizes,
    #[comptime] blocks: Blocks,
    #[define(E)] _dtype: ElemType,
) {
    let q = comptime!(blocks.chunk());
    let (ns, cs_stride) = comptime!((blocks.n_stride(), blocks.c_stride()));
    let (p_tile, n_tile) = comptime!((blocks.p_tile(), blocks.n_tile()));
    let (stages, ring) = comptime!((blocks.stages, blocks.ring));
    let spot = spot(&sizes, blocks);

    let mut xs = Shared::<[One<E>]>::new_aligned_slice(comptime!(stages * p_tile), 16usize);
    let mut bs = Shared::<[One<E>]>::new_aligned_slice(comptime!(stages * n_tile), 16usize);
    let mut cs = Shared::<[One<E>]>::new_aligned_slice(
        comptime!(if blocks.outputs { stages * blocks.c_tile() } else { 1 }),
        16usize,
    );
    let mut hs = Shared::<[One<E>]>::new_aligned_slice(comptime!(ring * n_tile), 16usize);
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(blocks.scratch()));
    let mut decays = Decays::new(blocks);

    let own_tiles = comptime!(blocks.n_columns() / 8);
    let own_column = spot.half * comptime!(blocks.n_columns());
    let mut state = Array::<Pair<f32>>::new(comptime!(2 * own_tiles));
    load_state::<O>(&mut state, entering, &spot, &sizes, blocks);
    put_rows::<E, O>(&state, &mut hs, own_column, &spot, own_tiles, ns, blocks);
    let count = (spot.end - spot.first).div_ceil(q);
    let (first, second) = (chunk_at(0usize, count, &spot, blocks), chunk_at(1usize, count, &spot, blocks));
    decays.put_log(fetch_log(log_a, first, &spot, &sizes, blocks), 0usize, blocks);
    decays.put_log(fetch_log(log_a, second, &spot, &sizes, blocks), 1usize, blocks);
    sync_cube();
    decays.tabulate(0usize, blocks);

    if comptime!(stages == 2) {
        fetch_chunk::<E, W>(&mut xs, &mut bs, &mut cs, x, b, c, 0usize, first, &spot, &sizes, blocks);
    }
    for index in 0..count {
        let token = chunk_at(index, count, &spot, blocks);
        let turn = index % 2;
        let stage = index % stages;
        if comptime!(stages == 1) {
            sync_cube();
            fetch_chunk::<E, W>(&mut xs, &mut bs, &mut cs, x, b, c, 0usize, token, &spot, &sizes, blocks);
        }
        arrive(blocks);
        sync_cube();
        if comptime!(stages == 2) && index + 1 < count {
            let next = chunk_at(index + 1, count, &spot, blocks);
            fetch_chunk::<E, W>(&mut xs, &mut bs, &mut cs, x, b, c, 1 - stage, next, &spot, &sizes, blocks);
        }
        let after_next = chunk_at(index + 2, count, &spot, blocks);
        let log = fetch_log(log_a, after_next, &spot, &sizes, blocks);
        decays.tabulate(1 - turn, blocks);
        let at = Places {
            x: stage * p_tile,
            b: stage * n_tile,
            c: stage * comptime!(blocks.c_tile()),
            h: index % ring * n_tile,
            turn,
        };
        if blocks.save {
            let target = borders_at(token, &spot, &sizes, blocks);
            let (unit, units) = (UNIT_POS as usize, comptime!(blocks.units()));
            flush::<E, W>(&hs, at.h, borders, &target, q, 0usize, unit, units, blocks.n, ns, blocks);
        }
        if blocks.outputs {
            let sums = outputs::<E, O>(&xs, &bs, &cs, &hs, &at, &decays, &spot, &mut scratch, blocks);
            put_rows::<E, O>(&sums, &mut cs, at.c, &spot, comptime!(blocks.p_tiles()), cs_stride, blocks);
            sync_rows(blocks);
            let (lane, row) = (UNIT_POS as usize % 32, 16 * spot.block);
            let target = values_at(token, &spot, &sizes);
            flush::<E, W>(&cs, at.c, y, &target, 16usize, row, lane, 32usize, q, cs_stride, blocks);
        }

        let end = decays.before(turn, blocks.rows, blocks).exp();
        #[unroll]
        for i in 0..comptime!(2 * own_tiles) {
            state[i] *= Pair::new(end);
        }
        add_keys::<E, O>(&xs, &bs, at.x, at.b, turn, &mut state, &decays, &spot, &mut scratch, blocks);
        decays.put_log(log, turn, blocks);
        if comptime!(ring == 1) {
            sync_cube();
        }
        let h_next = (index + 1) % ring * n_tile + own_column;
        put_rows::<E, O>(&state, &mut hs, h_next, &spot, own_tiles, ns, blocks);
    }
    store_state::<O>(&state, states, CUBE_POS_Z as usize, CUBE_COUNT_Z as usize, &spot, &sizes, blocks);
}

/// First token of the chunk that a cube computes as its `index`-th of `count`; beyond, the span's end.
#[cube]
pub(super) fn chunk_at(index: usize, count: usize, spot: &Spot, #[comptime] blocks: Blocks) -> usize {
    let place = if comptime!(blocks.reverse) { count - 1 - index } else { index };
    select(index < count, spot.first + place * comptime!(blocks.chunk()), spot.end)
}

/// Where in shared memory a chunk and the state that enters it begin, and which tables are its decays.
#[derive(CubeType, Clone, Copy)]
struct Places {
    x: usize,
    b: usize,
    c: usize,
    h: usize,
    turn: usize,
}

#[cube]
pub(super) fn spot(sizes: &ChunkSizes, #[comptime] blocks: Blocks) -> Spot {
    let index = CUBE_POS_X as usize;
    let lane = UNIT_POS as usize % 32;
    let head = index % sizes.heads;
    let first = CUBE_POS_Z as usize * sizes.span;
    Spot {
        batch: index / sizes.heads,
        head,
        group: head / (sizes.heads / sizes.groups),
        p: CUBE_POS_Y as usize * comptime!(blocks.chunk()),
        first,
        end: min(first + sizes.span, sizes.t),
        block: UNIT_POS as usize / 32 % blocks.rows,
        half: UNIT_POS as usize / comptime!(32 * blocks.rows),
        g: lane / 4,
        i: lane % 4 * 2,
    }
}

/// Starts to copy a chunk.
#[cube]
fn fetch_chunk<E: Float, W: Size>(
    xs: &mut Shared<[One<E>]>,
    bs: &mut Shared<[One<E>]>,
    cs: &mut Shared<[One<E>]>,
    x: &[Vector<E, W>],
    b: &[Vector<E, W>],
    c: &[Vector<E, W>],
    stage: usize,
    token: usize,
    spot: &Spot,
    sizes: &ChunkSizes,
    #[comptime] blocks: Blocks,
) {
    let (ps, ns) = comptime!((blocks.p_stride(), blocks.n_stride()));
    let (p_at, n_at) = (stage * comptime!(blocks.p_tile()), stage * comptime!(blocks.n_tile()));
    let (c_at, c_stride) = (stage * comptime!(blocks.c_tile()), comptime!(blocks.c_stride()));
    let projections = projections_at(token, spot, sizes);
    fetch::<E, W>(xs, p_at, x, &values_at(token, spot, sizes), comptime!(blocks.chunk()), ps, blocks);
    fetch::<E, W>(bs, n_at, b, &projections, blocks.n, ns, blocks);
    if blocks.outputs {
        fetch::<E, W>(cs, c_at, c, &projections, blocks.n, c_stride, blocks);
    }
}

/// A plane's rows of `(L ∘ C Bᵀ) x + diag(a_1 ⋯ a_l) C Hᵀ`.
#[cube]
fn outputs<E: Float, O: Size>(
    xs: &Shared<[One<E>]>,
    bs: &Shared<[One<E>]>,
    cs: &Shared<[One<E>]>,
    hs: &Shared<[One<E>]>,
    at: &Places,
    decays: &Decays,
    spot: &Spot,
    scratch: &mut Shared<[f32]>,
    #[comptime] blocks: Blocks,
) -> Array<Pair<f32>> {
    let (ps, ns) = comptime!((blocks.p_stride(), blocks.n_stride()));
    let (depth, rows) = comptime!((blocks.n / 16, blocks.rows));
    let p_tiles = comptime!(blocks.p_tiles());
    let row = 16 * spot.block + spot.g;
    let (upper, lower) = (decays.row(at.turn, row, blocks), decays.row(at.turn, row + 8, blocks));
    let queries = Row::<E>::new(cs, at.c, spot.block, depth, comptime!(blocks.c_stride()), blocks);

    // what entered the chunk
    let mut sums = zeros(comptime!(2 * p_tiles));
    queries.times_rows(cs, hs, at.h, &mut sums, rows, ns, scratch, blocks);
    let before = decays.before(at.turn, spot.block, blocks).exp();
    scale_rows(&mut sums, before * upper, before * lower, p_tiles);

    // All of C Bᵀ at once: what lies above the diagonal costs less than waiting for one block after another.
    let mut scores = zeros(comptime!(4 * rows));
    queries.times_rows(cs, bs, at.b, &mut scores, rows, ns, scratch, blocks);
    let mut between = f32::new(0.0);
    #[unroll]
    for step in 0..rows {
        let j = comptime!(rows - 1 - step);
        if comptime!(blocks.emulated) || spot.block >= j {
            let mut weights = decays.of_block::<O>(
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
            #[unroll]
            for i in 0..4usize {
                weights[i] *= scores[comptime!(4 * j + i)];
            }
            between += select(spot.block > j, decays.total(at.turn, j, blocks), f32::new(0.0));
            let left = as_a::<E>(&weights);
            times_columns::<E>(&left, xs, at.x, comptime!(16 * j), &mut sums, rows, ps, scratch, blocks);
        }
    }
    sums
}

/// How many blocks of tokens to look at, up to the plane's own. Emulated products wait for the whole cube, so that
/// there every plane takes all.
#[cube]
pub(super) fn up_to_own(spot: &Spot, #[comptime] blocks: Blocks) -> usize {
    if comptime!(blocks.emulated) { blocks.rows.runtime() } else { spot.block + 1 }
}

/// Scales the columns of a block of A, tokens of the chunk's `k`-th block, by their decays to the chunk's end,
/// or in reverse by those from its start.
#[cube]
pub(super) fn scale_columns<E: Float, O: Size>(
    left: &mut Array<Pair<E>>,
    #[comptime] k: usize,
    turn: usize,
    decays: &Decays,
    spot: &Spot,
    #[comptime] blocks: Blocks,
) {
    let outside = if comptime!(blocks.reverse) {
        decays.before(turn, k, blocks)
    } else {
        decays.after(turn, k, blocks)
    };
    let outside = Pair::<f32>::new(outside.exp());
    #[unroll]
    for i in 0..4usize {
        let token = comptime!(16 * k + i / 2 * 8) + spot.i;
        let inside = if comptime!(blocks.reverse) {
            decays.rows::<O>(turn, token, blocks)
        } else {
            decays.columns::<O>(turn, token, blocks)
        };
        left[i] = Pair::<E>::cast_from(Pair::<f32>::cast_from(left[i]) * inside * outside);
    }
}

/// Adds `(diag(a_{s+1} ⋯ a_Q) x)ᵀ B`, or in reverse `(diag(a_1 ⋯ a_l) x)ᵀ B`, the plane's rows and columns of the state.
#[cube]
pub(super) fn add_keys<E: Float, O: Size>(
    xs: &Shared<[One<E>]>,
    bs: &Shared<[One<E>]>,
    x_at: usize,
    b_at: usize,
    turn: usize,
    state: &mut Array<Pair<f32>>,
    decays: &Decays,
    spot: &Spot,
    scratch: &mut Shared<[f32]>,
    #[comptime] blocks: Blocks,
) {
    let (ps, ns) = comptime!((blocks.p_stride(), blocks.n_stride()));
    let pairs = comptime!(blocks.n_columns() / 16);
    let own_column = spot.half * comptime!(blocks.n_columns());
    #[unroll]
    for k in 0..blocks.rows {
        let role = comptime!(Role::LEFT_OF_COLUMNS);
        let mut left = load::<E>(xs, x_at, comptime!(16 * k), 16 * spot.block, ps, role, blocks);
        scale_columns::<E, O>(&mut left, k, turn, decays, spot, blocks);
        let row = comptime!(16 * k);
        times_columns::<E>(&left, bs, b_at + own_column, row, state, pairs, ns, scratch, blocks);
    }
}
