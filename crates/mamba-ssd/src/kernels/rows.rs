//! Native operations on rows: the softmax of attention and the RMS norm.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Int, Tensor, TensorData};
use burn_flex::FlexTensor;

use super::flex::{integers, with_real};
use super::rms::Rms;
use super::softmax::Rows;

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
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"))]
pub trait RowOps: Backend {
    /// `scores [b h t s]` and the first visible column `[b t]` to probabilities.
    fn softmax_forward(scores: FloatTensor<Self>, first: IntTensor<Self>) -> FloatTensor<Self>;

    /// Gradient of the scores, given the probabilities and their gradient.
    fn softmax_backward(probabilities: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The RMS norm of `x [.. d]`, scaled by `weight [d]`.
    fn rms_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;

    /// Gradients of x and weight, given that of the result.
    fn rms_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl RowOps for Flex {
    fn softmax_forward(scores: FloatTensor<Self>, first: IntTensor<Self>) -> FloatTensor<Self> {
        let shape = scores.layout().shape().clone();
        let [_, heads, t, s] = shape.dims::<4>();
        let (scores, first) = (scores.to_contiguous(), integers(&first));
        let rows = Rows { first: &first, heads, t, s };
        with_real!(scores, R => {
            FlexTensor::from_data(TensorData::new(rows.forward::<R>(scores.storage()), shape))
        })
    }

    fn softmax_backward(probabilities: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        let shape = grad.layout().shape().clone();
        let [.., s] = shape.dims::<4>();
        let (p, grad) = (probabilities.to_contiguous(), grad.to_contiguous());
        with_real!(p, R => {
            FlexTensor::from_data(TensorData::new(Rows::backward::<R>(p.storage(), grad.storage(), s), shape))
        })
    }

    fn rms_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let shape = x.layout().shape().clone();
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        with_real!(x, R => {
            let rms = Rms::<R> { weight: weight.storage(), epsilon };
            FlexTensor::from_data(TensorData::new(rms.forward(x.storage()), shape))
        })
    }

    fn rms_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let shape = x.layout().shape().clone();
        let of_weight = weight.layout().shape().clone();
        let (x, weight, grad) = (x.to_contiguous(), weight.to_contiguous(), grad.to_contiguous());
        with_real!(x, R => {
            let rms = Rms::<R> { weight: weight.storage(), epsilon };
            let (dx, dw) = rms.backward(x.storage(), grad.storage());
            (
                FlexTensor::from_data(TensorData::new(dx, shape)),
                FlexTensor::from_data(TensorData::new(dw, of_weight)),
            )
        })
    }
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
