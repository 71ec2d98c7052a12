//! Stage 3: divergences between the next-token distributions of teacher and student.

use burn::tensor::{Bool, Tensor};
use mamba_ssd::Divergence;

use super::Reduction;

/// The divergence of all unmasked tokens, `divergence` being one of [`Divergence`], at temperature τ > 0.
///
/// The teacher's logits are detached.
///
/// # Shapes
///
/// `student` and `teacher`: `[b t v]`, `mask`: `[b t]`, result `[1]`.
///
/// # Panics
///
/// If the shapes of `student` and `teacher` differ.
pub fn divergence_loss(
    divergence: Divergence,
    student: Tensor<3>,
    teacher: Tensor<3>,
    temperature: f64,
    mask: Option<&Tensor<2, Bool>>,
    reduction: Reduction,
) -> Tensor<1> {
    reduction.apply(divergence.per_token(student, teacher, temperature), mask)
}

/// MOHAWK's stage-3 loss: cross entropy against the teacher's softmax, mean over unmasked tokens.
///
/// # Shapes
///
/// `student` and `teacher`: `[b t v]`, `mask`: `[b t]`, result `[1]`.
pub fn cross_entropy_soft(
    student: Tensor<3>,
    teacher: Tensor<3>,
    temperature: f64,
    mask: Option<&Tensor<2, Bool>>,
) -> Tensor<1> {
    divergence_loss(Divergence::CrossEntropy, student, teacher, temperature, mask, Reduction::TokenMean)
}
