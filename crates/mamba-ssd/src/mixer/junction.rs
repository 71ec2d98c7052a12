//! Where the outputs of SSM and attention heads of one layer meet.
//!
//! ```text
//! Vanilla   s + a
//! Adapter   (s + out_proj(â)) / 2      â = (a - mean a) / (std a + ε) · (std s + ε) + mean s, token by token
//! Hymba     out_proj((ssm_gate · RMSNorm(s) + att_gate · RMSNorm(a)) / 2)
//! Merger    (out_proj(RMSNorm(s)) + out_proj(RMSNorm(a))) / 2      one norm and one projection for both
//! ```
//!
//! Without attention heads Vanilla and Adapter are `s`, and the others leave out `a` and the halving. The
//! deviations divide by d - 1. Bick et al., the code of MOHAWK, `components/blocks/DoubleBlock.py`; Hymba: Dong
//! et al. (2024).

use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use crate::norm::{DoubleRmsNorm, NormConfig, RmsNorm, wide};
use crate::project;

/// ε of everything here: the published code fixes it, whatever the model's norms have.
pub(super) const EPSILON: f64 = 1e-5;

/// How a layer joins its SSM and attention heads.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum JunctionKind {
    /// The attention's output takes the SSM's mean and deviation, and passes through a projection.
    Adapter,
    /// Their sum.
    Vanilla,
    /// Each is normed and gated, their mean projected.
    Hymba,
    /// Norms of their own in front, one norm and one projection behind.
    Merger,
}

impl JunctionKind {
    /// Number of parameters at a width of `d_model`, with or without attention heads.
    pub fn n_params(self, d_model: usize, attention: bool) -> usize {
        let linear = d_model * (d_model + 1);
        match self {
            Self::Adapter if attention => linear,
            Self::Adapter | Self::Vanilla => 0,
            Self::Hymba => linear + 4 * d_model,
            Self::Merger => linear + 3 * d_model,
        }
    }

    /// A junction whose projection has PyTorch's default random weights; norms are 1, and Hymba's gates 0, as the
    /// published code starts them. Nothing where there is nothing to learn.
    pub(super) fn init(self, d_model: usize, attention: bool, device: &Device) -> Option<Junction> {
        let out_proj = LinearConfig::new(d_model, d_model).init(device);
        let norm = NormConfig::new(d_model).with_epsilon(EPSILON);
        let gate = || Initializer::Zeros.init([d_model], device);
        match self {
            Self::Adapter => attention.then_some(Junction::Adapter(Adapter { out_proj })),
            Self::Vanilla => None,
            Self::Hymba => Some(Junction::Hymba(Hymba {
                ssm_output_layernorm: norm.init_rms(device),
                att_output_layernorm: norm.init_rms(device),
                ssm_gate: gate(),
                att_gate: gate(),
                out_proj,
            })),
            Self::Merger => Some(Junction::Merger(Merger {
                input_layernorm: norm.init_double_rms(device),
                output_layernorm: norm.init_rms(device),
                out_proj,
            })),
        }
    }
}

/// What a layer learns of how to join its heads.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // one per layer; boxing would hide the module from burn's derive
pub enum Junction {
    /// See [`JunctionKind::Adapter`].
    Adapter(Adapter),
    /// See [`JunctionKind::Hymba`].
    Hymba(Hymba),
    /// See [`JunctionKind::Merger`].
    Merger(Merger),
}

/// The projection of the attention's output.
#[derive(Module, Debug)]
pub struct Adapter {
    /// `d → d`.
    pub out_proj: Linear,
}

/// Norms, gates and projection of a [`JunctionKind::Hymba`].
#[derive(Module, Debug)]
pub struct Hymba {
    /// Of the SSM's output.
    pub ssm_output_layernorm: RmsNorm,
    /// Of the attention's output; there even without attention heads.
    pub att_output_layernorm: RmsNorm,
    /// Scale of the SSM's normed output, `[d]`.
    pub ssm_gate: Param<Tensor<1>>,
    /// Scale of the attention's normed output, `[d]`.
    pub att_gate: Param<Tensor<1>>,
    /// `d → d`.
    pub out_proj: Linear,
}

/// Norms and projection of a [`JunctionKind::Merger`].
#[derive(Module, Debug)]
pub struct Merger {
    /// In front of both, in place of the layer's norm.
    pub input_layernorm: DoubleRmsNorm,
    /// Of either output.
    pub output_layernorm: RmsNorm,
    /// `d → d`.
    pub out_proj: Linear,
}

impl Junction {
    /// The inputs of the SSM and of the attention, from that of the mixer.
    pub(super) fn inputs<const D: usize>(&self, u: Tensor<D>) -> [Tensor<D>; 2] {
        match self {
            Self::Adapter(_) | Self::Hymba(_) => [u.clone(), u],
            Self::Merger(merger) => merger.input_layernorm.forward(u),
        }
    }

    /// The mixer's output from those of the SSM and of the attention, `[.. d]`.
    pub(super) fn join<const D: usize>(&self, ssm: Tensor<D>, attention: Option<Tensor<D>>) -> Tensor<D> {
        match self {
            Self::Adapter(adapter) => match attention {
                Some(attention) => {
                    mean(ssm.clone(), Some(project(&adapter.out_proj, matched(attention, ssm))))
                }
                None => ssm,
            },
            Self::Hymba(hymba) => {
                let ssm = hymba.ssm_output_layernorm.forward(ssm) * hymba.ssm_gate.val().unsqueeze();
                let attention = attention
                    .map(|a| hymba.att_output_layernorm.forward(a) * hymba.att_gate.val().unsqueeze());
                project(&hymba.out_proj, mean(ssm, attention))
            }
            Self::Merger(merger) => {
                let norm = |x| merger.output_layernorm.forward(x);
                // The mean of two projections is the projection of the mean.
                project(&merger.out_proj, mean(norm(ssm), attention.map(norm)))
            }
        }
    }
}

/// The mean of two, or the one that there is.
fn mean<const D: usize>(ssm: Tensor<D>, attention: Option<Tensor<D>>) -> Tensor<D> {
    match attention {
        Some(attention) => (ssm + attention) * 0.5,
        None => ssm,
    }
}

/// `attention` with the mean and the deviation of `ssm` over the last axis.
fn matched<const D: usize>(attention: Tensor<D>, ssm: Tensor<D>) -> Tensor<D> {
    let dtype = attention.dtype();
    let [(attention, _, spread), (_, level, wanted)] = [attention, ssm].map(|x| moments(x.cast(wide(dtype))));
    (attention / (spread + EPSILON) * (wanted + EPSILON) + level).cast(dtype)
}

/// What is left without the mean, the mean, and the deviation, over the last axis.
fn moments<const D: usize>(x: Tensor<D>) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    let d = x.dims()[D - 1];
    let mean = x.clone().mean_dim(D - 1);
    let centred = x - mean.clone();
    let variance = centred.clone().square().sum_dim(D - 1) / (d - 1) as f64;
    (centred, mean, variance.sqrt())
}
