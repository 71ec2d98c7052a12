//! How far the next-token distribution of a student q is from that of a teacher p, or from the token that came.
//!
//! ```text
//! cross entropy        −Σ_v p_v log q_v          p = softmax(teacher), q = softmax(student / τ)
//! forward KL           Σ_v p_v log(p_v / q_v)   p = softmax(teacher / τ), q = softmax(student / τ)
//! reverse KL           Σ_v q_v log(q_v / p_v)
//! Jensen-Shannon(β)    β KL(p ‖ m) + (1 − β) KL(q ‖ m),  m = β p + (1 − β) q
//! next token           −log softmax(logits)[target]
//! ```
//!
//! The cross entropy is MOHAWK's (arXiv 2408.10189, section 4.3): its code divides the student's logits by τ and
//! leaves the teacher's alone. The other three divide both and are those of TRL's `generalized_jsd_loss` (β = 0 is
//! the forward KL, β = 1 the reverse); none is multiplied by τ².
//!
//! Native kernels read the logits as they are, in the dtype they are in, and keep three numbers a token for the
//! reverse pass: nothing of the size of the logits is written but their gradient.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::norm::wide;

/// A distance of two next-token distributions.
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
    /// The divergence of every token, in f32 or wider. The teacher gets no gradient.
    ///
    /// # Shapes
    ///
    /// `student` and `teacher` `[b t v]`; returns `[b t]`.
    ///
    /// # Panics
    ///
    /// If the shapes differ, or `temperature`, τ, is not positive.
    pub fn per_token(self, student: Tensor<3>, teacher: Tensor<3>, temperature: f64) -> Tensor<2> {
        assert_eq!(student.dims(), teacher.dims(), "logits of student and teacher");
        assert!(temperature > 0.0, "a temperature is positive, found {temperature}");
        let teacher = teacher.detach();
        #[cfg(any(feature = "flex", feature = "cube"))]
        if student.dtype() == teacher.dtype() && crate::kernels::available(&student.device(), student.dtype())
        {
            let [b, t, v] = student.dims();
            let [student, teacher] = [student, teacher].map(|logits| logits.reshape([b * t, v]));
            return crate::kernels::native_divergence(student, teacher, self, temperature).reshape([b, t]);
        }
        self.by_tensors(student, teacher, temperature)
    }

    /// The same in tensor operations.
    fn by_tensors(self, student: Tensor<3>, teacher: Tensor<3>, temperature: f64) -> Tensor<2> {
        let student = soften(widen(student), temperature);
        let teacher = widen(teacher);
        match self {
            Self::CrossEntropy => cross_entropy(student, softmax(teacher, 2)),
            Self::ForwardKl => forward_kl(student, soften(teacher, temperature)),
            Self::ReverseKl => reverse_kl(student, soften(teacher, temperature)),
            Self::JensenShannon(beta) => jensen_shannon(student, soften(teacher, temperature), beta),
        }
    }
}

/// `−log softmax(logits)[target]` of every token, in f32 or wider.
///
/// # Shapes
///
/// `logits` `[b t v]`, `targets` `[b t]`, each below v; returns `[b t]`.
pub fn next_token_loss(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<2> {
    #[cfg(any(feature = "flex", feature = "cube"))]
    if crate::kernels::available(&logits.device(), logits.dtype()) {
        let [b, t, v] = logits.dims();
        let (logits, targets) = (logits.reshape([b * t, v]), targets.reshape([b * t]));
        return crate::kernels::native_next_token_loss(logits, targets).reshape([b, t]);
    }
    next_token_by_tensors(logits, targets)
}

fn next_token_by_tensors(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<2> {
    let logits = widen(logits);
    let chosen = logits.clone().gather(2, targets.unsqueeze_dim(2));
    (log_sum_exp(logits) - chosen).squeeze_dim(2)
}

fn widen(logits: Tensor<3>) -> Tensor<3> {
    let wide = wide(logits.dtype());
    logits.cast(wide)
}

fn soften(logits: Tensor<3>, temperature: f64) -> Tensor<3> {
    if temperature == 1.0 { logits } else { logits.div_scalar(temperature) }
}

/// log Σ_v exp(z_v), `[b t 1]`.
fn log_sum_exp(logits: Tensor<3>) -> Tensor<3> {
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
