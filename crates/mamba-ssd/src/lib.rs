//! State space duality on [burn](https://burn.dev): one linear map with several evaluations, and the
//! sequence mixers built on it.
//!
//! A sequence mixer is a matrix. The structured state space duality (SSD) of Mamba-2 is the matrix
//!
//! ```text
//! M[l, s] = (C_l · B_s) · a_{s+1} · a_{s+2} ⋯ a_l      for s ≤ l, else 0
//! ```
//!
//! and `y = M x` can be computed through the matrix itself ([`matrix`]), chunk by chunk
//! ([`chunk_scan`]), or token by token ([`recurrent`], [`step`]). All of them are rows of one table,
//! [`EVALUATIONS`], and are tested against one f64 recurrence.
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use mamba_ssd::{SsdInput, chunk_scan, recurrent};
//!
//! let device = Device::flex();
//! let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Default, &device);
//! let log_a = -Tensor::<3>::random([1, 100, 2], Distribution::Default, &device); // b t h
//! let input = SsdInput::new(random([1, 100, 2, 8]), log_a, random([1, 100, 1, 4]), random([1, 100, 1, 4]));
//!
//! let scan = chunk_scan(input.clone(), 32);
//! let loop_ = recurrent(input);
//! let error: f32 = (scan.y - loop_.y).abs().max().into_scalar();
//! assert!(error < 1e-3);
//! ```
//!
//! This crate knows no model, no file and no tokenizer, and enables no backend: the device of the
//! input decides where everything runs. Letters are those of the papers: b batch, t length, h heads,
//! p head dimension, g groups, n state size; see `docs/notation.md`.

mod attend;
mod backbone;
mod capabilities;
pub mod conv;
mod decoder;
mod divergence;
mod embedding;
mod gate;
mod history;
#[cfg(any(feature = "flex", feature = "cube"))]
mod kernels;
mod linear;
mod mixer;
pub mod norm;
pub mod optimize;
#[cfg(feature = "persistence")]
mod persistence;
pub mod rope;
mod segments;
mod softmax;
mod ssd;
mod state;
mod weights;

pub use attend::causal_attention;
pub use backbone::Backbone;
pub use capabilities::{Capability, capabilities, computes_on_host, gpu_memory, has_collectives};
pub use decoder::Decoder;
pub use divergence::{Divergence, next_token_loss};
pub use embedding::embed;
pub use gate::{gelu, silu_gate};
pub use history::History;
#[cfg(feature = "cube")]
#[doc(hidden)]
pub use kernels::emulate_tensor_cores;
pub use linear::{Form, PRODUCTS, Product, project, project_gated, project_onto, project_transposed};
pub use mixer::{
    Activation, Adapter, Attention, AttentionConfig, CausalConv1d, DiscreteMamba2, DiscreteMamba2Config,
    Hymba, Junction, JunctionKind, KvCache, Mamba1, Mamba1Config, Mamba2, Mamba2Config, MatrixMixer, Merger,
    Mixer, MixerConfig, MixerState, Mixing, Parallel, ParallelConfig, StateMap, StateSize,
};
#[cfg(feature = "persistence")]
pub use persistence::keep_kernels;
pub use segments::Segments;
pub use softmax::causal_softmax;
pub use ssd::{
    EVALUATIONS, Evaluation, SsdInput, SsdOutput, SsdStep, chunk_scan, materialize, matrix, recurrent, scan,
    segsum, step,
};
pub use state::State;
pub use weights::WeightFormat;

/// The library example of the README, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
