//! The short convolution in front of a mixer's matrix, as parameters.

use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};

use crate::Segments;
use crate::conv::causal_conv1d;

/// What follows the convolution.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing, as in Phi-Mamba and Llamba.
    Identity,
    /// `x · sigmoid(x)`, as in Mamba-2.
    Silu,
}

impl Activation {
    pub(super) fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Identity => x,
            Self::Silu => {
                #[cfg(feature = "flex")]
                if crate::kernels::rows_are_independent(&x.device(), x.dtype()) {
                    return crate::kernels::silu(x);
                }
                silu(x)
            }
        }
    }
}

/// Weights of a causal depthwise convolution.
#[derive(Module, Debug)]
pub struct CausalConv1d {
    /// Taps, `[c k]`; the last multiplies the current token. (`[c, 1, k]` in checkpoints.)
    pub weight: Param<Tensor<2>>,
    /// Bias, `[c]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl CausalConv1d {
    /// Random taps, as PyTorch draws them: uniform in `±1/√k`.
    pub(super) fn init(channels: usize, taps: usize, bias: bool, device: &Device) -> Self {
        let bound = 1.0 / (taps as f64).sqrt();
        let uniform = Initializer::Uniform { min: -bound, max: bound };
        let bias = bias.then(|| uniform.init([channels], device));
        Self { weight: uniform.init([channels, taps], device), bias }
    }

    /// Number of tokens carried from call to call, k - 1.
    pub fn carried_tokens(&self) -> usize {
        self.weight.dims()[1] - 1
    }

    /// No tokens before the first, `[b k-1 c]`.
    pub(super) fn init_state(&self, batch: usize, device: &Device) -> Tensor<3> {
        let [c, k] = self.weight.dims();
        Tensor::zeros([batch, k - 1, c], (device, self.weight.dtype()))
    }

    /// See [`causal_conv1d`].
    pub fn forward(
        &self,
        x: Tensor<3>,
        carried: Option<Tensor<3>>,
        segments: Option<&Segments>,
    ) -> (Tensor<3>, Tensor<3>) {
        let bias = self.bias.as_ref().map(|bias| bias.val());
        causal_conv1d(x, self.weight.val(), bias, carried, segments)
    }

    /// The convolution of the channels from `first` on that `x [b t w]` holds; `carried` is that of all.
    pub(super) fn forward_part(
        &self,
        first: usize,
        x: Tensor<3>,
        carried: Option<&Tensor<3>>,
        segments: Option<&Segments>,
    ) -> (Tensor<3>, Tensor<3>) {
        let width = x.dims()[2];
        let weight = self.weight.val().narrow(0, first, width);
        let bias = self.bias.as_ref().map(|bias| bias.val().narrow(0, first, width));
        let carried = carried.map(|carried| carried.clone().narrow(2, first, width));
        causal_conv1d(x, weight, bias, carried, segments)
    }
}
