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
//! computed the next one is on its way to registers.

use cubecl::prelude::*;

use super::mma::{One, Pair, SCRATCH, as_a, load_a, load_b, multiply};
use super::tiles::{
    clear, decay_pair, fetch_log, fetch_projections, fetch_values, load_state, put, put_state, store_pair,
    store_state,
};

/// What is compiled into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Blocks {
    /// Sixteens in a chunk of tokens, and in a tile of P.
    pub rows: usize,
    /// Planes that share a block of rows, each with its part of the columns: 1 or 2.
    pub planes: usize,
    /// The state size, padded to a multiple of 16.
    pub n: usize,
    /// Numbers in an access of a unit to a tile in global memory.
    pub wide: usize,
    /// Numbers in an access to what a unit holds of a product: 2, or 1 where memory cannot be reinterpreted.
    pub pair: usize,
    /// Whether outputs are wanted, or only states.
    pub outputs: bool,
    /// Write the state that enters every chunk, instead of the last one.
    pub save: bool,
    /// Without tensor cores.
    pub emulated: bool,
}

impl Blocks {
    /// Tokens of a chunk, and rows of a tile of the state.
    pub fn chunk(&self) -> usize {
        16 * self.rows
    }

    pub fn units(&self) -> usize {
        32 * self.rows * self.planes
    }

    /// Eights of P and of N in a plane's part of the columns.
    pub fn p_tiles(&self) -> usize {
        2 * self.rows / self.planes
    }

    pub fn n_tiles(&self) -> usize {
        self.n / 8 / self.planes
    }

    /// Padded lengths of rows of P and N in shared memory, free of bank conflicts.
    pub fn p_stride(&self) -> usize {
        self.chunk() + 8
    }

    pub fn n_stride(&self) -> usize {
        self.n + 8
    }

    pub fn decay_stride(&self) -> usize {
        self.chunk() + 4
    }

    /// Shared memory of the larger of the two kernels, for two bytes a number.
    pub fn shared_bytes(&self) -> usize {
        let q = self.chunk();
        let tiles = 2 * q * self.p_stride() + 4 * q * self.n_stride();
        2 * tiles + 4 * (q * self.decay_stride() + 2 * q + 8 * self.rows * q + 16 * q + self.units())
    }

    /// Vectors that a unit carries of a tile of `width` columns.
    pub fn share(&self, width: usize) -> usize {
        (self.chunk() * width / self.wide).div_ceil(self.units())
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
    /// Blocks of the unit's plane: of rows, and which half of columns.
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
    y: &mut [Vector<E, O>],        // b t h p
    states: &mut [Vector<f32, O>], // b h spans p n
    sizes: ChunkSizes,
    #[comptime] blocks: Blocks,
    #[define(E)] _dtype: ElemType,
) {
    let q = comptime!(blocks.chunk());
    let (ps, ns, ls) = comptime!((blocks.p_stride(), blocks.n_stride(), blocks.decay_stride()));
    let (p_tiles, n_tiles) = comptime!((blocks.p_tiles(), blocks.n_tiles()));
    let emulated = comptime!(blocks.emulated);
    let unit = UNIT_POS as usize;
    let spot = spot(&sizes, blocks);

    let mut xs = Shared::<[One<E>]>::new_aligned_slice(comptime!(q * ps), 16usize);
    let mut bs = Shared::<[One<E>]>::new_aligned_slice(comptime!(q * ns), 16usize);
    let mut cs = Shared::<[One<E>]>::new_aligned_slice(comptime!(q * ns), 16usize);
    let mut hs = Shared::<[One<E>]>::new_aligned_slice(comptime!(q * ns), 16usize);
    let mut decays = Shared::<[One<f32>]>::new_aligned_slice(comptime!(q * ls), 16usize);
    let mut from_start = Shared::<[f32]>::new_slice(q);
    let mut logs = Shared::<[f32]>::new_slice(q);
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(if emulated {
        blocks.rows * blocks.planes * SCRATCH
    } else {
        1
    }));

    let mut next_x = Array::<Vector<E, W>>::new(comptime!(blocks.share(q)));
    let mut next_b = Array::<Vector<E, W>>::new(comptime!(blocks.share(blocks.n)));
    let mut next_c = Array::<Vector<E, W>>::new(comptime!(blocks.share(blocks.n)));
    let mut state = Array::<Pair<f32>>::new(comptime!(2 * n_tiles));
    load_state::<O>(&mut state, entering, &spot, &sizes, blocks);

    fetch_values::<E, W>(&mut next_x, x, spot.first, &spot, &sizes, blocks);
    fetch_projections::<E, W>(&mut next_b, b, spot.first, &spot, &sizes, blocks);
    fetch_projections::<E, W>(&mut next_c, c, spot.first, &spot, &sizes, blocks);
    let mut log_decay = fetch_log(log_a, spot.first, &spot, &sizes, blocks);

    let count = (spot.end - spot.first).div_ceil(q);
    for index in 0..count {
        let token = spot.first + index * q;
        sync_cube();
        put::<E, W>(&next_x, &mut xs, q, ps, blocks);
        put::<E, W>(&next_b, &mut bs, blocks.n, ns, blocks);
        put::<E, W>(&next_c, &mut cs, blocks.n, ns, blocks);
        put_state::<E, O>(&state, &mut hs, &spot, blocks);
        if unit < q {
            logs[unit] = log_decay;
        }
        sync_cube();
        if index + 1 < count {
            fetch_values::<E, W>(&mut next_x, x, token + q, &spot, &sizes, blocks);
            fetch_projections::<E, W>(&mut next_b, b, token + q, &spot, &sizes, blocks);
            fetch_projections::<E, W>(&mut next_c, c, token + q, &spot, &sizes, blocks);
            log_decay = fetch_log(log_a, token + q, &spot, &sizes, blocks);
        }
        if blocks.save {
            let slots = sizes.t.div_ceil(q);
            store_state::<O>(&state, states, token / q, slots, &spot, &sizes, blocks);
        }
        decay_table(&logs, &mut decays, &mut from_start, blocks);
        sync_cube();

        let row = 16 * spot.block + spot.g;
        if blocks.outputs {
            // (L ∘ C Bᵀ), a block of rows
            let mut scores = Array::<Pair<f32>>::new(comptime!(4 * blocks.rows));
            clear(&mut scores, comptime!(4 * blocks.rows));
            let mut sums = Array::<Pair<f32>>::new(comptime!(2 * p_tiles));
            clear(&mut sums, comptime!(2 * p_tiles));
            #[unroll]
            for k in 0..comptime!(blocks.n / 16) {
                let left = load_a::<E>(&cs, 16 * spot.block, comptime!(16 * k), ns, false, emulated);
                #[unroll]
                for tile in 0..comptime!(2 * blocks.rows) {
                    let right = load_b::<E>(&bs, comptime!(16 * k), comptime!(8 * tile), ns, false, emulated);
                    multiply::<E>(&left, &right, &mut scores, tile, &mut scratch, emulated);
                }
                // C Hᵀ, the plane's part of the columns
                #[unroll]
                for tile in 0..p_tiles {
                    let column = 8 * (spot.half * p_tiles + tile);
                    let right = load_b::<E>(&hs, comptime!(16 * k), column, ns, false, emulated);
                    multiply::<E>(&left, &right, &mut sums, tile, &mut scratch, emulated);
                }
            }
            let upper = from_start[row];
            let lower = from_start[row + 8];
            #[unroll]
            for tile in 0..p_tiles {
                sums[comptime!(2 * tile)] *= Pair::new(upper);
                sums[comptime!(2 * tile + 1)] *= Pair::new(lower);
            }
            #[unroll]
            for tile in 0..comptime!(2 * blocks.rows) {
                scores[comptime!(2 * tile)] *=
                    decay_pair::<O>(&decays, row, comptime!(8 * tile) + spot.i, ls, blocks);
                scores[comptime!(2 * tile + 1)] *=
                    decay_pair::<O>(&decays, row + 8, comptime!(8 * tile) + spot.i, ls, blocks);
            }
            #[unroll]
            for k in 0..blocks.rows {
                let left = as_a::<E>(&scores, comptime!(2 * k));
                #[unroll]
                for tile in 0..p_tiles {
                    let column = 8 * (spot.half * p_tiles + tile);
                    let right = load_b::<E>(&xs, comptime!(16 * k), column, ps, true, emulated);
                    multiply::<E>(&left, &right, &mut sums, tile, &mut scratch, emulated);
                }
            }
            #[unroll]
            for tile in 0..p_tiles {
                let column = spot.p + 8 * (spot.half * p_tiles + tile) + spot.i;
                store_pair::<E, O>(y, sums[comptime!(2 * tile)], token + row, column, &spot, &sizes, blocks);
                store_pair::<E, O>(
                    y,
                    sums[comptime!(2 * tile + 1)],
                    token + row + 8,
                    column,
                    &spot,
                    &sizes,
                    blocks,
                );
            }
        }

        // H ← decay H + (decays ∘ x)ᵀ B, the plane's part of the columns
        let whole = Pair::<f32>::new(from_start[comptime!(q - 1)]);
        #[unroll]
        for i in 0..comptime!(2 * n_tiles) {
            state[i] *= whole;
        }
        #[unroll]
        for k in 0..blocks.rows {
            let mut left = load_a::<E>(&xs, 16 * spot.block, comptime!(16 * k), ps, true, emulated);
            #[unroll]
            for i in 0..4usize {
                let s = comptime!(16 * k + i / 2 * 8) + spot.i;
                let scale = decay_pair::<O>(&decays, comptime!(q - 1).runtime(), s, ls, blocks);
                left[i] = Pair::<E>::cast_from(Pair::<f32>::cast_from(left[i]) * scale);
            }
            #[unroll]
            for tile in 0..n_tiles {
                let column = 8 * (spot.half * n_tiles + tile);
                let right = load_b::<E>(&bs, comptime!(16 * k), column, ns, true, emulated);
                multiply::<E>(&left, &right, &mut state, tile, &mut scratch, emulated);
            }
        }
    }
    if !blocks.save {
        let spans = CUBE_COUNT_Z as usize;
        store_state::<O>(&state, states, CUBE_POS_Z as usize, spans, &spot, &sizes, blocks);
    }
}

#[cube]
pub(super) fn spot(sizes: &ChunkSizes, #[comptime] blocks: Blocks) -> Spot {
    let index = CUBE_POS_X as usize;
    let plane = UNIT_POS as usize / 32;
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
        block: plane % blocks.rows,
        half: plane / blocks.rows,
        g: lane / 4,
        i: lane % 4 * 2,
    }
}

/// `decays[l][s] = a_{s+1} ⋯ a_l`, 0 for s > l, and `from_start[l] = a_1 ⋯ a_l`, each from a sum of its own
/// logarithms.
#[cube]
pub(super) fn decay_table(
    logs: &Shared<[f32]>,
    decays: &mut Shared<[One<f32>]>,
    from_start: &mut Shared<[f32]>,
    #[comptime] blocks: Blocks,
) {
    let q = comptime!(blocks.chunk());
    let rounds = comptime!((q * blocks.rows).div_ceil(blocks.units()));
    #[unroll]
    for round in 0..rounds {
        let place = UNIT_POS as usize + round * comptime!(blocks.units());
        if place < comptime!(q * blocks.rows) {
            let (l, block) = (place % q, place / q);
            let mut sum = f32::new(0.0);
            for r in 16 * (block + 1)..l + 1 {
                sum += logs[r];
            }
            #[unroll]
            for j in 0..16usize {
                let s = 16 * block + comptime!(15 - j);
                let mut decay = f32::new(0.0);
                if s <= l {
                    decay = sum.exp();
                    sum += logs[s];
                }
                decays[l * comptime!(blocks.decay_stride()) + s] = One::new(decay);
            }
            if block == 0 {
                from_start[l] = sum.exp();
            }
        }
    }
}
