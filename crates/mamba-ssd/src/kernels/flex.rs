//! The kernels on Flex tensors: rows of the batch and heads in parallel.

use burn::backend::Flex;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::conv::Conv;
use super::divergence::{Pair, next_token, next_token_backward};
use super::gate;
use super::gelu;
use super::losses::{Distance, LossOps};
use super::ops::{KernelOps, SsdOps};
use super::optimize::{OptimizeOps, adamw_on_slices, squares_of_slice};
use super::real::Real;
use super::rms::Rms;
use super::rotate::{self, RotateOps};
use super::rows::{GroupNorm, RowOps};
use super::scan::{Head, HeadGradients};
use super::simd::{vectorized, vectorized_fused};
use super::softmax::Rows;
use crate::optimize::AdamWRates;

/// Runs `$body` with `$type` bound to the element type of `$tensor`.
macro_rules! with_real {
    ($tensor:expr, $type:ident => $body:expr) => {
        match $tensor.dtype() {
            burn::tensor::DType::F32 => {
                type $type = f32;
                $body
            }
            burn::tensor::DType::F64 => {
                type $type = f64;
                $body
            }
            other => panic!("native kernels compute in f32 or f64, found {other:?}"),
        }
    };
}
pub(super) use with_real;

impl SsdOps for Flex {
    fn ssd_forward(
        x: FloatTensor<Self>,
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        state: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let tensors = Scan::contiguous([&x, &log_a, &b, &c, &state]);
        with_real!(x, R => tensors.forward(tensors.arrays::<R>()))
    }

    fn ssd_backward(
        x: FloatTensor<Self>,
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        state: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        dstate: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let tensors = Scan::contiguous([&x, &log_a, &b, &c, &state]);
        let (dy, dstate) = (dy.to_contiguous(), dstate.to_contiguous());
        with_real!(x, R => tensors.backward(tensors.arrays::<R>(), dy.storage::<R>(), dstate.storage::<R>()))
    }
}

impl KernelOps for Flex {
    fn conv_forward(
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        reach: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let [b, rows, c] = window.layout().shape().dims::<3>();
        let [_, k] = weight.layout().shape().dims::<2>();
        let t = rows + 1 - k;
        let (window, weight, bias) = (window.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let reach = integers(&reach);
        with_real!(window, R => {
            let conv = Conv::<R> { window: window.storage(), weight: weight.storage(), reach: &reach, t, c, k };
            FlexTensor::from_data(TensorData::new(conv.forward(bias.storage()), [b, t, c]))
        })
    }

    fn conv_backward(
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        reach: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [b, rows, c] = window.layout().shape().dims::<3>();
        let [_, k] = weight.layout().shape().dims::<2>();
        let t = rows + 1 - k;
        let (window, weight, grad) = (window.to_contiguous(), weight.to_contiguous(), grad.to_contiguous());
        let reach = integers(&reach);
        with_real!(window, R => {
            let conv = Conv::<R> { window: window.storage(), weight: weight.storage(), reach: &reach, t, c, k };
            let (window, weight, bias) = conv.backward(grad.storage());
            (
                FlexTensor::from_data(TensorData::new(window, [b, rows, c])),
                FlexTensor::from_data(TensorData::new(weight, [c, k])),
                FlexTensor::from_data(TensorData::new(bias, [c])),
            )
        })
    }

    fn gate_forward(gate: FloatTensor<Self>, value: FloatTensor<Self>) -> FloatTensor<Self> {
        let shape = gate.layout().shape().clone();
        let (gate, value) = (gate.to_contiguous(), value.to_contiguous());
        with_real!(gate, R => {
            FlexTensor::from_data(TensorData::new(gate::forward::<R>(gate.storage(), value.storage()), shape))
        })
    }

    fn gate_backward(
        gate: FloatTensor<Self>,
        value: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let shape = gate.layout().shape().clone();
        let (gate, value, grad) = (gate.to_contiguous(), value.to_contiguous(), grad.to_contiguous());
        with_real!(gate, R => {
            let (to_gate, to_value) = gate::backward::<R>(gate.storage(), value.storage(), grad.storage());
            (
                FlexTensor::from_data(TensorData::new(to_gate, shape.clone())),
                FlexTensor::from_data(TensorData::new(to_value, shape)),
            )
        })
    }

    fn tanh_gelu_forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let shape = x.layout().shape().clone();
        let x = x.to_contiguous();
        with_real!(x, R => FlexTensor::from_data(TensorData::new(gelu::forward::<R>(x.storage()), shape)))
    }

    fn tanh_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        let shape = x.layout().shape().clone();
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        with_real!(x, R => {
            FlexTensor::from_data(TensorData::new(gelu::backward::<R>(x.storage(), grad.storage()), shape))
        })
    }
}

pub(super) fn integers(tensor: &FlexTensor) -> Vec<i64> {
    let tensor = tensor.to_contiguous();
    match tensor.dtype() {
        DType::I32 => tensor.storage::<i32>().iter().map(|&value| i64::from(value)).collect(),
        _ => tensor.storage::<i64>().to_vec(),
    }
}

/// The five tensors of a scan, contiguous, and their sizes.
struct Scan {
    tensors: [FlexTensor; 5],
    batch: usize,
    t: usize,
    heads: usize,
    groups: usize,
    p: usize,
    n: usize,
}

impl Scan {
    fn contiguous(tensors: [&FlexTensor; 5]) -> Self {
        let [batch, t, heads, p] = tensors[0].layout().shape().dims::<4>();
        let [.., groups, n] = tensors[2].layout().shape().dims::<4>();
        Self { tensors: tensors.map(FlexTensor::to_contiguous), batch, t, heads, groups, p, n }
    }

    fn arrays<R: burn::tensor::Element + bytemuck::Pod>(&self) -> [&[R]; 5] {
        self.tensors.each_ref().map(|tensor| tensor.storage::<R>())
    }

    fn head<'a, R>(&self, [x, log_a, b, c, _]: [&'a [R]; 5], index: usize) -> Head<'a, R> {
        let (batch, head) = (index / self.heads, index % self.heads);
        let first = batch * self.t * self.heads + head;
        let first_group = batch * self.t * self.groups + head / (self.heads / self.groups);
        let (heads, groups) = (self.heads, self.groups);
        Head { x, log_a, b, c, t: self.t, heads, groups, first, first_group, p: self.p, n: self.n }
    }

    fn per_head<T: Send>(&self, run: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
        (0..self.batch * self.heads).into_par_iter().map(run).collect()
    }

    /// Lays per-head rows `[t width]` out as `[b t h width]`.
    fn interleave<'a, R: Real + 'a>(&self, width: usize, of: impl Fn(usize) -> &'a [R]) -> Vec<R> {
        let mut flat = Vec::with_capacity(self.batch * self.t * self.heads * width);
        for batch in 0..self.batch {
            for t in 0..self.t {
                for head in 0..self.heads {
                    flat.extend_from_slice(&of(batch * self.heads + head)[t * width..][..width]);
                }
            }
        }
        flat
    }

    /// Adds per-head rows `[t n]` of each group up to `[b t g n]`.
    fn add_up_groups<'a, R: Real + 'a>(&self, of: impl Fn(usize) -> &'a [R]) -> Vec<R> {
        let (n, share) = (self.n, self.heads / self.groups);
        let mut flat = vec![R::default(); self.batch * self.t * self.groups * n];
        for (i, row) in flat.chunks_exact_mut(n).enumerate() {
            let (batch, t, group) = (i / self.groups / self.t, i / self.groups % self.t, i % self.groups);
            for head in group * share..(group + 1) * share {
                let from = &of(batch * self.heads + head)[t * n..][..n];
                row.iter_mut().zip(from).for_each(|(to, from)| *to += *from);
            }
        }
        flat
    }

    fn forward<R: Real + burn::tensor::Element>(&self, arrays: [&[R]; 5]) -> (FlexTensor, FlexTensor) {
        let size = self.p * self.n;
        let outputs = self.per_head(|index| {
            let mut state = arrays[4][index * size..][..size].to_vec();
            let mut y = vec![R::default(); self.t * self.p];
            vectorized_fused(
                #[inline(always)]
                |fused| match fused {
                    true => self.head(arrays, index).forward::<true>(&mut state, &mut y),
                    false => self.head(arrays, index).forward::<false>(&mut state, &mut y),
                },
            );
            (y, state)
        });
        let y = self.interleave(self.p, |index| &outputs[index].0);
        let state = outputs.iter().flat_map(|(_, state)| state.iter().copied()).collect();
        (self.tensor(y, [self.heads, self.p]), self.state(state))
    }

    fn backward<R: Real + burn::tensor::Element>(
        &self,
        arrays: [&[R]; 5],
        dy: &[R],
        dstate: &[R],
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        let size = self.p * self.n;
        let heads: Vec<(HeadGradients<R>, Vec<R>)> = self.per_head(|index| {
            let mut carried = dstate[index * size..][..size].to_vec();
            let initial = &arrays[4][index * size..][..size];
            let gradients = vectorized(
                #[inline(always)]
                || self.head(arrays, index).backward(initial, dy, &mut carried),
            );
            (gradients, carried)
        });
        let log_a = self.interleave(1, |index| &heads[index].0.log_a);
        let state = heads.iter().flat_map(|(_, carried)| carried.iter().copied()).collect();
        let shared = [self.groups, self.n];
        (
            self.tensor(self.interleave(self.p, |index| &heads[index].0.x), [self.heads, self.p]),
            FlexTensor::from_data(TensorData::new(log_a, [self.batch, self.t, self.heads])),
            self.tensor(self.add_up_groups(|index| &heads[index].0.b), shared),
            self.tensor(self.add_up_groups(|index| &heads[index].0.c), shared),
            self.state(state),
        )
    }

    fn tensor<R: burn::tensor::Element>(&self, flat: Vec<R>, [heads, width]: [usize; 2]) -> FlexTensor {
        FlexTensor::from_data(TensorData::new(flat, [self.batch, self.t, heads, width]))
    }

    fn state<R: burn::tensor::Element>(&self, flat: Vec<R>) -> FlexTensor {
        FlexTensor::from_data(TensorData::new(flat, [self.batch, self.heads, self.p, self.n]))
    }
}

impl RowOps for Flex {
    fn softmax_forward(scores: FloatTensor<Self>, first: IntTensor<Self>) -> FloatTensor<Self> {
        let shape = scores.layout().shape().clone();
        let [_, heads, t, s] = shape.dims::<4>();
        let (scores, first) = (scores.to_contiguous(), integers(&first));
        let rows = Rows { first: &first, heads, t, s };
        with_real!(scores, R => {
            FlexTensor::from_data(TensorData::new(rows.forward::<R>(scores.storage()), shape))
        })
    }

    fn softmax_backward(probabilities: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        let shape = grad.layout().shape().clone();
        let [.., s] = shape.dims::<4>();
        let (p, grad) = (probabilities.to_contiguous(), grad.to_contiguous());
        with_real!(p, R => {
            FlexTensor::from_data(TensorData::new(Rows::backward::<R>(p.storage(), grad.storage(), s), shape))
        })
    }

    fn rms_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let shape = x.layout().shape().clone();
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        with_real!(x, R => {
            let rms = Rms::<R> { weight: weight.storage(), groups: 1, epsilon };
            FlexTensor::from_data(TensorData::new(rms.forward(x.storage()), shape))
        })
    }

    fn rms_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let shape = x.layout().shape().clone();
        let of_weight = weight.layout().shape().clone();
        let (x, weight, grad) = (x.to_contiguous(), weight.to_contiguous(), grad.to_contiguous());
        with_real!(x, R => {
            let rms = Rms::<R> { weight: weight.storage(), groups: 1, epsilon };
            let (dx, dw) = rms.backward(x.storage(), grad.storage());
            (
                FlexTensor::from_data(TensorData::new(dx, shape)),
                FlexTensor::from_data(TensorData::new(dw, of_weight)),
            )
        })
    }

    fn gated_norm_forward(
        value: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        norm: GroupNorm,
    ) -> FloatTensor<Self> {
        let shape = value.layout().shape().clone();
        let [value, gate, weight] = [value, gate, weight].map(|tensor| tensor.to_contiguous());
        with_real!(value, R => {
            let GroupNorm { groups, epsilon } = norm;
            let gated = gate::forward::<R>(gate.storage(), value.storage());
            let rms = Rms { weight: weight.storage(), groups, epsilon };
            FlexTensor::from_data(TensorData::new(rms.forward(&gated), shape))
        })
    }

    fn gated_norm_backward(
        value: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        norm: GroupNorm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [shape, of_weight] = [&value, &weight].map(|tensor| tensor.layout().shape().clone());
        let [value, gate, weight, grad] = [value, gate, weight, grad].map(|tensor| tensor.to_contiguous());
        with_real!(value, R => {
            let GroupNorm { groups, epsilon } = norm;
            let gated = gate::forward::<R>(gate.storage(), value.storage());
            let rms = Rms { weight: weight.storage(), groups, epsilon };
            let (to_gated, to_weight) = rms.backward(&gated, grad.storage());
            let (to_gate, to_value) = gate::backward(gate.storage(), value.storage(), &to_gated);
            (
                FlexTensor::from_data(TensorData::new(to_value, shape.clone())),
                FlexTensor::from_data(TensorData::new(to_gate, shape)),
                FlexTensor::from_data(TensorData::new(to_weight, of_weight)),
            )
        })
    }
}

impl LossOps for Flex {
    fn divergence_forward(
        student: FloatTensor<Self>,
        teacher: FloatTensor<Self>,
        distance: Distance,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [_, v] = student.layout().shape().dims::<2>();
        let (student, teacher) = (student.to_contiguous(), teacher.to_contiguous());
        with_real!(student, R => {
            let pair = Pair::<R> { student: student.storage(), teacher: teacher.storage(), v, distance };
            let (losses, sums) = pair.forward();
            (row(losses), row(sums))
        })
    }

    fn divergence_backward(
        student: FloatTensor<Self>,
        teacher: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        distance: Distance,
    ) -> FloatTensor<Self> {
        let shape = student.layout().shape().clone();
        let [_, v] = shape.dims::<2>();
        let [student, teacher, sums, grad] =
            [student, teacher, sums, grad].map(|tensor| tensor.to_contiguous());
        with_real!(student, R => {
            let pair = Pair::<R> { student: student.storage(), teacher: teacher.storage(), v, distance };
            FlexTensor::from_data(TensorData::new(pair.backward(sums.storage(), grad.storage()), shape))
        })
    }

    fn next_token_forward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (logits, targets) = (logits.to_contiguous(), integers(&targets));
        with_real!(logits, R => {
            let (losses, sums) = next_token::<R>(logits.storage(), &targets);
            (row(losses), row(sums))
        })
    }

    fn next_token_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        sums: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let shape = logits.layout().shape().clone();
        let targets = integers(&targets);
        let [logits, sums, grad] = [logits, sums, grad].map(|tensor| tensor.to_contiguous());
        with_real!(logits, R => {
            let gradient =
                next_token_backward::<R>(logits.storage(), &targets, sums.storage(), grad.storage());
            FlexTensor::from_data(TensorData::new(gradient, shape))
        })
    }
}

impl RotateOps for Flex {
    fn rotate(
        x: FloatTensor<Self>,
        positions: IntTensor<Self>,
        frequencies: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let shape = x.layout().shape().clone();
        let [_, _, heads, d] = shape.dims::<4>();
        let (x, positions, frequencies) =
            (x.to_contiguous(), integers(&positions), frequencies.to_contiguous());
        with_real!(x, R => {
            let turned =
                rotate::on_slices::<R>(x.storage(), &positions, frequencies.storage(), [heads, d]);
            FlexTensor::from_data(TensorData::new(turned, shape))
        })
    }
}

impl OptimizeOps for Flex {
    fn adamw(
        value: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        _master: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        rates: AdamWRates,
        _separate: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [value, gradient, scale, first, second] =
            [value, gradient, scale, first, second].map(|tensor| tensor.to_contiguous());
        with_real!(value, R => {
            let moments = [first.storage::<R>(), second.storage::<R>()];
            let [value, first, second] =
                adamw_on_slices(value.storage::<R>(), gradient.storage::<R>(), scale.storage::<R>()[0], moments, &rates)
                    .map(row);
            (value.clone(), value, first, second)
        })
    }

    fn squares(parts: FloatTensor<Self>, tensor: FloatTensor<Self>, offset: usize) -> FloatTensor<Self> {
        let (parts, tensor) = (parts.to_contiguous(), tensor.to_contiguous());
        with_real!(tensor, R => {
            let mut all = parts.storage::<R>().to_vec();
            let sums = squares_of_slice(tensor.storage::<R>());
            all[offset..offset + sums.len()].copy_from_slice(&sums);
            row(all)
        })
    }
}

fn row<R: burn::tensor::Element>(values: Vec<R>) -> FlexTensor {
    let count = values.len();
    FlexTensor::from_data(TensorData::new(values, [count]))
}
