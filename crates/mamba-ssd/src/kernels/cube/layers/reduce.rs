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
    let mut half = comptime!(UNITS / 2).runtime();
    while half > 0 {
        sync_cube();
        if unit < half {
            let (one, other) = (parts[unit], parts[unit + half]);
            parts[unit] = if comptime!(fold == Fold::Sum) { one + other } else { max(one, other) };
        }
        half /= 2;
    }
    sync_cube();
    parts[0usize]
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

/// Sums of runs of parts: `parts [count size]` to `out [count / ADDED, size]`.
#[cube(launch)]
fn add_parts<E: Float>(
    parts: &[f32],
    out: &mut [E],
    count: usize,
    size: usize,
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
    out[ABSOLUTE_POS] = E::cast_from(sum);
}

/// Parts in f32, one after another, to an array of `shape` and `dtype`.
pub fn sum_of_parts(mut parts: CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let shape = shape.into();
    let size = shape.num_elements();
    let mut count = parts.shape().num_elements() / size;
    while count > ADDED {
        let runs = count.div_ceil(ADDED);
        let fewer = empty(&parts, [runs * size], DType::F32);
        launch_sum(parts, &fewer, count, size);
        (parts, count) = (fewer, runs);
    }
    let out = empty(&parts, shape, dtype);
    launch_sum(parts, &out, count, size);
    out
}

fn launch_sum(parts: CubeTensor, out: &CubeTensor, count: usize, size: usize) {
    let (cubes, dim) = cubes(&parts, out.shape().num_elements());
    let dtype = dtype_to_storage_type(out.dtype);
    let (from, to) = (parts.into_buffer_arg(), out.clone().into_buffer_arg());
    add_parts::launch(&out.client, cubes, dim, from, to, count, size, dtype);
}
