//! Words as vectors.

use burn::tensor::{Int, Tensor};

/// Rows of an embedding.
///
/// # Shapes
///
/// `weight [v d]`, `tokens [b t]`, each below v; returns `[b t d]`, in the dtype of the weight, or in f32 from a
/// weight in [`WeightFormat::Int8`](crate::WeightFormat::Int8).
pub fn embed(weight: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3> {
    #[cfg(feature = "cube")]
    if let Some(rows) = crate::kernels::native_embedding(&weight, &tokens) {
        return rows;
    }
    #[cfg(feature = "flex")]
    if crate::kernels::is_int8(weight.dtype()) {
        return crate::kernels::rows_of_int8(weight, tokens);
    }
    burn::tensor::module::embedding(weight, tokens)
}
