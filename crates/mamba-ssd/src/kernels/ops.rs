//! The operations that a backend may implement natively.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
#[cfg(feature = "fusion")]
use burn::tensor::Shape;

/// The SSD map as one operation, with its gradients.
///
/// `x [b t h p]`, `b` and `c [b t g n]` are of one dtype; `log_a [b t h]` and `state [b h p n]` are of
/// the dtype that states are kept in.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion")
)]
pub trait SsdOps: Backend {
    /// Outputs `[b t h p]` in the dtype of `x`, and the final state `[b h p n]`.
    #[fusion(meta = |x, _log_a, _b, _c, state| (x.clone(), state.clone()))]
    fn ssd_forward(
        x: FloatTensor<Self>,
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        state: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of the five inputs of [`SsdOps::ssd_forward`], given those of its two results.
    #[allow(
        clippy::type_complexity,
        clippy::too_many_arguments,
        reason = "an operation of burn takes and returns tensors one by one"
    )]
    #[fusion(meta = |x, log_a, b, c, state, _dy, _dstate| {
        (x.clone(), log_a.clone(), b.clone(), c.clone(), state.clone())
    })]
    fn ssd_backward(
        x: FloatTensor<Self>,
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        state: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        dstate: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Native forms of the maps beside SSD.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion")
)]
pub trait KernelOps: Backend {
    /// `window [b k-1+t c]`, `weight [c k]`, `bias [c]`, `reach [b t]` to `[b t c]`.
    #[fusion(dtype = window, shape = convolved(window, weight))]
    fn conv_forward(
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        reach: IntTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Gradients of window, weight and bias, given that of the result.
    #[fusion(meta = |window, weight, _reach, grad| {
        let bias = burn::backend::fusion::custom::TensorSpec::new([weight.shape[0]].into(), grad.dtype);
        (window.clone(), weight.clone(), bias)
    })]
    fn conv_backward(
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        reach: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// `silu(gate) ∘ value`, for two tensors of one shape.
    #[fusion(dtype = value, shape = value)]
    fn gate_forward(gate: FloatTensor<Self>, value: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradients of gate and value, given that of the result.
    #[fusion(meta = |gate, value, _grad| (gate.clone(), value.clone()))]
    fn gate_backward(
        gate: FloatTensor<Self>,
        value: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// GELU in its tanh form.
    #[fusion(dtype = x, shape = x)]
    fn tanh_gelu_forward(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradient of x, given that of the result.
    #[fusion(dtype = x, shape = x)]
    fn tanh_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// `[b t c]` of a window `[b k-1+t c]` and a weight `[c k]`.
#[cfg(feature = "fusion")]
fn convolved(window: &Shape, weight: &Shape) -> Shape {
    Shape::new([window[0], window[1] + 1 - weight[1], window[2]])
}
