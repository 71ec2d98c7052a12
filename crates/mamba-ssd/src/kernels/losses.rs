//! Losses over a vocabulary as single operations.
//!
//! The forward pass reads the logits and keeps a few numbers a row; the reverse pass reads them again and writes
//! the gradient. With `q = softmax(z)`, z the student's logits over τ:
//!
//! ```text
//! cross entropy, forward KL   dz = q − p
//! reverse KL                  dz = q (log(q / p) − KL(q ‖ p))
//! Jensen-Shannon(β)           dz = (1 − β) q (log(q / m) − KL(q ‖ m))
//! next token                  dz = q − [v = target]
//! ```

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor};

use super::autodiff::FIRST_ORDER;
use crate::Divergence;

/// A divergence and its temperature τ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    pub divergence: Divergence,
    pub temperature: f64,
}

/// Which of the four, for kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    CrossEntropy,
    ForwardKl,
    ReverseKl,
    JensenShannon,
}

impl Distance {
    pub(super) fn kind(&self) -> Kind {
        match self.divergence {
            Divergence::CrossEntropy => Kind::CrossEntropy,
            Divergence::ForwardKl => Kind::ForwardKl,
            Divergence::ReverseKl => Kind::ReverseKl,
            Divergence::JensenShannon(_) => Kind::JensenShannon,
        }
    }

    /// What logits of student and teacher are multiplied by.
    pub(super) fn scales(&self) -> [f64; 2] {
        let scale = self.temperature.recip();
        [scale, if self.divergence == Divergence::CrossEntropy { 1.0 } else { scale }]
    }

    /// β, where there is one.
    pub(super) fn beta(&self) -> f64 {
        match self.divergence {
            Divergence::JensenShannon(beta) => beta,
            _ => 0.5,
        }
    }
}

/// The divergence of rows of logits `[r v]`, `[r]`.
pub(crate) fn native_divergence(
    student: Tensor<2>,
    teacher: Tensor<2>,
    divergence: Divergence,
    temperature: f64,
) -> Tensor<1> {
    let distance = Distance { divergence, temperature };
    let (student, teacher) = (student.into_dispatch(), teacher.into_dispatch());
    Tensor::from_dispatch(Dispatch::divergence_forward(student, teacher, distance).0)
}

/// `−log softmax(logits [r v])[targets [r]]`, `[r]`.
pub(crate) fn native_next_token_loss(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::next_token_forward(logits.into_dispatch(), targets.into_dispatch()).0)
}

/// Native losses over rows of logits `[r v]`. Losses and sums are in f64 for logits in f64, else in f32.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion")
)]
pub trait LossOps: Backend {
    /// The divergence of every row, `[r]`, and what its gradient needs, `[3 r]`: `log Σ exp` of student and
    /// teacher, and the expectation under q that the gradient subtracts.
    #[fusion(meta = |student, _teacher, _distance| {
        let rows = student.shape[0];
        let spec = |count: usize| {
            burn::backend::fusion::custom::TensorSpec::new([count].into(), wide_dtype(student.dtype))
        };
        (spec(rows), spec(3 * rows))
    })]
    fn divergence_forward(
        student: FloatTensor<Self>,
        teacher: FloatTensor<Self>,
        distance: Distance,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of the student's logits, given that of the rows' losses.
    #[fusion(dtype = student, shape = student)]
    fn divergence_backward(
        student: FloatTensor<Self>,
        teacher: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        distance: Distance,
    ) -> FloatTensor<Self>;

    /// `log Σ exp(logits) − logits[target]` and `log Σ exp(logits)` of every row, `[r]` both.
    #[fusion(meta = |logits, _targets| {
        let spec = burn::backend::fusion::custom::TensorSpec::new(
            [logits.shape[0]].into(),
            wide_dtype(logits.dtype),
        );
        (spec.clone(), spec)
    })]
    fn next_token_forward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of the logits, given that of the rows' losses.
    #[fusion(dtype = logits, shape = logits)]
    fn next_token_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        sums: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

#[cfg(feature = "fusion")]
fn wide_dtype(dtype: burn::tensor::DType) -> burn::tensor::DType {
    crate::norm::wide(dtype)
}

#[derive(Debug)]
struct FromTeacher;

impl<B: LossOps> Backward<B, 1> for FromTeacher {
    type State = (NodeId, FloatTensor<B>, FloatTensor<B>, Distance);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (student, teacher, sums, distance) = ops.state;
        let student = checkpointer.retrieve_node_output(student);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            let gradient = B::divergence_backward(student, teacher, sums, grad, distance);
            grads.register::<B>(node.id, gradient);
        }
    }
}

#[derive(Debug)]
struct NextToken;

impl<B: LossOps> Backward<B, 1> for NextToken {
    type State = (NodeId, IntTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (logits, targets, sums) = ops.state;
        let logits = checkpointer.retrieve_node_output(logits);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::next_token_backward(logits, targets, sums, grad));
        }
    }
}

impl<B: LossOps, C: CheckpointStrategy> LossOps for Autodiff<B, C> {
    fn divergence_forward(
        student: FloatTensor<Self>,
        teacher: FloatTensor<Self>,
        distance: Distance,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let teacher = teacher.into_primitive();
        match FromTeacher.prepare::<C>([student.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let id = prep.checkpoint(&student);
                let (losses, sums) =
                    B::divergence_forward(student.into_primitive(), teacher.clone(), distance);
                (prep.finish((id, teacher, sums.clone(), distance), losses), Self::from_inner(sums))
            }
            OpsKind::UnTracked(prep) => {
                let (losses, sums) = B::divergence_forward(student.into_primitive(), teacher, distance);
                (prep.finish(losses), Self::from_inner(sums))
            }
        }
    }

    fn divergence_backward(
        _student: FloatTensor<Self>,
        _teacher: FloatTensor<Self>,
        _sums: FloatTensor<Self>,
        _grad: FloatTensor<Self>,
        _distance: Distance,
    ) -> FloatTensor<Self> {
        panic!("{FIRST_ORDER}")
    }

    fn next_token_forward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match NextToken.prepare::<C>([logits.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let id = prep.checkpoint(&logits);
                let (losses, sums) = B::next_token_forward(logits.into_primitive(), targets.clone());
                (prep.finish((id, targets, sums.clone()), losses), Self::from_inner(sums))
            }
            OpsKind::UnTracked(prep) => {
                let (losses, sums) = B::next_token_forward(logits.into_primitive(), targets);
                (prep.finish(losses), Self::from_inner(sums))
            }
        }
    }

    fn next_token_backward(
        _logits: FloatTensor<Self>,
        _targets: IntTensor<Self>,
        _sums: FloatTensor<Self>,
        _grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        panic!("{FIRST_ORDER}")
    }
}
