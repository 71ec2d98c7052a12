//! Sums and maxima over the units of a cube, and sums of parts.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{UNITS, cubes, empty};

/// How parts become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fold {
    Sum,
    Largest,
}

/// One number of every unit's part, in one order.
#[cube]
pub fn fold(part: f32, parts: &mut Shared<[f32]>, #[comptime] fold: Fold) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    parts[unit] = part;
    sync_cube();
    if unit < FEW {
        parts[unit] = fold_every(parts, unit, UNITS, fold);
    }
    sync_cube();
    fold_every(parts, 0usize, FEW, fold)
}

/// Parts that every unit folds for itself in the end: waiting for another unit costs as much as a few of them.
const FEW: usize = 8;

/// Of the parts from `first` on: one by one of the first few, or every `FEW`-th of all.
#[cube]
fn fold_every(
    parts: &mut Shared<[f32]>,
    first: usize,
    #[comptime] end: usize,
    #[comptime] fold: Fold,
) -> f32 {
    let step = comptime!(if end == FEW { 1 } else { FEW });
    let mut result = parts[first];
    #[unroll]
    for i in 1..comptime!(end / step) {
        let other = parts[first + comptime!(i * step)];
        result = if comptime!(fold == Fold::Sum) { result + other } else { max(result, other) };
    }
    result
}

/// The sum of the numbers of a vector.
#[cube]
pub fn lanes<W: Size>(vector: Vector<f32, W>, #[comptime] wide: usize) -> f32 {
    let mut sum = f32::new(0.0);
    #[unroll]
    for i in 0..wide {
        sum += vector.extract(i);
    }
    sum
}

/// Parts that one unit adds up.
const ADDED: usize = 32;

/// Sums of runs of parts: `parts [count size]` to `out [count / ADDED, size]`, added to `onto` where that is asked for.
#[cube(launch)]
fn add_parts<E: Float>(
    parts: &[f32],
    onto: &[E],
    out: &mut [E],
    count: usize,
    size: usize,
    #[comptime] onto_other: bool,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= count.div_ceil(ADDED) * size {
        terminate!();
    }
    let (run, at) = (ABSOLUTE_POS / size, ABSOLUTE_POS % size);
    let mut sum = f32::new(0.0);
    for part in run * ADDED..min((run + 1) * ADDED, count) {
        sum += parts[part * size + at];
    }
    if comptime!(onto_other) {
        sum += f32::cast_from(onto[ABSOLUTE_POS]);
    }
    out[ABSOLUTE_POS] = E::cast_from(sum);
}

/// Parts in f32, one after another, to an array of `shape` and `dtype`.
pub fn sum_of_parts(parts: CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let out = empty(&parts, shape, dtype);
    add_up(parts, None, out)
}

/// Parts in f32, one after another, added to an array.
#[cfg(feature = "cuda")]
pub fn sum_of_parts_onto(parts: CubeTensor, onto: CubeTensor) -> CubeTensor {
    let onto = burn_cubecl::kernel::into_contiguous(onto);
    let out = super::empty_like(&onto);
    add_up(parts, Some(onto), out)
}

fn add_up(mut parts: CubeTensor, onto: Option<CubeTensor>, out: CubeTensor) -> CubeTensor {
    let size = out.shape().num_elements();
    let mut count = parts.shape().num_elements() / size;
    while count > ADDED {
        let runs = count.div_ceil(ADDED);
        let fewer = empty(&parts, [runs * size], DType::F32);
        launch_sum(parts, None, &fewer, count, size);
        (parts, count) = (fewer, runs);
    }
    launch_sum(parts, onto, &out, count, size);
    out
}

fn launch_sum(parts: CubeTensor, onto: Option<CubeTensor>, out: &CubeTensor, count: usize, size: usize) {
    let (cubes, dim) = cubes(&parts, out.shape().num_elements());
    let dtype = dtype_to_storage_type(out.dtype);
    let onto_other = onto.is_some();
    let onto = onto.unwrap_or_else(|| out.clone());
    add_parts::launch(
        &out.client,
        cubes,
        dim,
        parts.into_buffer_arg(),
        onto.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        count,
        size,
        onto_other,
        dtype,
    );
}
