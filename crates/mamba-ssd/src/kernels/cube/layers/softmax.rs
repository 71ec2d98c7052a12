//! Softmax over the columns that a row may see, and its reverse, a cube per row.
//!
//! ```text
//! p_s = exp(x_s - max) / Σ_r exp(x_r - max)        first ≤ s, r ≤ last;  0 elsewhere
//! dx_s = p_s (dp_s - Σ_r p_r dp_r)
//! ```

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::reduce::{Fold, fold};
use super::{UNITS, cube_for_each, empty_like};

/// Below every score.
const LEAST: f32 = -1e30;

/// Token `l` of `t` sees the columns from `first [b t]` to its own, `s - t + l`.
#[cube(launch)]
fn softmax_forward<E: Float, I: Int>(
    scores: &[E], // b h t s
    first: &[I],  // b t
    out: &mut [E],
    rows: usize,
    heads: usize,
    t: usize,
    s: usize,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let mut parts = Shared::<[f32]>::new_slice(UNITS);
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let (batch, token) = (row / (heads * t), row % t);
    let start = usize::cast_from(first[batch * t + token]);
    let end = s - t + token + 1;
    let mut top = f32::new(LEAST);
    for round in 0..s.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i >= start && i < end {
            top = max(top, f32::cast_from(scores[row * s + i]));
        }
    }
    let top = fold(top, &mut parts, comptime!(Fold::Largest));
    let mut sum = f32::new(0.0);
    for round in 0..s.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i >= start && i < end {
            sum += (f32::cast_from(scores[row * s + i]) - top).exp();
        }
    }
    let scale = f32::new(1.0) / fold(sum, &mut parts, comptime!(Fold::Sum));
    for round in 0..s.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i < s {
            let mut p = f32::new(0.0);
            if i >= start && i < end {
                p = (f32::cast_from(scores[row * s + i]) - top).exp() * scale;
            }
            out[row * s + i] = E::cast_from(p);
        }
    }
}

#[cube(launch)]
fn softmax_backward<E: Float>(
    probabilities: &[E],
    grad: &[E],
    out: &mut [E],
    rows: usize,
    s: usize,
    #[define(E)] _dtype: ElemType,
) {
    let mut parts = Shared::<[f32]>::new_slice(UNITS);
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut sum = f32::new(0.0);
    for round in 0..s.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i < s {
            sum += f32::cast_from(probabilities[row * s + i]) * f32::cast_from(grad[row * s + i]);
        }
    }
    let mean = fold(sum, &mut parts, comptime!(Fold::Sum));
    for round in 0..s.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i < s {
            let p = f32::cast_from(probabilities[row * s + i]);
            out[row * s + i] = E::cast_from(p * (f32::cast_from(grad[row * s + i]) - mean));
        }
    }
}

pub fn forward(scores: CubeTensor, first: CubeTensor) -> CubeTensor {
    let (scores, first) = (into_contiguous(scores), into_contiguous(first));
    let [b, heads, t, s] = scores.shape().dims();
    let out = empty_like(&scores);
    let (dtype, index) = (dtype_to_storage_type(scores.dtype), dtype_to_storage_type(first.dtype));
    softmax_forward::launch(
        &out.client,
        cube_for_each(b * heads * t),
        CubeDim::new_1d(UNITS as u32),
        scores.into_buffer_arg(),
        first.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        b * heads * t,
        heads,
        t,
        s,
        dtype,
        index,
    );
    out
}

pub fn backward(probabilities: CubeTensor, grad: CubeTensor) -> CubeTensor {
    let (probabilities, grad) = (into_contiguous(probabilities), into_contiguous(grad));
    let [b, heads, t, s] = grad.shape().dims();
    let out = empty_like(&grad);
    let dtype = dtype_to_storage_type(grad.dtype);
    softmax_backward::launch(
        &out.client,
        cube_for_each(b * heads * t),
        CubeDim::new_1d(UNITS as u32),
        probabilities.into_buffer_arg(),
        grad.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        b * heads * t,
        s,
        dtype,
    );
    out
}
