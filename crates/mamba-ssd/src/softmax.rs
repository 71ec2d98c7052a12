//! The softmax of attention: every token spreads over what it may see.
//!
//! Token `l` of `t` sees the columns up to its own, `s - t + l` (the first `s - t` are a cache), from
//! the first token of its document on. Other columns get exactly 0.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Int, Tensor};

use crate::Segments;
use crate::norm::wide;

/// A score that softmax turns into exactly 0.
const MASKED: f64 = -1e30;

/// Probabilities of the scores of attention, computed in f32 or wider, in the dtype of the scores. Token `l`
/// of `t` sees the columns up to `s - t + l`, from the first token of its document on.
///
/// # Shapes
///
/// `scores [b h t s]` with `s ≥ t`, and so the result.
///
/// # Panics
///
/// If there are fewer columns than tokens, or with packed documents any other number.
pub fn causal_softmax(scores: Tensor<4>, segments: Option<&Segments>) -> Tensor<4> {
    let [_, _, tokens, columns] = scores.dims();
    assert!(columns >= tokens, "{columns} columns for {tokens} tokens, which see at least themselves");
    assert!(
        segments.is_none() || columns == tokens,
        "packed documents have no cache: {columns} columns for {tokens} tokens"
    );
    softmax_from(scores, segments.map(Segments::starts))
}

/// The same, where the first column that each token may see is given, `[b t]`; 0 where it is not.
pub(crate) fn softmax_from(scores: Tensor<4>, first: Option<Tensor<2, Int>>) -> Tensor<4> {
    #[cfg(any(feature = "flex", feature = "cube"))]
    if crate::kernels::available(&scores.device(), scores.dtype()) {
        let [b, _, t, _] = scores.dims();
        let first = first.unwrap_or_else(|| Tensor::zeros([b, t], &scores.device()));
        return crate::kernels::native_causal_softmax(scores, first);
    }
    masked_softmax(scores, first)
}

/// The same in tensor operations.
fn masked_softmax(scores: Tensor<4>, first: Option<Tensor<2, Int>>) -> Tensor<4> {
    let dtype = scores.dtype();
    let [b, _, t, s] = scores.dims();
    let (shape, device) = (scores.shape(), scores.device());
    let future = Tensor::<2, Bool>::tril_mask([t, s], (s - t) as i64, &device).unsqueeze::<4>();
    let hidden = match first {
        Some(first) => {
            let columns = Tensor::<1, Int>::arange(0..s as i64, &device).unsqueeze::<3>().expand([b, t, s]);
            let earlier = columns.lower(first.unsqueeze_dim::<3>(2).expand([b, t, s])).unsqueeze_dim::<4>(1);
            earlier.bool_or(future.expand([b, 1, t, s]))
        }
        None => future,
    };
    softmax(scores.cast(wide(dtype)).mask_fill(hidden.expand(shape), MASKED), 3).cast(dtype)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, Distribution};

    fn errors(t: usize, s: usize, segments: Option<&Segments>, dtype: DType) -> [f64; 2] {
        let device = Device::flex().autodiff();
        let random = || Tensor::<4>::random([2, 3, t, s], Distribution::Normal(0.0, 4.0), (&device, dtype));
        let (scores, cotangent) = (random().require_grad(), random());
        let run = |p: Tensor<4>| {
            let grads = (p.clone() * cotangent.clone()).sum().backward();
            [p.inner(), scores.grad(&grads).expect("a gradient")]
        };
        let native = run(causal_softmax(scores.clone(), segments));
        let plain = run(masked_softmax(scores.clone(), segments.map(Segments::starts)));
        std::array::from_fn(|i| {
            let norm = |x: Tensor<4>| x.square().sum().sqrt().into_scalar::<f64>();
            norm(native[i].clone() - plain[i].clone()) / norm(plain[i].clone())
        })
    }

    #[test]
    fn the_native_softmax_equals_the_tensor_operations_forward_and_backward() {
        for (dtype, limit) in [(DType::F32, 2e-6), (DType::F64, 1e-14)] {
            let segments =
                Segments::from_lengths(&[vec![1, 19, 17], vec![30, 7]], &Device::flex().autodiff());
            for [output, gradient] in [
                errors(37, 37, None, dtype),
                errors(37, 37, Some(&segments), dtype),
                errors(5, 40, None, dtype),
                errors(1, 40, None, dtype),
            ] {
                assert!(output <= limit && gradient <= limit, "{dtype:?}: {output}, {gradient}");
            }
        }
    }
}
