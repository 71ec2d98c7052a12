//! The root mean square norm of rows, or of each group of rows of a gated value, and its reverse: a cube per
//! row and group.
//!
//! ```text
//! x = value, or value silu(gate)
//! y = r x ∘ w                     r = 1 / √(mean(x²) + ε)
//! dx = r (dy ∘ w - r² mean(dy ∘ w ∘ x) x)
//! dw = Σ_rows r dy ∘ x
//! ```
//!
//! Without a gate its arrays are others that are there anyway.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::gate::sigmoid;
use super::reduce::{Fold, fold, lanes, sum_of_parts};
use super::{UNITS, cube_for_each, cubes, empty, empty_like, wide};
use crate::kernels::rows::GroupNorm;

/// Rows whose share of `dw` one unit adds up.
const ROWS: usize = 64;

/// What a value is before it is normed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Before {
    Nothing,
    /// Multiplied by `silu(gate)`.
    Gated,
    /// Added to another, in the place of the gate; the sum is rounded and kept.
    Added,
}

/// What is compiled into a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Form {
    before: Before,
    /// Numbers in an access.
    wide: usize,
}

/// Rows, parts of a row, and vectors of a part.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Sizes {
    rows: usize,
    groups: usize,
    vectors: usize,
}

/// The normed value at `at`.
#[cube]
fn normed<E: Float, W: Size>(
    value: &[Vector<E, W>],
    gate: &[Vector<E, W>],
    at: usize,
    #[comptime] before: Before,
) -> Vector<f32, W> {
    let mut x = Vector::<f32, W>::cast_from(value[at]);
    if comptime!(before == Before::Gated) {
        let gate = Vector::<f32, W>::cast_from(gate[at]);
        x *= gate * sigmoid::<W>(gate);
    } else if comptime!(before == Before::Added) {
        let sum = x + Vector::<f32, W>::cast_from(gate[at]);
        x = Vector::<f32, W>::cast_from(Vector::<E, W>::cast_from(sum));
    }
    x
}

#[cube(launch)]
fn rms_forward<E: Float, W: Size>(
    value: &[Vector<E, W>],  // rows d
    gate: &[Vector<E, W>],   // rows d
    weight: &[Vector<E, W>], // d
    out: &mut [Vector<E, W>],
    sums: &mut [Vector<E, W>], // rows d, or nothing
    sizes: Sizes,
    epsilon: f32,
    #[comptime] form: Form,
    #[comptime] vectors: usize,
    #[define(E)] _dtype: ElemType,
) {
    let mut parts = Shared::<[f32]>::new_slice(UNITS);
    let part = CUBE_POS;
    if part >= sizes.rows * sizes.groups {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let (first, of_weight) = (part * vectors, part % sizes.groups * vectors);
    let (before, wide) = comptime!((form.before, form.wide));
    let rounds = comptime!(vectors.div_ceil(UNITS));
    // Everything is asked for at once: at one row it is waiting that takes the time.
    let mut kept = Array::<Vector<f32, W>>::new(comptime!(rounds.min(KEPT)));
    let mut scales = Array::<Vector<E, W>>::new(comptime!(rounds.min(KEPT)));
    let mut squares = Vector::<f32, W>::new(0.0);
    if comptime!(rounds <= KEPT) {
        #[unroll]
        for round in 0..rounds {
            let i = round * UNITS + unit;
            kept[round] = Vector::new(0.0);
            scales[round] = Vector::new(E::new(0.0));
            if comptime!(vectors.is_multiple_of(UNITS)) || i < vectors {
                kept[round] = normed::<E, W>(value, gate, first + i, before);
                scales[round] = weight[of_weight + i];
            }
        }
        #[unroll]
        for round in 0..rounds {
            squares += kept[round] * kept[round];
        }
    } else {
        for round in 0..rounds {
            let i = round * UNITS + unit;
            if i < vectors {
                let x = normed::<E, W>(value, gate, first + i, before);
                squares += x * x;
            }
        }
    }
    let mean = fold(lanes::<W>(squares, wide), &mut parts, comptime!(Fold::Sum))
        / f32::cast_from(comptime!(vectors * wide) as u32);
    let scale = Vector::<f32, W>::new(f32::new(1.0) / (mean + epsilon).sqrt());
    #[unroll(rounds <= KEPT)]
    for round in 0..rounds {
        let i = round * UNITS + unit;
        if i < vectors {
            let (x, along) = if comptime!(rounds <= KEPT) {
                (kept[round], scales[round])
            } else {
                (normed::<E, W>(value, gate, first + i, before), weight[of_weight + i])
            };
            if comptime!(before == Before::Added) {
                sums[first + i] = Vector::cast_from(x);
            }
            out[first + i] = Vector::cast_from(x * scale * Vector::cast_from(along));
        }
    }
}

/// Vectors of a row that a unit holds on to.
const KEPT: usize = 8;

#[cube(launch)]
fn rms_backward<E: Float, W: Size>(
    value: &[Vector<E, W>],
    gate: &[Vector<E, W>],
    weight: &[Vector<E, W>],
    grad: &[Vector<E, W>],
    to_value: &mut [Vector<E, W>],
    to_gate: &mut [Vector<E, W>], // rows d, or nothing
    scales: &mut [f32],           // rows groups
    sizes: Sizes,
    epsilon: f32,
    #[comptime] form: Form,
    #[define(E)] _dtype: ElemType,
) {
    let mut parts = Shared::<[f32]>::new_slice(UNITS);
    let (part, vectors) = (CUBE_POS, sizes.vectors);
    if part >= sizes.rows * sizes.groups {
        terminate!();
    }
    let (first, of_weight) = (part * vectors, part % sizes.groups * vectors);
    let (before, wide) = comptime!((form.before, form.wide));
    let mut squares = Vector::<f32, W>::new(0.0);
    let mut along = Vector::<f32, W>::new(0.0);
    for round in 0..vectors.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i < vectors {
            let x = normed::<E, W>(value, gate, first + i, before);
            let grad = Vector::<f32, W>::cast_from(grad[first + i]);
            squares += x * x;
            along += grad * Vector::cast_from(weight[of_weight + i]) * x;
        }
    }
    let d = f32::cast_from(vectors * wide);
    let mean = fold(lanes::<W>(squares, wide), &mut parts, comptime!(Fold::Sum)) / d;
    let scale = f32::new(1.0) / (mean + epsilon).sqrt();
    let along = fold(lanes::<W>(along, wide), &mut parts, comptime!(Fold::Sum)) / d * scale * scale;
    if UNIT_POS == 0 {
        scales[part] = scale;
    }
    for round in 0..vectors.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i < vectors {
            let x = normed::<E, W>(value, gate, first + i, before);
            let grad = Vector::<f32, W>::cast_from(grad[first + i]);
            let inner = grad * Vector::cast_from(weight[of_weight + i]) - x * Vector::new(along);
            let dx = inner * Vector::new(scale);
            if comptime!(before == Before::Gated) {
                let gate = Vector::<f32, W>::cast_from(gate[first + i]);
                let open = sigmoid::<W>(gate);
                let one = Vector::<f32, W>::new(1.0);
                let value = Vector::<f32, W>::cast_from(value[first + i]);
                to_value[first + i] = Vector::cast_from(dx * gate * open);
                to_gate[first + i] = Vector::cast_from(dx * value * open * (one + gate * (one - open)));
            } else {
                to_value[first + i] = Vector::cast_from(dx);
            }
        }
    }
}

/// A block of rows' share of the gradient of the weight, `parts [blocks d]`.
#[cube(launch)]
fn rms_weight<E: Float, W: Size>(
    value: &[Vector<E, W>],
    gate: &[Vector<E, W>],
    grad: &[Vector<E, W>],
    scales: &[f32],
    parts: &mut [Vector<f32, W>],
    sizes: Sizes,
    #[comptime] before: Before,
    #[define(E)] _dtype: ElemType,
) {
    let vectors = sizes.vectors * sizes.groups;
    let (block, i) = (ABSOLUTE_POS / vectors, ABSOLUTE_POS % vectors);
    if block * ROWS >= sizes.rows {
        terminate!();
    }
    let group = i / sizes.vectors;
    let mut sum = Vector::<f32, W>::new(0.0);
    for row in block * ROWS..min((block + 1) * ROWS, sizes.rows) {
        let at = row * vectors + i;
        let product = normed::<E, W>(value, gate, at, before) * Vector::cast_from(grad[at]);
        sum += product * Vector::new(scales[row * sizes.groups + group]);
    }
    parts[ABSOLUTE_POS] = sum;
}

/// The norm of `value`, or of `value · silu(gate)`.
pub fn forward(
    value: CubeTensor,
    gate: Option<CubeTensor>,
    weight: CubeTensor,
    norm: GroupNorm,
) -> CubeTensor {
    let before = if gate.is_some() { Before::Gated } else { Before::Nothing };
    launch_forward(value, gate, weight, norm, before).0
}

/// `value + addend`, and its norm.
pub fn sum_and_norm(
    value: CubeTensor,
    addend: CubeTensor,
    weight: CubeTensor,
    epsilon: f64,
) -> (CubeTensor, CubeTensor) {
    let norm = GroupNorm { groups: 1, epsilon };
    let (normed, sum) = launch_forward(value, Some(addend), weight, norm, Before::Added);
    (sum, normed)
}

/// The norm, and the sum where there is one.
fn launch_forward(
    value: CubeTensor,
    gate: Option<CubeTensor>,
    weight: CubeTensor,
    norm: GroupNorm,
    before: Before,
) -> (CubeTensor, CubeTensor) {
    let form = Form { before, wide: wide(weight.shape().num_elements() / norm.groups) };
    let (value, weight) = (into_contiguous(value), into_contiguous(weight));
    let gate = gate.map_or_else(|| value.clone(), into_contiguous);
    let d = weight.shape().num_elements();
    let rows = value.shape().num_elements() / d;
    let out = empty_like(&value);
    let sums =
        if before == Before::Added { empty_like(&value) } else { empty(&value, [form.wide], value.dtype) };
    let dtype = dtype_to_storage_type(value.dtype);
    rms_forward::launch(
        &out.client,
        cube_for_each(rows * norm.groups),
        CubeDim::new_1d(UNITS as u32),
        form.wide,
        value.into_buffer_arg(),
        gate.into_buffer_arg(),
        weight.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        SizesLaunch::new(rows, norm.groups, d / norm.groups / form.wide),
        norm.epsilon as f32,
        form,
        d / norm.groups / form.wide,
        dtype,
    );
    (out, sums)
}

/// Gradients of the value, of the gate where there is one, and of the weight.
pub fn backward(
    value: CubeTensor,
    gate: Option<CubeTensor>,
    weight: CubeTensor,
    grad: CubeTensor,
    norm: GroupNorm,
) -> (CubeTensor, Option<CubeTensor>, CubeTensor) {
    let [value, weight, grad] = [value, weight, grad].map(into_contiguous);
    let d = weight.shape().num_elements();
    let gated = gate.is_some();
    let before = if gated { Before::Gated } else { Before::Nothing };
    let form = Form { before, wide: wide(d / norm.groups) };
    let gate = gate.map_or_else(|| value.clone(), into_contiguous);
    let (rows, dtype) = (value.shape().num_elements() / d, value.dtype);
    let to_value = empty_like(&value);
    let to_gate = if gated { empty_like(&value) } else { empty(&value, [form.wide], dtype) };
    let scales = empty(&value, [rows * norm.groups], DType::F32);
    rms_backward::launch(
        &to_value.client,
        cube_for_each(rows * norm.groups),
        CubeDim::new_1d(UNITS as u32),
        form.wide,
        value.clone().into_buffer_arg(),
        gate.clone().into_buffer_arg(),
        weight.into_buffer_arg(),
        grad.clone().into_buffer_arg(),
        to_value.clone().into_buffer_arg(),
        to_gate.clone().into_buffer_arg(),
        scales.clone().into_buffer_arg(),
        SizesLaunch::new(rows, norm.groups, d / norm.groups / form.wide),
        norm.epsilon as f32,
        form,
        dtype_to_storage_type(dtype),
    );
    let blocks = rows.div_ceil(ROWS);
    let parts = empty(&value, [blocks * d], DType::F32);
    let (cubes, dim) = cubes(&value, blocks * d / form.wide);
    rms_weight::launch(
        &parts.client,
        cubes,
        dim,
        form.wide,
        value.into_buffer_arg(),
        gate.into_buffer_arg(),
        grad.into_buffer_arg(),
        scales.into_buffer_arg(),
        parts.clone().into_buffer_arg(),
        SizesLaunch::new(rows, norm.groups, d / norm.groups / form.wide),
        before,
        dtype_to_storage_type(dtype),
    );
    (to_value, gated.then_some(to_gate), sum_of_parts(parts, [d], dtype))
}
