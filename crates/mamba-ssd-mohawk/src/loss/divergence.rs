//! Stage 3: divergences between the next-token distributions of teacher p and student q.
//!
//! ```text
//! cross entropy       −Σ_v p_v log q_v          p = softmax(teacher), q = softmax(student / τ)
//! forward KL           Σ_v p_v log(p_v / q_v)   p = softmax(teacher / τ), q = softmax(student / τ)
//! reverse KL           Σ_v q_v log(q_v / p_v)
//! Jensen-Shannon(β)    β KL(p ‖ m) + (1 − β) KL(q ‖ m),  m = β p + (1 − β) q
//! ```
//!
//! The cross entropy is MOHAWK's (arXiv 2408.10189, section 4.3): its code divides the student's
//! logits by τ and leaves the teacher's alone. The other three divide both and are those of TRL's
//! `generalized_jsd_loss` (β = 0 is the forward KL, β = 1 the reverse); none is multiplied by τ².

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Bool, Tensor};
use serde::{Deserialize, Serialize};

use super::{Reduction, widen};

/// What stage 3 minimises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// Cross entropy against the teacher's distribution: MOHAWK's choice.
    #[default]
    CrossEntropy,
    /// KL(teacher ‖ student).
    ForwardKl,
    /// KL(student ‖ teacher).
    ReverseKl,
    /// Generalised Jensen-Shannon divergence with β in (0, 1); TOML `{ jensen_shannon = 0.5 }`.
    JensenShannon(f64),
}

impl Divergence {
    /// The divergence of all unmasked tokens.
    ///
    /// The teacher's logits are detached. `temperature` is τ > 0 of the module's formulas.
    ///
    /// # Shapes
    ///
    /// `student` and `teacher`: `[b t v]`, `mask`: `[b t]`, result `[1]`.
    ///
    /// # Panics
    ///
    /// If the shapes of `student` and `teacher` differ.
    pub fn loss(
        self,
        student: Tensor<3>,
        teacher: Tensor<3>,
        temperature: f64,
        mask: Option<&Tensor<2, Bool>>,
        reduction: Reduction,
    ) -> Tensor<1> {
        assert_eq!(student.dims(), teacher.dims(), "logits of student and teacher");
        let student = soften(widen(student), temperature);
        let teacher = widen(teacher.detach());
        let per_token = match self {
            Self::CrossEntropy => cross_entropy(student, softmax(teacher, 2)),
            Self::ForwardKl => forward_kl(student, soften(teacher, temperature)),
            Self::ReverseKl => reverse_kl(student, soften(teacher, temperature)),
            Self::JensenShannon(beta) => jensen_shannon(student, soften(teacher, temperature), beta),
        };
        reduction.apply(per_token, mask)
    }
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
    Divergence::CrossEntropy.loss(student, teacher, temperature, mask, Reduction::TokenMean)
}

fn soften(logits: Tensor<3>, temperature: f64) -> Tensor<3> {
    if temperature == 1.0 { logits } else { logits.div_scalar(temperature) }
}

/// log Σ_v exp(z_v), `[b t 1]`: one exponential pass, whose result autodiff keeps for the backward.
pub(super) fn log_sum_exp(logits: Tensor<3>) -> Tensor<3> {
    let max = logits.clone().detach().max_dim(2);
    (logits - max.clone()).exp().sum_dim(2).log() + max
}

/// −Σ p log softmax(z) = log Σ exp(z) − Σ p z, because p sums to one.
fn cross_entropy(student: Tensor<3>, target: Tensor<3>) -> Tensor<2> {
    let expected = (target * student.clone()).sum_dim(2);
    (log_sum_exp(student) - expected).squeeze_dim(2)
}

fn forward_kl(student: Tensor<3>, teacher: Tensor<3>) -> Tensor<2> {
    let log_p = log_softmax(teacher, 2);
    let p = log_p.clone().exp();
    let negative_entropy = (p.clone() * log_p).sum_dim(2).squeeze_dim(2);
    cross_entropy(student, p) + negative_entropy
}

fn reverse_kl(student: Tensor<3>, teacher: Tensor<3>) -> Tensor<2> {
    kl(log_softmax(student, 2), log_softmax(teacher, 2))
}

fn jensen_shannon(student: Tensor<3>, teacher: Tensor<3>, beta: f64) -> Tensor<2> {
    let log_q = log_softmax(student, 2);
    let log_p = log_softmax(teacher, 2);
    let weighted_q = log_q.clone().add_scalar((1.0 - beta).ln());
    let weighted_p = log_p.clone().add_scalar(beta.ln());
    let log_m = log_add_exp(weighted_q, weighted_p);
    kl(log_p, log_m.clone()) * beta + kl(log_q, log_m) * (1.0 - beta)
}

/// KL(a ‖ b) from log probabilities, `[b t]`.
fn kl(log_a: Tensor<3>, log_b: Tensor<3>) -> Tensor<2> {
    (log_a.clone().exp() * (log_a - log_b)).sum_dim(2).squeeze_dim(2)
}

/// log(eᵃ + eᵇ); the subtracted maximum is a constant to the gradient.
fn log_add_exp(a: Tensor<3>, b: Tensor<3>) -> Tensor<3> {
    let max = a.clone().max_pair(b.clone()).detach();
    ((a - max.clone()).exp() + (b - max.clone()).exp()).log() + max
}
