//! `config.json`, in the dialects that the checkpoints use.
//!
//! | dialect | recognised by | becomes |
//! |---|---|---|
//! | transformers Llama | `"model_type": "llama"` | [`LlamaConfig`], attention in every layer |
//! | MambaInLlama and M1 | the same, and a [`mamba_config.json`](ModelConfig::with_mamba_config) beside it | [`LlamaConfig`], Mamba-1 or Mamba-2 in the other layers |
//! | Llamba | `"model_type": "llamba"` | [`LlamaConfig`]; `attn_layer_idx` and `attn_cfg` make it a hybrid |
//! | MOHAWK's hybrids by heads | the same, and `block_type` | [`LlamaConfig`], SSM and attention heads side by side |
//! | transformers Qwen2 | `"model_type": "qwen2"` | [`LlamaConfig`], biases on queries, keys and values |
//! | transformers Phi | `"model_type": "phi"` | [`PhiConfig`], attention in every layer |
//! | Phi before transformers had it | `"phi-msft"` and `"mixformer-sequential"` | the same |
//! | Phi-Mamba | `LanguageModel`, `MixerModel`, `Block..` | [`PhiConfig`]; the blocks in the order of the file |
//! | transformers Mamba-2 | `"model_type": "mamba2"` | [`Mamba2LmConfig`] |
//! | state-spaces Mamba-2 | `ssm_cfg.layer` is `"Mamba2"` | [`Mamba2LmConfig`]; `attn_layer_idx` makes it a hybrid |
//! | Mistral's Codestral | `n_groups` beside `dim` | [`Mamba2LmConfig`] |
//!
//! A model is written in the dialect that its mixers call for.

mod json;
mod llama;
mod mamba2;
mod mamba_in_llama;
mod mixers;
mod parallel;
mod phi;
mod rope;

use burn::tensor::Device;
use mamba_ssd::{MixerConfig, StateSize};
use serde_json::{Value, json};

pub use llama::LlamaConfig;
pub use mamba2::Mamba2LmConfig;
pub(crate) use mixers::kind;
pub(crate) use parallel::Blocks;
pub use phi::PhiConfig;

use crate::Model;
use crate::checkpoint::Names;
pub(crate) use json::LARGEST;
use json::{Fields, Result};

/// The configuration of any model.
#[derive(Clone, Debug)]
pub enum ModelConfig {
    /// Llama, Llamba, MambaInLlama or a hybrid.
    Llama(LlamaConfig),
    /// Phi, Phi-Mamba or a hybrid.
    Phi(PhiConfig),
    /// Mamba-2.
    Mamba2(Mamba2LmConfig),
}

/// Tokens with a meaning of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Any of these ends a text.
    pub eos: Vec<u32>,
}

const FAMILIES: &str = "llama, llamba, qwen2, phi, Phi-Mamba, mamba2";

impl ModelConfig {
    /// Reads a `config.json` of any dialect.
    ///
    /// # Errors
    ///
    /// What was found and what was expected, if a field is missing or wrong, or the family is not
    /// covered.
    pub fn from_json(text: &str) -> std::result::Result<Self, String> {
        let value = json::parse(text)?;
        let fields = Fields::new(&value)?;
        if fields.get("MixerModel").is_some() {
            return PhiConfig::from_phi_mamba(&fields).map(Self::Phi);
        }
        if fields.get("dim").is_some() && fields.get("n_groups").is_some() {
            return Mamba2LmConfig::from_mistral(&fields).map(Self::Mamba2);
        }
        match fields.str_or("model_type", "")? {
            "qwen2" => LlamaConfig::from_qwen2(&fields).map(Self::Llama),
            "phi-msft" | "mixformer-sequential" => PhiConfig::from_older_phi(&fields).map(Self::Phi),
            "llama" => LlamaConfig::from_llama(&fields).map(Self::Llama),
            "llamba" => LlamaConfig::from_llamba(&fields).map(Self::Llama),
            "phi" => PhiConfig::from_phi(&fields).map(Self::Phi),
            "mamba2" => Mamba2LmConfig::from_transformers(&fields).map(Self::Mamba2),
            "" if fields.get("ssm_cfg").is_some() => {
                Mamba2LmConfig::from_state_spaces(&fields).map(Self::Mamba2)
            }
            "" => Err(format!("`model_type` is missing, expected one of {FAMILIES}")),
            other => Err(format!("`model_type` is \"{other}\", expected one of {FAMILIES}")),
        }
    }

    /// This Transformer with the layers that a `mamba_config.json` replaces: a hybrid of MambaInLlama or M1.
    ///
    /// `"rope_scaling": false` in it, a field of this crate, switches off the frequency scaling of
    /// `config.json` in the attention that is left, as the code of M1 has it.
    ///
    /// # Errors
    ///
    /// As [`ModelConfig::from_json`]; also if this is no Llama, or the two files contradict each other.
    pub fn with_mamba_config(self, text: &str) -> std::result::Result<Self, String> {
        match self {
            Self::Llama(config) if is_transformer(&config.mixers) => {
                let value = json::parse(text)?;
                config.with_mamba(&Fields::new(&value)?).map(Self::Llama)
            }
            other => Err(format!(
                "it belongs to a Llama, but the config.json beside it is that of a {}",
                other.family()
            )),
        }
    }

    /// The `mamba_config.json` beside [`ModelConfig::to_json`], if this is a hybrid of MambaInLlama or M1.
    ///
    /// # Errors
    ///
    /// If the format cannot express the model.
    pub fn to_mamba_config(&self) -> std::result::Result<Option<String>, String> {
        match self {
            Self::Llama(config) if config.is_mamba_in_llama() => {
                Ok(Some(format!("{:#}\n", config.to_mamba()?)))
            }
            _ => Ok(None),
        }
    }

    /// Writes the dialect that the mixers call for.
    ///
    /// # Errors
    ///
    /// If no dialect can express the model.
    pub fn to_json(&self) -> std::result::Result<String, String> {
        let value = match self {
            Self::Llama(config) => config.to_json(),
            Self::Phi(config) => config.to_json(),
            Self::Mamba2(config) => config.to_json(),
        };
        Ok(format!("{:#}\n", value?))
    }

    /// A model with random weights.
    pub fn init(&self, device: &Device) -> Model {
        match self {
            Self::Llama(config) => Model::Llama(config.init(device)),
            Self::Phi(config) => Model::Phi(config.init(device)),
            Self::Mamba2(config) => Model::Mamba2(config.init(device)),
        }
    }

    /// Number of parameters, counted without allocating any. A tied head counts once.
    pub fn n_params(&self) -> usize {
        match self {
            Self::Llama(config) => config.n_params(),
            Self::Phi(config) => config.n_params(),
            Self::Mamba2(config) => config.n_params(),
        }
    }

    /// The mixer of every layer.
    pub fn mixers(&self) -> Vec<MixerConfig> {
        match self {
            Self::Llama(config) => config.mixers.clone(),
            Self::Phi(config) => config.mixers.clone(),
            Self::Mamba2(config) => config.mixers.clone(),
        }
    }

    /// Numbers that decoding one sequence carries from token to token, over all layers.
    pub fn state_size(&self) -> StateSize {
        self.mixers().iter().map(MixerConfig::state_size).sum()
    }

    /// What models of this kind are called.
    pub fn family(&self) -> &'static str {
        let mixers = self.mixers();
        let attention = mixers.iter().filter(|mixer| matches!(mixer, MixerConfig::Attention(_))).count();
        match (self, attention) {
            (Self::Llama(config), n) => config.family(n),
            (Self::Phi(_), n) if n == mixers.len() => "Phi",
            (Self::Phi(_), 0) => "Phi-Mamba",
            (Self::Phi(_), _) => "hybrid of Phi and Phi-Mamba",
            (Self::Mamba2(_), 0) => "Mamba-2",
            (Self::Mamba2(_), _) => "hybrid of Mamba-2 and attention",
        }
    }

    /// Tokens with a meaning of their own.
    pub fn tokens(&self) -> &SpecialTokens {
        match self {
            Self::Llama(config) => &config.tokens,
            Self::Phi(config) => &config.tokens,
            Self::Mamba2(config) => &config.tokens,
        }
    }

    /// Positions that attention has learnt, if a layer is attention and the configuration says; a state space
    /// model has no such limit.
    pub fn max_positions(&self) -> Option<usize> {
        let attends = self.mixers().iter().any(|mixer| mixer.state_size().per_token > 0);
        let positions = match self {
            Self::Llama(config) => config.max_position,
            Self::Phi(config) => config.max_position,
            Self::Mamba2(_) => None,
        };
        positions.filter(|_| attends)
    }

    /// Width of the residual stream, d.
    pub fn d_model(&self) -> usize {
        match self {
            Self::Llama(config) => config.d_model,
            Self::Phi(config) => config.d_model,
            Self::Mamba2(config) => config.d_model,
        }
    }

    /// Rows of the embedding, v.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Llama(config) => config.vocab_size,
            Self::Phi(config) => config.vocab_size,
            Self::Mamba2(config) => config.vocab_size,
        }
    }

    /// Whether the embedding is also the head.
    pub fn tied(&self) -> bool {
        match self {
            Self::Llama(config) => config.tie_embeddings,
            Self::Phi(_) => false,
            Self::Mamba2(config) => config.tie_embeddings,
        }
    }

    /// The key names of the dialect that the mixers call for.
    pub(crate) fn names(&self) -> &'static Names {
        match self {
            Self::Llama(config) if is_transformer(&config.mixers) => &Names::LLAMA,
            Self::Llama(config) if config.is_mamba_in_llama() => &Names::MAMBA_IN_LLAMA,
            Self::Llama(_) => &Names::LLAMBA,
            Self::Phi(config) if is_transformer(&config.mixers) => &Names::PHI,
            Self::Phi(_) => &Names::PHI_MAMBA,
            Self::Mamba2(config) if config.has_attention() => &Names::MAMBA2_ATTENTION,
            Self::Mamba2(_) => &Names::MAMBA2,
        }
    }
}

impl SpecialTokens {
    fn parse(fields: &Fields) -> Result<Self> {
        let id = |id| u32::try_from(id).map_err(|_| format!("token {id} is beyond every vocabulary"));
        let ids = |name| fields.usizes(name)?.into_iter().map(id).collect::<Result<Vec<u32>>>();
        Ok(Self { bos: ids("bos_token_id")?.first().copied(), eos: ids("eos_token_id")? })
    }

    fn write(&self, object: &mut Value) {
        object["bos_token_id"] = json!(self.bos);
        object["eos_token_id"] = match self.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
    }
}

/// Whether attention is in every layer.
fn is_transformer(mixers: &[MixerConfig]) -> bool {
    mixers.iter().all(|mixer| matches!(mixer, MixerConfig::Attention(_)))
}

/// The attention of a layer, if that is what it holds.
fn as_attention(mixer: &MixerConfig) -> Option<&mamba_ssd::AttentionConfig> {
    match mixer {
        MixerConfig::Attention(config) => Some(config),
        _ => None,
    }
}

/// The discrete Mamba-2 mixer of a layer, if that is what it holds.
fn as_discrete(mixer: &MixerConfig) -> Option<&mamba_ssd::DiscreteMamba2Config> {
    match mixer {
        MixerConfig::DiscreteMamba2(config) => Some(config),
        _ => None,
    }
}

/// The Mamba-1 mixer of a layer, if that is what it holds.
fn as_mamba1(mixer: &MixerConfig) -> Option<&mamba_ssd::Mamba1Config> {
    match mixer {
        MixerConfig::Mamba1(config) => Some(config),
        _ => None,
    }
}

/// The Mamba-2 mixer of a layer, if that is what it holds.
fn as_mamba2(mixer: &MixerConfig) -> Option<&mamba_ssd::Mamba2Config> {
    match mixer {
        MixerConfig::Mamba2(config) => Some(config),
        _ => None,
    }
}

/// `vocab_size` rounded up to a multiple, as the embedding is.
fn padded(vocab_size: usize, multiple: usize) -> usize {
    vocab_size.next_multiple_of(multiple)
}
