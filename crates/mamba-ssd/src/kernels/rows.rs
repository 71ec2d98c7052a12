//! Native operations on rows: the softmax of attention, the RMS norm, and the norm of a gated value.

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

/// The RMS norm of each of `groups` equal parts of `value · silu(gate)`, over the last axis.
pub(crate) fn native_gated_norm(
    value: Tensor<3>,
    gate: Tensor<3>,
    weight: Tensor<1>,
    norm: GroupNorm,
) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::gated_norm_forward(
        value.into_dispatch(),
        gate.into_dispatch(),
        weight.into_dispatch(),
        norm,
    ))
}

/// Parts of a row that are normed by themselves, and ε.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    pub groups: usize,
    pub epsilon: f64,
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

    /// The RMS norm of each group of `value · silu(gate)`, `[.. d]` both, scaled by `weight [d]`.
    #[fusion(dtype = value, shape = value)]
    fn gated_norm_forward(
        value: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        norm: GroupNorm,
    ) -> FloatTensor<Self>;

    /// Gradients of value, gate and weight, given that of the result.
    #[fusion(meta = |value, gate, weight, _grad, _norm| (value.clone(), gate.clone(), weight.clone()))]
    fn gated_norm_backward(
        value: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        norm: GroupNorm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
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

#[derive(Debug)]
struct GatedNorm;

impl<B: RowOps> Backward<B, 3> for GatedNorm {
    type State = ([NodeId; 3], GroupNorm);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (ids, norm) = ops.state;
        let [value, gate, weight] = ids.map(|id| checkpointer.retrieve_node_output(id));
        let (value, gate, weight) = B::gated_norm_backward(value, gate, weight, grad, norm);
        for (node, gradient) in ops.parents.into_iter().zip([value, gate, weight]) {
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

    fn gated_norm_forward(
        value: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        norm: GroupNorm,
    ) -> FloatTensor<Self> {
        let nodes = [value.node(), gate.node(), weight.node()];
        match GatedNorm.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = [&value, &gate, &weight].map(|tensor| prep.checkpoint(tensor));
                let [value, gate, weight] = [value, gate, weight].map(|tensor| tensor.into_primitive());
                prep.finish((ids, norm), B::gated_norm_forward(value, gate, weight, norm))
            }
            OpsKind::UnTracked(prep) => {
                let [value, gate, weight] = [value, gate, weight].map(|tensor| tensor.into_primitive());
                prep.finish(B::gated_norm_forward(value, gate, weight, norm))
            }
        }
    }

    fn gated_norm_backward(
        _value: FloatTensor<Self>,
        _gate: FloatTensor<Self>,
        _weight: FloatTensor<Self>,
        _grad: FloatTensor<Self>,
        _norm: GroupNorm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("{}", super::autodiff::FIRST_ORDER)
    }
}
