//! Products of 16 × 16 by 16 × 8 blocks by the tensor cores of a plane.
//!
//! The registers of a block are spread over the 32 units of a plane as PTX's `mma.m16n8k16` lays them out:
//! with `g = lane / 4` and `i = 2 (lane mod 4)`, a unit holds
//!
//! ```text
//! of A   (g, i‥i+1)  (g+8, i‥i+1)  (g, i+8‥i+9)  (g+8, i+8‥i+9)
//! of B   (i‥i+1, g)  (i+8‥i+9, g)
//! of C   (g, i‥i+1)  (g+8, i‥i+1)
//! ```
//!
//! so a block of C, in pairs rounded to the dtype of A, is half a block of A without any exchange.
//! Where a device has no tensor cores the same program runs with the product computed through shared
//! memory: slow, but the layout and everything built on it is tested without a GPU.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::prelude::*;

use super::chunks::Blocks;

/// One number; the unit in which tiles in shared memory are declared.
pub(super) type One<E> = Vector<E, Const<1>>;
/// Two numbers side by side in a row.
pub(super) type Pair<E> = Vector<E, Const<2>>;

/// In which order the four blocks of 8 × 8 of a block of 16 × 16 are loaded: `Down` as rows 0 and 8 of
/// columns 0, then of columns 8; `Across` as columns 0 and 8 of rows 0, then of rows 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Order {
    Down,
    Across,
}

/// What a block of 16 × 16 of a tile in shared memory becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Role {
    order: Order,
    transposed: bool,
}

impl Role {
    /// A block of A whose rows are the tile's.
    pub const LEFT: Self = Self { order: Order::Down, transposed: false };
    /// A block of A whose rows are the tile's columns.
    pub const LEFT_OF_COLUMNS: Self = Self { order: Order::Across, transposed: true };
    /// Two blocks of B side by side, whose columns are the tile's rows.
    pub const RIGHT_OF_ROWS: Self = Self { order: Order::Across, transposed: false };
    /// Two blocks of B side by side, whose columns are the tile's.
    pub const RIGHT: Self = Self { order: Order::Down, transposed: true };
}

/// The block of 16 × 16 at `(row, column)` of a tile `[rows][stride]` that starts at `first`.
#[cube]
pub(super) fn load<E: Float>(
    tile: &Shared<[One<E>]>,
    first: usize,
    row: usize,
    column: usize,
    #[comptime] stride: usize,
    #[comptime] role: Role,
    #[comptime] blocks: Blocks,
) -> Array<Pair<E>> {
    let lane = UNIT_POS as usize % 32;
    let down = comptime!(role.order == Order::Down);
    if comptime!(blocks.emulated) {
        let mut block = Array::<Pair<E>>::new(4usize);
        #[unroll]
        for i in 0..4usize {
            let (r, c) = if comptime!(role.order == Order::Down) {
                comptime!((i % 2 * 8, i / 2 * 8))
            } else {
                comptime!((i / 2 * 8, i % 2 * 8))
            };
            let (major, minor) = (lane / 4, lane % 4 * 2);
            block[i] = if comptime!(role.transposed) {
                let at = first + (row + r + minor) * stride + column + c + major;
                two::<E>(tile, at, stride)
            } else {
                let at = first + (row + r + major) * stride + column + c + minor;
                two::<E>(tile, at, 1usize)
            };
        }
        block
    } else {
        let (r, c) =
            if down { (lane % 16, lane / 16 * 8) } else { (lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8) };
        let start = first + (row + r) * stride + column + c;
        MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize).load_matrix::<One<E>, Const<2>>(
            &tile[start..start + 8],
            MatrixIdent::A,
            4usize,
            comptime!(role.transposed),
        )
    }
}

#[cube]
fn two<E: Float>(tile: &Shared<[One<E>]>, at: usize, #[comptime] step: usize) -> Pair<E> {
    let mut pair = Pair::<E>::new(tile[at].extract(0usize));
    pair.insert(1usize, tile[at + step].extract(0usize));
    pair
}

/// The `k`-th block of A of several side by side.
#[cube]
pub(super) fn block<E: Float>(blocks: &Array<Pair<E>>, #[comptime] k: usize) -> Array<Pair<E>> {
    let mut one = Array::<Pair<E>>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        one[i] = blocks[comptime!(4 * k + i)];
    }
    one
}

/// Adds the products of a block of A with two blocks of B to the blocks `2 pair` and `2 pair + 1` of `sums`.
#[cube]
fn multiply<E: Float>(
    a: &Array<Pair<E>>,
    b: &Array<Pair<E>>,
    sums: &mut Array<Pair<f32>>,
    #[comptime] pair: usize,
) {
    let definition = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    #[unroll]
    for i in 0..2usize {
        let tile = comptime!(2 * pair + i);
        let mut right = Array::<Pair<E>>::new(2usize);
        right[0usize] = b[comptime!(2 * i)];
        right[1usize] = b[comptime!(2 * i + 1)];
        let mut block = Array::<Pair<f32>>::new(2usize);
        block[0usize] = sums[comptime!(2 * tile)];
        block[1usize] = sums[comptime!(2 * tile + 1)];
        let block = definition.execute(a, &right, &block);
        sums[comptime!(2 * tile)] = block[0usize];
        sums[comptime!(2 * tile + 1)] = block[1usize];
    }
}

/// Adds the product of `depth` blocks of A side by side with `depth` times `pairs` pairs of blocks of B, as
/// [`multiply`] does with each, through shared memory.
#[cube]
fn multiply_shared<E: Float>(
    a: &Array<Pair<E>>,
    b: &Array<Pair<E>>,
    sums: &mut Array<Pair<f32>>,
    scratch: &mut Shared<[f32]>,
    #[comptime] depth: usize,
    #[comptime] pairs: usize,
    #[comptime] blocks: Blocks,
) {
    let lane = UNIT_POS as usize % 32;
    let (g, pair) = (lane / 4, lane % 4 * 2);
    let left = UNIT_POS as usize / 32 * comptime!(blocks.scratch_of_plane());
    let right = left + comptime!(256 * depth);
    let (wide, columns) = comptime!((16 * depth, 16 * pairs));
    sync_cube();
    #[unroll]
    for i in 0..comptime!(4 * depth) {
        let row = g + comptime!(i % 2 * 8);
        let column = pair + comptime!(i / 4 * 16 + i % 4 / 2 * 8);
        #[unroll]
        for j in 0..2usize {
            scratch[left + row * wide + column + j] = f32::cast_from(a[i].extract(j));
        }
    }
    #[unroll]
    for i in 0..comptime!(4 * depth * pairs) {
        let row = pair + comptime!(i / (4 * pairs) * 16 + i % 2 * 8);
        let column = g + comptime!(i / 4 % pairs * 16 + i % 4 / 2 * 8);
        #[unroll]
        for j in 0..2usize {
            scratch[right + (row + j) * columns + column] = f32::cast_from(b[i].extract(j));
        }
    }
    sync_cube();
    #[unroll]
    for i in 0..comptime!(4 * pairs) {
        let row = left + (g + comptime!(i % 2 * 8)) * wide;
        let column = right + pair + comptime!(i / 2 * 8);
        let mut sum = sums[i];
        for k in 0..wide {
            #[unroll]
            for j in 0..2usize {
                sum.insert(j, sum.extract(j) + scratch[row + k] * scratch[column + j + k * columns]);
            }
        }
        sums[i] = sum;
    }
}

/// Two neighbouring blocks of C as a block of A.
#[cube]
pub(super) fn as_a<E: Float>(sums: &Array<Pair<f32>>, #[comptime] tile: usize) -> Array<Pair<E>> {
    let mut block = Array::<Pair<E>>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        block[i] = Pair::<E>::cast_from(sums[comptime!(2 * tile + i)]);
    }
    block
}

#[cube]
fn copy_four<E: Float>(four: &Array<Pair<E>>, to: &mut Array<Pair<E>>, #[comptime] place: usize) {
    #[unroll]
    for i in 0..4usize {
        to[comptime!(4 * place + i)] = four[i];
    }
}

/// The blocks of A of a plane's rows of a tile.
#[cube]
pub(super) fn load_row<E: Float>(
    tile: &Shared<[One<E>]>,
    first: usize,
    block: usize,
    #[comptime] depth: usize,
    #[comptime] stride: usize,
    #[comptime] blocks: Blocks,
) -> Array<Pair<E>> {
    let mut row = Array::<Pair<E>>::new(comptime!(4 * depth));
    #[unroll]
    for k in 0..depth {
        let column = comptime!(16 * k);
        let four = load::<E>(tile, first, 16 * block, column, stride, comptime!(Role::LEFT), blocks);
        copy_four::<E>(&four, &mut row, k);
    }
    row
}

/// Adds `left tileᵀ`: blocks of A with `16 pairs` rows of a tile, over its `16 depth` columns.
#[cube]
pub(super) fn times_rows<E: Float>(
    left: &Array<Pair<E>>,
    tile: &Shared<[One<E>]>,
    first: usize,
    sums: &mut Array<Pair<f32>>,
    #[comptime] depth: usize,
    #[comptime] pairs: usize,
    #[comptime] stride: usize,
    scratch: &mut Shared<[f32]>,
    #[comptime] blocks: Blocks,
) {
    let role = comptime!(Role::RIGHT_OF_ROWS);
    if comptime!(blocks.emulated) {
        let mut right = Array::<Pair<E>>::new(comptime!(4 * depth * pairs));
        #[unroll]
        for i in 0..comptime!(depth * pairs) {
            let (row, column) = comptime!((16 * (i % pairs), 16 * (i / pairs)));
            let four = load::<E>(tile, first, row, column, stride, role, blocks);
            copy_four::<E>(&four, &mut right, i);
        }
        multiply_shared::<E>(left, &right, sums, scratch, depth, pairs, blocks);
    } else {
        #[unroll]
        for k in 0..depth {
            let a = block::<E>(left, k);
            #[unroll]
            for pair in 0..pairs {
                let (row, column) = comptime!((16 * pair, 16 * k));
                let b = load::<E>(tile, first, row, column, stride, role, blocks);
                multiply::<E>(&a, &b, sums, pair);
            }
        }
    }
}

/// Adds `left tile`: one block of A with the 16 rows of a tile from `row` on, `16 pairs` columns.
#[cube]
pub(super) fn times_columns<E: Float>(
    left: &Array<Pair<E>>,
    tile: &Shared<[One<E>]>,
    first: usize,
    row: usize,
    sums: &mut Array<Pair<f32>>,
    #[comptime] pairs: usize,
    #[comptime] stride: usize,
    scratch: &mut Shared<[f32]>,
    #[comptime] blocks: Blocks,
) {
    let role = comptime!(Role::RIGHT);
    if comptime!(blocks.emulated) {
        let mut right = Array::<Pair<E>>::new(comptime!(4 * pairs));
        #[unroll]
        for pair in 0..pairs {
            let four = load::<E>(tile, first, row, comptime!(16 * pair), stride, role, blocks);
            copy_four::<E>(&four, &mut right, pair);
        }
        multiply_shared::<E>(left, &right, sums, scratch, 1usize, pairs, blocks);
    } else {
        #[unroll]
        for pair in 0..pairs {
            let b = load::<E>(tile, first, row, comptime!(16 * pair), stride, role, blocks);
            multiply::<E>(left, &b, sums, pair);
        }
    }
}

/// The product of a plane's rows with a block of 16 rows of a tile, over `16 depth` columns.
#[cube]
pub(super) fn cross<E: Float>(
    left: &Array<Pair<E>>,
    tile: &Shared<[One<E>]>,
    first: usize,
    block: usize,
    #[comptime] depth: usize,
    #[comptime] stride: usize,
    scratch: &mut Shared<[f32]>,
    #[comptime] blocks: Blocks,
) -> Array<Pair<f32>> {
    let mut product = Array::<Pair<f32>>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        product[i] = Pair::new(0.0);
    }
    let first = first + 16 * block * stride;
    times_rows::<E>(left, tile, first, &mut product, depth, 1usize, stride, scratch, blocks);
    product
}
