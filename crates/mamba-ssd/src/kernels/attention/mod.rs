//! Softmax attention as one operation, which never holds a whole matrix of scores.
//!
//! With `S = q kᵀ / √d` over the columns that a token may see, `logs = log Σ exp S` and `P = exp(S − logs)`,
//!
//! ```text
//! o = P v
//! dv = Pᵀ do      dS = P ∘ (do vᵀ − δ)      δ = Σ do ∘ o
//! dq = dS k / √d      dk = dSᵀ q / √d
//! ```
//!
//! The reverse pass keeps `o` and one number a row, and computes P again (Dao et al. 2022, FlashAttention, section
//! 3.1 and appendix B.4).

#[cfg(feature = "flex")]
mod flex;

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, DispatchDevice, backend_extension};
use burn::tensor::{Int, Tensor};

use super::autodiff::FIRST_ORDER;

/// `softmax(q kᵀ / √d) v` where the device has a kernel for the dtype and the head dimension.
pub(crate) fn native_attention(
    q: &Tensor<4>,
    k: &Tensor<4>,
    v: &Tensor<4>,
    first: &Tensor<2, Int>,
) -> Option<Tensor<4>> {
    let fits = match q.device().inner().as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => {
            matches!(q.dtype(), burn::tensor::DType::F32 | burn::tensor::DType::F64)
        }
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(device) => super::cube::attention_fits(&device.client(), q.dtype(), q.dims()[3]),
        #[allow(unreachable_patterns)] // other backends that a program may compile in
        _ => false,
    };
    let run = || {
        let [q, k, v] = [q, k, v].map(|tensor| tensor.clone().into_dispatch());
        Dispatch::attention_forward(q, k, v, first.clone().into_dispatch()).0
    };
    fits.then(|| Tensor::from_dispatch(run()))
}

/// The native attention. Token `l` of `t` sees the columns from `first [b t]` to its own, `s - t + l`; `first` does
/// not decrease from token to token, and the query heads that share a key-value head lie side by side.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion")
)]
pub trait AttentionOps: Backend {
    /// `q [b t h d]`, `k` and `v [b s kv d]` to `o [b t h d]` and `logs [b h t]`, which are in f64 for f64, else in f32.
    #[fusion(meta = |q, _k, _v, _first| {
        let rows = [q.shape[0], q.shape[2], q.shape[1]];
        let logs = burn::backend::fusion::custom::TensorSpec::new(rows.into(), crate::norm::wide(q.dtype));
        (q.clone(), logs)
    })]
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of q, k and v, given that of o.
    #[fusion(meta = |q, k, v, _first, _out, _logs, _grad| (q.clone(), k.clone(), v.clone()))]
    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: IntTensor<Self>,
        out: FloatTensor<Self>,
        logs: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

#[derive(Debug)]
struct Attention;

impl<B: AttentionOps> Backward<B, 3> for Attention {
    type State = ([NodeId; 3], IntTensor<B>, [FloatTensor<B>; 2]);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (inputs, first, [out, logs]) = ops.state;
        let [q, k, v] = inputs.map(|id| checkpointer.retrieve_node_output(id));
        let (q, k, v) = B::attention_backward(q, k, v, first, out, logs, grad);
        for (node, gradient) in ops.parents.into_iter().zip([q, k, v]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match Attention.prepare::<C>([q.node(), k.node(), v.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = [&q, &k, &v].map(|tensor| prep.checkpoint(tensor));
                let [q, k, v] = [q, k, v].map(|tensor| tensor.into_primitive());
                let (out, logs) = B::attention_forward(q, k, v, first.clone());
                let state = (ids, first, [out.clone(), logs.clone()]);
                (prep.finish(state, out), Self::from_inner(logs))
            }
            OpsKind::UnTracked(prep) => {
                let [q, k, v] = [q, k, v].map(|tensor| tensor.into_primitive());
                let (out, logs) = B::attention_forward(q, k, v, first);
                (prep.finish(out), Self::from_inner(logs))
            }
        }
    }

    fn attention_backward(
        _q: FloatTensor<Self>,
        _k: FloatTensor<Self>,
        _v: FloatTensor<Self>,
        _first: IntTensor<Self>,
        _out: FloatTensor<Self>,
        _logs: FloatTensor<Self>,
        _grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("{FIRST_ORDER}")
    }
}
