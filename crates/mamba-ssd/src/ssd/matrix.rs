//! The quadratic form: the mixing matrix itself.
//!
//! ```text
//! M = L ∘ (C Bᵀ),    L[l, s] = exp(segsum(log_a))[l, s]
//! ```
//!
//! Dao and Gu (2024), equation 16 and section 3.4.

use burn::tensor::Tensor;

use super::input::{Prepared, SsdInput, SsdOutput, groups_to_heads, heads_first};
use super::segsum::segsum;

/// The mixing matrix `[b h t t]`, in the dtype decays are computed in. An incoming state is not
/// part of it.
pub fn materialize(input: &SsdInput) -> Tensor<4> {
    let input = input.clone().prepare();
    let decay = segsum(input.log_a.clone().swap_dims(1, 2)).exp();
    weighted_scores(&input, decay)
}

/// `y = M x`, plus what the incoming state contributes.
pub fn matrix(input: SsdInput) -> SsdOutput {
    let input = input.prepare();
    let [_, t, h, _] = input.x.dims();
    let log_a = input.log_a.clone().swap_dims(1, 2); // b h t
    let decay = segsum(log_a.clone()).exp();
    let from_start = log_a.cumsum(2).exp().unsqueeze_dim::<4>(3); // b h t 1
    let x = heads_first(input.x.clone()); // b h t p
    let c = to_heads(input.c.clone(), h);
    let b = to_heads(input.b.clone(), h);

    let carried = (c * from_start.clone()).matmul(input.state.clone().transpose());
    let y = weighted_scores(&input, decay.clone()).matmul(x.clone()) + carried;

    let to_end = decay.narrow(2, t - 1, 1).transpose(); // b h t 1
    let written = (x * to_end).transpose().matmul(b);
    let state = input.state * from_start.narrow(2, t - 1, 1) + written;
    SsdOutput { y: y.swap_dims(1, 2).cast(input.dtype), state }
}

fn weighted_scores(input: &Prepared, decay: Tensor<4>) -> Tensor<4> {
    let heads = input.x.dims()[2];
    let b = input.b.clone().permute([0, 2, 3, 1]); // b g n t
    let c = heads_first(input.c.clone()); // b g t n
    groups_to_heads::<4, 5>(c.matmul(b), heads, 1) * decay
}

fn to_heads(projection: Tensor<4>, heads: usize) -> Tensor<4> {
    groups_to_heads::<4, 5>(heads_first(projection), heads, 1)
}
