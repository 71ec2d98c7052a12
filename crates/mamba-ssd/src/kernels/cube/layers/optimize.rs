//! AdamW and sums of squares: a number, or a vector of them, per unit.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::reduce::{Fold, fold, lanes};
use super::step::own;
use super::{UNITS, cube_for_each, cubes, empty, empty_like, wide};
use crate::optimize::{AdamWRates, PART};

/// The scalars of a step.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Rates {
    beta1: f32,
    beta2: f32,
    fresh1: f32,
    fresh2: f32,
    epsilon: f32,
    rate: f32,
    correction: f32,
    kept: f32,
}

#[cube(launch)]
fn adamw_kernel<E: Float, W: Size>(
    value: &[Vector<E, W>],
    gradient: &[Vector<E, W>],
    scale: &[f32],                 // 1
    master: &mut [Vector<f32, W>], // where there is one
    first: &mut [Vector<f32, W>],
    second: &mut [Vector<f32, W>],
    out: &mut [Vector<E, W>],
    rates: Rates,
    #[comptime] separate: bool,
    #[define(E)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let gradient = Vector::<f32, W>::cast_from(gradient[at]) * Vector::new(scale[0]);
    let m = first[at] * Vector::new(rates.beta1) + gradient * Vector::new(rates.fresh1);
    let v = second[at] * Vector::new(rates.beta2) + gradient * gradient * Vector::new(rates.fresh2);
    first[at] = m;
    second[at] = v;
    let root = (v * Vector::new(rates.correction)).sqrt() + Vector::new(rates.epsilon);
    let mut before = Vector::<f32, W>::cast_from(value[at]);
    if comptime!(separate) {
        before = master[at];
    }
    let after = before * Vector::new(rates.kept) - m * Vector::new(rates.rate) / root;
    if comptime!(separate) {
        master[at] = after;
    }
    out[at] = Vector::cast_from(after);
}

/// The value after a step, the master where it is `separate`, and both moments.
pub fn adamw(
    [value, gradient, scale, master, first, second]: [CubeTensor; 6],
    rates: &AdamWRates,
    separate: bool,
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let AdamWRates { betas, epsilon, rate, correction, decay } = *rates;
    let scalars =
        [betas[0], betas[1], 1.0 - betas[0], 1.0 - betas[1], epsilon, rate, correction.recip(), 1.0 - decay];
    let [beta1, beta2, fresh1, fresh2, epsilon, rate, correction, kept] = scalars.map(|x| x as f32);
    let rates = RatesLaunch::new(beta1, beta2, fresh1, fresh2, epsilon, rate, correction, kept);
    let [value, gradient] = [value, gradient].map(into_contiguous);
    let [first, second] = [first, second].map(own);
    // Without a master there are a few numbers in its place, which the kernel does not touch.
    let master = if separate { own(master) } else { empty(&value, [4], DType::F32) };
    let out = empty_like(&value);
    let count = value.shape().num_elements();
    let wide = wide(count);
    let (cubes, dim) = cubes(&value, count / wide);
    let dtype = dtype_to_storage_type(value.dtype);
    adamw_kernel::launch(
        &out.client,
        cubes,
        dim,
        wide,
        value.into_buffer_arg(),
        gradient.into_buffer_arg(),
        into_contiguous(scale).into_buffer_arg(),
        master.clone().into_buffer_arg(),
        first.clone().into_buffer_arg(),
        second.clone().into_buffer_arg(),
        out.clone().into_buffer_arg(),
        rates,
        separate,
        dtype,
    );
    let master = if separate { master } else { out.clone() };
    (out, master, first, second)
}

#[cube(launch)]
fn squares_kernel<E: Float, W: Size>(
    values: &[Vector<E, W>],
    parts: &mut [f32],
    offset: usize,
    count: usize,
    vectors: usize,
    #[comptime] wide: usize,
    #[define(E)] _dtype: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let part = CUBE_POS;
    if part >= count {
        terminate!();
    }
    let mut sum = Vector::<f32, W>::new(0.0);
    let size = comptime!(PART / wide);
    for round in 0..comptime!(size / UNITS) {
        let at = part * size + round * UNITS + UNIT_POS as usize;
        if at < vectors {
            let x = Vector::<f32, W>::cast_from(values[at]);
            sum += x * x;
        }
    }
    let sum = fold(lanes::<W>(sum, wide), &mut shared, comptime!(Fold::Sum));
    if UNIT_POS == 0 {
        parts[offset + part] = sum;
    }
}

/// `parts` with the sums of squares of the parts of `values` from `offset` on.
pub fn squares(parts: CubeTensor, values: CubeTensor, offset: usize) -> CubeTensor {
    let (parts, values) = (own(parts), into_contiguous(values));
    let count = values.shape().num_elements();
    let (wide, dtype) = (wide(count), dtype_to_storage_type(values.dtype));
    squares_kernel::launch(
        &parts.client,
        cube_for_each(count.div_ceil(PART)),
        CubeDim::new_1d(UNITS as u32),
        wide,
        values.into_buffer_arg(),
        parts.clone().into_buffer_arg(),
        offset,
        count.div_ceil(PART),
        count / wide,
        wide,
        dtype,
    );
    parts
}
