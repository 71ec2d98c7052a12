//! The gradient of an embedding on GPUs: burn's own takes one unit for each feature, which walks over all tokens one
//! after another and rounds every sum to the dtype of the weight.

use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, backend_extension};
use burn::tensor::{Int, Tensor};

/// Rows `tokens [b t]` of `weight [v d]`, where the operation is for the device.
pub(crate) fn native_embedding(weight: &Tensor<2>, tokens: &Tensor<2, Int>) -> Option<Tensor<3>> {
    let on_gpu = match weight.device().inner().as_dispatch() {
        DispatchDevice::Cube(_) => true,
        #[allow(unreachable_patterns)] // other backends that a program may compile in
        _ => false,
    };
    let run = || Dispatch::embedding_rows(weight.clone().into_dispatch(), tokens.clone().into_dispatch());
    (on_gpu && super::available(&weight.device(), weight.dtype())).then(|| Tensor::from_dispatch(run()))
}

/// The operation.
#[backend_extension(Autodiff, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub trait EmbeddingOps: Backend {
    /// Rows `tokens [b t]` of `weight [v d]`, `[b t d]`.
    #[fusion(dtype = weight, shape = [tokens[0], tokens[1], weight[1]].into())]
    fn embedding_rows(weight: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self>;

    /// The gradient `[v d]` of the weight, given that of the rows, `[b t d]`.
    #[fusion(dtype = grad, shape = [*words, grad[2]].into())]
    fn embedding_gradient(
        grad: FloatTensor<Self>,
        tokens: IntTensor<Self>,
        words: usize,
    ) -> FloatTensor<Self>;
}

#[derive(Debug)]
struct Rows;

impl<B: EmbeddingOps> Backward<B, 1> for Rows {
    type State = (IntTensor<B>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (tokens, words) = ops.state;
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::embedding_gradient(grad, tokens, words));
        }
    }
}

impl<B: EmbeddingOps, C: CheckpointStrategy> EmbeddingOps for Autodiff<B, C> {
    fn embedding_rows(weight: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        match Rows.prepare::<C>([weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let weight = weight.into_primitive();
                let words = burn::backend::TensorMetadata::shape(&weight)[0];
                prep.finish((tokens.clone(), words), B::embedding_rows(weight, tokens))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::embedding_rows(weight.into_primitive(), tokens)),
        }
    }

    fn embedding_gradient(
        _grad: FloatTensor<Self>,
        _tokens: IntTensor<Self>,
        _words: usize,
    ) -> FloatTensor<Self> {
        panic!("{}", super::autodiff::FIRST_ORDER)
    }
}
