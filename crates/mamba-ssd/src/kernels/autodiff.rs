//! SSD under automatic differentiation: forward natively, backward by the native reverse.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{Device, FloatTensor};
use burn::backend::{Autodiff, TensorMetadata};
use burn::tensor::{DType, Shape};

use super::ops::SsdOps;

/// The outputs' share of the gradients. The final state is another node with its own share: the map is
/// linear in the pair of cotangents, and most losses read only one of the two results.
#[derive(Debug)]
struct Outputs;

#[derive(Debug)]
struct FinalState;

/// Checkpointed inputs, and the shape and dtype of the result that the other node reads.
type Saved<B> = ([NodeId; 5], Shape, DType, Device<B>);

impl<B: SsdOps> Backward<B, 5> for Outputs {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let none = zeros::<B>(&ops.state);
        pull_back::<B>(ops, [dy, none], grads, checkpointer);
    }
}

impl<B: SsdOps> Backward<B, 5> for FinalState {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dstate = grads.consume::<B>(&ops.node);
        let none = zeros::<B>(&ops.state);
        pull_back::<B>(ops, [none, dstate], grads, checkpointer);
    }
}

/// The cotangent of the result that the other node reads.
fn zeros<B: SsdOps>((_, shape, dtype, device): &Saved<B>) -> FloatTensor<B> {
    B::float_zeros(shape.clone(), device, (*dtype).into())
}

fn pull_back<B: SsdOps>(
    ops: Ops<Saved<B>, 5>,
    [dy, dstate]: [FloatTensor<B>; 2],
    grads: &mut Gradients,
    checkpointer: &mut Checkpointer,
) {
    let [x, log_a, b, c, state] = ops.state.0.map(|id| checkpointer.retrieve_node_output(id));
    let (x, log_a, b, c, state) = B::ssd_backward(x, log_a, b, c, state, dy, dstate);
    for (node, gradient) in ops.parents.into_iter().zip([x, log_a, b, c, state]) {
        if let Some(node) = node {
            grads.register::<B>(node.id, gradient);
        }
    }
}

pub(super) const FIRST_ORDER: &str = "burn differentiates once: the gradient of a gradient is not available";

impl<B: SsdOps, C: CheckpointStrategy> SsdOps for Autodiff<B, C> {
    fn ssd_forward(
        x: FloatTensor<Self>,
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        state: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let inputs = [x, log_a, b, c, state];
        let nodes = || inputs.each_ref().map(|tensor| tensor.node());
        let outputs = Outputs.prepare::<C>(nodes()).compute_bound().stateful();
        let last = FinalState.prepare::<C>(nodes()).compute_bound().stateful();
        let [x, log_a, b, c, state] = inputs.each_ref().map(|tensor| tensor.clone().into_primitive());
        let (y, state) = B::ssd_forward(x, log_a, b, c, state);
        let saved = |other: &FloatTensor<B>| (other.shape(), other.dtype(), other.device());
        let (of_y, of_state) = (saved(&y), saved(&state));
        (track(outputs, &inputs, of_state, y), track(last, &inputs, of_y, state))
    }

    fn ssd_backward(
        _x: FloatTensor<Self>,
        _log_a: FloatTensor<Self>,
        _b: FloatTensor<Self>,
        _c: FloatTensor<Self>,
        _state: FloatTensor<Self>,
        _dy: FloatTensor<Self>,
        _dstate: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("{FIRST_ORDER}")
    }
}

/// Registers `result` as the output of a prepared operation on `inputs`.
fn track<B: SsdOps, C: CheckpointStrategy, O: Backward<B, 5, State = Saved<B>>>(
    kind: OpsKind<O, B, Saved<B>, C, 5>,
    inputs: &[FloatTensor<Autodiff<B, C>>; 5],
    (shape, dtype, device): (Shape, DType, Device<B>),
    result: FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    match kind {
        OpsKind::Tracked(mut prep) => {
            let ids = inputs.each_ref().map(|tensor| prep.checkpoint(tensor));
            prep.finish((ids, shape, dtype, device), result)
        }
        OpsKind::UnTracked(prep) => prep.finish(result),
    }
}
