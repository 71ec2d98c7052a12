//! The kernels on Flex tensors: rows of the batch and heads in parallel.

use burn::backend::Flex;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::conv::Conv;
use super::gate;
use super::ops::KernelOps;
use super::real::Real;
use super::scan::{Head, HeadGradients};

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

impl KernelOps for Flex {
    fn ssd_forward(
        x: FloatTensor<Self>,
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        state: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let tensors = Scan::contiguous([&x, &log_a, &b, &c, &state]);
        with_real!(x, R => {
            let flat = tensors.forward(tensors.arrays::<R>());
            let length = flat.len();
            FlexTensor::from_data(TensorData::new(flat, [length]))
        })
    }

    fn ssd_backward(
        x: FloatTensor<Self>,
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        state: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let tensors = Scan::contiguous([&x, &log_a, &b, &c, &state]);
        let grad = grad.to_contiguous();
        with_real!(x, R => tensors.backward(tensors.arrays::<R>(), grad.storage::<R>()))
    }

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
    p: usize,
    n: usize,
}

impl Scan {
    fn contiguous(tensors: [&FlexTensor; 5]) -> Self {
        let [batch, t, heads, p] = tensors[0].layout().shape().dims::<4>();
        let [.., n] = tensors[2].layout().shape().dims::<4>();
        Self { tensors: tensors.map(FlexTensor::to_contiguous), batch, t, heads, p, n }
    }

    fn arrays<R: burn::tensor::Element + bytemuck::Pod>(&self) -> [&[R]; 5] {
        self.tensors.each_ref().map(|tensor| tensor.storage::<R>())
    }

    fn head<'a, R>(&self, [x, log_a, b, c, _]: [&'a [R]; 5], index: usize) -> Head<'a, R> {
        let (batch, head) = (index / self.heads, index % self.heads);
        let first = batch * self.t * self.heads + head;
        Head { x, log_a, b, c, t: self.t, heads: self.heads, first, p: self.p, n: self.n }
    }

    fn per_head<T: Send>(&self, run: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
        (0..self.batch * self.heads).into_par_iter().map(run).collect()
    }

    /// Lays per-head rows `[t width]` out as `[b t h width]`, at the end of `to`.
    fn interleave<'a, R: Real + 'a>(&self, to: &mut Vec<R>, width: usize, of: impl Fn(usize) -> &'a [R]) {
        for batch in 0..self.batch {
            for t in 0..self.t {
                for head in 0..self.heads {
                    to.extend_from_slice(&of(batch * self.heads + head)[t * width..][..width]);
                }
            }
        }
    }

    fn forward<R: Real>(&self, arrays: [&[R]; 5]) -> Vec<R> {
        let size = self.p * self.n;
        let outputs = self.per_head(|index| {
            let mut state = arrays[4][index * size..][..size].to_vec();
            let mut y = vec![R::default(); self.t * self.p];
            pulp::Arch::new().dispatch(|| self.head(arrays, index).forward(&mut state, &mut y));
            (y, state)
        });
        let mut flat = Vec::with_capacity(arrays[0].len() + arrays[4].len());
        self.interleave(&mut flat, self.p, |index| &outputs[index].0);
        outputs.iter().for_each(|(_, state)| flat.extend_from_slice(state));
        flat
    }

    fn backward<R: Real + burn::tensor::Element>(
        &self,
        arrays: [&[R]; 5],
        grad: &[R],
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        let size = self.p * self.n;
        let (dy, dstate) = grad.split_at(arrays[0].len());
        let heads: Vec<(HeadGradients<R>, Vec<R>)> = self.per_head(|index| {
            let mut carried = dstate[index * size..][..size].to_vec();
            let initial = &arrays[4][index * size..][..size];
            let gradients =
                pulp::Arch::new().dispatch(|| self.head(arrays, index).backward(initial, dy, &mut carried));
            (gradients, carried)
        });
        let gather = |width: usize, of: fn(&HeadGradients<R>) -> &[R]| {
            let mut flat = Vec::with_capacity(self.batch * self.t * self.heads * width);
            self.interleave(&mut flat, width, |index| of(&heads[index].0));
            flat
        };
        let (b, t, h) = (self.batch, self.t, self.heads);
        let tensor = |flat: Vec<R>, width| FlexTensor::from_data(TensorData::new(flat, [b, t, h, width]));
        let log_a = gather(1, |head| &head.log_a);
        let state: Vec<R> = heads.iter().flat_map(|(_, carried)| carried.iter().copied()).collect();
        (
            tensor(gather(self.p, |head| &head.x), self.p),
            FlexTensor::from_data(TensorData::new(log_a, [b, t, h])),
            tensor(gather(self.n, |head| &head.b), self.n),
            tensor(gather(self.n, |head| &head.c), self.n),
            FlexTensor::from_data(TensorData::new(state, [b, h, self.p, self.n])),
        )
    }
}
