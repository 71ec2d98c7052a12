//! Words as vectors.

use burn::tensor::{Int, Tensor};

/// Rows of an embedding.
///
/// # Shapes
///
/// `weight [v d]`, `tokens [b t]`, each below v; returns `[b t d]`.
pub fn embed(weight: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3> {
    #[cfg(feature = "cube")]
    if let Some(rows) = crate::kernels::native_embedding(&weight, &tokens) {
        return rows;
    }
    burn::tensor::module::embedding(weight, tokens)
}
