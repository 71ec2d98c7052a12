//! Decoding on the CPU, row by row of the batch: each row's numbers are those it has alone, bit for bit.
//!
//! A general product of matrices chooses its order of summation by the sizes of both, so that a row of a batch of
//! three is not what it is alone. Here a sum runs in one order, whatever else is computed beside it.

pub(super) mod cache;
mod mixer;
mod product;
mod sequence;
mod stored;

use burn::backend::tensor::{FloatTensor, IntTensor, QuantizedTensor};
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::quantization::QuantScheme;
use burn::tensor::{DType, Device, Element, Int, Tensor, TensorData};
use burn_flex::FlexTensor;
use bytemuck::Pod;
use half::bf16;

use super::flex::integers;
use super::real::{Real, add_scaled, dot};
use super::simd::{each_part, shares, vectorized};
use super::softmax::softmax;
use crate::KvCache;
use cache::Heads;
use product::Product;
pub use sequence::SequenceOps;
use stored::{AlongBlocks, Number, Plain, runs_down};
pub(crate) use stored::{int8, is_int8};

/// Numbers of a cache that are worth a thread.
const WORTH: usize = 1 << 16;

/// Operations on one token a row, and on weights that are stored narrower than they are computed with, on Flex.
#[backend_extension(Flex: cfg(feature = "flex"))]
pub trait TokenOps: Backend {
    /// `x [m k]` times `weight`, `[k n]` or, `transposed`, `[n k]`, in the dtype of x.
    fn product_by_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        transposed: bool,
    ) -> FloatTensor<Self>;

    /// `x [m k]` times a weight in [`int8`], whose blocks are of the depth k.
    fn product_by_rows_in_int8(x: FloatTensor<Self>, weight: QuantizedTensor<Self>) -> FloatTensor<Self>;

    /// A matrix in [`int8`], which lies in memory along its blocks.
    fn into_int8(weight: FloatTensor<Self>, scheme: QuantScheme) -> QuantizedTensor<Self>;

    /// A matrix in [`int8`] as f32.
    fn from_int8(weight: QuantizedTensor<Self>) -> FloatTensor<Self>;

    /// A matrix in bf16 as f32.
    fn from_bf16(weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Rows `tokens [t]` of a matrix `[v d]` in [`int8`], in blocks of rows, as f32, `[t d]`.
    fn rows_of_int8(weight: QuantizedTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self>;

    /// `x σ(x)`, in place where nothing else holds x.
    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `softmax(q kᵀ) v` of one token, `q [b h 1 d]`, `k` and `v` `[b kv s d]`, `first [b 1]`.
    fn attention_by_rows(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: IntTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// Whether these kernels exist for `device` and what is computed in `dtype`. They have no gradients.
pub(crate) fn rows_are_independent(device: &Device, dtype: DType) -> bool {
    crate::computes_on_host(device) && !device.is_autodiff() && matches!(dtype, DType::F32 | DType::F64)
}

/// `x [m k]` times a weight `[k n]` or, `transposed`, `[n k]`; or both as they were where these kernels do not exist.
#[allow(clippy::result_large_err, reason = "the operands as they were")]
pub(crate) fn product_by_rows(
    x: Tensor<2>,
    weight: Tensor<2>,
    transposed: bool,
) -> Result<Tensor<2>, (Tensor<2>, Tensor<2>)> {
    let (dtype, stored) = (x.dtype(), weight.dtype());
    if !rows_are_independent(&x.device(), dtype) {
        return Err((x, weight));
    }
    let in_int8 = dtype == DType::F32 && is_int8(stored) && runs_down(stored) != transposed;
    let in_halves = dtype == DType::F32 && stored == DType::BF16;
    if !in_int8 && !in_halves && stored != dtype {
        return Err((x, weight));
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Ok(Tensor::from_dispatch(match in_int8 {
        true => Dispatch::product_by_rows_in_int8(x, weight),
        false => Dispatch::product_by_rows(x, weight, transposed),
    }))
}

/// A matrix with an 8-bit integer for each number and an f32 for each of its blocks, rows and columns of them.
pub(crate) fn into_int8(weight: Tensor<2>, block: [u8; 2]) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::into_int8(weight.into_dispatch(), int8(block)))
}

/// Whether a matrix on the CPU is stored in fewer bytes than f32.
pub(crate) fn is_stored(weight: &Tensor<2>) -> bool {
    let dtype = weight.dtype();
    (dtype == DType::BF16 || is_int8(dtype)) && rows_are_independent(&weight.device(), DType::F32)
}

/// A matrix of which [`is_stored`] as f32.
pub(crate) fn widened(weight: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(match weight.dtype() {
        DType::BF16 => Dispatch::from_bf16(weight.into_dispatch()),
        _ => Dispatch::from_int8(weight.into_dispatch()),
    })
}

/// Rows `tokens [b t]` of a matrix of [`into_int8`], `[v d]`, as f32.
pub(crate) fn rows_of_int8(weight: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3> {
    let ([b, t], [_, d]) = (tokens.dims(), weight.dims());
    let tokens: Tensor<1, Int> = tokens.reshape([b * t]);
    let rows = Dispatch::rows_of_int8(weight.into_dispatch(), tokens.into_dispatch());
    Tensor::<2>::from_dispatch(rows).reshape([b, t, d])
}

/// `x σ(x)`.
pub(crate) fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::silu(x.into_dispatch()))
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
        let (weight, turned) = as_it_lies(&weight);
        match (x.dtype(), weight.dtype()) {
            (DType::F64, _) => product::<f64, f64>(&x, &weight, transposed != turned),
            (_, DType::BF16) => product::<f32, bf16>(&x, &weight, transposed != turned),
            _ => product::<f32, f32>(&x, &weight, transposed != turned),
        }
    }

    fn product_by_rows_in_int8(x: FloatTensor<Self>, weight: QuantizedTensor<Self>) -> FloatTensor<Self> {
        let x = x.to_contiguous();
        let [m, _]: [usize; 2] = x.layout().shape().dims();
        let weight = AlongBlocks::of(&weight);
        let [n, k] = weight.shape();
        let product = Product { x: x.storage(), k, n }.by_columns(weight.matrix());
        FlexTensor::from_data(TensorData::new(product, [m, n]))
    }

    fn into_int8(weight: FloatTensor<Self>, scheme: QuantScheme) -> QuantizedTensor<Self> {
        stored::quantize(&weight, &scheme)
    }

    fn from_int8(weight: QuantizedTensor<Self>) -> FloatTensor<Self> {
        let weight = AlongBlocks::of(&weight);
        let shape = weight.shape();
        let numbers = stored::expand::<f32, _>(weight.matrix(), shape);
        turn(FlexTensor::from_data(TensorData::new(numbers, shape)), weight.turned)
    }

    fn from_bf16(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (weight, turned) = as_it_lies(&weight);
        let shape: [usize; 2] = weight.layout().shape().dims();
        let halves = Plain { numbers: weight.storage::<bf16>(), width: shape[1] };
        let numbers = stored::expand::<f32, _>(halves, shape);
        turn(FlexTensor::from_data(TensorData::new(numbers, shape)), turned)
    }

    fn rows_of_int8(weight: QuantizedTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        let weight = AlongBlocks::of(&weight);
        assert!(!weight.turned, "an embedding in blocks of columns");
        let ([_, d], tokens) = (weight.shape(), integers(&tokens));
        let mut rows = vec![0.0f32; tokens.len() * d];
        for (row, token) in rows.chunks_exact_mut(d).zip(&tokens) {
            stored::read(weight.matrix(), *token as usize, row);
        }
        FlexTensor::from_data(TensorData::new(rows, [tokens.len(), d]))
    }

    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match x.dtype() {
            DType::F64 => silu_of::<f64>(mixer::owned(x)),
            _ => silu_of::<f32>(mixer::owned(x)),
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

/// A matrix as its numbers lie in memory, and whether that is the matrix turned.
fn as_it_lies(weight: &FlexTensor) -> (FlexTensor, bool) {
    let turned = weight.transpose(0, 1);
    match !weight.is_contiguous() && turned.is_contiguous() {
        true => (turned.to_contiguous(), true),
        false => (weight.to_contiguous(), false),
    }
}

fn turn(matrix: FlexTensor, turned: bool) -> FlexTensor {
    if turned { matrix.transpose(0, 1) } else { matrix }
}

fn product<R: Real + Element + Pod, T: Number<R> + Element + Pod>(
    x: &FlexTensor,
    weight: &FlexTensor,
    by_columns: bool,
) -> FlexTensor {
    let x = x.to_contiguous();
    let ([m, k], [height, width]): ([usize; 2], [usize; 2]) =
        (x.layout().shape().dims(), weight.layout().shape().dims());
    let n = if by_columns { height } else { width };
    let (product, weight) =
        (Product { x: x.storage(), k, n }, Plain { numbers: weight.storage::<T>(), width });
    let numbers: Vec<R> = if by_columns { product.by_columns(weight) } else { product.by_depth(weight) };
    FlexTensor::from_data(TensorData::new(numbers, [m, n]))
}

fn silu_of<R: Real + Element + Pod>(mut x: FlexTensor) -> FlexTensor {
    each_part(x.storage_mut::<R>().chunks_mut(WORTH / 4), |x| {
        vectorized(
            #[inline(always)]
            || x.iter_mut().for_each(|x| *x *= x.sigmoid()),
        );
    });
    x
}

fn attention<R: Real + Element + Pod>(q: &FlexTensor, cached: [&FlexTensor; 2], first: &[i64]) -> FlexTensor {
    let [b, h, _, d] = q.layout().shape().dims();
    let [_, kv, s, _] = cached[0].layout().shape().dims();
    let q = q.to_contiguous();
    let [k, v] = cached.map(cache::heads_apart);
    let (q, k, v) = (q.storage::<R>(), Heads::<R>::of(&k), Heads::<R>::of(&v));
    let mut out = vec![R::default(); b * h * d];
    let together = (b * h).div_ceil(shares(b * h * s * d, WORTH)).max(1); // heads of a part
    let parts = out.chunks_mut(together * d).zip(q.chunks(together * d)).enumerate();
    each_part(parts, |(part, (out, q))| {
        for (i, (out, q)) in out.chunks_exact_mut(d).zip(q.chunks_exact(d)).enumerate() {
            let index = part * together + i;
            let (row, head) = (index / h, index % h);
            let (group, visible) = (head / (h / kv), first[row] as usize..s);
            let (k, v) = (k.columns(row, group, visible.clone()), v.columns(row, group, visible));
            vectorized(
                #[inline(always)]
                || attend(q, k, v, out),
            );
        }
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
