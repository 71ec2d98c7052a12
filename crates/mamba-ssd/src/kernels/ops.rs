//! The operations that a backend may implement natively.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};

/// Native forms of this crate's maps.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"))]
pub trait KernelOps: Backend {
    /// `x [b t h p]`, `log_a [b t h]`, `b` and `c [b t h n]`, `state [b h p n]` to the outputs
    /// `[b t h p]` followed by the final state `[b h p n]`, flat.
    fn ssd_forward(
        x: FloatTensor<Self>,
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        state: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Gradients of the five inputs of [`KernelOps::ssd_forward`], given that of its result.
    #[allow(clippy::type_complexity)] // an operation of burn takes and returns tensors one by one
    fn ssd_backward(
        x: FloatTensor<Self>,
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        state: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// `window [b k-1+t c]`, `weight [c k]`, `bias [c]`, `reach [b t]` to `[b t c]`.
    fn conv_forward(
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        reach: IntTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Gradients of window, weight and bias, given that of the result.
    fn conv_backward(
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        reach: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// `silu(gate) ∘ value`, for two tensors of one shape.
    fn gate_forward(gate: FloatTensor<Self>, value: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradients of gate and value, given that of the result.
    fn gate_backward(
        gate: FloatTensor<Self>,
        value: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}
