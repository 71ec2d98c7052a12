//! The kernels under automatic differentiation: forward natively, backward by the native reverse.

use burn::backend::Autodiff;
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};

use super::ops::KernelOps;

#[derive(Debug)]
struct Ssd;

impl<B: KernelOps> Backward<B, 5> for Ssd {
    type State = [NodeId; 5];

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x, log_a, b, c, state] = ops.state.map(|id| checkpointer.retrieve_node_output(id));
        let (x, log_a, b, c, state) = B::ssd_backward(x, log_a, b, c, state, grad);
        for (node, gradient) in ops.parents.into_iter().zip([x, log_a, b, c, state]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct Conv;

impl<B: KernelOps> Backward<B, 3> for Conv {
    type State = (NodeId, NodeId, IntTensor<B>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (window, weight, reach) = ops.state;
        let window: FloatTensor<B> = checkpointer.retrieve_node_output(window);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight);
        let (window, weight, bias) = B::conv_backward(window, weight, reach, grad);
        for (node, gradient) in ops.parents.into_iter().zip([window, weight, bias]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct Gate;

impl<B: KernelOps> Backward<B, 2> for Gate {
    type State = [NodeId; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [gate, value] = ops.state.map(|id| checkpointer.retrieve_node_output(id));
        let (gate, value) = B::gate_backward(gate, value, grad);
        for (node, gradient) in ops.parents.into_iter().zip([gate, value]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

pub(super) const FIRST_ORDER: &str = "burn differentiates once: the gradient of a gradient is not available";

impl<B: KernelOps, C: CheckpointStrategy> KernelOps for Autodiff<B, C> {
    fn ssd_forward(
        x: FloatTensor<Self>,
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        state: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), log_a.node(), b.node(), c.node(), state.node()];
        match Ssd.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = [&x, &log_a, &b, &c, &state].map(|tensor| prep.checkpoint(tensor));
                let [x, log_a, b, c, state] = [x, log_a, b, c, state].map(|tensor| tensor.into_primitive());
                prep.finish(ids, B::ssd_forward(x, log_a, b, c, state))
            }
            OpsKind::UnTracked(prep) => {
                let [x, log_a, b, c, state] = [x, log_a, b, c, state].map(|tensor| tensor.into_primitive());
                prep.finish(B::ssd_forward(x, log_a, b, c, state))
            }
        }
    }

    fn ssd_backward(
        _x: FloatTensor<Self>,
        _log_a: FloatTensor<Self>,
        _b: FloatTensor<Self>,
        _c: FloatTensor<Self>,
        _state: FloatTensor<Self>,
        _grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("{FIRST_ORDER}")
    }

    fn conv_forward(
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        reach: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        match Conv.prepare::<C>([window.node(), weight.node(), bias.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&window), prep.checkpoint(&weight), reach.clone());
                let [window, weight, bias] = [window, weight, bias].map(|tensor| tensor.into_primitive());
                prep.finish(state, B::conv_forward(window, weight, bias, reach))
            }
            OpsKind::UnTracked(prep) => {
                let [window, weight, bias] = [window, weight, bias].map(|tensor| tensor.into_primitive());
                prep.finish(B::conv_forward(window, weight, bias, reach))
            }
        }
    }

    fn conv_backward(
        _window: FloatTensor<Self>,
        _weight: FloatTensor<Self>,
        _reach: IntTensor<Self>,
        _grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("{FIRST_ORDER}")
    }

    fn gate_forward(gate: FloatTensor<Self>, value: FloatTensor<Self>) -> FloatTensor<Self> {
        match Gate.prepare::<C>([gate.node(), value.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = [&gate, &value].map(|tensor| prep.checkpoint(tensor));
                prep.finish(ids, B::gate_forward(gate.into_primitive(), value.into_primitive()))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::gate_forward(gate.into_primitive(), value.into_primitive()))
            }
        }
    }

    fn gate_backward(
        _gate: FloatTensor<Self>,
        _value: FloatTensor<Self>,
        _grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        panic!("{FIRST_ORDER}")
    }
}
