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
use super::real::{LANES, Real, add_product, add_scaled, dot, total};
use super::softmax::softmax;
use crate::KvCache;

/// Columns of a weight that one task computes, and that are summed side by side for one row.
const COLUMNS: usize = 64;
/// Rows that share what is read of a weight.
const ROWS: usize = 4;
/// Columns that are summed side by side for so many rows: as many as stay in registers.
const NARROW: usize = 16;

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

/// `x` times some rows of a weight `[n k]`: `out [m columns]`.
#[inline(always)]
fn along_rows<R: Real>(x: &[R], weight: &[R], k: usize, out: &mut [R]) {
    let columns = weight.len() / k;
    for (column, weight) in weight.chunks_exact(k).enumerate() {
        let (groups, rest) = x.split_at(x.len() / (ROWS * k) * ROWS * k);
        for (group, x) in groups.chunks_exact(ROWS * k).enumerate() {
            let sums = dots(x, weight);
            sums.iter()
                .enumerate()
                .for_each(|(row, sum)| out[(group * ROWS + row) * columns + column] = *sum);
        }
        for (row, x) in rest.chunks_exact(k).enumerate() {
            out[(groups.len() / k + row) * columns + column] = dot(x, weight);
        }
    }
}

/// [`dot`] of each of four rows with one. Their sums are variables of their own, so that they stay in registers.
#[inline(always)]
fn dots<R: Real>(x: &[R], w: &[R]) -> [R; ROWS] {
    let k = w.len();
    let [mut s0, mut s1, mut s2, mut s3] = [[R::default(); LANES]; ROWS];
    let [x0, x1, x2, x3] = [0, 1, 2, 3].map(|row| x[row * k..(row + 1) * k].as_chunks::<LANES>());
    let (blocks, tail) = w.as_chunks::<LANES>();
    for ((((w, x0), x1), x2), x3) in blocks.iter().zip(x0.0).zip(x1.0).zip(x2.0).zip(x3.0) {
        for i in 0..LANES {
            s0[i] += x0[i] * w[i];
            s1[i] += x1[i] * w[i];
            s2[i] += x2[i] * w[i];
            s3[i] += x3[i] * w[i];
        }
    }
    let mut lanes = [s0, s1, s2, s3];
    for (lanes, (_, x)) in lanes.iter_mut().zip([x0, x1, x2, x3]) {
        add_product(&mut lanes[..tail.len()], x, tail);
    }
    lanes.map(total)
}

/// `x` times some columns of a weight `[k n]`: `out [m columns]`. Each number is a sum over the depth, in order.
#[inline(always)]
fn over_depth<R: Real>(x: &[R], weight: &[R], [k, n, first, columns]: [usize; 4], out: &mut [R]) {
    let lines = || weight.chunks_exact(n).map(|line| &line[first..first + columns]);
    let groups = x.len() / (ROWS * k) * ROWS;
    let (grouped, rest) = x.split_at(groups * k);
    let (to_groups, to_rest) = out.split_at_mut(groups * columns);
    let whole = if groups > 0 { columns / NARROW } else { 0 };
    for strip in 0..whole {
        let start = strip * NARROW;
        let mut packed = vec![[R::default(); NARROW]; k];
        for (packed, line) in packed.iter_mut().zip(lines()) {
            packed.copy_from_slice(&line[start..start + NARROW]);
        }
        for (x, out) in grouped.chunks_exact(ROWS * k).zip(to_groups.chunks_exact_mut(ROWS * columns)) {
            let sums = four_rows(x, &packed);
            for (sums, out) in sums.iter().zip(out.chunks_exact_mut(columns)) {
                out[start..start + NARROW].copy_from_slice(sums);
            }
        }
    }
    let start = whole * NARROW;
    for (x, out) in grouped.chunks_exact(k).zip(to_groups.chunks_exact_mut(columns)) {
        one_row(x, lines().map(|line| &line[start..]), &mut out[start..]);
    }
    for (x, out) in rest.chunks_exact(k).zip(to_rest.chunks_exact_mut(columns)) {
        one_row(x, lines(), out);
    }
}

/// One row times lines of a weight, at most [`COLUMNS`] wide.
#[inline(always)]
fn one_row<'a, R: Real + 'a>(x: &[R], lines: impl Iterator<Item = &'a [R]>, out: &mut [R]) {
    let mut sums = [R::default(); COLUMNS];
    for (x, line) in x.iter().zip(lines) {
        match line.as_array::<COLUMNS>() {
            Some(line) => add_scaled(&mut sums, *x, line),
            None => add_scaled(&mut sums[..line.len()], *x, line),
        }
    }
    out.copy_from_slice(&sums[..out.len()]);
}

/// Four rows times a packed strip of a weight, `[k NARROW]`.
#[inline(always)]
fn four_rows<R: Real>(x: &[R], lines: &[[R; NARROW]]) -> [[R; NARROW]; ROWS] {
    let k = x.len() / ROWS;
    let [x0, x1, x2, x3] = [0, 1, 2, 3].map(|row| &x[row * k..(row + 1) * k]);
    let [mut s0, mut s1, mut s2, mut s3] = [[R::default(); NARROW]; ROWS];
    for ((((line, x0), x1), x2), x3) in lines.iter().zip(x0).zip(x1).zip(x2).zip(x3) {
        for i in 0..NARROW {
            s0[i] += *x0 * line[i];
            s1[i] += *x1 * line[i];
            s2[i] += *x2 * line[i];
            s3[i] += *x3 * line[i];
        }
    }
    [s0, s1, s2, s3]
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
