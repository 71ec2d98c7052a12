//! `silu(gate) ∘ value` and its reverse, a vector per unit.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{cubes, empty_like, wide};

#[cube(launch)]
fn gate_forward<E: Float, W: Size>(
    gate: &[Vector<E, W>],
    value: &[Vector<E, W>],
    out: &mut [Vector<E, W>],
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let gate = Vector::<f32, W>::cast_from(gate[ABSOLUTE_POS]);
    let value = Vector::<f32, W>::cast_from(value[ABSOLUTE_POS]);
    out[ABSOLUTE_POS] = Vector::cast_from(gate * sigmoid::<W>(gate) * value);
}

#[cube(launch)]
fn gate_backward<E: Float, W: Size>(
    gate: &[Vector<E, W>],
    value: &[Vector<E, W>],
    grad: &[Vector<E, W>],
    to_gate: &mut [Vector<E, W>],
    to_value: &mut [Vector<E, W>],
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= grad.len() {
        terminate!();
    }
    let gate = Vector::<f32, W>::cast_from(gate[ABSOLUTE_POS]);
    let value = Vector::<f32, W>::cast_from(value[ABSOLUTE_POS]);
    let grad = Vector::<f32, W>::cast_from(grad[ABSOLUTE_POS]);
    let open = sigmoid::<W>(gate);
    let one = Vector::<f32, W>::new(1.0);
    to_gate[ABSOLUTE_POS] = Vector::cast_from(grad * value * open * (one + gate * (one - open)));
    to_value[ABSOLUTE_POS] = Vector::cast_from(grad * gate * open);
}

#[cube]
pub fn sigmoid<W: Size>(x: Vector<f32, W>) -> Vector<f32, W> {
    let one = Vector::<f32, W>::new(1.0);
    let zero = Vector::<f32, W>::new(0.0);
    one / (one + (zero - x).exp())
}

pub fn forward(gate: CubeTensor, value: CubeTensor) -> CubeTensor {
    let (gate, value) = (into_contiguous(gate), into_contiguous(value));
    let out = empty_like(&gate);
    let count = gate.shape().num_elements();
    let wide = wide(count);
    let (cubes, dim) = cubes(&gate, count / wide);
    let dtype = dtype_to_storage_type(gate.dtype);
    gate_forward::launch(
        &out.client,
        cubes,
        dim,
        wide,
        gate.into_buffer_arg(),
        value.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        dtype,
    );
    out
}

pub fn backward(gate: CubeTensor, value: CubeTensor, grad: CubeTensor) -> (CubeTensor, CubeTensor) {
    let [gate, value, grad] = [gate, value, grad].map(into_contiguous);
    let (to_gate, to_value) = (empty_like(&gate), empty_like(&gate));
    let count = gate.shape().num_elements();
    let wide = wide(count);
    let (cubes, dim) = cubes(&gate, count / wide);
    let dtype = dtype_to_storage_type(gate.dtype);
    gate_backward::launch(
        &to_gate.client,
        cubes,
        dim,
        wide,
        gate.into_buffer_arg(),
        value.into_buffer_arg(),
        grad.into_buffer_arg(),
        to_gate.clone().into_buffer_arg(),
        to_value.clone().into_buffer_arg(),
        dtype,
    );
    (to_gate, to_value)
}
