//! Convolution, gate and GELU under automatic differentiation.

use burn::backend::Autodiff;
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};

use super::autodiff::FIRST_ORDER;
use super::ops::KernelOps;

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

#[derive(Debug)]
struct Gelu;

impl<B: KernelOps> Backward<B, 1> for Gelu {
    type State = NodeId;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let x = checkpointer.retrieve_node_output(ops.state);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::tanh_gelu_backward(x, grad));
        }
    }
}

impl<B: KernelOps, C: CheckpointStrategy> KernelOps for Autodiff<B, C> {
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

    fn tanh_gelu_forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match Gelu.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let id = prep.checkpoint(&x);
                prep.finish(id, B::tanh_gelu_forward(x.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::tanh_gelu_forward(x.into_primitive())),
        }
    }

    fn tanh_gelu_backward(_x: FloatTensor<Self>, _grad: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("{FIRST_ORDER}")
    }
}
