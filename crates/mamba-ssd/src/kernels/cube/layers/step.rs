//! One token of an SSM mixer: a unit per channel of the convolution, then a cube per head of the state; or both in
//! that cube, where no two heads share a channel.

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
use crate::kernels::step::{ConvStep, StateStep, StepForm, StepOps, TokenOps};

/// The convolution of one token, and its window moved on in place.
#[cube(launch)]
fn conv_token<E: Float>(
    projected: &[E],  // b width
    window: &mut [E], // b k-1 c
    weight: &[E],     // c k
    bias: &[E],       // c
    out: &mut [E],    // b c
    taps: Taps,
    #[comptime] form: ConvForm,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let (batch, channel) = (ABSOLUTE_POS / taps.channels, ABSOLUTE_POS % taps.channels);
    out[ABSOLUTE_POS] = convolve::<E>(projected, window, weight, bias, batch, channel, &taps, form);
}

/// A channel's convolution.
#[cube]
fn convolve<E: Float>(
    projected: &[E],
    window: &mut [E],
    weight: &[E],
    bias: &[E],
    batch: usize,
    channel: usize,
    taps: &Taps,
    #[comptime] form: ConvForm,
) -> E {
    let (k, step) = comptime!((form.k, form.step));
    let channels = taps.channels;
    let tap = channel * taps.pitch;
    let current = projected[batch * taps.width + comptime!(step.first) + channel];
    let mut sum = f32::cast_from(weight[tap + comptime!(k - 1)]) * f32::cast_from(current);
    if comptime!(step.bias) {
        sum += f32::cast_from(bias[channel]);
    }
    #[unroll]
    for j in 0..comptime!(k - 1) {
        let place = (batch * comptime!(k - 1) + j) * channels + channel;
        let earlier = window[place];
        sum += f32::cast_from(weight[tap + j]) * f32::cast_from(earlier);
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
    E::cast_from(sum)
}

/// Numbers in a row of the projection, channels of the convolution, and from a channel's taps to the next one's.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Taps {
    width: usize,
    channels: usize,
    pitch: usize,
}

/// Taps of a channel, and what the convolution is beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ConvForm {
    k: usize,
    step: ConvStep,
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
    taps: Taps,
}

/// What is compiled into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Head {
    p: usize,
    n: usize,
    /// Numbers in an access to the state.
    wide: usize,
    step: StateStep,
    /// Whether the convolution comes with it, since the head has its channels for itself; and which.
    convolves: bool,
    conv: ConvForm,
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
fn state_token<E: Float, S: Float, W: Size>(
    xbc: &[E],                  // b c, or nothing
    window: &mut [E],           // b k-1 c, or nothing
    weight: &[E],               // c k, or nothing
    bias: &[E],                 // c, or nothing
    projected: &[E],            // b width
    state: &mut [Vector<S, W>], // b h p n
    d: &[E],                    // h
    first: &[E],                // z_bias h·p, or dt_bias h
    second: &[E],               // A_log h
    y: &mut [E],                // b h·p
    sizes: Sizes,
    #[comptime] head_form: Head,
    #[define(E)] _dtype: ElemType,
    #[define(S)] _kept: ElemType,
) {
    let (p, n) = comptime!((head_form.p, head_form.n));
    let (row_lanes, rows) = comptime!((head_form.lanes(), head_form.rows()));
    let step = comptime!(head_form.step);
    let unit = UNIT_POS as usize;
    let mut channels = Shared::<[f32]>::new_slice(comptime!(p + 2 * n)); // x, then B, then C
    let mut parts = Shared::<[f32]>::new_slice(comptime!(p * (row_lanes + 1)));
    let index = CUBE_POS;
    if index >= sizes.b * sizes.heads {
        terminate!();
    }
    let (batch, head) = (index / sizes.heads, index % sizes.heads);
    let group = head / (sizes.heads / comptime!(step.groups));
    let row = batch * sizes.taps.width;
    let inner = sizes.heads * p;
    let (lane, wide) = (unit % row_lanes, comptime!(head_form.wide));
    let inside = unit < comptime!(rows * row_lanes);
    let rounds = comptime!(p.div_ceil(rows));
    let mut before = Array::<Vector<S, W>>::new(AHEAD);
    load_rows::<S, W>(&mut before, state, index, unit, 0usize, head_form);
    for round in 0..comptime!((p + 2 * n).div_ceil(UNITS)) {
        let i = round * UNITS + unit;
        if i < comptime!(p + 2 * n) {
            let mut channel = head * p + i;
            if i >= p {
                channel = inner + group * n + i - p;
            }
            if i >= comptime!(p + n) {
                channel = inner + comptime!(step.groups * n) + group * n + i - comptime!(p + n);
            }
            let value = if comptime!(head_form.convolves) {
                convolve::<E>(projected, window, weight, bias, batch, channel, &sizes.taps, head_form.conv)
            } else {
                xbc[batch * sizes.taps.channels + channel]
            };
            channels[i] = f32::cast_from(value);
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

    let (mut key, mut query) = (Vector::<f32, W>::new(0.0), Vector::<f32, W>::new(0.0));
    if inside {
        #[unroll]
        for i in 0..wide {
            key.insert(i, channels[p + lane * wide + i]);
            query.insert(i, channels[comptime!(p + n) + lane * wide + i]);
        }
    }
    #[unroll]
    for run in 0..comptime!(rounds.div_ceil(AHEAD)) {
        if comptime!(run > 0) {
            load_rows::<S, W>(&mut before, state, index, unit, run, head_form);
        }
        #[unroll]
        for i in 0..AHEAD {
            let r = comptime!((run * AHEAD + i) * rows) + unit / row_lanes;
            if comptime!(run * AHEAD + i < rounds) && inside && r < p {
                let x = channels[r] * size;
                let next = Vector::<f32, W>::cast_from(before[i]) * Vector::new(decay) + key * Vector::new(x);
                state[(index * p + r) * row_lanes + lane] = Vector::cast_from(next);
                parts[r * comptime!(row_lanes + 1) + lane] = lanes::<W>(next * query, wide);
            }
        }
    }
    sync_cube();
    for round in 0..comptime!(p.div_ceil(UNITS)) {
        let r = round * UNITS + unit;
        if r < p {
            let channel = head * p + r;
            let mut sum = f32::cast_from(d[head]) * channels[r];
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

/// Rows of the state that a unit asks for before it needs them.
const AHEAD: usize = 8;

/// A unit's vectors of the `run`-th of its rows of the state.
#[cube]
fn load_rows<S: Float, W: Size>(
    to: &mut Array<Vector<S, W>>,
    state: &mut [Vector<S, W>],
    index: usize,
    unit: usize,
    #[comptime] run: usize,
    #[comptime] form: Head,
) {
    let (row_lanes, rows, p) = comptime!((form.lanes(), form.rows(), form.p));
    #[unroll]
    for i in 0..AHEAD {
        let r = comptime!((run * AHEAD + i) * rows) + unit / row_lanes;
        to[i] = Vector::new(S::new(0.0));
        if unit < comptime!(rows * row_lanes) && r < p {
            to[i] = state[(index * p + r) * row_lanes + unit % row_lanes];
        }
    }
}

/// Bytes of shared memory of a head's step.
pub fn state_bytes(p: usize, n: usize) -> usize {
    4 * (p + 2 * n + p * (n / wide(n) + 1))
}

/// The array itself where nothing else holds it, else a copy. (burn's own copies may have rows padded.)
pub(in crate::kernels::cube) fn own(tensor: CubeTensor) -> CubeTensor {
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
        let [projected, bias] = [projected, bias].map(into_contiguous);
        let window = own(window);
        let [b, width] = projected.shape().dims();
        let [channels, k] = weight.shape().dims();
        let (weight, pitch) = rows_of_taps(weight, b);
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
            TapsLaunch::new(width, channels, pitch),
            ConvForm { k, step },
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
        let none = empty(&projected, [1], projected.dtype);
        let channels = Channels {
            count: xbc.shape()[1],
            pitch: 0,
            form: None,
            xbc: into_contiguous(xbc),
            window: none.clone(),
            weight: none.clone(),
            bias: none,
        };
        advance(channels, projected, state, [d, first, second], step)
    }
}

impl TokenOps for CubeBackend {
    fn token_step(
        projected: FloatTensor<Self>,
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        state: FloatTensor<Self>,
        d: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: (ConvStep, StateStep),
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [count, k] = weight.shape().dims();
        let (weight, pitch) = rows_of_taps(weight, projected.shape()[0]);
        let window = own(window);
        let channels = Channels {
            count,
            pitch,
            form: Some(ConvForm { k, step: step.0 }),
            xbc: weight.clone(),
            window: window.clone(),
            weight,
            bias: into_contiguous(bias),
        };
        let (y, state) = advance(channels, projected, state, [d, first, second], step.1);
        (y, window, state)
    }
}

/// Rows of a batch from which on taps are laid together first: each row reads them all.
const MANY_ROWS: usize = 16;

/// Taps whose rows of k lie `pitch` numbers apart: on CUDA burn pads them.
fn rows_of_taps(weight: CubeTensor, rows: usize) -> (CubeTensor, usize) {
    let strides = weight.meta.strides();
    let weight = if strides[1] == 1 && rows < MANY_ROWS { weight } else { into_contiguous(weight) };
    let pitch = weight.meta.strides()[0];
    (weight, pitch)
}

/// What x, B and C come from: `xbc [b c]`, or a convolution yet to be computed.
struct Channels {
    count: usize,
    pitch: usize,
    form: Option<ConvForm>,
    xbc: CubeTensor,
    window: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
}

fn advance(
    channels: Channels,
    projected: CubeTensor,
    state: CubeTensor,
    vectors: [CubeTensor; 3],
    step: StateStep,
) -> (CubeTensor, CubeTensor) {
    let (projected, [d, first, second]) = (into_contiguous(projected), vectors.map(into_contiguous));
    let state = own(state);
    let [b, heads, p, n] = state.shape().dims();
    let taps = TapsLaunch::new(projected.shape()[1], channels.count, channels.pitch);
    let convolves = channels.form.is_some();
    let none = ConvForm { k: 1, step: ConvStep { first: 0, bias: false, silu: false } };
    let sixteen_bytes = 16 / state.dtype.size();
    let wide = if n.is_multiple_of(sixteen_bytes) { sixteen_bytes } else { wide(n) };
    let head = Head { p, n, wide, step, convolves, conv: channels.form.unwrap_or(none) };
    let y = empty(&projected, [b, heads * p], projected.dtype);
    let dtype = dtype_to_storage_type(projected.dtype);
    state_token::launch(
        &y.client,
        cube_for_each(b * heads),
        CubeDim::new_1d(UNITS as u32),
        head.wide,
        channels.xbc.into_buffer_arg(),
        channels.window.into_buffer_arg(),
        channels.weight.into_buffer_arg(),
        channels.bias.into_buffer_arg(),
        projected.into_buffer_arg(),
        state.clone().into_buffer_arg(),
        d.into_buffer_arg(),
        first.into_buffer_arg(),
        second.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        SizesLaunch::new(b, heads, taps),
        head,
        dtype,
        dtype_to_storage_type(state.dtype),
    );
    (y, state)
}
