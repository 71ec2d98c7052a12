//! The kernels around SSD. A unit takes a vector of channels over a run of tokens, or one number.

use cubecl::prelude::*;

use super::super::conv::taps;
use super::super::gate::sigmoid;

/// Tokens that a unit of the convolution takes, and of the sums over tokens.
pub const RUN: usize = 16;
pub const LONG_RUN: usize = 32;

/// Log decay where a document begins.
const ERASE: f32 = -1e30;

/// Sizes in vectors of channels, but for heads.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Sizes {
    /// Tokens of the whole batch, and of a row.
    tokens: usize,
    t: usize,
    /// Of a row of the projection.
    width: usize,
    /// Of x.
    inner: usize,
    /// Of B, and of C.
    bc: usize,
    /// Of a head of x.
    p: usize,
    heads: usize,
}

/// A vector of channels over a run of tokens of a row of the batch.
#[derive(CubeType, Clone, Copy)]
struct Place {
    /// The row's first token, in the batch.
    row: usize,
    start: usize,
    end: usize,
    vector: usize,
}

#[cube]
fn place(at: usize, vectors: usize, t: usize, #[comptime] run: usize) -> Place {
    let runs = t.div_ceil(run);
    let (line, vector) = (at / vectors, at % vectors);
    let start = line % runs * run;
    Place { row: line / runs * t, start, end: min(start + run, t), vector }
}

/// Whether the convolution of a token sees the one `i` before it.
#[cube]
fn sees<I: Int>(starts: &[I], row: usize, token: usize, #[comptime] i: usize) -> bool {
    usize::cast_from(starts[row + token]) + i <= token
}

#[cube(launch)]
pub fn split_kernel<E: Float, I: Int, W: Size>(
    projected: &[Vector<E, W>],
    weight: &[E],
    bias: &[Vector<E, W>],
    starts: &[I],
    x: &mut [Vector<E, W>],
    b: &mut [Vector<E, W>],
    c: &mut [Vector<E, W>],
    sizes: Sizes,
    #[comptime] k: usize,
    #[comptime] wide: usize,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let place = place(ABSOLUTE_POS, sizes.inner + 2 * sizes.bc, sizes.t, RUN);
    if place.row >= sizes.tokens {
        terminate!();
    }
    let taps = taps::<E, W>(weight, place.vector, k, wide);
    let bias = Vector::<f32, W>::cast_from(bias[place.vector]);
    for token in place.start..place.end {
        let mut y = bias;
        #[unroll]
        for i in 0..k {
            if sees(starts, place.row, token, i) {
                let at = (place.row + token - i) * sizes.width + place.vector;
                y += taps[i] * Vector::cast_from(projected[at]);
            }
        }
        let (y, at, v) = (Vector::cast_from(y), place.row + token, place.vector);
        if v < sizes.inner {
            x[at * sizes.inner + v] = y;
        } else if v < sizes.inner + sizes.bc {
            b[at * sizes.bc + v - sizes.inner] = y;
        } else {
            c[at * sizes.bc + v - sizes.inner - sizes.bc] = y;
        }
    }
}

#[cube(launch)]
pub fn decay_kernel<E: Float, I: Int>(
    projected: &[E],
    starts: &[I],
    log_a: &mut [f32], // b t h
    tokens: usize,
    t: usize,
    width: usize,
    first: usize,
    heads: usize,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let (at, head) = (ABSOLUTE_POS / heads, ABSOLUTE_POS % heads);
    if at >= tokens {
        terminate!();
    }
    let a = f32::cast_from(projected[at * width + first + head]);
    let token = at % t;
    let mut log = min(-a, f32::new(0.0)) - (f32::new(1.0) + (-a.abs()).exp()).ln();
    if token > 0 && usize::cast_from(starts[at]) == token {
        log = f32::new(ERASE);
    }
    log_a[ABSOLUTE_POS] = log;
}

#[cube(launch)]
pub fn close_kernel<E: Float, W: Size>(
    y: &[Vector<E, W>],
    x: &[Vector<E, W>],
    projected: &[Vector<E, W>],
    z_bias: &[Vector<E, W>],
    d: &[E],
    out: &mut [Vector<E, W>],
    sizes: Sizes,
    #[comptime] biased: bool,
    #[define(E)] _dtype: ElemType,
) {
    let (token, v) = (ABSOLUTE_POS / sizes.inner, ABSOLUTE_POS % sizes.inner);
    if token >= sizes.tokens {
        terminate!();
    }
    let d = Vector::<f32, W>::new(f32::cast_from(d[v / sizes.p]));
    let z = gate_of::<E, W>(projected, z_bias, token, v, &sizes, biased);
    let mixed = Vector::<f32, W>::cast_from(y[ABSOLUTE_POS]) + d * Vector::cast_from(x[ABSOLUTE_POS]);
    out[ABSOLUTE_POS] = Vector::cast_from(mixed * z * sigmoid::<W>(z));
}

/// z + z_bias.
#[cube]
fn gate_of<E: Float, W: Size>(
    projected: &[Vector<E, W>],
    z_bias: &[Vector<E, W>],
    token: usize,
    v: usize,
    sizes: &Sizes,
    #[comptime] biased: bool,
) -> Vector<f32, W> {
    let mut z = Vector::<f32, W>::cast_from(projected[token * sizes.width + sizes.inner + 2 * sizes.bc + v]);
    if comptime!(biased) {
        z += Vector::cast_from(z_bias[v]);
    }
    z
}

/// The reverse of [`close_kernel`]: the gradient of y, that of z in its place, and a run's share of those of D,
/// `d_parts [runs p h]`, and of z_bias, `z_parts [runs inner]`.
#[cube(launch)]
pub fn open_kernel<E: Float, W: Size>(
    grad: &[Vector<E, W>],
    y: &[Vector<E, W>],
    x: &[Vector<E, W>],
    projected: &[Vector<E, W>],
    z_bias: &[Vector<E, W>],
    d: &[E],
    to_y: &mut [Vector<E, W>],
    to_projected: &mut [Vector<E, W>],
    d_parts: &mut [f32],
    z_parts: &mut [Vector<f32, W>],
    sizes: Sizes,
    #[comptime] biased: bool,
    #[comptime] wide: usize,
    #[define(E)] _dtype: ElemType,
) {
    let place = place(ABSOLUTE_POS, sizes.inner, sizes.t, LONG_RUN);
    if place.row >= sizes.tokens {
        terminate!();
    }
    let (v, one) = (place.vector, Vector::<f32, W>::new(1.0));
    let head = v / sizes.p;
    let skip = Vector::<f32, W>::new(f32::cast_from(d[head]));
    let mut of_d = Vector::<f32, W>::new(0.0);
    let mut of_z = Vector::<f32, W>::new(0.0);
    for token in place.row + place.start..place.row + place.end {
        let at = token * sizes.inner + v;
        let grad = Vector::<f32, W>::cast_from(grad[at]);
        let x = Vector::<f32, W>::cast_from(x[at]);
        let z = gate_of::<E, W>(projected, z_bias, token, v, &sizes, biased);
        let open = sigmoid::<W>(z);
        let to_mixed = grad * z * open;
        let mixed = Vector::<f32, W>::cast_from(y[at]) + skip * x;
        let to_z = grad * mixed * open * (one + z * (one - open));
        to_y[at] = Vector::cast_from(to_mixed);
        to_projected[token * sizes.width + sizes.inner + 2 * sizes.bc + v] = Vector::cast_from(to_z);
        of_d += to_mixed * x;
        of_z += to_z;
    }
    z_parts[ABSOLUTE_POS] = of_z;
    let run = ABSOLUTE_POS / sizes.inner;
    let (p, inside) = (sizes.p * wide, v % sizes.p * wide);
    #[unroll]
    for lane in 0..wide {
        d_parts[(run * p + inside + lane) * sizes.heads + head] = of_d.extract(lane);
    }
}

/// The gradient of the convolution's results at a token: of x that of SSD and of the skip term.
#[cube]
fn of_results<E: Float, W: Size>(
    to_x: &[Vector<E, W>],
    to_y: &[Vector<E, W>],
    to_b: &[Vector<E, W>],
    to_c: &[Vector<E, W>],
    d: &[E],
    at: usize,
    v: usize,
    sizes: &Sizes,
) -> Vector<f32, W> {
    if v < sizes.inner {
        let d = Vector::<f32, W>::new(f32::cast_from(d[v / sizes.p]));
        let at = at * sizes.inner + v;
        Vector::<f32, W>::cast_from(to_x[at]) + d * Vector::cast_from(to_y[at])
    } else if v < sizes.inner + sizes.bc {
        Vector::<f32, W>::cast_from(to_b[at * sizes.bc + v - sizes.inner])
    } else {
        Vector::<f32, W>::cast_from(to_c[at * sizes.bc + v - sizes.inner - sizes.bc])
    }
}

#[cube(launch)]
pub fn join_kernel<E: Float, I: Int, W: Size>(
    to_x: &[Vector<E, W>],
    to_y: &[Vector<E, W>],
    to_b: &[Vector<E, W>],
    to_c: &[Vector<E, W>],
    d: &[E],
    weight: &[E],
    starts: &[I],
    to_projected: &mut [Vector<E, W>],
    sizes: Sizes,
    #[comptime] k: usize,
    #[comptime] wide: usize,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let place = place(ABSOLUTE_POS, sizes.inner + 2 * sizes.bc, sizes.t, RUN);
    if place.row >= sizes.tokens {
        terminate!();
    }
    let v = place.vector;
    let taps = taps::<E, W>(weight, v, k, wide);
    for token in place.start..place.end {
        let mut sum = Vector::<f32, W>::new(0.0);
        #[unroll]
        for i in 0..k {
            if token + i < sizes.t && sees(starts, place.row, token + i, i) {
                let at = place.row + token + i;
                sum += taps[i] * of_results::<E, W>(to_x, to_y, to_b, to_c, d, at, v, &sizes);
            }
        }
        to_projected[(place.row + token) * sizes.width + v] = Vector::cast_from(sum);
    }
}

/// A run's share of the gradients of the convolution's weight, `parts [runs c k]`, and bias, `biases [runs c]`.
#[cube(launch)]
pub fn weight_kernel<E: Float, I: Int, W: Size>(
    to_x: &[Vector<E, W>],
    to_y: &[Vector<E, W>],
    to_b: &[Vector<E, W>],
    to_c: &[Vector<E, W>],
    d: &[E],
    projected: &[Vector<E, W>],
    starts: &[I],
    parts: &mut [f32],
    biases: &mut [Vector<f32, W>],
    sizes: Sizes,
    #[comptime] k: usize,
    #[comptime] wide: usize,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let place = place(ABSOLUTE_POS, sizes.inner + 2 * sizes.bc, sizes.t, LONG_RUN);
    if place.row >= sizes.tokens {
        terminate!();
    }
    let mut sums = Array::<Vector<f32, W>>::new(k);
    #[unroll]
    for i in 0..k {
        sums[i] = Vector::new(0.0);
    }
    let mut bias = Vector::<f32, W>::new(0.0);
    for token in place.start..place.end {
        let at = place.row + token;
        let grad = of_results::<E, W>(to_x, to_y, to_b, to_c, d, at, place.vector, &sizes);
        bias += grad;
        #[unroll]
        for i in 0..k {
            if sees(starts, place.row, token, i) {
                sums[i] += grad * Vector::cast_from(projected[(at - i) * sizes.width + place.vector]);
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

/// The gradient of A_log, and 0 for what pads the rows.
#[cube(launch)]
pub fn decay_gradient_kernel<E: Float, I: Int>(
    projected: &[E],
    starts: &[I],
    to_log: &[f32], // b t h
    to_projected: &mut [E],
    tokens: usize,
    t: usize,
    width: usize,
    first: usize,
    heads: usize,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let columns = width - first;
    let (at, column) = (ABSOLUTE_POS / columns, ABSOLUTE_POS % columns);
    if at >= tokens {
        terminate!();
    }
    let mut gradient = f32::new(0.0);
    let (token, place) = (at % t, at * width + first + column);
    if column < heads && (token == 0 || usize::cast_from(starts[at]) != token) {
        let a = f32::cast_from(projected[place]);
        gradient = -to_log[at * heads + column] / (f32::new(1.0) + (-a).exp());
    }
    to_projected[place] = E::cast_from(gradient);
}
