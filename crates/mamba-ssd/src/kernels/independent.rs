//! Decoding on the CPU, row by row of the batch: each row's numbers are those it has alone, bit for bit.
//!
//! A general product of matrices chooses its order of summation by the sizes of both, so that a row of a batch of
//! three is not what it is alone. Here a sum runs in one order, whatever else is computed beside it: over the
//! depth of a weight `[k n]`, in lanes along the rows of a weight `[n k]`, and from a row's first token on.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, DispatchDevice, Flex, backend_extension};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::flex::integers;
use super::real::{Real, add_scaled, dot};
use super::softmax::softmax;
use crate::KvCache;

/// Columns of a weight that are computed side by side.
const COLUMNS: usize = 64;

/// Operations on one token a row, on Flex.
#[backend_extension(Flex: cfg(feature = "flex"))]
pub trait TokenOps: Backend {
    /// `x [m k]` times `weight`, `[k n]` or, `transposed`, `[n k]`.
    fn product_by_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        transposed: bool,
    ) -> FloatTensor<Self>;

    /// `softmax(q kᵀ) v` of one token, `q [b h 1 d]`, `k` and `v [b kv s d]`, `first [b 1]`.
    fn attention_by_rows(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: IntTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// Whether these kernels exist for `device` and `dtype`. They have no gradients.
pub(crate) fn rows_are_independent(device: &Device, dtype: DType) -> bool {
    let flex = match device.as_dispatch() {
        DispatchDevice::Flex(_) => true,
        #[allow(unreachable_patterns)] // other backends that a program may compile in
        _ => false,
    };
    flex && !device.is_autodiff() && matches!(dtype, DType::F32 | DType::F64)
}

/// `x [m k]` times a weight `[k n]` or, `transposed`, `[n k]`, where these kernels exist.
pub(crate) fn product_by_rows(x: Tensor<2>, weight: Tensor<2>, transposed: bool) -> Option<Tensor<2>> {
    let fits = x.dtype() == weight.dtype() && rows_are_independent(&x.device(), x.dtype());
    fits.then(|| {
        let product = Dispatch::product_by_rows(x.into_dispatch(), weight.into_dispatch(), transposed);
        Tensor::from_dispatch(product)
    })
}

/// Attention of one token a row, `q [b h 1 d]` and so the result, over a cache that holds the token.
pub(crate) fn attend_by_rows(q: Tensor<4>, cache: &KvCache, first: Option<Tensor<2, Int>>) -> Tensor<4> {
    let first = first.unwrap_or_else(|| Tensor::zeros([q.dims()[0], 1], &q.device()));
    let [k, v] = [&cache.k, &cache.v].map(|cached| cached.clone().into_dispatch());
    Tensor::from_dispatch(Dispatch::attention_by_rows(q.into_dispatch(), k, v, first.into_dispatch()))
}

impl TokenOps for Flex {
    fn product_by_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        transposed: bool,
    ) -> FloatTensor<Self> {
        match x.dtype() {
            DType::F64 => product::<f64>(&x, &weight, transposed),
            _ => product::<f32>(&x, &weight, transposed),
        }
    }

    fn attention_by_rows(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let first = integers(&first);
        match q.dtype() {
            DType::F64 => attention::<f64>(&q, [&k, &v], &first),
            _ => attention::<f32>(&q, [&k, &v], &first),
        }
    }
}

fn product<R: Real + burn::tensor::Element + bytemuck::Pod>(
    x: &FlexTensor,
    weight: &FlexTensor,
    transposed: bool,
) -> FlexTensor {
    let [m, k] = x.layout().shape().dims();
    let shape: [usize; 2] = weight.layout().shape().dims();
    let n = shape[usize::from(!transposed)];
    let turned = weight.transpose(0, 1);
    let (weight, transposed) = match !weight.is_contiguous() && turned.is_contiguous() {
        true => (turned, !transposed), // a view of a weight that is stored the other way round
        false => (weight.to_contiguous(), transposed),
    };
    let x = x.to_contiguous();
    let (x, weight) = (x.storage::<R>(), weight.storage::<R>());
    let blocks = (0..n.div_ceil(COLUMNS)).into_par_iter().map(|block| {
        let first = block * COLUMNS;
        let columns = COLUMNS.min(n - first);
        let mut out = vec![R::default(); m * columns];
        pulp::Arch::new().dispatch(|| match transposed {
            true => along_rows(x, &weight[first * k..(first + columns) * k], k, &mut out),
            false => over_depth(x, weight, [k, n, first, columns], &mut out),
        });
        out
    });
    let blocks: Vec<Vec<R>> = blocks.collect();
    let mut out = Vec::with_capacity(m * n);
    for row in 0..m {
        for block in &blocks {
            let columns = block.len() / m;
            out.extend_from_slice(&block[row * columns..(row + 1) * columns]);
        }
    }
    FlexTensor::from_data(TensorData::new(out, [m, n]))
}

/// Columns of `x` times some rows of a weight `[n k]`: `out [m columns]`.
#[inline(always)]
fn along_rows<R: Real>(x: &[R], weight: &[R], k: usize, out: &mut [R]) {
    let columns = weight.len() / k;
    for (column, weight) in weight.chunks_exact(k).enumerate() {
        for (row, x) in x.chunks_exact(k).enumerate() {
            out[row * columns + column] = dot(x, weight);
        }
    }
}

/// `x` times some columns of a weight `[k n]`: `out [m columns]`.
#[inline(always)]
fn over_depth<R: Real>(x: &[R], weight: &[R], [k, n, first, columns]: [usize; 4], out: &mut [R]) {
    for (x, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(columns)) {
        let mut sums = [R::default(); COLUMNS];
        for (x, row) in x.iter().zip(weight.chunks_exact(n)) {
            let row = &row[first..first + columns];
            match row.as_array::<COLUMNS>() {
                Some(row) => sums.iter_mut().zip(row).for_each(|(sum, w)| *sum += *x * *w),
                None => add_scaled(&mut sums[..columns], *x, row),
            }
        }
        out.copy_from_slice(&sums[..columns]);
    }
}

fn attention<R: Real + burn::tensor::Element + bytemuck::Pod>(
    q: &FlexTensor,
    cached: [&FlexTensor; 2],
    first: &[i64],
) -> FlexTensor {
    let [b, h, _, d] = q.layout().shape().dims();
    let [_, kv, s, _] = cached[0].layout().shape().dims();
    let [q, k, v] = [q, cached[0], cached[1]].map(FlexTensor::to_contiguous);
    let (q, k, v) = (q.storage::<R>(), k.storage::<R>(), v.storage::<R>());
    let mut out = vec![R::default(); b * h * d];
    out.par_chunks_mut(d).zip(q.par_chunks(d)).enumerate().for_each(|(index, (out, q))| {
        let (row, head) = (index / h, index % h);
        let start = (row * kv + head / (h / kv)) * s;
        let visible = (start + first[row] as usize) * d..(start + s) * d;
        pulp::Arch::new().dispatch(|| attend(q, &k[visible.clone()], &v[visible.clone()], out));
    });
    FlexTensor::from_data(TensorData::new(out, [b, h, 1, d]))
}

/// One query over the keys and values that it sees, `[s d]`.
#[inline(always)]
fn attend<R: Real>(q: &[R], k: &[R], v: &[R], out: &mut [R]) {
    let scores: Vec<R> = k.chunks_exact(q.len()).map(|k| dot(q, k)).collect();
    let mut probabilities = vec![R::default(); scores.len()];
    softmax(&scores, &mut probabilities);
    for (probability, v) in probabilities.into_iter().zip(v.chunks_exact(q.len())) {
        add_scaled(out, probability, v);
    }
}
