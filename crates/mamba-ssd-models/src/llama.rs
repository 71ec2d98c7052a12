//! Llama, Llamba, MambaInLlama and the hybrids, by layers or by heads.
//!
//! ```text
//! x ← x + mixer(RMSNorm(x))
//! x ← x + down(silu(gate(h)) · up(h))      h = RMSNorm(x)
//! ```
//!
//! Touvron et al. (2023); Llamba: Bick et al. (2025). The mixers of the layers make the difference.

use burn::module::Module;
use burn::nn::{Embedding, Linear};
use burn::tensor::{Int, Tensor};
use mamba_ssd::norm::RmsNorm;
use mamba_ssd::{
    Backbone, MatrixMixer, Mixer, MixerState, Segments, embed, project, project_gated, project_onto,
    project_transposed,
};

use crate::{LlamaConfig, ModelConfig};

/// A language model of sequential pre-norm blocks.
#[derive(Module, Debug)]
pub struct Llama {
    /// Token embedding, `[v d]`.
    pub embedding: Embedding,
    /// The layers.
    pub layers: Vec<LlamaBlock>,
    /// The norm in front of the head.
    pub final_layernorm: RmsNorm,
    /// The head; absent when the embedding serves as head.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    pub(crate) config: LlamaConfig,
}

/// A layer: mixer, then MLP, each behind a norm and beside a residual.
#[derive(Module, Debug)]
pub struct LlamaBlock {
    /// The norm in front of the mixer, unless that norms its input itself (a
    /// [`Merger`](mamba_ssd::JunctionKind::Merger)).
    pub input_layernorm: Option<RmsNorm>,
    /// The mixer.
    pub mixer: Mixer,
    /// The norm in front of the MLP, whatever the mixer is.
    pub post_attention_layernorm: RmsNorm,
    /// The MLP.
    pub mlp: LlamaMlp,
}

/// A gated MLP, `down(silu(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct LlamaMlp {
    /// The half that silu acts on.
    pub gate_proj: Linear,
    /// The other half.
    pub up_proj: Linear,
    /// Back to the width of the residual stream.
    pub down_proj: Linear,
}

impl Llama {
    /// Shapes of this model, with the mixers it holds now.
    pub fn config(&self) -> LlamaConfig {
        let mixers = self.layers.iter().map(|layer| layer.mixer.config()).collect();
        LlamaConfig { mixers, ..self.config.clone() }
    }
}

impl LlamaMlp {
    /// `[.. d]` to `[.. d]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        project(&self.down_proj, self.wide(x))
    }

    /// The same added to the residual stream.
    fn forward_onto<const D: usize>(&self, x: Tensor<D>, residual: Tensor<D>) -> Tensor<D> {
        project_onto(&self.down_proj, self.wide(x), residual)
    }

    /// `silu(gate(x)) · up(x)`.
    fn wide<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        project_gated(&self.gate_proj, &self.up_proj, x)
    }
}

impl LlamaBlock {
    /// The mixer's input.
    fn mixer_input<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        match &self.input_layernorm {
            Some(norm) => norm.forward(hidden),
            None => hidden,
        }
    }

    /// What follows the mixer: residual, norm and MLP.
    fn after_mixer<const D: usize>(&self, hidden: Tensor<D>, mixed: Tensor<D>) -> Tensor<D> {
        let [hidden, normal] = self.post_attention_layernorm.forward_sum(hidden, mixed);
        self.mlp.forward_onto(normal, hidden)
    }
}

impl Backbone for Llama {
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
        ModelConfig::Llama(self.config()).max_positions()
    }

    fn mixer(&self, layer: usize) -> &Mixer {
        &self.layers[layer].mixer
    }

    fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        embed(self.embedding.weight.val(), tokens).cast(self.final_layernorm.weight.dtype())
    }

    fn layer(&self, layer: usize, hidden: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        let block = &self.layers[layer];
        let mixed = block.mixer.forward(block.mixer_input(hidden.clone()), segments);
        block.after_mixer(hidden, mixed)
    }

    fn mixer_input(&self, layer: usize, hidden: Tensor<3>) -> Tensor<3> {
        self.layers[layer].mixer_input(hidden)
    }

    fn head(&self, hidden: Tensor<3>) -> Tensor<3> {
        let normal = self.final_layernorm.forward(hidden);
        head(&self.embedding, self.lm_head.as_ref(), normal)
    }

    fn layer_prefill(&self, layer: usize, hidden: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        let block = &self.layers[layer];
        let (mixed, state) = block.mixer.prefill(block.mixer_input(hidden.clone()), state);
        (block.after_mixer(hidden, mixed), state)
    }

    fn layer_step(&self, layer: usize, hidden: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState) {
        let block = &self.layers[layer];
        let (mixed, state) = block.mixer.step(block.mixer_input(hidden.clone()), state);
        (block.after_mixer(hidden, mixed), state)
    }
}

/// Logits `[b t v]` through a head of its own, or through the embedding.
pub(crate) fn head(embedding: &Embedding, lm_head: Option<&Linear>, hidden: Tensor<3>) -> Tensor<3> {
    match lm_head {
        Some(head) => project(head, hidden),
        None => project_transposed(hidden, embedding.weight.val()),
    }
}
