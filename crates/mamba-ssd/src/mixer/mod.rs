//! Sequence mixers: attention, Mamba-1 and the two forms of Mamba-2, behind one trait.
//!
//! A mixer maps `u [b t d]` to `[b t d]`. Each is a matrix acting on values, head by head, between
//! projections: `forward(u) = output(M(u) · values(u), u)`. MOHAWK compares those matrices. [`Parallel`] puts
//! SSM and attention heads into one layer.

mod attention;
mod cache;
mod causal_conv;
mod discrete_mamba2;
mod junction;
mod mamba1;
mod mamba2;
mod mixing;
mod parallel;
mod skip;
mod state;
mod step_size;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

pub use attention::{Attention, AttentionConfig};
pub use cache::KvCache;
pub use causal_conv::{Activation, CausalConv1d};
pub use discrete_mamba2::{DiscreteMamba2, DiscreteMamba2Config};
pub use junction::{Adapter, Hymba, Junction, JunctionKind, Merger};
pub use mamba1::{Mamba1, Mamba1Config};
pub use mamba2::{Mamba2, Mamba2Config};
pub use mixing::Mixing;
pub use parallel::{Parallel, ParallelConfig};
pub(crate) use state::{Append, Rows};
pub use state::{MixerState, StateMap};

use crate::Segments;

/// A sequence mixer that can show its matrix.
pub trait MatrixMixer {
    /// The whole mixer, `[b t d]` to `[b t d]`.
    fn forward(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<3>;

    /// What the matrix multiplies, `[b t h p]`.
    fn values(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<4>;

    /// The matrix M by its factors: zero above the diagonal, and a skip term D on it.
    fn mixing(&self, u: Tensor<3>, segments: Option<&Segments>) -> Mixing;

    /// The matrix M, `[b h t t]`.
    fn mixing_matrix(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<4> {
        self.mixing(u, segments).whole()
    }

    /// What follows the matrix: gate, norm and output projection of `mixed [b t h p]`, and what another mixer
    /// adds to it in the same layer.
    fn output(&self, mixed: Tensor<4>, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<3>;

    /// The state before the first token.
    fn init_state(&self, batch: usize, device: &Device) -> MixerState;

    /// The mixer over a sequence that continues `state`, and the state after it.
    fn prefill(&self, u: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState);

    /// The mixer over one token, `[b d]`, and the state after it.
    fn step(&self, u: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState);

    /// Number of heads of the matrix, h.
    fn n_heads(&self) -> usize;
}

/// Configuration of any mixer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MixerConfig {
    /// Softmax attention.
    Attention(AttentionConfig),
    /// The mixer of Phi-Mamba and Llamba.
    DiscreteMamba2(DiscreteMamba2Config),
    /// The mixer of Mamba-1, with grouped heads.
    Mamba1(Mamba1Config),
    /// The mixer of Mamba-2.
    Mamba2(Mamba2Config),
    /// The mixer of Llamba beside attention.
    Parallel(ParallelConfig),
}

impl MixerConfig {
    /// A mixer with random weights.
    pub fn init(&self, device: &Device) -> Mixer {
        match self {
            Self::Attention(config) => Mixer::Attention(config.init(device)),
            Self::DiscreteMamba2(config) => Mixer::DiscreteMamba2(config.init(device)),
            Self::Mamba1(config) => Mixer::Mamba1(config.init(device)),
            Self::Mamba2(config) => Mixer::Mamba2(config.init(device)),
            Self::Parallel(config) => Mixer::Parallel(config.init(device)),
        }
    }
}

/// Numbers that decoding one sequence carries from token to token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSize {
    /// From the first token on.
    pub constant: usize,
    /// More for every token.
    pub per_token: usize,
}

impl std::ops::Add for StateSize {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { constant: self.constant + other.constant, per_token: self.per_token + other.per_token }
    }
}

impl std::iter::Sum for StateSize {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), |sum, size| sum + size)
    }
}

impl MixerConfig {
    /// The size of the mixer's state for one sequence.
    pub fn state_size(&self) -> StateSize {
        let ssm = |d_conv: usize, channels: usize, state: usize| StateSize {
            constant: (d_conv - 1) * channels + state,
            per_token: 0,
        };
        let attention = |config: &AttentionConfig| StateSize {
            constant: config.d_conv.map_or(0, |d_conv| (d_conv - 1) * config.conv_dim()),
            per_token: 2 * config.n_kv_heads * config.head_dim,
        };
        let discrete = |config: &DiscreteMamba2Config| {
            ssm(config.d_conv, config.conv_dim(), config.d_inner() * config.d_state)
        };
        match self {
            Self::Attention(config) => attention(config),
            Self::DiscreteMamba2(config) => discrete(config),
            Self::Mamba1(config) => ssm(config.d_conv, config.d_inner, config.d_inner * config.d_state),
            Self::Mamba2(config) => ssm(config.d_conv, config.conv_dim(), config.d_inner() * config.d_state),
            Self::Parallel(config) => {
                discrete(&config.ssm) + config.attention.as_ref().map(attention).unwrap_or_default()
            }
        }
    }
}

/// Any mixer: teacher, hybrid and student are the same model with other variants.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // one per layer; boxing would hide the module from burn's derive
pub enum Mixer {
    /// Softmax attention.
    Attention(Attention),
    /// The mixer of Phi-Mamba and Llamba.
    DiscreteMamba2(DiscreteMamba2),
    /// The mixer of Mamba-1, with grouped heads.
    Mamba1(Mamba1),
    /// The mixer of Mamba-2.
    Mamba2(Mamba2),
    /// The mixer of Llamba beside attention.
    Parallel(Parallel),
}

impl Mixer {
    /// The mixer as what every one of them is.
    fn as_matrix_mixer(&self) -> &dyn MatrixMixer {
        match self {
            Self::Attention(mixer) => mixer,
            Self::DiscreteMamba2(mixer) => mixer,
            Self::Mamba1(mixer) => mixer,
            Self::Mamba2(mixer) => mixer,
            Self::Parallel(mixer) => mixer,
        }
    }

    /// Whether this mixer is attention alone.
    pub fn is_attention(&self) -> bool {
        matches!(self, Self::Attention(_))
    }

    /// The configuration that rebuilds this mixer's shapes.
    pub fn config(&self) -> MixerConfig {
        match self {
            Self::Attention(mixer) => MixerConfig::Attention(mixer.config().clone()),
            Self::DiscreteMamba2(mixer) => MixerConfig::DiscreteMamba2(mixer.config().clone()),
            Self::Mamba1(mixer) => MixerConfig::Mamba1(mixer.config().clone()),
            Self::Mamba2(mixer) => MixerConfig::Mamba2(mixer.config().clone()),
            Self::Parallel(mixer) => MixerConfig::Parallel(mixer.config()),
        }
    }
}

impl MatrixMixer for Mixer {
    fn forward(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        self.as_matrix_mixer().forward(u, segments)
    }

    fn values(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<4> {
        self.as_matrix_mixer().values(u, segments)
    }

    fn mixing(&self, u: Tensor<3>, segments: Option<&Segments>) -> Mixing {
        self.as_matrix_mixer().mixing(u, segments)
    }

    fn output(&self, mixed: Tensor<4>, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        self.as_matrix_mixer().output(mixed, u, segments)
    }

    fn init_state(&self, batch: usize, device: &Device) -> MixerState {
        self.as_matrix_mixer().init_state(batch, device)
    }

    fn prefill(&self, u: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        self.as_matrix_mixer().prefill(u, state)
    }

    fn step(&self, u: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState) {
        self.as_matrix_mixer().step(u, state)
    }

    fn n_heads(&self) -> usize {
        self.as_matrix_mixer().n_heads()
    }
}
