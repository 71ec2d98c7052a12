//! A model with its tokenizer, from a folder or from inside this program.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use mamba_ssd::Backbone;
use mamba_ssd_models::{Model, Tokenizer};

use crate::bundled;

/// A file beside a model that was trained on questions of one form: that form, with [`QUESTION`] in it.
pub const PROMPT_FORMAT: &str = "prompt.txt";
/// Stands for the question in a [`PROMPT_FORMAT`].
pub const QUESTION: &str = "{}";

/// A model that reads and writes text.
#[derive(Debug)]
pub struct LanguageModel {
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The tokenizer's file, for copying.
    pub tokenizer_json: Vec<u8>,
    /// The tokens any of which ends a text.
    pub eos: Vec<u32>,
    /// What to call it.
    pub name: String,
}

impl LanguageModel {
    /// Reads a folder with `config.json`, safetensors and `tokenizer.json`.
    ///
    /// # Errors
    /// When a file is missing or wrong, or the files do not belong together.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let model = Model::load(dir, device)?;
        let path = dir.join("tokenizer.json");
        let tokenizer_json = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let tokenizer = Tokenizer::from_file(&path)?;
        Self::new(model, tokenizer, tokenizer_json, dir.display().to_string())
    }

    /// The teacher inside this program.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn bundled(device: &Device) -> Result<Self> {
        let model = Model::from_bytes(bundled::CONFIG, bundled::WEIGHTS, device)?;
        let tokenizer = Tokenizer::from_bytes(bundled::TOKENIZER)?;
        Self::new(model, tokenizer, bundled::TOKENIZER.to_vec(), "bundled".into())
    }

    fn new(model: Model, tokenizer: Tokenizer, tokenizer_json: Vec<u8>, name: String) -> Result<Self> {
        let (words, rows) = (tokenizer.vocab_size(), model.vocab_size());
        ensure!(
            words <= rows,
            "{name}: the tokenizer has {words} tokens, the model knows {rows}; take the tokenizer it was trained with"
        );
        let mut eos = model.eos();
        if eos.is_empty() {
            eos.extend(tokenizer.eos_id());
        }
        ensure!(!eos.is_empty(), "{name}: no token ends a text; set eos_token_id in config.json");
        Ok(Self { model, tokenizer, tokenizer_json, eos, name })
    }
}
