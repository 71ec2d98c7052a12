//! The losses of the three stages. None of them knows a model: tensors in, a scalar out.
//!
//! Everything is computed in f32 or wider. Masks are boolean, true = the token counts.

mod alignment;
mod divergence;
mod hard;

pub use alignment::{hidden_alignment, matrix_orientation, matrix_orientation_by_blocks};
pub use divergence::{cross_entropy_soft, divergence_loss};
pub use hard::cross_entropy_hard;
pub use mamba_ssd::Divergence;

use burn::tensor::{Bool, DType, Tensor};
use serde::{Deserialize, Serialize};

/// How the loss of every token becomes one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Sum over the unmasked tokens divided by their number.
    #[default]
    TokenMean,
    /// Sum over the unmasked tokens divided by the number of rows, as PyTorch's `batchmean`.
    BatchMean,
    /// Sum over the unmasked tokens.
    Sum,
}

impl Reduction {
    /// Reduces `per_token [b t]` to a scalar `[1]`; tokens where `mask` is false do not count.
    ///
    /// A mask without a single true token gives 0.
    pub fn apply(self, per_token: Tensor<2>, mask: Option<&Tensor<2, Bool>>) -> Tensor<1> {
        let [rows, tokens] = per_token.dims();
        let sum = masked_sum(per_token, mask);
        match (self, mask) {
            (Self::Sum, _) => sum,
            (Self::BatchMean, _) => sum.div_scalar(rows as f64),
            (Self::TokenMean, None) => sum.div_scalar((rows * tokens) as f64),
            (Self::TokenMean, Some(mask)) => {
                let count = mask.clone().float().cast(sum.dtype()).sum().clamp_min(1.0);
                sum / count
            }
        }
    }
}

fn masked_sum(per_token: Tensor<2>, mask: Option<&Tensor<2, Bool>>) -> Tensor<1> {
    match mask {
        Some(mask) => per_token.mask_fill(mask.clone().bool_not(), 0.0).sum(),
        None => per_token.sum(),
    }
}

/// Half precision becomes f32; f32 and f64 stay what they are.
pub(crate) fn widen<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.dtype() {
        DType::F16 | DType::BF16 => tensor.cast(DType::F32),
        _ => tensor,
    }
}
