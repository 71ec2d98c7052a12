//! The root mean square norm of rows and its reverse, a cube per row.
//!
//! ```text
//! y = r x ∘ w                     r = 1 / √(mean(x²) + ε)
//! dx = r (dy ∘ w - r² mean(dy ∘ w ∘ x) x)
//! dw = Σ_rows r dy ∘ x
//! ```

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::reduce::{Fold, fold, lanes, sum_of_parts};
use super::{UNITS, cube_for_each, cubes, empty, empty_like, wide};

/// Rows whose share of `dw` one unit adds up.
const ROWS: usize = 64;

#[cube(launch)]
fn rms_forward<E: Float, W: Size>(
    x: &[Vector<E, W>],      // rows d
    weight: &[Vector<E, W>], // d
    out: &mut [Vector<E, W>],
    epsilon: f32,
    #[comptime] wide: usize,
    #[define(E)] _dtype: ElemType,
) {
    let mut parts = Shared::<[f32]>::new_slice(UNITS);
    let (row, vectors) = (CUBE_POS, weight.len());
    if row >= x.len() / vectors {
        terminate!();
    }
    let first = row * vectors;
    let mut squares = Vector::<f32, W>::new(0.0);
    for round in 0..vectors.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i < vectors {
            let x = Vector::<f32, W>::cast_from(x[first + i]);
            squares += x * x;
        }
    }
    let mean =
        fold(lanes::<W>(squares, wide), &mut parts, comptime!(Fold::Sum)) / f32::cast_from(vectors * wide);
    let scale = Vector::<f32, W>::new(f32::new(1.0) / (mean + epsilon).sqrt());
    for round in 0..vectors.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i < vectors {
            let (x, weight) = (Vector::<f32, W>::cast_from(x[first + i]), Vector::cast_from(weight[i]));
            out[first + i] = Vector::cast_from(x * scale * weight);
        }
    }
}

#[cube(launch)]
fn rms_backward<E: Float, W: Size>(
    x: &[Vector<E, W>],
    weight: &[Vector<E, W>],
    grad: &[Vector<E, W>],
    out: &mut [Vector<E, W>],
    scales: &mut [f32], // rows
    epsilon: f32,
    #[comptime] wide: usize,
    #[define(E)] _dtype: ElemType,
) {
    let mut parts = Shared::<[f32]>::new_slice(UNITS);
    let (row, vectors) = (CUBE_POS, weight.len());
    if row >= scales.len() {
        terminate!();
    }
    let first = row * vectors;
    let mut squares = Vector::<f32, W>::new(0.0);
    let mut along = Vector::<f32, W>::new(0.0);
    for round in 0..vectors.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i < vectors {
            let x = Vector::<f32, W>::cast_from(x[first + i]);
            let grad = Vector::<f32, W>::cast_from(grad[first + i]);
            squares += x * x;
            along += grad * Vector::cast_from(weight[i]) * x;
        }
    }
    let d = f32::cast_from(vectors * wide);
    let mean = fold(lanes::<W>(squares, wide), &mut parts, comptime!(Fold::Sum)) / d;
    let scale = f32::new(1.0) / (mean + epsilon).sqrt();
    let along = fold(lanes::<W>(along, wide), &mut parts, comptime!(Fold::Sum)) / d * scale * scale;
    if UNIT_POS == 0 {
        scales[row] = scale;
    }
    for round in 0..vectors.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i < vectors {
            let x = Vector::<f32, W>::cast_from(x[first + i]);
            let grad = Vector::<f32, W>::cast_from(grad[first + i]);
            let inner = grad * Vector::cast_from(weight[i]) - x * Vector::new(along);
            out[first + i] = Vector::cast_from(inner * Vector::new(scale));
        }
    }
}

/// A block of rows' share of the gradient of the weight, `parts [blocks d]`.
#[cube(launch)]
fn rms_weight<E: Float, W: Size>(
    x: &[Vector<E, W>],
    grad: &[Vector<E, W>],
    scales: &[f32],
    parts: &mut [Vector<f32, W>],
    vectors: usize,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= parts.len() {
        terminate!();
    }
    let (block, i) = (ABSOLUTE_POS / vectors, ABSOLUTE_POS % vectors);
    let mut sum = Vector::<f32, W>::new(0.0);
    for row in block * ROWS..min((block + 1) * ROWS, scales.len()) {
        let at = row * vectors + i;
        let product = Vector::<f32, W>::cast_from(x[at]) * Vector::cast_from(grad[at]);
        sum += product * Vector::new(scales[row]);
    }
    parts[ABSOLUTE_POS] = sum;
}

pub fn forward(x: CubeTensor, weight: CubeTensor, epsilon: f64) -> CubeTensor {
    let (x, weight) = (into_contiguous(x), into_contiguous(weight));
    let d = weight.shape().num_elements();
    let (rows, wide) = (x.shape().num_elements() / d, wide(d));
    let out = empty_like(&x);
    let dtype = dtype_to_storage_type(x.dtype);
    rms_forward::launch(
        &out.client,
        cube_for_each(rows),
        CubeDim::new_1d(UNITS as u32),
        wide,
        x.into_buffer_arg(),
        weight.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        epsilon as f32,
        wide,
        dtype,
    );
    out
}

/// Gradients of `x` and of the weight.
pub fn backward(
    x: CubeTensor,
    weight: CubeTensor,
    grad: CubeTensor,
    epsilon: f64,
) -> (CubeTensor, CubeTensor) {
    let [x, weight, grad] = [x, weight, grad].map(into_contiguous);
    let d = weight.shape().num_elements();
    let (rows, wide, dtype) = (x.shape().num_elements() / d, wide(d), x.dtype);
    let (out, scales) = (empty_like(&x), empty(&x, [rows], DType::F32));
    rms_backward::launch(
        &out.client,
        cube_for_each(rows),
        CubeDim::new_1d(UNITS as u32),
        wide,
        x.clone().into_buffer_arg(),
        weight.into_buffer_arg(),
        grad.clone().into_buffer_arg(),
        out.clone().into_buffer_arg(),
        scales.clone().into_buffer_arg(),
        epsilon as f32,
        wide,
        dtype_to_storage_type(dtype),
    );
    let blocks = rows.div_ceil(ROWS);
    let parts = empty(&x, [blocks * d], DType::F32);
    let (cubes, dim) = cubes(&x, blocks * d / wide);
    rms_weight::launch(
        &parts.client,
        cubes,
        dim,
        wide,
        x.into_buffer_arg(),
        grad.into_buffer_arg(),
        scales.into_buffer_arg(),
        parts.clone().into_buffer_arg(),
        d / wide,
        dtype_to_storage_type(dtype),
    );
    (out, sum_of_parts(parts, [d], dtype))
}
