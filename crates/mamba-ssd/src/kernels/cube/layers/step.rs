//! One token of an SSM mixer: a unit per channel of the convolution, then a cube per head of the state.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::reduce::lanes;
use super::{UNITS, cube_for_each, cubes, empty, empty_like, wide};
use crate::kernels::overwrite::OverwriteOps;
use crate::kernels::step::{ConvStep, StateStep, StepForm, StepOps};

/// The convolution of one token, and its window moved on in place.
#[cube(launch)]
fn conv_token<E: Float>(
    projected: &[E],  // b width
    window: &mut [E], // b k-1 c
    weight: &[E],     // c k
    bias: &[E],       // c
    out: &mut [E],    // b c
    width: usize,
    channels: usize,
    #[comptime] k: usize,
    #[comptime] step: ConvStep,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let (batch, channel) = (ABSOLUTE_POS / channels, ABSOLUTE_POS % channels);
    let current = projected[batch * width + comptime!(step.first) + channel];
    let mut sum = f32::cast_from(weight[channel * k + comptime!(k - 1)]) * f32::cast_from(current);
    if comptime!(step.bias) {
        sum += f32::cast_from(bias[channel]);
    }
    #[unroll]
    for j in 0..comptime!(k - 1) {
        let place = (batch * comptime!(k - 1) + j) * channels + channel;
        let earlier = window[place];
        sum += f32::cast_from(weight[channel * k + j]) * f32::cast_from(earlier);
        if comptime!(j > 0) {
            window[place - channels] = earlier;
        }
    }
    if comptime!(k > 1) {
        window[(batch * comptime!(k - 1) + comptime!(k - 2)) * channels + channel] = current;
    }
    if comptime!(step.silu) {
        sum *= sigmoid(sum);
    }
    out[ABSOLUTE_POS] = E::cast_from(sum);
}

#[cube]
fn sigmoid(x: f32) -> f32 {
    f32::new(1.0) / (f32::new(1.0) + (-x).exp())
}

/// Sizes of a step.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Sizes {
    b: usize,
    heads: usize,
    /// Numbers in a row of the projection and of the convolution.
    width: usize,
    channels: usize,
}

/// What is compiled into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Head {
    p: usize,
    n: usize,
    /// Numbers in an access to the state.
    wide: usize,
    step: StateStep,
}

impl Head {
    /// Units side by side on a row of the state, and rows that a cube takes at a time.
    fn lanes(&self) -> usize {
        self.n / self.wide
    }

    fn rows(&self) -> usize {
        UNITS / self.lanes()
    }

    fn step_size(&self) -> bool {
        self.step.form == StepForm::StepSize
    }
}

/// One head's state, read and written once.
#[cube(launch)]
fn state_token<E: Float, W: Size>(
    xbc: &[E],                    // b c
    projected: &[E],              // b width
    state: &mut [Vector<f32, W>], // b h p n
    d: &[E],                      // h
    first: &[E],                  // z_bias h·p, or dt_bias h
    second: &[E],                 // A_log h
    y: &mut [E],                  // b h·p
    sizes: Sizes,
    #[comptime] head_form: Head,
    #[define(E)] _dtype: ElemType,
) {
    let (p, n) = comptime!((head_form.p, head_form.n));
    let (row_lanes, rows) = comptime!((head_form.lanes(), head_form.rows()));
    let step = comptime!(head_form.step);
    let unit = UNIT_POS as usize;
    let mut keys = Shared::<[f32]>::new_slice(n);
    let mut queries = Shared::<[f32]>::new_slice(n);
    let mut parts = Shared::<[f32]>::new_slice(comptime!(p * (row_lanes + 1)));
    let index = CUBE_POS;
    if index >= sizes.b * sizes.heads {
        terminate!();
    }
    let (batch, head) = (index / sizes.heads, index % sizes.heads);
    let group = head / (sizes.heads / comptime!(step.groups));
    let (values, row) = (batch * sizes.channels, batch * sizes.width);
    let inner = sizes.heads * p;
    for round in 0..comptime!(n.div_ceil(UNITS)) {
        let i = round * UNITS + unit;
        if i < n {
            let at = values + inner + group * n + i;
            keys[i] = f32::cast_from(xbc[at]);
            queries[i] = f32::cast_from(xbc[at + comptime!(step.groups * n)]);
        }
    }
    let raw = f32::cast_from(projected[row + comptime!(step.decay) + head]);
    let mut size = f32::new(1.0);
    let decay = if comptime!(head_form.step_size()) {
        let dt = raw + f32::cast_from(first[head]);
        size = max(dt, f32::new(0.0)) + (f32::new(1.0) + (-dt.abs()).exp()).ln();
        (-size * f32::cast_from(second[head]).exp()).exp()
    } else {
        sigmoid(-raw)
    };
    sync_cube();

    let lane = unit % row_lanes;
    let wide = comptime!(head_form.wide);
    let (mut key, mut query) = (Vector::<f32, W>::new(0.0), Vector::<f32, W>::new(0.0));
    if unit < comptime!(rows * row_lanes) {
        #[unroll]
        for i in 0..wide {
            key.insert(i, keys[lane * wide + i]);
            query.insert(i, queries[lane * wide + i]);
        }
    }
    for round in 0..comptime!(p.div_ceil(rows)) {
        let r = round * rows + unit / row_lanes;
        if unit < comptime!(rows * row_lanes) && r < p {
            let place = (index * p + r) * row_lanes + lane;
            let x = f32::cast_from(xbc[values + head * p + r]) * size;
            let next = state[place] * Vector::new(decay) + key * Vector::new(x);
            state[place] = next;
            parts[r * comptime!(row_lanes + 1) + lane] = lanes::<W>(next * query, wide);
        }
    }
    sync_cube();
    for round in 0..comptime!(p.div_ceil(UNITS)) {
        let r = round * UNITS + unit;
        if r < p {
            let channel = head * p + r;
            let mut sum = f32::cast_from(d[head]) * f32::cast_from(xbc[values + channel]);
            for i in 0..row_lanes {
                sum += parts[r * comptime!(row_lanes + 1) + i];
            }
            if comptime!(!head_form.step_size()) {
                let mut z = f32::cast_from(projected[row + comptime!(step.gate) + channel]);
                if comptime!(step.form == StepForm::Discrete { z_bias: true }) {
                    z += f32::cast_from(first[channel]);
                }
                sum *= z * sigmoid(z);
            }
            y[batch * inner + channel] = E::cast_from(sum);
        }
    }
}

/// Bytes of shared memory of a head's step.
pub fn state_bytes(p: usize, n: usize) -> usize {
    4 * (2 * n + p * (n / wide(n) + 1))
}

/// The array itself where nothing else holds it, else a copy. (burn's own copies may have rows padded.)
pub(super) fn own(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    if tensor.can_mut() { tensor } else { overwrite(empty_like(&tensor), tensor) }
}

#[cube(launch)]
fn copy_into<E: Numeric>(source: &[E], target: &mut [E], #[define(E)] _dtype: ElemType) {
    if ABSOLUTE_POS < target.len() {
        target[ABSOLUTE_POS] = source[ABSOLUTE_POS];
    }
}

fn overwrite(target: CubeTensor, source: CubeTensor) -> CubeTensor {
    let source = into_contiguous(source);
    if !target.is_contiguous() {
        return source; // a view: nothing that a recording could have been given
    }
    let units = target.shape().num_elements();
    let (count, dim) = cubes(&target, units);
    let dtype = dtype_to_storage_type(target.dtype);
    let (from, to) = (source.into_buffer_arg(), target.clone().into_buffer_arg());
    copy_into::launch(&target.client, count, dim, from, to, dtype);
    target
}

impl OverwriteOps for CubeBackend {
    fn overwrite_float(target: FloatTensor<Self>, source: FloatTensor<Self>) -> FloatTensor<Self> {
        overwrite(target, source)
    }

    fn overwrite_int(target: IntTensor<Self>, source: IntTensor<Self>) -> IntTensor<Self> {
        overwrite(target, source)
    }
}

impl StepOps for CubeBackend {
    fn conv_step(
        projected: FloatTensor<Self>,
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        step: ConvStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [projected, weight, bias] = [projected, weight, bias].map(into_contiguous);
        let window = own(window);
        let [b, width] = projected.shape().dims();
        let [channels, k] = weight.shape().dims();
        let out = empty(&projected, [b, channels], projected.dtype);
        let (count, dim) = cubes(&projected, b * channels);
        let dtype = dtype_to_storage_type(projected.dtype);
        conv_token::launch(
            &out.client,
            count,
            dim,
            projected.into_buffer_arg(),
            window.clone().into_buffer_arg(),
            weight.into_buffer_arg(),
            bias.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            width,
            channels,
            k,
            step,
            dtype,
        );
        (out, window)
    }

    fn state_step(
        xbc: FloatTensor<Self>,
        projected: FloatTensor<Self>,
        state: FloatTensor<Self>,
        d: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: StateStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [xbc, projected, d, first, second] = [xbc, projected, d, first, second].map(into_contiguous);
        let state = own(state);
        let [b, heads, p, n] = state.shape().dims();
        let sizes = SizesLaunch::new(b, heads, projected.shape()[1], xbc.shape()[1]);
        let head = Head { p, n, wide: wide(n), step };
        let y = empty(&projected, [b, heads * p], projected.dtype);
        let dtype = dtype_to_storage_type(projected.dtype);
        state_token::launch(
            &y.client,
            cube_for_each(b * heads),
            CubeDim::new_1d(UNITS as u32),
            head.wide,
            xbc.into_buffer_arg(),
            projected.into_buffer_arg(),
            state.clone().into_buffer_arg(),
            d.into_buffer_arg(),
            first.into_buffer_arg(),
            second.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            sizes,
            head,
            dtype,
        );
        (y, state)
    }
}
