//! Any of the models, and its folder.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor};
use mamba_ssd::{Backbone, Mixer, MixerState, Segments};

use crate::checkpoint;
use crate::{Checkpoint, Llama, Mamba2Lm, ModelConfig, ModelError, Phi, SaveOptions};

/// A language model of any covered family.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there is one per process, not a list of them
pub enum Model {
    /// Llama, Llamba, MambaInLlama or a hybrid.
    Llama(Llama),
    /// Phi, Phi-Mamba or a hybrid.
    Phi(Phi),
    /// Mamba-2.
    Mamba2(Mamba2Lm),
}

/// The same expression for the model inside, whichever it is.
macro_rules! inside {
    ($model:expr, $inner:ident => $body:expr) => {
        match $model {
            Model::Llama($inner) => $body,
            Model::Phi($inner) => $body,
            Model::Mamba2($inner) => $body,
        }
    };
}

impl Model {
    /// Reads a model in any format of [`Checkpoint`](crate::Checkpoint), as f32.
    ///
    /// # Errors
    ///
    /// If a file is missing, malformed or truncated, the family is not covered, or the tensors are
    /// not exactly those of the configuration.
    pub fn load(path: &Path, device: &Device) -> Result<Self, ModelError> {
        Self::load_as(path, device, DType::F32)
    }

    /// [`Model::load`], with weights of another float type.
    ///
    /// # Errors
    ///
    /// As [`Model::load`].
    pub fn load_as(path: &Path, device: &Device, dtype: DType) -> Result<Self, ModelError> {
        Checkpoint::open(path)?.load(device, dtype)
    }

    /// A model from the text of its `config.json` and the bytes of its `model.safetensors`, as f32.
    ///
    /// # Errors
    ///
    /// As [`Model::load`].
    pub fn from_bytes(config_json: &str, safetensors: &[u8], device: &Device) -> Result<Self, ModelError> {
        checkpoint::from_bytes(config_json, safetensors, device, DType::F32)
    }

    /// Writes the folder that [`Model::load`] reads: `config.json`, `model.safetensors` and, when
    /// given, `tokenizer.json`; for a hybrid of MambaInLlama also `mamba_config.json`, which is removed for
    /// any other model. Weights keep their types.
    ///
    /// Every file is complete under a temporary name before the first is renamed to its own.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written, or no format can express the model.
    pub fn save(&self, dir: &Path, tokenizer_json: Option<&[u8]>) -> Result<(), ModelError> {
        self.save_with(dir, &SaveOptions { tokenizer_json, ..Default::default() })
    }

    /// [`Model::save`], with weights of another float type, or in files of at most some size.
    ///
    /// # Errors
    ///
    /// As [`Model::save`].
    pub fn save_with(&self, dir: &Path, options: &SaveOptions) -> Result<(), ModelError> {
        checkpoint::save(self, dir, options)
    }

    /// The text of this model's `config.json`.
    ///
    /// # Errors
    ///
    /// If no format can express the model.
    pub fn config_json(&self) -> Result<String, ModelError> {
        self.config().to_json().map_err(ModelError::Unwritable)
    }

    /// The bytes of this model's `model.safetensors`.
    ///
    /// # Errors
    ///
    /// If the weights cannot be read back from the device.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, ModelError> {
        checkpoint::to_safetensors(self)
    }

    /// Shapes of this model, with the mixers it holds now.
    pub fn config(&self) -> ModelConfig {
        match self {
            Self::Llama(model) => ModelConfig::Llama(model.config()),
            Self::Phi(model) => ModelConfig::Phi(model.config()),
            Self::Mamba2(model) => ModelConfig::Mamba2(model.config()),
        }
    }

    /// Number of parameters. A tied head counts once.
    pub fn n_params(&self) -> usize {
        self.num_params()
    }

    /// The tokens any of which ends a text.
    pub fn eos(&self) -> Vec<u32> {
        self.config().tokens().eos.clone()
    }
}

impl Backbone for Model {
    fn n_layers(&self) -> usize {
        inside!(self, model => model.n_layers())
    }

    fn d_model(&self) -> usize {
        inside!(self, model => model.d_model())
    }

    fn vocab_size(&self) -> usize {
        inside!(self, model => model.vocab_size())
    }

    fn max_positions(&self) -> Option<usize> {
        self.config().max_positions()
    }

    fn mixer(&self, layer: usize) -> &Mixer {
        inside!(self, model => model.mixer(layer))
    }

    fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        inside!(self, model => model.embed(tokens))
    }

    fn layer(&self, layer: usize, hidden: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        inside!(self, model => model.layer(layer, hidden, segments))
    }

    fn mixer_input(&self, layer: usize, hidden: Tensor<3>) -> Tensor<3> {
        inside!(self, model => model.mixer_input(layer, hidden))
    }

    fn head(&self, hidden: Tensor<3>) -> Tensor<3> {
        inside!(self, model => model.head(hidden))
    }

    fn layer_prefill(&self, layer: usize, hidden: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        inside!(self, model => model.layer_prefill(layer, hidden, state))
    }

    fn layer_step(&self, layer: usize, hidden: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState) {
        inside!(self, model => model.layer_step(layer, hidden, state))
    }
}
