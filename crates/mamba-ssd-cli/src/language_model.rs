//! A model with its tokenizer, from files of any format or from inside this program.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use burn::tensor::{DType, Device};
use mamba_ssd::Backbone;
use mamba_ssd_eval::problems::{Problem, Split, problem};
use mamba_ssd_models::{ChatTemplate, Checkpoint, Message, Model, ModelError, Tokenizer};

use crate::args::Held;
use crate::{bundled, files};

/// A file beside a model that was trained on questions of one form: that form, with [`QUESTION`] in it.
pub const PROMPT_FORMAT: &str = "prompt.txt";
/// Stands for the question in a [`PROMPT_FORMAT`].
const QUESTION: &str = "{}";
/// transformers' name for the file of a chat template.
pub const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The form of the generator's problems.
pub fn format_of_problems() -> String {
    Problem { question: QUESTION.into(), ..problem(0, Split::Train, 0) }.prompt()
}

/// A model that reads and writes text.
#[derive(Debug)]
pub struct LanguageModel {
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The tokenizer's file, for copying.
    pub tokenizer_json: Vec<u8>,
    /// The template of conversations, for copying.
    pub chat_template: Option<String>,
    /// The form in which a question is put, of a [`PROMPT_FORMAT`].
    pub prompt_format: Option<String>,
    /// The tokens any of which ends a text.
    pub eos: Vec<u32>,
    /// What to call it.
    pub name: String,
}

impl LanguageModel {
    /// Reads a checkpoint of any format with its tokenizer, its weights in a float type.
    ///
    /// # Errors
    /// When a file is missing or wrong, or the files do not belong together.
    pub fn load_in(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        Self::read(path, |checkpoint| checkpoint.load(device, dtype))
    }

    /// [`LanguageModel::load_in`] with weights as a device is to hold them.
    ///
    /// # Errors
    /// As there.
    pub fn load_held(path: &Path, device: &Device, held: Held) -> Result<Self> {
        Self::read(path, |checkpoint| checkpoint.load_stored(device, held.dtype, held.format))
    }

    fn read(path: &Path, load: impl FnOnce(&Checkpoint) -> Result<Model, ModelError>) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let tokenizer = checkpoint.tokenizer()?;
        let tokenizer_json = checkpoint.tokenizer_json().unwrap_or_default().to_vec();
        let chat_template = checkpoint.chat_template().map(str::to_string);
        let format = path.join(PROMPT_FORMAT);
        let prompt_format = format.exists().then(|| files::read(&format)).transpose()?;
        let model = load(&checkpoint)?;
        let read = Self::new(model, tokenizer, tokenizer_json, path.display().to_string())?;
        Ok(Self { chat_template, prompt_format, ..read })
    }

    /// The teacher inside this program.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn bundled(device: &Device) -> Result<Self> {
        let model = Model::from_bytes(bundled::CONFIG, bundled::WEIGHTS, device)?;
        let tokenizer = Tokenizer::from_bytes(bundled::TOKENIZER)?;
        let bundled = Self::new(model, tokenizer, bundled::TOKENIZER.to_vec(), "bundled".into())?;
        Ok(Self { prompt_format: Some(format_of_problems()), ..bundled })
    }

    fn new(model: Model, tokenizer: Tokenizer, tokenizer_json: Vec<u8>, name: String) -> Result<Self> {
        let (last, rows) = (tokenizer.largest_id().unwrap_or(0), model.vocab_size());
        ensure!(
            (last as usize) < rows,
            "{name}: the tokenizer has a token {last}, the model knows {rows}; take the tokenizer it was trained with"
        );
        let mut eos = model.eos();
        if eos.is_empty() {
            eos = tokenizer.eos_ids();
        }
        ensure!(!eos.is_empty(), "{name}: no token ends a text; set eos_token_id in config.json");
        Ok(Self { model, tokenizer, tokenizer_json, chat_template: None, prompt_format: None, eos, name })
    }

    /// A question in the form that the model was trained on, if there is one.
    pub fn formed(&self, question: &str) -> Option<String> {
        Some(self.prompt_format.as_ref()?.replace(QUESTION, question.trim()))
    }

    /// The text of a conversation that the model is to answer.
    ///
    /// # Errors
    /// When the model has no chat template, or it refuses the conversation.
    pub fn conversation(&self, system: Option<&str>, user: &str) -> Result<String> {
        let source = self.chat_template.as_deref().ok_or_else(|| {
            anyhow!("{}: no chat template beside or inside the model; leave out --chat", self.name)
        })?;
        let said = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let messages: Vec<Message> =
            system.map(|text| said("system", text)).into_iter().chain([said("user", user)]).collect();
        let word =
            |token: Option<u32>| token.and_then(|token| self.tokenizer.word(token)).unwrap_or_default();
        let (bos, eos) = (word(self.model.config().tokens().bos), word(self.eos.first().copied()));
        let template = ChatTemplate::parse(source).map_err(|reason| anyhow!("{}: {reason}", self.name))?;
        template.render(&messages, &bos, &eos).map_err(|reason| anyhow!("{}: {reason}", self.name))
    }
}
