//! Cross entropy against the tokens that really came next.

use burn::tensor::{Bool, Int, Tensor};

use super::divergence::log_sum_exp;
use super::{Reduction, widen};

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
    let logits = widen(logits);
    let chosen = logits.clone().gather(2, targets.unsqueeze_dim(2));
    let per_token = (log_sum_exp(logits) - chosen).squeeze_dim(2);
    reduction.apply(per_token, mask)
}
