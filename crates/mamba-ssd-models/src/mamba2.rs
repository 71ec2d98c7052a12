//! Mamba-2 language models, and hybrids of Mamba-2 and attention.
//!
//! ```text
//! x ← x + mixer(RMSNorm(x))
//! ```
//!
//! Dao and Gu (2024), as published by state-spaces and in transformers.

use burn::module::Module;
use burn::nn::{Embedding, Linear};
use burn::tensor::{Int, Tensor};
use mamba_ssd::norm::RmsNorm;
use mamba_ssd::{Backbone, MatrixMixer, Mixer, MixerState, Segments, embed};

use crate::Mamba2LmConfig;
use crate::llama::head;

/// A language model of Mamba-2 blocks.
#[derive(Module, Debug)]
pub struct Mamba2Lm {
    /// Token embedding, `[v d]`.
    pub embedding: Embedding,
    /// The layers.
    pub layers: Vec<Mamba2Block>,
    /// The norm in front of the head.
    pub final_layernorm: RmsNorm,
    /// The head; absent when the embedding serves as head.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    pub(crate) config: Mamba2LmConfig,
}

/// A layer: a mixer behind a norm and beside a residual.
#[derive(Module, Debug)]
pub struct Mamba2Block {
    /// The norm in front of the mixer.
    pub norm: RmsNorm,
    /// The mixer.
    pub mixer: Mixer,
}

impl Mamba2Lm {
    /// Shapes of this model, with the mixers it holds now.
    pub fn config(&self) -> Mamba2LmConfig {
        let mixers = self.layers.iter().map(|layer| layer.mixer.config()).collect();
        Mamba2LmConfig { mixers, ..self.config.clone() }
    }
}

impl Backbone for Mamba2Lm {
    fn n_layers(&self) -> usize {
        self.layers.len()
    }

    fn d_model(&self) -> usize {
        self.config.d_model
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn mixer(&self, layer: usize) -> &Mixer {
        &self.layers[layer].mixer
    }

    fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        embed(self.embedding.weight.val(), tokens).cast(self.final_layernorm.weight.dtype())
    }

    fn layer(&self, layer: usize, hidden: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        let block = &self.layers[layer];
        let mixed = block.mixer.forward(block.norm.forward(hidden.clone()), segments);
        hidden + mixed
    }

    fn mixer_input(&self, layer: usize, hidden: Tensor<3>) -> Tensor<3> {
        self.layers[layer].norm.forward(hidden)
    }

    fn head(&self, hidden: Tensor<3>) -> Tensor<3> {
        let normal = self.final_layernorm.forward(hidden);
        head(&self.embedding, self.lm_head.as_ref(), normal)
    }

    fn layer_prefill(&self, layer: usize, hidden: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        let block = &self.layers[layer];
        let (mixed, state) = block.mixer.prefill(block.norm.forward(hidden.clone()), state);
        (hidden + mixed, state)
    }

    fn layer_step(&self, layer: usize, hidden: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState) {
        let block = &self.layers[layer];
        let (mixed, state) = block.mixer.step(block.norm.forward(hidden.clone()), state);
        (hidden + mixed, state)
    }
}
