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

/// One number; the unit in which tiles in shared memory are declared.
pub(super) type One<E> = Vector<E, Const<1>>;
/// Two numbers side by side in a row.
pub(super) type Pair<E> = Vector<E, Const<2>>;

/// Numbers of shared memory that an emulated product needs per plane.
pub(super) const SCRATCH: usize = 16 * 16 + 16 * 8;

/// A block of A at `(row, column)` of a tile `[rows][stride]`, or of its transpose.
#[cube]
pub(super) fn load_a<E: Float>(
    tile: &Shared<[One<E>]>,
    row: usize,
    column: usize,
    #[comptime] stride: usize,
    #[comptime] transposed: bool,
    #[comptime] emulated: bool,
) -> Array<Pair<E>> {
    let lane = UNIT_POS as usize % 32;
    if comptime!(emulated) {
        let mut block = Array::<Pair<E>>::new(4usize);
        #[unroll]
        for i in 0..4usize {
            let m = row + lane / 4 + comptime!(i % 2 * 8);
            let k = column + lane % 4 * 2 + comptime!(i / 2 * 8);
            block[i] = pair_at::<E>(tile, m, k, stride, transposed);
        }
        block
    } else {
        let definition = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
        let start = if comptime!(transposed) {
            (column + lane % 8 + lane / 16 * 8) * stride + row + lane / 8 % 2 * 8
        } else {
            (row + lane % 16) * stride + column + lane / 16 * 8
        };
        definition.load_matrix::<One<E>, Const<2>>(
            &tile[start..start + 8],
            MatrixIdent::A,
            4usize,
            transposed,
        )
    }
}

/// A block of B whose row `k` and column `n` lie at `(n, k)` of a tile `[columns][stride]`, or where
/// `transposed` at `(k, n)`.
#[cube]
pub(super) fn load_b<E: Float>(
    tile: &Shared<[One<E>]>,
    k: usize,
    n: usize,
    #[comptime] stride: usize,
    #[comptime] transposed: bool,
    #[comptime] emulated: bool,
) -> Array<Pair<E>> {
    let lane = UNIT_POS as usize % 32;
    if comptime!(emulated) {
        let mut block = Array::<Pair<E>>::new(2usize);
        #[unroll]
        for i in 0..2usize {
            let row = k + lane % 4 * 2 + comptime!(i * 8);
            block[i] = pair_at::<E>(tile, n + lane / 4, row, stride, transposed);
        }
        block
    } else {
        let definition = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
        let lane = lane % 16; // the other half's addresses are not read
        let start = if comptime!(transposed) {
            (k + lane) * stride + n
        } else {
            (n + lane % 8) * stride + k + lane / 8 * 8
        };
        definition.load_matrix::<One<E>, Const<2>>(
            &tile[start..start + 8],
            MatrixIdent::B,
            2usize,
            transposed,
        )
    }
}

#[cube]
fn pair_at<E: Float>(
    tile: &Shared<[One<E>]>,
    row: usize,
    column: usize,
    #[comptime] stride: usize,
    #[comptime] transposed: bool,
) -> Pair<E> {
    let mut pair = Pair::<E>::new(E::new(0.0));
    #[unroll]
    for i in 0..2usize {
        let at = if comptime!(transposed) { (column + i) * stride + row } else { row * stride + column + i };
        pair.insert(i, tile[at].extract(0usize));
    }
    pair
}

/// Adds the product of two blocks to the `tile`-th block of `sums`.
#[cube]
pub(super) fn multiply<E: Float>(
    a: &Array<Pair<E>>,
    b: &Array<Pair<E>>,
    sums: &mut Array<Pair<f32>>,
    #[comptime] tile: usize,
    scratch: &mut Shared<[f32]>,
    #[comptime] emulated: bool,
) {
    if comptime!(emulated) {
        multiply_shared::<E>(a, b, sums, tile, scratch);
    } else {
        let definition = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
        let mut block = Array::<Pair<f32>>::new(2usize);
        block[0usize] = sums[comptime!(2 * tile)];
        block[1usize] = sums[comptime!(2 * tile + 1)];
        let block = definition.execute(a, b, &block);
        sums[comptime!(2 * tile)] = block[0usize];
        sums[comptime!(2 * tile + 1)] = block[1usize];
    }
}

#[cube]
fn multiply_shared<E: Float>(
    a: &Array<Pair<E>>,
    b: &Array<Pair<E>>,
    sums: &mut Array<Pair<f32>>,
    #[comptime] tile: usize,
    scratch: &mut Shared<[f32]>,
) {
    let lane = UNIT_POS as usize % 32;
    let (g, pair) = (lane / 4, lane % 4 * 2);
    let first = UNIT_POS as usize / 32 * SCRATCH;
    sync_cube();
    #[unroll]
    for i in 0..4usize {
        let at = first + (g + comptime!(i % 2 * 8)) * 16 + pair + comptime!(i / 2 * 8);
        scratch[at] = f32::cast_from(a[i].extract(0usize));
        scratch[at + 1] = f32::cast_from(a[i].extract(1usize));
    }
    #[unroll]
    for i in 0..2usize {
        let at = first + 256 + (pair + comptime!(i * 8)) * 8 + g;
        scratch[at] = f32::cast_from(b[i].extract(0usize));
        scratch[at + 8] = f32::cast_from(b[i].extract(1usize));
    }
    sync_cube();
    #[unroll]
    for i in 0..2usize {
        let mut sum = sums[comptime!(2 * tile + i)];
        #[unroll]
        for j in 0..2usize {
            let mut element = sum.extract(j);
            for k in 0..16usize {
                let left = scratch[first + (g + comptime!(i * 8)) * 16 + k];
                element += left * scratch[first + 256 + k * 8 + pair + j];
            }
            sum.insert(j, element);
        }
        sums[comptime!(2 * tile + i)] = sum;
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
