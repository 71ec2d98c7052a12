//! Phi, Phi-Mamba and the hybrids of the two.
//!
//! ```text
//! h = LayerNorm(x)
//! x ← x + mixer(h) + fc2(gelu(fc1(h)))      mixer and MLP side by side
//! ```
//!
//! Li et al., "Textbooks Are All You Need II" (2023); Phi-Mamba: Bick et al. (2024).

use burn::module::Module;
use burn::nn::{Embedding, Linear};
use burn::tensor::{Int, Tensor};
use mamba_ssd::norm::LayerNorm;
use mamba_ssd::{Backbone, MatrixMixer, Mixer, MixerState, Segments, embed, gelu, project};

use crate::{ModelConfig, PhiConfig};

/// A language model of parallel blocks, with a biased head.
#[derive(Module, Debug)]
pub struct Phi {
    /// Token embedding, `[v d]`.
    pub embedding: Embedding,
    /// The layers.
    pub layers: Vec<PhiBlock>,
    /// The norm in front of the head.
    pub final_layernorm: LayerNorm,
    /// The head.
    pub lm_head: Linear,
    #[module(skip)]
    pub(crate) config: PhiConfig,
}

/// A layer: mixer and MLP side by side behind one norm.
#[derive(Module, Debug)]
pub struct PhiBlock {
    /// The norm in front of both.
    pub input_layernorm: LayerNorm,
    /// The mixer.
    pub mixer: Mixer,
    /// The MLP.
    pub mlp: PhiMlp,
}

/// An MLP, `fc2(gelu(fc1(x)))`, with GELU's tanh form.
#[derive(Module, Debug)]
pub struct PhiMlp {
    /// To the inner width.
    pub fc1: Linear,
    /// Back to the width of the residual stream.
    pub fc2: Linear,
}

impl Phi {
    /// Shapes of this model, with the mixers it holds now.
    pub fn config(&self) -> PhiConfig {
        let mixers = self.layers.iter().map(|layer| layer.mixer.config()).collect();
        PhiConfig { mixers, ..self.config.clone() }
    }
}

impl PhiMlp {
    /// `[.. d]` to `[.. d]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        project(&self.fc2, gelu(project(&self.fc1, x)))
    }
}

impl Backbone for Phi {
    fn n_layers(&self) -> usize {
        self.layers.len()
    }

    fn d_model(&self) -> usize {
        self.config.d_model
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_positions(&self) -> Option<usize> {
        ModelConfig::Phi(self.config()).max_positions()
    }

    fn mixer(&self, layer: usize) -> &Mixer {
        &self.layers[layer].mixer
    }

    fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        embed(self.embedding.weight.val(), tokens).cast(self.final_layernorm.weight.dtype())
    }

    fn layer(&self, layer: usize, hidden: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        let block = &self.layers[layer];
        let normal = block.input_layernorm.forward(hidden.clone());
        hidden + block.mixer.forward(normal.clone(), segments) + block.mlp.forward(normal)
    }

    fn mixer_input(&self, layer: usize, hidden: Tensor<3>) -> Tensor<3> {
        self.layers[layer].input_layernorm.forward(hidden)
    }

    fn head(&self, hidden: Tensor<3>) -> Tensor<3> {
        project(&self.lm_head, self.final_layernorm.forward(hidden))
    }

    fn layer_prefill(&self, layer: usize, hidden: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        let block = &self.layers[layer];
        let normal = block.input_layernorm.forward(hidden.clone());
        let (mixed, state) = block.mixer.prefill(normal.clone(), state);
        (hidden + mixed + block.mlp.forward(normal), state)
    }

    fn layer_step(&self, layer: usize, hidden: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState) {
        let block = &self.layers[layer];
        let normal = block.input_layernorm.forward(hidden.clone());
        let (mixed, state) = block.mixer.step(normal.clone(), state);
        (hidden + mixed + block.mlp.forward(normal), state)
    }
}
