//! GELU in its tanh form, `x σ(2 √(2/π) (x + 0.044715 x³))`, and its reverse, a vector per unit.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::gate::sigmoid;
use super::{cubes, empty_like, wide};

const SLOPE: f32 = 1.595_769;
const CUBE: f32 = 0.044_715;

#[cube]
fn open<W: Size>(x: Vector<f32, W>) -> Vector<f32, W> {
    let cube = x * x * x * Vector::new(CUBE);
    sigmoid::<W>((x + cube) * Vector::new(SLOPE))
}

#[cube(launch)]
fn tanh_gelu_forward<E: Float, W: Size>(
    x: &[Vector<E, W>],
    out: &mut [Vector<E, W>],
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let x = Vector::<f32, W>::cast_from(x[ABSOLUTE_POS]);
    out[ABSOLUTE_POS] = Vector::cast_from(x * open::<W>(x));
}

#[cube(launch)]
fn tanh_gelu_backward<E: Float, W: Size>(
    x: &[Vector<E, W>],
    grad: &[Vector<E, W>],
    dx: &mut [Vector<E, W>],
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= dx.len() {
        terminate!();
    }
    let x = Vector::<f32, W>::cast_from(x[ABSOLUTE_POS]);
    let grad = Vector::<f32, W>::cast_from(grad[ABSOLUTE_POS]);
    let open = open::<W>(x);
    let one = Vector::<f32, W>::new(1.0);
    let slope = (one + x * x * Vector::new(3.0 * CUBE)) * Vector::new(SLOPE);
    dx[ABSOLUTE_POS] = Vector::cast_from(grad * open * (one + x * (one - open) * slope));
}

pub fn forward(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let out = empty_like(&x);
    let count = x.shape().num_elements();
    let wide = wide(count);
    let (cubes, dim) = cubes(&x, count / wide);
    let dtype = dtype_to_storage_type(x.dtype);
    let (input, output) = (x.into_buffer_arg(), out.clone().into_buffer_arg());
    tanh_gelu_forward::launch(&out.client, cubes, dim, wide, input, output, dtype);
    out
}

pub fn backward(x: CubeTensor, grad: CubeTensor) -> CubeTensor {
    let (x, grad) = (into_contiguous(x), into_contiguous(grad));
    let dx = empty_like(&x);
    let count = x.shape().num_elements();
    let wide = wide(count);
    let (cubes, dim) = cubes(&x, count / wide);
    let dtype = dtype_to_storage_type(x.dtype);
    let (x, grad, output) = (x.into_buffer_arg(), grad.into_buffer_arg(), dx.clone().into_buffer_arg());
    tanh_gelu_backward::launch(&dx.client, cubes, dim, wide, x, grad, output, dtype);
    dx
}
