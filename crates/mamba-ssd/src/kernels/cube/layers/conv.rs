//! The causal depthwise convolution and its reverse. A unit takes a vector of channels over a run of tokens.
//!
//! ```text
//! y_t = bias + Σ_{i ≤ reach_t} weight_{k-1-i} ∘ window_{t+k-1-i}
//! ```

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::reduce::sum_of_parts;
use super::{cubes, empty, empty_like, wide};

/// Tokens of a run, for outputs, and for a share of the gradients of weight and bias.
const RUN: usize = 16;
const LONG_RUN: usize = 128;

/// Sizes of the convolution: `window [b k-1+t c]`, in vectors of channels.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Sizes {
    b: usize,
    t: usize,
    vectors: usize,
}

/// Where a unit works.
#[derive(CubeType, Clone, Copy)]
struct Place {
    batch: usize,
    run: usize,
    vector: usize,
}

#[cube]
fn place(at: usize, length: usize, sizes: &Sizes, #[comptime] run: usize) -> Place {
    let runs = length.div_ceil(run);
    Place { batch: at / sizes.vectors / runs, run: at / sizes.vectors % runs, vector: at % sizes.vectors }
}

/// Weights of every tap of a unit's channels, the current token's first.
#[cube]
pub fn taps<E: Float, W: Size>(
    weight: &[E], // c k
    vector: usize,
    #[comptime] k: usize,
    #[comptime] wide: usize,
) -> Array<Vector<f32, W>> {
    let mut taps = Array::<Vector<f32, W>>::new(k);
    #[unroll]
    for i in 0..k {
        let mut tap = Vector::<f32, W>::new(0.0);
        #[unroll]
        for lane in 0..wide {
            let channel = vector * wide + lane;
            tap.insert(lane, f32::cast_from(weight[channel * k + comptime!(k - 1 - i)]));
        }
        taps[i] = tap;
    }
    taps
}

#[cube(launch)]
fn conv_forward<E: Float, I: Int, W: Size>(
    window: &[Vector<E, W>],
    weight: &[E],
    bias: &[Vector<E, W>],
    reach: &[I], // b t
    out: &mut [Vector<E, W>],
    sizes: Sizes,
    #[comptime] k: usize,
    #[comptime] wide: usize,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let place = place(ABSOLUTE_POS, sizes.t, &sizes, RUN);
    if place.batch >= sizes.b {
        terminate!();
    }
    let taps = taps::<E, W>(weight, place.vector, k, wide);
    let bias = Vector::<f32, W>::cast_from(bias[place.vector]);
    for token in place.run * RUN..min((place.run + 1) * RUN, sizes.t) {
        let reach = usize::cast_from(reach[place.batch * sizes.t + token]);
        let mut y = bias;
        #[unroll]
        for i in 0..k {
            if reach >= i {
                let row = place.batch * (sizes.t + k - 1) + token + comptime!(k - 1 - i);
                y += taps[i] * Vector::cast_from(window[row * sizes.vectors + place.vector]);
            }
        }
        out[(place.batch * sizes.t + token) * sizes.vectors + place.vector] = Vector::cast_from(y);
    }
}

#[cube(launch)]
fn conv_window<E: Float, I: Int, W: Size>(
    weight: &[E],
    reach: &[I],
    grad: &[Vector<E, W>],
    out: &mut [Vector<E, W>],
    sizes: Sizes,
    #[comptime] k: usize,
    #[comptime] wide: usize,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let rows = sizes.t + k - 1;
    let place = place(ABSOLUTE_POS, rows, &sizes, RUN);
    if place.batch >= sizes.b {
        terminate!();
    }
    let taps = taps::<E, W>(weight, place.vector, k, wide);
    for row in place.run * RUN..min((place.run + 1) * RUN, rows) {
        let mut sum = Vector::<f32, W>::new(0.0);
        #[unroll]
        for i in 0..k {
            // row = token + k - 1 - i
            if row + i >= comptime!(k - 1) && row + i < rows {
                let token = place.batch * sizes.t + row + i - comptime!(k - 1);
                if usize::cast_from(reach[token]) >= i {
                    sum += taps[i] * Vector::cast_from(grad[token * sizes.vectors + place.vector]);
                }
            }
        }
        out[(place.batch * rows + row) * sizes.vectors + place.vector] = Vector::cast_from(sum);
    }
}

/// A run's share of the gradients of weight, `parts [runs c k]`, and of bias, `biases [runs c]`.
#[cube(launch)]
fn conv_weight<E: Float, I: Int, W: Size>(
    window: &[Vector<E, W>],
    reach: &[I],
    grad: &[Vector<E, W>],
    parts: &mut [f32],
    biases: &mut [Vector<f32, W>],
    sizes: Sizes,
    #[comptime] k: usize,
    #[comptime] wide: usize,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let place = place(ABSOLUTE_POS, sizes.t, &sizes, LONG_RUN);
    if place.batch >= sizes.b {
        terminate!();
    }
    let mut sums = Array::<Vector<f32, W>>::new(k);
    #[unroll]
    for i in 0..k {
        sums[i] = Vector::new(0.0);
    }
    let mut bias = Vector::<f32, W>::new(0.0);
    for token in place.run * LONG_RUN..min((place.run + 1) * LONG_RUN, sizes.t) {
        let at = place.batch * sizes.t + token;
        let reach = usize::cast_from(reach[at]);
        let grad = Vector::<f32, W>::cast_from(grad[at * sizes.vectors + place.vector]);
        bias += grad;
        #[unroll]
        for i in 0..k {
            if reach >= i {
                let row = place.batch * (sizes.t + k - 1) + token + comptime!(k - 1 - i);
                sums[i] += grad * Vector::cast_from(window[row * sizes.vectors + place.vector]);
            }
        }
    }
    biases[ABSOLUTE_POS] = bias;
    #[unroll]
    for i in 0..k {
        #[unroll]
        for lane in 0..wide {
            parts[(ABSOLUTE_POS * wide + lane) * k + comptime!(k - 1 - i)] = sums[i].extract(lane);
        }
    }
}

/// Sizes of arrays and of the launch.
struct Plan {
    b: usize,
    t: usize,
    c: usize,
    k: usize,
    wide: usize,
}

impl Plan {
    fn new(window: &CubeTensor, weight: &CubeTensor) -> Self {
        let [b, rows, c] = window.shape().dims();
        let [_, k] = weight.shape().dims();
        Self { b, t: rows + 1 - k, c, k, wide: wide(c) }
    }

    fn sizes(&self) -> SizesLaunch {
        SizesLaunch::new(self.b, self.t, self.c / self.wide)
    }

    fn units(&self, length: usize, run: usize) -> usize {
        self.b * length.div_ceil(run) * self.c / self.wide
    }
}

/// `[b t c]`.
pub fn forward(window: CubeTensor, weight: CubeTensor, bias: CubeTensor, reach: CubeTensor) -> CubeTensor {
    let [window, weight, bias, reach] = [window, weight, bias, reach].map(into_contiguous);
    let plan = Plan::new(&window, &weight);
    let out = empty(&window, [plan.b, plan.t, plan.c], window.dtype);
    let (cubes, dim) = cubes(&window, plan.units(plan.t, RUN));
    let (dtype, index) = (dtype_to_storage_type(window.dtype), dtype_to_storage_type(reach.dtype));
    conv_forward::launch(
        &out.client,
        cubes,
        dim,
        plan.wide,
        window.into_buffer_arg(),
        weight.into_buffer_arg(),
        bias.into_buffer_arg(),
        reach.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        plan.sizes(),
        plan.k,
        plan.wide,
        dtype,
        index,
    );
    out
}

/// Gradients of window, weight and bias.
pub fn backward(
    window: CubeTensor,
    weight: CubeTensor,
    reach: CubeTensor,
    grad: CubeTensor,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let [window, weight, reach, grad] = [window, weight, reach, grad].map(into_contiguous);
    let plan = Plan::new(&window, &weight);
    let (dtype, index) = (dtype_to_storage_type(window.dtype), dtype_to_storage_type(reach.dtype));
    let to_window = empty_like(&window);
    let (count, dim) = cubes(&window, plan.units(plan.t + plan.k - 1, RUN));
    conv_window::launch(
        &to_window.client,
        count,
        dim,
        plan.wide,
        weight.into_buffer_arg(),
        reach.clone().into_buffer_arg(),
        grad.clone().into_buffer_arg(),
        to_window.clone().into_buffer_arg(),
        plan.sizes(),
        plan.k,
        plan.wide,
        dtype,
        index,
    );
    let units = plan.units(plan.t, LONG_RUN);
    let parts = empty(&window, [units * plan.wide * plan.k], DType::F32);
    let biases = empty(&window, [units * plan.wide], DType::F32);
    let (count, dim) = cubes(&window, units);
    let values = window.dtype;
    conv_weight::launch(
        &parts.client,
        count,
        dim,
        plan.wide,
        window.into_buffer_arg(),
        reach.into_buffer_arg(),
        grad.into_buffer_arg(),
        parts.clone().into_buffer_arg(),
        biases.clone().into_buffer_arg(),
        plan.sizes(),
        plan.k,
        plan.wide,
        dtype,
        index,
    );
    let weight = sum_of_parts(parts, [plan.c, plan.k], values);
    (to_window, weight, sum_of_parts(biases, [plan.c], values))
}
