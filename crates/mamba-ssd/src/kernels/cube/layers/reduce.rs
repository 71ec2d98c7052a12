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

#[cube(launch)]
fn add_parts<E: Float>(parts: &[f32], out: &mut [E], count: usize, #[define(E)] _dtype: ElemType) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let mut sum = f32::new(0.0);
    for part in 0..count {
        sum += parts[part * out.len() + ABSOLUTE_POS];
    }
    out[ABSOLUTE_POS] = E::cast_from(sum);
}

/// Parts in f32, one after another, to an array of `shape` and `dtype`.
pub fn sum_of_parts(parts: CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let shape = shape.into();
    let size = shape.num_elements();
    let count = parts.shape().num_elements() / size;
    let out = empty(&parts, shape, dtype);
    let (cubes, dim) = cubes(&parts, size);
    add_parts::launch(
        &out.client,
        cubes,
        dim,
        parts.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        count,
        dtype_to_storage_type(dtype),
    );
    out
}
