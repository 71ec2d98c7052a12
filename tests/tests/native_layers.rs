//! The maps beside SSD that a device computes natively, against f64 loops, forward and backward, in every
//! dtype, at sizes of models: gate, norms, softmax and rotation of attention, convolution.

use burn::module::Param;
use burn::tensor::{DType, Int, Tensor, TensorData};
use mamba_ssd::conv::causal_conv1d;
use mamba_ssd::norm::NormConfig;
use mamba_ssd::rope::{RotaryConfig, rotate};
use mamba_ssd::{Segments, causal_softmax, embed, gelu, silu_gate};
use mamba_ssd_tests::device::{backend, device, dtypes};
use mamba_ssd_tests::evaluate::{tensor, values};
use mamba_ssd_tests::limits::relative_error;
use mamba_ssd_tests::problem::round;
use mamba_ssd_tests::rng::Rng;

/// What the suites run in, and f16 on wgpu, which has it in place of bf16.
fn kernel_dtypes() -> Vec<DType> {
    let half = (backend() == "wgpu" && device().supports_dtype(DType::F16)).then_some(DType::F16);
    dtypes().into_iter().chain(half).collect()
}

/// Ten times what was measured; the rounding of the results is most of it.
fn limit(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-14,
        DType::F32 => 4e-6,
        DType::F16 => 4e-3,
        _ => 3.5e-2,
    }
}

fn assert_close(what: &str, dtype: DType, got: &[f64], want: &[f64]) {
    let (error, limit) = (relative_error(got, want, want), limit(dtype));
    assert!(error <= limit, "{what} in {dtype:?}: relative error {error:.1e} above {limit:.0e}");
}

/// Standard normal numbers of which every one is exact in `dtype`.
fn normals(seed: u64, count: usize, dtype: DType) -> Vec<f64> {
    round(Rng::new(seed).normals(count), dtype)
}

/// An operation's result and the gradients of its inputs, given that of the result.
fn run<const D: usize, const N: usize>(
    inputs: [Tensor<D>; N],
    grad: Tensor<D>,
    operation: impl Fn([Tensor<D>; N]) -> Tensor<D>,
) -> (Vec<f64>, [Vec<f64>; N]) {
    let inputs = inputs.map(|input| input.require_grad());
    let y = operation(inputs.clone());
    let grads = (y.clone() * grad).sum().backward();
    (values(y), inputs.map(|input| values(input.grad(&grads).expect("a gradient"))))
}

#[test]
fn the_gate_and_its_gradients_equal_plain_loops() {
    let device = device().autodiff();
    for dtype in kernel_dtypes() {
        for (i, shape) in [[3, 5, 64], [2, 7, 33], [1, 1, 4096]].into_iter().enumerate() {
            let count = shape.iter().product();
            let [gate, value, grad] = [0, 1, 2].map(|j| normals(10 * i as u64 + j, count, dtype));
            let on_device = |x: &[f64]| tensor(x, shape, dtype, &device);
            let inputs = [on_device(&gate), on_device(&value)];
            let (y, [to_gate, to_value]) =
                run(inputs, on_device(&grad), |[gate, value]| silu_gate(gate, value));

            let open = |x: f64| 1.0 / (1.0 + (-x).exp());
            let map = |f: &dyn Fn(f64, f64, f64) -> f64| -> Vec<f64> {
                (0..count).map(|i| f(gate[i], value[i], grad[i])).collect()
            };
            assert_close("gated", dtype, &y, &map(&|g, v, _| g * open(g) * v));
            assert_close("gradient of the value", dtype, &to_value, &map(&|g, _, d| d * g * open(g)));
            let of_gate = map(&|g, v, d| d * v * open(g) * (1.0 + g * (1.0 - open(g))));
            assert_close("gradient of the gate", dtype, &to_gate, &of_gate);
        }
    }
}

#[test]
fn gelu_and_its_gradient_equal_plain_loops() {
    let device = device().autodiff();
    let slope = (2.0 / std::f64::consts::PI).sqrt();
    for dtype in kernel_dtypes() {
        for (i, shape) in [[3, 5, 64], [2, 7, 33], [1, 1, 4096]].into_iter().enumerate() {
            let count = shape.iter().product();
            let [x, grad] = [0, 1].map(|j| normals(70 + 10 * i as u64 + j, count, dtype));
            let on_device = |x: &[f64]| tensor(x, shape, dtype, &device);
            let (y, [dx]) = run([on_device(&x)], on_device(&grad), |[x]| gelu(x));

            let tanh = |x: f64| (slope * (x + 0.044715 * x.powi(3))).tanh();
            let inner = |x: f64| slope * (1.0 + 3.0 * 0.044715 * x * x);
            let want: Vec<f64> = x.iter().map(|&x| 0.5 * x * (1.0 + tanh(x))).collect();
            let reverse =
                |(&x, &d): (&f64, &f64)| d * 0.5 * (1.0 + tanh(x) + x * (1.0 - tanh(x).powi(2)) * inner(x));
            assert_close("gelu", dtype, &y, &want);
            assert_close("gradient", dtype, &dx, &x.iter().zip(&grad).map(reverse).collect::<Vec<_>>());
        }
    }
}

#[test]
fn the_rms_norm_and_its_gradients_equal_plain_loops() {
    const EPSILON: f64 = 1e-3;
    let device = device().autodiff();
    for dtype in kernel_dtypes() {
        for (i, (rows, d)) in [(70, 576), (3, 33), (130, 64), (2, 2048)].into_iter().enumerate() {
            let seed = 10 * i as u64;
            let (x, grad) = (normals(seed, rows * d, dtype), normals(seed + 1, rows * d, dtype));
            let weight = normals(seed + 2, d, dtype);
            let mut norm = NormConfig::new(d).with_epsilon(EPSILON).init_rms(&device);
            norm.weight = Param::from_tensor(tensor(&weight, [d], dtype, &device)); // requires a gradient
            let input = tensor(&x, [1, rows, d], dtype, &device).require_grad();
            let y = norm.forward(input.clone());
            let grads = (y.clone() * tensor(&grad, [1, rows, d], dtype, &device)).sum().backward();

            let (mut want, mut dx, mut dw) = (vec![], vec![], vec![0.0; d]);
            for (x, grad) in x.chunks(d).zip(grad.chunks(d)) {
                let mean = x.iter().map(|x| x * x).sum::<f64>() / d as f64;
                let scale = 1.0 / (mean + EPSILON).sqrt();
                let along =
                    (0..d).map(|i| grad[i] * weight[i] * x[i]).sum::<f64>() / d as f64 * scale * scale;
                for i in 0..d {
                    want.push(x[i] * scale * weight[i]);
                    dx.push(scale * (grad[i] * weight[i] - along * x[i]));
                    dw[i] += scale * grad[i] * x[i];
                }
            }
            assert_close("RMS norm", dtype, &values(y), &want);
            let of_x = values(input.grad(&grads).expect("a gradient of x"));
            assert_close("gradient of x", dtype, &of_x, &dx);
            let of_weight = values(norm.weight.val().grad(&grads).expect("a gradient of the weight"));
            assert_close("gradient of the weight", dtype, &of_weight, &dw);
        }
    }
}

/// On GPUs without gradients one operation, with gradients two.
#[test]
fn a_sum_and_its_rms_norm_equal_plain_loops() {
    const EPSILON: f64 = 1e-3;
    for (device, dtype) in kernel_dtypes()
        .into_iter()
        .flat_map(|dtype| [device(), device().autodiff()].map(|device| (device, dtype)))
    {
        for (i, (rows, d)) in [(1, 2048), (3, 33), (70, 576), (2, 1031), (2, 4100)].into_iter().enumerate() {
            let [x, addend] = [0, 1].map(|j| normals(10 * i as u64 + j, rows * d, dtype));
            let weight = normals(10 * i as u64 + 2, d, dtype);
            let mut norm = NormConfig::new(d).with_epsilon(EPSILON).init_rms(&device);
            norm.weight = Param::from_tensor(tensor(&weight, [d], dtype, &device));
            let [left, right] = [&x, &addend].map(|x| tensor(x, [rows, d], dtype, &device));
            let [sum, normed] = norm.forward_sum(left, right);

            let sums: Vec<f64> = x.iter().zip(&addend).map(|(x, addend)| x + addend).collect();
            let rounded = round(sums, dtype);
            assert_close("sum", dtype, &values(sum), &rounded);
            let mut want = vec![];
            for row in rounded.chunks(d) {
                let mean = row.iter().map(|x| x * x).sum::<f64>() / d as f64;
                want.extend(row.iter().zip(&weight).map(|(x, weight)| x * weight / (mean + EPSILON).sqrt()));
            }
            assert_close("norm of the sum", dtype, &values(normed), &want);
        }
    }
}

#[test]
fn the_gated_norm_and_its_gradients_equal_plain_loops() {
    const EPSILON: f64 = 1e-3;
    let device = device().autodiff();
    for dtype in kernel_dtypes() {
        for (i, (rows, d, groups)) in [(70, 512, 8), (3, 66, 2), (130, 96, 1)].into_iter().enumerate() {
            let seed = 10 * i as u64;
            let [value, gate, grad] = [0, 1, 2].map(|j| normals(seed + j, rows * d, dtype));
            let weight = normals(seed + 3, d, dtype);
            let mut norm = NormConfig::new(d).with_epsilon(EPSILON).init_gated(groups, &device);
            norm.weight = Param::from_tensor(tensor(&weight, [d], dtype, &device)); // requires a gradient
            let on_device = |x: &[f64]| tensor(x, [1, rows, d], dtype, &device);
            let inputs = [on_device(&value).require_grad(), on_device(&gate).require_grad()];
            let y = norm.forward(inputs[0].clone(), inputs[1].clone());
            let grads = (y.clone() * on_device(&grad)).sum().backward();

            let (mut want, mut to_value, mut to_gate, mut dw) = (vec![], vec![], vec![], vec![0.0; d]);
            let part = d / groups;
            for first in (0..rows * d).step_by(part) {
                let open: Vec<f64> =
                    (first..first + part).map(|at| 1.0 / (1.0 + (-gate[at]).exp())).collect();
                let x: Vec<f64> = (0..part).map(|i| value[first + i] * gate[first + i] * open[i]).collect();
                let weight = &weight[first % d..][..part];
                let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / part as f64 + EPSILON).sqrt();
                let along: f64 = (0..part).map(|i| grad[first + i] * weight[i] * x[i]).sum();
                for i in 0..part {
                    let (value, gate, grad) = (value[first + i], gate[first + i], grad[first + i]);
                    let dx = scale * (grad * weight[i] - along / part as f64 * scale * scale * x[i]);
                    want.push(x[i] * scale * weight[i]);
                    to_value.push(dx * gate * open[i]);
                    to_gate.push(dx * value * open[i] * (1.0 + gate * (1.0 - open[i])));
                    dw[first % d + i] += scale * grad * x[i];
                }
            }
            assert_close("gated norm", dtype, &values(y), &want);
            let [got_value, got_gate] = inputs.map(|input| values(input.grad(&grads).expect("a gradient")));
            assert_close("gradient of the value", dtype, &got_value, &to_value);
            assert_close("gradient of the gate", dtype, &got_gate, &to_gate);
            let of_weight = values(norm.weight.val().grad(&grads).expect("a gradient of the weight"));
            assert_close("gradient of the weight", dtype, &of_weight, &dw);
        }
    }
}

#[test]
fn the_rotation_and_its_gradient_equal_plain_loops() {
    let device = device().autodiff();
    for dtype in kernel_dtypes() {
        for (b, t, h, d, dim) in [(2, 37, 3, 64, 64), (1, 5, 2, 80, 32), (2, 9, 1, 7, 6)] {
            let config = RotaryConfig::new(dim);
            let positions: Vec<i64> = (0..b * t).map(|i| (i * 37 % 101) as i64).collect();
            let on_device = Tensor::<2, Int>::from_data(TensorData::new(positions.clone(), [b, t]), &device);
            let count = b * t * h * d;
            let (x, grad) = (normals(t as u64, count, dtype), normals(1, count, dtype));
            let tensor = |x: &[f64]| tensor(x, [b, t, h, d], dtype, &device);
            let (y, [dx]) = run([tensor(&x)], tensor(&grad), |[x]| rotate(x, on_device.clone(), &config));

            let turned = |x: &[f64], sign: f64| {
                let mut out = x.to_vec();
                for (at, position) in (0..b * t * h).map(|row| (row * d, positions[row / h])) {
                    for i in 0..dim / 2 {
                        let (sin, cos) = (sign * position as f64 * config.inv_freq()[i]).sin_cos();
                        let (u, v) = (x[at + i], x[at + dim / 2 + i]);
                        out[at + i] = u * cos - v * sin;
                        out[at + dim / 2 + i] = v * cos + u * sin;
                    }
                }
                out
            };
            // Angles are made in f32: 100 radians are off by 8e-6 at most.
            let limit = limit(dtype).max(if dtype == DType::F64 { 0.0 } else { 2e-5 });
            for (got, want) in [(y, turned(&x, 1.0)), (dx, turned(&grad, -1.0))] {
                let error = relative_error(&got, &want, &want);
                assert!(
                    error <= limit,
                    "rotation in {dtype:?}: relative error {error:.1e} above {limit:.0e}"
                );
            }
        }
    }
}

#[test]
fn the_gradient_of_an_embedding_adds_up_every_token_of_a_word() {
    let device = device().autodiff();
    // On the CPU burn rounds every sum to the dtype.
    let exact = |dtype: &DType| backend() != "flex" || matches!(dtype, DType::F32 | DType::F64);
    for dtype in kernel_dtypes().into_iter().filter(exact) {
        // More tokens of one word than a list holds, words that never come, one that comes last.
        let (words, d, b, t) = (7, 150, 2, 1500);
        let tokens: Vec<i64> = (0..b * t)
            .map(|i| {
                if i + 1 == b * t {
                    6
                } else if i % 5 == 0 {
                    2
                } else {
                    4
                }
            })
            .collect();
        let weight = normals(1, words * d, dtype);
        let grad = normals(2, b * t * d, dtype);
        let ids = Tensor::<2, Int>::from_data(TensorData::new(tokens.clone(), [b, t]), &device);
        let leaf = tensor(&weight, [words, d], dtype, &device).require_grad();
        let rows = embed(leaf.clone(), ids);
        let grads = (rows.clone() * tensor(&grad, [b, t, d], dtype, &device)).sum().backward();
        let (mut want, mut to_weight) = (vec![], vec![0.0; words * d]);
        for (token, grad) in tokens.iter().zip(grad.chunks(d)) {
            let first = *token as usize * d;
            want.extend_from_slice(&weight[first..first + d]);
            to_weight[first..first + d].iter_mut().zip(grad).for_each(|(sum, grad)| *sum += grad);
        }
        assert_eq!(values(rows), want);
        let got = values(leaf.grad(&grads).expect("a gradient of the weight"));
        assert_close("gradient of the embedding", dtype, &got, &to_weight);
    }
}

#[test]
fn the_softmax_and_its_gradient_equal_plain_loops() {
    let device = device().autodiff();
    let documents = vec![vec![1, 19, 17], vec![30, 7]];
    for dtype in kernel_dtypes() {
        for (t, s, packed) in [(37, 37, false), (37, 37, true), (5, 300, false), (1, 4, false)] {
            let shape = [2, 3, t, s];
            let count = shape.iter().product();
            let scores: Vec<f64> = normals(t as u64, count, dtype).iter().map(|x| 4.0 * x).collect();
            let grad = normals(s as u64 + 1, count, dtype);
            let segments = packed.then(|| Segments::from_lengths(&documents, &device));
            let on_device = |x: &[f64]| tensor(x, shape, dtype, &device);
            let (p, [dx]) = run([on_device(&scores)], on_device(&grad), |[scores]| {
                causal_softmax(scores, segments.as_ref())
            });

            let (mut want, mut want_dx) = (vec![0.0; count], vec![0.0; count]);
            for row in 0..2 * 3 * t {
                let (batch, token) = (row / (3 * t), row % t);
                let start = if packed { start_of(&documents[batch], token) } else { 0 };
                let seen = row * s + start..row * s + s - t + token + 1;
                let top = scores[seen.clone()].iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = scores[seen.clone()].iter().map(|x| (x - top).exp()).sum();
                for i in seen.clone() {
                    want[i] = (scores[i] - top).exp() / sum;
                }
                let mean: f64 = seen.clone().map(|i| want[i] * grad[i]).sum();
                for i in seen {
                    want_dx[i] = want[i] * (grad[i] - mean);
                }
            }
            assert_close("softmax", dtype, &p, &want);
            assert_close("gradient of the scores", dtype, &dx, &want_dx);
        }
    }
}

/// First token of the document that holds `token`.
fn start_of(lengths: &[usize], token: usize) -> usize {
    let mut start = 0;
    for length in lengths {
        if token < start + length {
            break;
        }
        start += length;
    }
    start
}

#[test]
fn a_long_convolution_and_its_gradients_equal_plain_loops() {
    let device = device().autodiff();
    for dtype in kernel_dtypes() {
        for (b, t, c, k) in [(2, 300, 8, 4), (1, 129, 6, 3)] {
            let [x, grad] = [0, 1].map(|seed| normals(seed, b * t * c, dtype));
            let weight = normals(2, c * k, dtype);
            let bias = normals(3, c, dtype);
            let input = tensor(&x, [b, t, c], dtype, &device).require_grad();
            let taps = tensor(&weight, [c, k], dtype, &device).require_grad();
            let shift = tensor(&bias, [c], dtype, &device).require_grad();
            let (y, _) = causal_conv1d(input.clone(), taps.clone(), Some(shift.clone()), None, None);
            let grads = (y.clone() * tensor(&grad, [b, t, c], dtype, &device)).sum().backward();

            let mut want: Vec<f64> = bias.iter().copied().cycle().take(b * t * c).collect();
            let (mut dx, mut dw, mut db) = (vec![0.0; b * t * c], vec![0.0; c * k], vec![0.0; c]);
            for (row, token, channel) in indices(b, t, c) {
                let at = (row * t + token) * c + channel;
                db[channel] += grad[at];
                for j in (0..k).filter(|j| token + j + 1 >= k) {
                    let from = (row * t + token + j + 1 - k) * c + channel;
                    want[at] += weight[channel * k + j] * x[from];
                    dx[from] += weight[channel * k + j] * grad[at];
                    dw[channel * k + j] += x[from] * grad[at];
                }
            }
            assert_close("convolution", dtype, &values(y), &want);
            let of = |x: Option<Vec<f64>>| x.expect("a gradient");
            assert_close("gradient of x", dtype, &of(input.grad(&grads).map(values)), &dx);
            assert_close("gradient of the weight", dtype, &of(taps.grad(&grads).map(values)), &dw);
            assert_close("gradient of the bias", dtype, &of(shift.grad(&grads).map(values)), &db);
        }
    }
}

fn indices(b: usize, t: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..b * t * c).map(move |i| (i / (t * c), i / c % t, i % c))
}
