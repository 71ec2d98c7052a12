//! Products of stacks of matrices in half precision on CUDA without burn's autotune.
//!
//! Before its first product of a shape burn compiles and times twenty kernels, for 35 seconds and more on an H100, and
//! one of them compiles for a minute and a half. The kernel that it takes without autotune is one of the twenty.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, backend_extension};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};

/// `a b` of `a [x h m k]` and `b [x h k n]`, where the operation is for them.
pub(crate) fn native_batched(a: &Tensor<4>, b: &Tensor<4>) -> Option<Tensor<4>> {
    let alike = a.dtype() == b.dtype() && a.dims()[..2] == b.dims()[..2];
    let half = matches!(a.dtype(), DType::F16 | DType::BF16);
    let on_cuda = match a.device().inner().as_dispatch() {
        DispatchDevice::Cube(device) => device.client().name() == "cuda",
        #[allow(unreachable_patterns)] // other backends that a program may compile in
        _ => false,
    };
    let run = || Dispatch::batched(a.clone().into_dispatch(), b.clone().into_dispatch());
    (alike && half && on_cuda).then(|| Tensor::from_dispatch(run()))
}

/// The operation.
#[backend_extension(Autodiff, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub trait BatchedOps: Backend {
    /// `a b` of `a [x h m k]` and `b [x h k n]`.
    #[fusion(dtype = a, shape = [a[0], a[1], a[2], b[3]].into())]
    fn batched(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl BatchedOps for CubeBackend {
    fn batched(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let dtype = a.dtype;
        match matmul(a, b, None, MatmulStrategy::Cube, dtype) {
            Ok(product) => product,
            Err(error) => panic!("a product of stacks of matrices: {error:?}"),
        }
    }
}

#[derive(Debug)]
struct Batched;

impl<B: BatchedOps> Backward<B, 2> for Batched {
    type State = [NodeId; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let [a, b]: [FloatTensor<B>; 2] = ops.state.map(|id| checkpointer.retrieve_node_output(id));
        let [to_a, to_b] = ops.parents;
        if let Some(node) = to_a {
            grads.register::<B>(node.id, B::batched(dy.clone(), B::float_swap_dims(b, 2, 3)));
        }
        if let Some(node) = to_b {
            grads.register::<B>(node.id, B::batched(B::float_swap_dims(a, 2, 3), dy));
        }
    }
}

impl<B: BatchedOps, C: CheckpointStrategy> BatchedOps for Autodiff<B, C> {
    fn batched(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        match Batched.prepare::<C>([a.node(), b.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = [&a, &b].map(|tensor| prep.checkpoint(tensor));
                prep.finish(ids, B::batched(a.into_primitive(), b.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::batched(a.into_primitive(), b.into_primitive())),
        }
    }
}
