//! One token of an SSM mixer between its projections, in two operations.
//!
//! ```text
//! [x B C] = act(conv(projected))              the window moves on by a token
//! S ← a S + Δ x ⊗ B,   y = S C + D x          the state is read and written once
//! y ← y silu(z + z_bias)                      where the mixer gates without a norm
//! ```
//!
//! Window and state are updated in place where nothing else holds them, so that a decoding loop runs in
//! the same buffers from token to token, as a captured graph needs. No gradients.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchDevice, DispatchTensor, backend_extension};
use burn::tensor::{DType, Tensor};

#[cfg(feature = "cube")]
use super::cube::{WIDEST, step_fits};
#[cfg(feature = "flex")]
use super::token::SequenceOps;

/// Where in a row of the input projection the convolution's channels begin, and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvStep {
    pub first: usize,
    pub bias: bool,
    pub silu: bool,
}

/// Where in a row of the input projection the decays and the gate begin, and what the mixer does with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateStep {
    pub groups: usize,
    pub decay: usize,
    pub gate: usize,
    pub form: StepForm,
}

/// The two mixers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepForm {
    /// `a = σ(-A_log)`, and y is gated with `silu(z)`, with a bias of its own or none.
    Discrete { z_bias: bool },
    /// `Δ = softplus(dt + dt_bias)`, `a = exp(-Δ exp(A_log))`; y is gated by the norm that follows.
    StepSize,
}

/// The two operations.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion")
)]
pub trait StepOps: Backend {
    /// `projected [b w]`, `window [b k-1 c]`, `weight [c k]`, `bias [c]` (any array without one) to `[b c]` and
    /// the next window.
    #[fusion(meta = |projected, window, weight, _bias, _step| {
        let out = [projected.shape[0], weight.shape[0]].into();
        (burn::backend::fusion::custom::TensorSpec::new(out, projected.dtype), window.clone())
    })]
    fn conv_step(
        projected: FloatTensor<Self>,
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        step: ConvStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// `xbc [b c]`, `projected [b w]`, `state [b h p n]`, `d [h]` and the mixer's other two vectors (any arrays
    /// where it has none) to `[b h·p]` and the next state.
    #[fusion(meta = |_xbc, projected, state, _d, _first, _second, _step| {
        let out = [projected.shape[0], state.shape[1] * state.shape[2]].into();
        (burn::backend::fusion::custom::TensorSpec::new(out, projected.dtype), state.clone())
    })]
    fn state_step(
        xbc: FloatTensor<Self>,
        projected: FloatTensor<Self>,
        state: FloatTensor<Self>,
        d: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: StateStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// Both as one operation, where every head has channels of its own.
#[backend_extension(Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
#[cfg(feature = "cube")]
pub trait TokenOps: Backend {
    /// The arrays of [`StepOps`] to `[b h·p]`, the next window and the next state.
    #[fusion(meta = |projected, window, _weight, _bias, state, _d, _first, _second, _step| {
        let out = [projected.shape[0], state.shape[1] * state.shape[2]].into();
        let y = burn::backend::fusion::custom::TensorSpec::new(out, projected.dtype);
        (y, window.clone(), state.clone())
    })]
    #[allow(clippy::too_many_arguments, reason = "an operation of burn takes and returns tensors one by one")]
    fn token_step(
        projected: FloatTensor<Self>,
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        state: FloatTensor<Self>,
        d: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: (ConvStep, StateStep),
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// The parameters and states of a mixer's step.
pub(crate) struct TokenStep {
    /// Row of the input projection, `[b w]`.
    pub projected: Tensor<2>,
    /// Window of the convolution, `[b k-1 c]`.
    pub window: Tensor<3>,
    /// State, `[b h p n]`.
    pub state: Tensor<4>,
    /// Taps, `[c k]`.
    pub weight: Tensor<2>,
    /// The convolution's bias, `[c]`.
    pub bias: Option<Tensor<1>>,
    /// Skip term, `[h]`.
    pub d: Tensor<1>,
    /// `z_bias [h·p]` or nothing, or `dt_bias [h]` and `A_log [h]`.
    pub vectors: Vec<Tensor<1>>,
    pub conv: ConvStep,
    pub step: StateStep,
}

impl TokenStep {
    /// `y [b h·p]`, the window and the state after the token; or the step as it was where the device has no
    /// native one, or gradients are wanted.
    pub fn run(self) -> Result<(Tensor<2>, Tensor<3>, Tensor<4>), Box<Self>> {
        if !self.available() {
            return Err(Box::new(self));
        }
        #[cfg(feature = "cube")]
        let own_channels = self.step.groups == self.state.dims()[1] && is_cube(&self.state.device());
        let (conv, step) = (self.conv, self.step);
        let (projected, arrays) = self.arrays();
        let [window, weight, bias, state, d, first, second] = arrays;
        let projected = projected.into_dispatch();
        #[cfg(feature = "cube")]
        if own_channels {
            let steps = (conv, step);
            let (y, window, state) =
                Dispatch::token_step(projected, window, weight, bias, state, d, first, second, steps);
            return Ok((
                Tensor::from_dispatch(y),
                Tensor::from_dispatch(window),
                Tensor::from_dispatch(state),
            ));
        }
        let (xbc, window) = Dispatch::conv_step(projected.clone(), window, weight, bias, conv);
        let (y, state) = Dispatch::state_step(xbc, projected, state, d, first, second, step);
        Ok((Tensor::from_dispatch(y), Tensor::from_dispatch(window), Tensor::from_dispatch(state)))
    }

    /// Many tokens a row, `projected [b·t w]` to `y [b t h·p]`, in one operation; or the tokens as they were where the
    /// device has none for them, or gradients are wanted.
    ///
    /// # Panics
    ///
    /// If the window or the state is of another batch than `[b ..]`.
    #[cfg(feature = "flex")]
    pub fn run_through(self, [b, t]: [usize; 2]) -> Result<(Tensor<3>, Tensor<3>, Tensor<4>), Box<Self>> {
        if !crate::computes_on_host(&self.state.device()) || b * t == 0 || !self.available() {
            return Err(Box::new(self));
        }
        let ([rows, w], batches) = (self.projected.dims(), [self.window.dims()[0], self.state.dims()[0]]);
        assert_eq!((rows, batches), (b * t, [b; 2]), "{b} rows of {t} tokens, the state's rows beside them");
        let steps = (self.conv, self.step);
        let (projected, arrays) = self.arrays();
        let [window, weight, bias, state, d, first, second] = arrays;
        let projected = projected.reshape([b, t, w]).into_dispatch();
        let (y, window, state) =
            Dispatch::sequence(projected, window, weight, bias, state, d, first, second, steps);
        Ok((Tensor::from_dispatch(y), Tensor::from_dispatch(window), Tensor::from_dispatch(state)))
    }

    /// The projection, and window, weight, bias, state, `d` and the two vectors: any arrays where the mixer has none.
    fn arrays(self) -> (Tensor<2>, [DispatchTensor; 7]) {
        let d = self.d.into_dispatch();
        let bias = self.bias.map_or_else(|| d.clone(), |bias| bias.into_dispatch());
        let mut vectors = self.vectors.into_iter().map(|vector| vector.into_dispatch());
        let mut vector = || vectors.next().unwrap_or_else(|| d.clone());
        let (first, second) = (vector(), vector());
        let (window, weight) = (self.window.into_dispatch(), self.weight.into_dispatch());
        (self.projected, [window, weight, bias, self.state.into_dispatch(), d, first, second])
    }

    /// Everything in one dtype, but on GPUs the state in that or in f32.
    fn available(&self) -> bool {
        let (dtype, device) = (self.projected.dtype(), self.projected.device());
        let vectors = self.bias.iter().chain(&self.vectors).chain([&self.d]);
        let alike = self.weight.dtype() == dtype
            && self.window.dtype() == dtype
            && vectors.into_iter().all(|vector| vector.dtype() == dtype);
        let state = self.state.dtype();
        let native = match device.as_dispatch() {
            #[cfg(feature = "flex")]
            DispatchDevice::Flex(_) => state == dtype && matches!(dtype, DType::F32 | DType::F64),
            #[cfg(feature = "cube")]
            DispatchDevice::Cube(device) => {
                let [_, _, p, n] = self.state.dims();
                let computed = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
                computed
                    && [DType::F32, dtype].contains(&state)
                    && n <= WIDEST
                    && step_fits(&device.client(), p, n)
            }
            #[allow(unreachable_patterns)] // other backends that a program may compile in
            _ => false,
        };
        alike && native && !device.is_autodiff()
    }
}

/// Whether the device is one of CubeCL's.
#[cfg(feature = "cube")]
pub(super) fn is_cube(device: &burn::tensor::Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Cube(_))
}
