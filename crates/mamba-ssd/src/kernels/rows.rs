//! Native operations on rows: the softmax of attention and the RMS norm.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor};

/// The softmax of `scores [b h t s]` over the columns from `first [b t]` to the token's own, which is
/// the last one for the last token.
pub(crate) fn native_causal_softmax(scores: Tensor<4>, first: Tensor<2, Int>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::softmax_forward(scores.into_dispatch(), first.into_dispatch()))
}

/// `x / √(mean(x²) + ε) ∘ weight` over the last axis.
pub(crate) fn native_rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::rms_forward(x.into_dispatch(), weight.into_dispatch(), epsilon))
}

/// Native forms of operations on rows.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion")
)]
pub trait RowOps: Backend {
    /// `scores [b h t s]` and the first visible column `[b t]` to probabilities.
    #[fusion(dtype = scores, shape = scores)]
    fn softmax_forward(scores: FloatTensor<Self>, first: IntTensor<Self>) -> FloatTensor<Self>;

    /// Gradient of the scores, given the probabilities and their gradient.
    #[fusion(dtype = grad, shape = grad)]
    fn softmax_backward(probabilities: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The RMS norm of `x [.. d]`, scaled by `weight [d]`.
    #[fusion(dtype = x, shape = x)]
    fn rms_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;

    /// Gradients of x and weight, given that of the result.
    #[fusion(meta = |x, weight, _grad, _epsilon| (x.clone(), weight.clone()))]
    fn rms_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

#[derive(Debug)]
struct Softmax;

impl<B: RowOps> Backward<B, 1> for Softmax {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [scores] = ops.parents;
        if let Some(node) = scores {
            grads.register::<B>(node.id, B::softmax_backward(ops.state, grad));
        }
    }
}

#[derive(Debug)]
struct RmsNorm;

impl<B: RowOps> Backward<B, 2> for RmsNorm {
    type State = ([NodeId; 2], f64);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (ids, epsilon) = ops.state;
        let [x, weight] = ids.map(|id| checkpointer.retrieve_node_output(id));
        let (x, weight) = B::rms_backward(x, weight, grad, epsilon);
        for (node, gradient) in ops.parents.into_iter().zip([x, weight]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: RowOps, C: CheckpointStrategy> RowOps for Autodiff<B, C> {
    fn softmax_forward(scores: FloatTensor<Self>, first: IntTensor<Self>) -> FloatTensor<Self> {
        match Softmax.prepare::<C>([scores.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let probabilities = B::softmax_forward(scores.into_primitive(), first);
                prep.finish(probabilities.clone(), probabilities)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::softmax_forward(scores.into_primitive(), first)),
        }
    }

    fn softmax_backward(_probabilities: FloatTensor<Self>, _grad: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("{}", super::autodiff::FIRST_ORDER)
    }

    fn rms_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        match RmsNorm.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = [&x, &weight].map(|tensor| prep.checkpoint(tensor));
                prep.finish(
                    (ids, epsilon),
                    B::rms_forward(x.into_primitive(), weight.into_primitive(), epsilon),
                )
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::rms_forward(x.into_primitive(), weight.into_primitive(), epsilon))
            }
        }
    }

    fn rms_backward(
        _x: FloatTensor<Self>,
        _weight: FloatTensor<Self>,
        _grad: FloatTensor<Self>,
        _epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        panic!("{}", super::autodiff::FIRST_ORDER)
    }
}
