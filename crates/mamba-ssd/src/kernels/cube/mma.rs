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

/// Two blocks of C side by side as a block of A.
#[cube]
pub(super) fn as_a<E: Float>(sums: &Array<Pair<f32>>) -> Array<Pair<E>> {
    let mut block = Array::<Pair<E>>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        block[i] = Pair::<E>::cast_from(sums[i]);
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

/// Blocks of A of a row that a plane holds on to; longer rows are loaded anew for every product.
const KEPT: usize = 4;

/// A plane's rows of a tile as blocks of A.
#[derive(CubeType)]
pub(super) struct Row<E: Float> {
    kept: Array<Pair<E>>,
    first: usize,
    #[cube(comptime)]
    depth: usize,
    #[cube(comptime)]
    stride: usize,
}

#[cube]
impl<E: Float> Row<E> {
    /// The rows of block `block` of a tile that starts at `first`, `16 depth` columns.
    pub fn new(
        tile: &Shared<[One<E>]>,
        first: usize,
        block: usize,
        #[comptime] depth: usize,
        #[comptime] stride: usize,
        #[comptime] blocks: Blocks,
    ) -> Self {
        let mut kept = Array::<Pair<E>>::new(comptime!(4 * depth.min(KEPT)));
        if comptime!(depth <= KEPT) {
            #[unroll]
            for k in 0..depth {
                let role = comptime!(Role::LEFT);
                let four = load::<E>(tile, first, 16 * block, comptime!(16 * k), stride, role, blocks);
                copy_four::<E>(&four, &mut kept, k);
            }
        }
        Row::<E> { kept, first: first + 16 * block * stride, depth, stride }
    }

    /// Its `k`-th block.
    pub fn block(
        &self,
        tile: &Shared<[One<E>]>,
        #[comptime] k: usize,
        #[comptime] blocks: Blocks,
    ) -> Array<Pair<E>> {
        if comptime!(self.depth <= KEPT) {
            let mut block = Array::<Pair<E>>::new(4usize);
            #[unroll]
            for i in 0..4usize {
                block[i] = self.kept[comptime!(4 * k + i)];
            }
            block
        } else {
            let (role, stride) = comptime!((Role::LEFT, self.stride));
            load::<E>(tile, self.first, 0usize, comptime!(16 * k), stride, role, blocks)
        }
    }

    /// Adds its product with `16 pairs` rows of a tile, over their columns.
    pub fn times_rows(
        &self,
        own: &Shared<[One<E>]>,
        tile: &Shared<[One<E>]>,
        first: usize,
        sums: &mut Array<Pair<f32>>,
        #[comptime] pairs: usize,
        #[comptime] stride: usize,
        scratch: &mut Shared<[f32]>,
        #[comptime] blocks: Blocks,
    ) {
        let (role, depth) = comptime!((Role::RIGHT_OF_ROWS, self.depth));
        if comptime!(blocks.emulated) {
            let mut right = Array::<Pair<E>>::new(comptime!(4 * depth * pairs));
            #[unroll]
            for i in 0..comptime!(depth * pairs) {
                let (row, column) = comptime!((16 * (i % pairs), 16 * (i / pairs)));
                let four = load::<E>(tile, first, row, column, stride, role, blocks);
                copy_four::<E>(&four, &mut right, i);
            }
            multiply_shared::<E>(&self.kept, &right, sums, scratch, depth, pairs, blocks);
        } else {
            #[unroll]
            for k in 0..depth {
                let a = self.block(own, k, blocks);
                #[unroll]
                for pair in 0..pairs {
                    let (row, column) = comptime!((16 * pair, 16 * k));
                    let b = load::<E>(tile, first, row, column, stride, role, blocks);
                    multiply::<E>(&a, &b, sums, pair);
                }
            }
        }
    }

    /// Its product with block `block` of the rows of a tile. Even and odd columns are added up apart, so
    /// that half as many products wait for each other.
    pub fn cross(
        &self,
        own: &Shared<[One<E>]>,
        tile: &Shared<[One<E>]>,
        first: usize,
        block: usize,
        #[comptime] stride: usize,
        scratch: &mut Shared<[f32]>,
        #[comptime] blocks: Blocks,
    ) -> Array<Pair<f32>> {
        let (role, depth) = comptime!((Role::RIGHT_OF_ROWS, self.depth));
        let first = first + 16 * block * stride;
        let (mut product, mut odd) = (zeros(4usize), zeros(4usize));
        if comptime!(blocks.emulated) {
            self.times_rows(own, tile, first, &mut product, 1usize, stride, scratch, blocks);
        } else {
            #[unroll]
            for k in 0..depth {
                let a = self.block(own, k, blocks);
                let b = load::<E>(tile, first, 0usize, comptime!(16 * k), stride, role, blocks);
                if comptime!(k % 2 == 0) {
                    multiply::<E>(&a, &b, &mut product, 0usize);
                } else {
                    multiply::<E>(&a, &b, &mut odd, 0usize);
                }
            }
            #[unroll]
            for i in 0..4usize {
                product[i] += odd[i];
            }
        }
        product
    }

    /// Adds its product with a tile of `16 pairs` columns, over its rows.
    pub fn times_columns(
        &self,
        own: &Shared<[One<E>]>,
        tile: &Shared<[One<E>]>,
        first: usize,
        sums: &mut Array<Pair<f32>>,
        #[comptime] pairs: usize,
        #[comptime] stride: usize,
        scratch: &mut Shared<[f32]>,
        #[comptime] blocks: Blocks,
    ) {
        #[unroll]
        for k in 0..comptime!(self.depth) {
            let left = self.block(own, k, blocks);
            times_columns::<E>(&left, tile, first, comptime!(16 * k), sums, pairs, stride, scratch, blocks);
        }
    }

    /// A unit's part of the products of its two rows with the same rows of `sums`.
    pub fn dot(
        &self,
        own: &Shared<[One<E>]>,
        sums: &Array<Pair<f32>>,
        #[comptime] blocks: Blocks,
    ) -> (f32, f32) {
        let mut dots = Array::<f32>::new(2usize);
        dots[0usize] = f32::new(0.0);
        dots[1usize] = f32::new(0.0);
        #[unroll]
        for k in 0..comptime!(self.depth) {
            let with = self.block(own, k, blocks);
            #[unroll]
            for i in 0..4usize {
                let product = sums[comptime!(4 * k + i)] * Pair::<f32>::cast_from(with[i]);
                dots[comptime!(i % 2)] += product.extract(0usize) + product.extract(1usize);
            }
        }
        (dots[0usize], dots[1usize])
    }
}

#[cube]
pub(super) fn zeros(#[comptime] count: usize) -> Array<Pair<f32>> {
    let mut sums = Array::<Pair<f32>>::new(count);
    #[unroll]
    for i in 0..count {
        sums[i] = Pair::new(0.0);
    }
    sums
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
