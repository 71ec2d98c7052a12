//! Cross entropy against the tokens that really came next.

use burn::tensor::{Bool, Int, Tensor};
use mamba_ssd::next_token_loss;

use super::Reduction;

/// `−log softmax(logits)[target]`, reduced over the unmasked tokens.
///
/// The target of a masked token may be any valid index.
///
/// # Shapes
///
/// `logits`: `[b t v]`, `targets` and `mask`: `[b t]`, result `[1]`.
pub fn cross_entropy_hard(
    logits: Tensor<3>,
    targets: Tensor<2, Int>,
    mask: Option<&Tensor<2, Bool>>,
    reduction: Reduction,
) -> Tensor<1> {
    reduction.apply(next_token_loss(logits, targets), mask)
}
