//! What a walk over tokens has to know of each: of tokens that see a tile of columns, two tiles at a time.

use cubecl::prelude::*;

use super::tile::{NEVER, first_of};
use crate::kernels::cube::chunks::Blocks;
use crate::kernels::cube::mma::{One, Pair};
use crate::kernels::cube::tiles::read_pair;

/// The first tile of tokens, from `begin` on, that begins in a document after column `last`.
#[cube]
pub fn seeing<I: Int>(
    first: &[I],
    begin: usize,
    last: usize,
    batch: usize,
    t: usize,
    #[comptime] blocks: Blocks,
) -> usize {
    let size = comptime!(blocks.chunk());
    let (mut low, mut high) = (begin, t.div_ceil(size));
    while low < high {
        let middle = (low + high) / 2;
        if first_of::<I>(first, batch, middle * size, t) <= last {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// What a unit reads of a token: the log of its row's sum, in powers of two, one more number, and its first column.
#[derive(CubeType, Clone, Copy)]
pub struct OfToken {
    log: f32,
    number: f32,
    first: u32,
}

/// A unit's token of the tile at `tile`. `row` is where its head's row of `logs` and `numbers` begins.
#[cube]
pub fn of_token<I: Int>(
    first: &[I],
    logs: &[f32],
    numbers: &[f32],
    row: usize,
    tile: usize,
    batch: usize,
    t: usize,
    #[comptime] blocks: Blocks,
) -> OfToken {
    let token = tile + UNIT_POS as usize;
    let mut of_token = OfToken { log: f32::new(NEVER), number: f32::new(0.0), first: 0u32.runtime() };
    if (UNIT_POS as usize) < comptime!(blocks.chunk()) && token < t {
        of_token.log = logs[row + token] * f32::new(core::f32::consts::LOG2_E);
        of_token.number = numbers[row + token];
        of_token.first = u32::cast_from(first[batch * t + token]);
    }
    of_token
}

/// The same of two tiles of tokens.
#[derive(CubeType)]
pub struct OfTokens {
    logs: Shared<[One<f32>]>,
    numbers: Shared<[One<f32>]>,
    first: Shared<[u32]>,
}

#[cube]
impl OfTokens {
    pub fn new(#[comptime] blocks: Blocks) -> Self {
        let size = comptime!(2 * blocks.chunk());
        OfTokens {
            logs: Shared::<[One<f32>]>::new_aligned_slice(size, 16usize),
            numbers: Shared::<[One<f32>]>::new_aligned_slice(size, 16usize),
            first: Shared::<[u32]>::new_slice(size),
        }
    }

    pub fn put(&mut self, of_token: OfToken, turn: usize, #[comptime] blocks: Blocks) {
        let size = comptime!(blocks.chunk());
        if (UNIT_POS as usize) < size {
            let at = turn * size + UNIT_POS as usize;
            self.logs[at] = One::new(of_token.log);
            self.numbers[at] = One::new(of_token.number);
            self.first[at] = of_token.first;
        }
    }

    pub fn log<O: Size>(&self, turn: usize, token: usize, #[comptime] blocks: Blocks) -> Pair<f32> {
        let at = turn * comptime!(blocks.chunk()) + token;
        read_pair::<f32, O>(self.logs.with_vector_size::<O>(), at, blocks)
    }

    pub fn number<O: Size>(&self, turn: usize, token: usize, #[comptime] blocks: Blocks) -> Pair<f32> {
        let at = turn * comptime!(blocks.chunk()) + token;
        read_pair::<f32, O>(self.numbers.with_vector_size::<O>(), at, blocks)
    }

    pub fn first(&self, turn: usize, token: usize, #[comptime] blocks: Blocks) -> usize {
        self.first[turn * comptime!(blocks.chunk()) + token] as usize
    }
}
