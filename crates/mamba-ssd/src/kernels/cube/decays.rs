//! The decays inside a chunk, without an exponential for every pair of tokens.
//!
//! With the chunk in blocks of 16 tokens, and token l in block w, token s in block j < w,
//!
//! ```text
//! a_{s+1} ⋯ a_l = E_s · exp(Σ T_m over j < m < w) · R_l,
//!   E_s = a_{s+1} ⋯ a_end of block j      R_l = a_start of block w ⋯ a_l      T_m = Σ log a over block m
//! ```
//!
//! Every factor is at most 1 and has a sum of its own logarithms. Inside a block the decay is
//! `exp(S_l - S_s)` with the sums S of at most 16 logarithms: the only differences of sums. They are exact
//! to a few units of rounding of the sums: 1e-6 in ordinary blocks, 1e-4 where every logarithm is at its least.

use cubecl::prelude::*;

use super::chunks::{Blocks, Spot};
use super::mma::{One, Pair, zeros};
use super::tiles::read_pair;

/// Below this the exponential is 0 in f32.
const LEAST: f32 = -104.0;

/// What the rows of a plane are: tokens l that look back, or tokens s that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Tokens {
    Queries,
    Keys,
}

/// Tables of two chunks, this one's and the next.
#[derive(CubeType)]
pub(super) struct Decays {
    logs: Shared<[f32]>,
    /// S, from the start of a token's block to the token.
    sums: Shared<[One<f32>]>,
    /// R, its exponential.
    rows: Shared<[One<f32>]>,
    /// E, from after a token to the end of its block.
    columns: Shared<[One<f32>]>,
}

#[cube]
impl Decays {
    pub fn new(#[comptime] blocks: Blocks) -> Self {
        let two = comptime!(2 * blocks.chunk());
        Decays {
            logs: Shared::<[f32]>::new_slice(two),
            sums: Shared::<[One<f32>]>::new_aligned_slice(two, 16usize),
            rows: Shared::<[One<f32>]>::new_aligned_slice(two, 16usize),
            columns: Shared::<[One<f32>]>::new_aligned_slice(two, 16usize),
        }
    }

    /// Keeps a unit's logarithm for the chunk `turn`.
    pub fn put_log(&mut self, log: f32, turn: usize, #[comptime] blocks: Blocks) {
        let unit = UNIT_POS as usize;
        if unit < comptime!(blocks.chunk()) {
            self.logs[turn * comptime!(blocks.chunk()) + unit] = max(log, f32::new(LEAST));
        }
    }

    /// The tables of the chunk `turn`, whose logarithms are there. Two units for each token.
    pub fn tabulate(&mut self, turn: usize, #[comptime] blocks: Blocks) {
        let q = comptime!(blocks.chunk());
        let unit = UNIT_POS as usize;
        let first = turn * q;
        let token = unit % q;
        let (start, place) = (first + token / 16 * 16, token % 16);
        let mut sum = f32::new(0.0);
        if unit < q {
            #[unroll]
            for i in 0..16usize {
                sum += select(place >= i, self.logs[start + i], f32::new(0.0));
            }
            self.sums[first + token] = One::new(sum);
            self.rows[first + token] = One::new(sum.exp());
        } else if unit < comptime!(2 * blocks.chunk()) {
            #[unroll]
            for i in 0..16usize {
                sum += select(place < i, self.logs[start + i], f32::new(0.0));
            }
            self.columns[first + token] = One::new(sum.exp());
        }
    }

    /// T of a block.
    pub fn total(&self, turn: usize, block: usize, #[comptime] blocks: Blocks) -> f32 {
        self.sums[turn * comptime!(blocks.chunk()) + 16 * block + 15].extract(0usize)
    }

    /// The sum of T over the blocks before `block`.
    pub fn before(&self, turn: usize, block: usize, #[comptime] blocks: Blocks) -> f32 {
        let mut sum = f32::new(0.0);
        #[unroll]
        for m in 0..blocks.rows {
            sum += select(block > m, self.total(turn, m, blocks), f32::new(0.0));
        }
        sum
    }

    /// The sum of T over the blocks after `block`.
    pub fn after(&self, turn: usize, block: usize, #[comptime] blocks: Blocks) -> f32 {
        let mut sum = f32::new(0.0);
        #[unroll]
        for m in 0..blocks.rows {
            sum += select(block < m, self.total(turn, m, blocks), f32::new(0.0));
        }
        sum
    }

    /// R of a token.
    pub fn row(&self, turn: usize, token: usize, #[comptime] blocks: Blocks) -> f32 {
        self.rows[turn * comptime!(blocks.chunk()) + token].extract(0usize)
    }

    /// R of two neighbouring tokens.
    pub fn rows<O: Size>(&self, turn: usize, token: usize, #[comptime] blocks: Blocks) -> Pair<f32> {
        let at = turn * comptime!(blocks.chunk()) + token;
        read_pair::<f32, O>(self.rows.with_vector_size::<O>(), at, blocks)
    }

    /// E of a token.
    pub fn column(&self, turn: usize, token: usize, #[comptime] blocks: Blocks) -> f32 {
        self.columns[turn * comptime!(blocks.chunk()) + token].extract(0usize)
    }

    /// E of two neighbouring tokens.
    pub fn columns<O: Size>(&self, turn: usize, token: usize, #[comptime] blocks: Blocks) -> Pair<f32> {
        let at = turn * comptime!(blocks.chunk()) + token;
        read_pair::<f32, O>(self.columns.with_vector_size::<O>(), at, blocks)
    }

    /// `a_{s+1} ⋯ a_l`, 0 for s > l, for what a unit holds of the product of its plane's rows with block j of
    /// tokens. `between` is the sum of T over the blocks between; `upper` and `lower` are the decays of its two
    /// rows to the border of their block, R where they are queries and E where they are keys. Where the chunk is
    /// not the rows' own but a `distant` one, it lies in front of queries and behind keys.
    pub fn of_block<O: Size>(
        &self,
        turn: usize,
        j: usize,
        distant: bool,
        between: f32,
        upper: f32,
        lower: f32,
        spot: &Spot,
        #[comptime] rows: Tokens,
        #[comptime] blocks: Blocks,
    ) -> Array<Pair<f32>> {
        let apart = if comptime!(rows == Tokens::Queries) { j < spot.block } else { j > spot.block };
        let mut decays = zeros(4usize);
        if !distant && j == spot.block {
            self.fill_own::<O>(&mut decays, turn, spot, rows, blocks);
        } else if distant || apart {
            self.fill_other::<O>(&mut decays, turn, j, between, upper, lower, spot, rows, blocks);
        }
        decays
    }

    fn fill_own<O: Size>(
        &self,
        decays: &mut Array<Pair<f32>>,
        turn: usize,
        spot: &Spot,
        #[comptime] rows: Tokens,
        #[comptime] blocks: Blocks,
    ) {
        let own = 16 * spot.block;
        #[unroll]
        for i in 0..4usize {
            let row = spot.g + comptime!(i % 2 * 8);
            let column = comptime!(i / 2 * 8) + spot.i;
            let to_row = self.sums[turn * comptime!(blocks.chunk()) + own + row].extract(0usize);
            let to_columns = self.sums::<O>(turn, own + column, blocks);
            let mut pair = Pair::<f32>::new(0.0);
            #[unroll]
            for k in 0..2usize {
                let to_column = to_columns.extract(k);
                let (log, seen) = if comptime!(rows == Tokens::Queries) {
                    (to_row - to_column, column + k <= row)
                } else {
                    (to_column - to_row, row <= column + k)
                };
                pair.insert(k, select(seen, log.exp(), f32::new(0.0)));
            }
            decays[i] = pair;
        }
    }

    fn fill_other<O: Size>(
        &self,
        decays: &mut Array<Pair<f32>>,
        turn: usize,
        j: usize,
        between: f32,
        upper: f32,
        lower: f32,
        spot: &Spot,
        #[comptime] rows: Tokens,
        #[comptime] blocks: Blocks,
    ) {
        let between = between.exp();
        #[unroll]
        for i in 0..4usize {
            let to_border = if comptime!(i % 2 == 0) { upper } else { lower };
            let column = 16 * j + comptime!(i / 2 * 8) + spot.i;
            let columns = if comptime!(rows == Tokens::Queries) {
                self.columns::<O>(turn, column, blocks)
            } else {
                self.rows::<O>(turn, column, blocks)
            };
            decays[i] = columns * Pair::new(between * to_border);
        }
    }

    /// S of two neighbouring tokens.
    fn sums<O: Size>(&self, turn: usize, token: usize, #[comptime] blocks: Blocks) -> Pair<f32> {
        let at = turn * comptime!(blocks.chunk()) + token;
        read_pair::<f32, O>(self.sums.with_vector_size::<O>(), at, blocks)
    }
}
