//! The mixer of Phi-Mamba and Llamba between its projections as one operation, for training.
//!
//! The convolution, SSD, the skip term and the gate are a dozen operations whose results autodiff would keep, and
//! the parts of the input projection are views, whose gradients it would make whole again with zeros and additions.
//! Here the reverse pass makes x, B and C again from the projection, and writes every part of the projection's gradient
//! where it lies. Kept are the projection and SSD's result.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients as Tape,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, DispatchDevice, backend_extension};
use burn::nn::Linear;
use burn::tensor::{DType, Device, Int, Tensor};

use super::autodiff::FIRST_ORDER;
use crate::linear::project_padded;

/// Heads of a row of the projection, `[x B C | z | A_log | padding]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Discrete {
    pub heads: usize,
    /// Head dimension.
    pub p: usize,
    /// Heads of B and C.
    pub groups: usize,
    /// State size.
    pub n: usize,
    /// Whether z has a bias; where it has not, any array takes its place.
    pub z_bias: bool,
}

impl Discrete {
    /// Channels of x.
    pub fn inner(&self) -> usize {
        self.heads * self.p
    }

    /// Channels of B.
    pub fn bc(&self) -> usize {
        self.groups * self.n
    }
}

/// The parameters of a call.
pub(crate) struct Mixer<'a> {
    pub in_proj: &'a Linear,
    pub weight: Tensor<2>,
    pub bias: Option<Tensor<1>>,
    pub z_bias: Option<Tensor<1>>,
    pub d: Tensor<1>,
    pub starts: Option<Tensor<2, Int>>,
}

impl Mixer<'_> {
    /// Whether all are of `dtype`.
    pub fn is_of(&self, dtype: DType) -> bool {
        let vectors = [&self.bias, &self.z_bias, &self.in_proj.bias.as_ref().map(|bias| bias.val())];
        self.in_proj.weight.dtype() == dtype
            && self.weight.dtype() == dtype
            && self.d.dtype() == dtype
            && vectors.into_iter().flatten().all(|vector| vector.dtype() == dtype)
    }

    /// The mixer's result `[b t inner]` of `u [b t d]`.
    pub fn run(self, u: &Tensor<3>, form: Discrete) -> Tensor<3> {
        let Self { in_proj, weight, bias, z_bias, d, starts } = self;
        let projected = project_padded(in_proj, u.clone());
        let (dtype, device) = (projected.dtype(), projected.device());
        let [b, t, _] = projected.dims();
        let bias = bias.unwrap_or_else(|| Tensor::zeros([weight.dims()[0]], (&device, dtype)));
        let starts = starts.unwrap_or_else(|| Tensor::zeros([b, t], &device));
        let d = d.into_dispatch();
        let z_bias = z_bias.map_or_else(|| d.clone(), |bias| bias.into_dispatch());
        let (projected, weight, bias) =
            (projected.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
        let starts = starts.into_dispatch();
        let (out, _) = Dispatch::discrete_forward(projected, weight, bias, z_bias, d, starts, form);
        Tensor::from_dispatch(out)
    }
}

impl Discrete {
    /// Whether a device has the operation for values of `dtype`.
    pub fn fits(&self, device: &Device, dtype: DType) -> bool {
        match device.clone().inner().as_dispatch() {
            DispatchDevice::Cube(device) => super::cube::fits(&device.client(), dtype, self.p, self.n),
            #[allow(unreachable_patterns)] // other backends that a program may compile in
            _ => false,
        }
    }
}

/// The operation.
#[backend_extension(Autodiff, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub trait DiscreteOps: Backend {
    /// The result `[b t inner]`, and SSD's own `[b t h p]`.
    #[allow(clippy::too_many_arguments, reason = "an operation of burn takes tensors one by one")]
    #[fusion(meta = |projected, _weight, _bias, _z_bias, _d, _starts, form| {
        let [b, t] = [projected.shape[0], projected.shape[1]];
        let spec = |shape: burn::tensor::Shape| {
            burn::backend::fusion::custom::TensorSpec::new(shape, projected.dtype)
        };
        (spec([b, t, form.inner()].into()), spec([b, t, form.heads, form.p].into()))
    })]
    fn discrete_forward(
        projected: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        z_bias: FloatTensor<Self>,
        d: FloatTensor<Self>,
        starts: IntTensor<Self>,
        form: Discrete,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of the five float inputs, given SSD's result and the gradient of the mixer's.
    #[allow(
        clippy::type_complexity,
        clippy::too_many_arguments,
        reason = "an operation of burn takes and returns tensors one by one"
    )]
    #[fusion(meta = |projected, weight, bias, z_bias, d, _starts, _y, _grad, _form| {
        (projected.clone(), weight.clone(), bias.clone(), z_bias.clone(), d.clone())
    })]
    fn discrete_backward(
        projected: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        z_bias: FloatTensor<Self>,
        d: FloatTensor<Self>,
        starts: IntTensor<Self>,
        y: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        form: Discrete,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

#[derive(Debug)]
struct Whole;

impl<B: DiscreteOps> Backward<B, 5> for Whole {
    type State = ([NodeId; 5], IntTensor<B>, FloatTensor<B>, Discrete);

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Tape, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (ids, starts, y, form) = ops.state;
        let [projected, weight, bias, z_bias, d] = ids.map(|id| checkpointer.retrieve_node_output(id));
        let (projected, weight, bias, z_bias, d) =
            B::discrete_backward(projected, weight, bias, z_bias, d, starts, y, grad, form);
        let gradients = [Some(projected), Some(weight), Some(bias), form.z_bias.then_some(z_bias), Some(d)];
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: DiscreteOps, C: CheckpointStrategy> DiscreteOps for Autodiff<B, C> {
    fn discrete_forward(
        projected: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        z_bias: FloatTensor<Self>,
        d: FloatTensor<Self>,
        starts: IntTensor<Self>,
        form: Discrete,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [projected.node(), weight.node(), bias.node(), z_bias.node(), d.node()];
        let run = |[projected, weight, bias, z_bias, d]: [FloatTensor<B>; 5], starts| {
            B::discrete_forward(projected, weight, bias, z_bias, d, starts, form)
        };
        let inputs = [projected, weight, bias, z_bias, d];
        match Whole.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = inputs.each_ref().map(|tensor| prep.checkpoint(tensor));
                let (out, y) = run(inputs.map(|tensor| tensor.into_primitive()), starts.clone());
                (prep.finish((ids, starts, y.clone(), form), out), Self::from_inner(y))
            }
            OpsKind::UnTracked(prep) => {
                let (out, y) = run(inputs.map(|tensor| tensor.into_primitive()), starts);
                (prep.finish(out), Self::from_inner(y))
            }
        }
    }

    fn discrete_backward(
        _projected: FloatTensor<Self>,
        _weight: FloatTensor<Self>,
        _bias: FloatTensor<Self>,
        _z_bias: FloatTensor<Self>,
        _d: FloatTensor<Self>,
        _starts: IntTensor<Self>,
        _y: FloatTensor<Self>,
        _grad: FloatTensor<Self>,
        _form: Discrete,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("{FIRST_ORDER}")
    }
}
