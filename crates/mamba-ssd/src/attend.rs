//! Softmax attention, every token over what it may see.
//!
//! ```text
//! y = softmax(mask(q kᵀ / √d)) v
//! ```
//!
//! in tensor operations, with the whole matrix of scores, and where a device has the kernel as one operation, whose
//! memory grows with the tokens and not with their square.

use burn::tensor::{Int, Tensor};

use crate::Segments;
use crate::linear::batched;
use crate::softmax::softmax_from;

/// Attention of queries over keys and values; query head `h` reads key-value head `h / (heads / kv heads)`. Token
/// `l` of `t` sees the columns up to `s - t + l`, from the first token of its document on.
///
/// # Shapes
///
/// `q [b t h d]`, `k` and `v` `[b s kv d]` with `s ≥ t`, to `[b t h d]`.
///
/// # Panics
///
/// If there are fewer columns than tokens, or with packed documents any other number, or if the key-value heads do
/// not divide the heads.
pub fn causal_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, segments: Option<&Segments>) -> Tensor<4> {
    let ([_, tokens, heads, _], [_, columns, kv, _]) = (q.dims(), k.dims());
    assert!(columns >= tokens, "{columns} columns for {tokens} tokens, which see at least themselves");
    assert!(
        segments.is_none() || columns == tokens,
        "packed documents have no cache: {columns} columns for {tokens} tokens"
    );
    assert_eq!(heads % kv, 0, "{kv} key-value heads do not divide {heads} heads");
    attention_from(q, k, v, segments.map(Segments::starts))
}

/// The same, where the first column that each token may see is given, `[b t]`; 0 where it is not.
pub(crate) fn attention_from(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    first: Option<Tensor<2, Int>>,
) -> Tensor<4> {
    #[cfg(any(feature = "flex", feature = "cube"))]
    {
        let [b, t, _, _] = q.dims();
        let first = first.clone().unwrap_or_else(|| Tensor::zeros([b, t], &q.device()));
        if let Some(y) = crate::kernels::native_attention(&q, &k, &v, &first) {
            return y;
        }
    }
    attention_by_matrix(q, k, v, first)
}

/// The same in tensor operations.
fn attention_by_matrix(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, first: Option<Tensor<2, Int>>) -> Tensor<4> {
    let [_, _, heads, _] = q.dims();
    let [k, v] = [k, v].map(|x| kv_to_heads(x.swap_dims(1, 2), heads));
    let probabilities = softmax_from(batched(scaled(q.swap_dims(1, 2)), k.transpose()), first);
    batched(probabilities, v).swap_dims(1, 2)
}

/// Queries times the scale of their scores, `1 / √d`.
pub(crate) fn scaled(q: Tensor<4>) -> Tensor<4> {
    let [.., d] = q.dims();
    q * (d as f64).powf(-0.5)
}

/// `[b kv t d]` to `[b h t d]`.
pub(crate) fn kv_to_heads(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [b, kv, t, d] = x.dims();
    if kv == heads {
        return x;
    }
    x.unsqueeze_dim::<5>(2).expand([b, kv, heads / kv, t, d]).reshape([b, heads, t, d])
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, Distribution};

    /// Relative errors of the output and the three gradients.
    fn errors([b, t, s, h, kv, d]: [usize; 6], segments: Option<&Segments>, dtype: DType) -> [f64; 4] {
        let device = Device::flex().autodiff();
        let random =
            |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.5), (&device, dtype));
        let [q, k, v] =
            [[b, t, h, d], [b, s, kv, d], [b, s, kv, d]].map(|shape| random(shape).require_grad());
        let cotangent = random([b, t, h, d]);
        let run = |y: Tensor<4>| {
            let grads = (y.clone() * cotangent.clone()).sum().backward();
            let [dq, dk, dv] = [&q, &k, &v].map(|input| input.grad(&grads).expect("a gradient"));
            [y.inner(), dq, dk, dv]
        };
        let native = run(causal_attention(q.clone(), k.clone(), v.clone(), segments));
        let first = segments.map(Segments::starts);
        let plain = run(attention_by_matrix(q.clone(), k.clone(), v.clone(), first));
        std::array::from_fn(|i| {
            let norm = |x: Tensor<4>| x.square().sum().sqrt().into_scalar::<f64>();
            norm(native[i].clone() - plain[i].clone()) / norm(plain[i].clone())
        })
    }

    #[test]
    fn the_native_attention_equals_the_tensor_operations_forward_and_backward() {
        let segments = Segments::from_lengths(&[vec![1, 70, 66], vec![130, 7]], &Device::flex().autodiff());
        for (dtype, limit) in [(DType::F32, 3e-6), (DType::F64, 1e-14)] {
            for errors in [
                errors([2, 137, 137, 6, 2, 8], None, dtype),
                errors([2, 137, 137, 6, 2, 8], Some(&segments), dtype),
                errors([1, 70, 200, 4, 4, 5], None, dtype),
                errors([1, 3, 40, 1, 1, 16], None, dtype),
                errors([1, 129, 129, 1, 1, 16], None, dtype),
            ] {
                assert!(errors.iter().all(|error| *error <= limit), "{dtype:?}: {errors:?}");
            }
        }
    }
}
