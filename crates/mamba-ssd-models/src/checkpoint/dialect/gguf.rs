//! Llama and Qwen2 as llama.cpp stores them: configuration, names, tokenizer, chat template.

use mamba_ssd::AttentionConfig;
use mamba_ssd::rope::{Llama3Scaling, RotaryConfig};

use super::super::source::{Gguf, Value};
use super::super::stored::{Stored, Tensors};
use super::indexed;
use super::sentencepiece::{self, Pieces};
use super::vocabulary::{Vocabulary, is_llama3, tokenizer_json};
use crate::config::{LARGEST, LlamaConfig, SpecialTokens};
use crate::{ModelConfig, ModelError};

/// Factors by which the frequencies of the rotary embedding are divided.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The configuration in a file's metadata.
pub(in crate::checkpoint) fn config(gguf: &Gguf) -> Result<ModelConfig, ModelError> {
    let fields = Fields::of(gguf)?;
    let (d_model, n_heads) = (fields.size("embedding_length")?, fields.size("attention.head_count")?);
    let n_kv_heads = fields.size_or("attention.head_count_kv", n_heads)?;
    let head_dim = fields.size_or("attention.key_length", (d_model / n_heads).max(1))?;
    let width = n_heads.saturating_mul(head_dim);
    if !n_heads.is_multiple_of(n_kv_heads) || !head_dim.is_multiple_of(2) || width > LARGEST {
        let message =
            format!("{n_heads} heads of {head_dim} with {n_kv_heads} for keys and values do not fit");
        return Err(fields.wrong(message));
    }
    let attention = AttentionConfig::new(d_model, n_heads, n_kv_heads, head_dim, fields.rotary(head_dim)?)
        .with_qkv_bias(fields.qwen2);
    let epsilon = fields.real("attention.layer_norm_rms_epsilon")?;
    let vocab_size = match gguf.tensors().get("token_embd.weight").map(Stored::shape) {
        Some([rows @ 1..=LARGEST, _]) => *rows,
        _ => {
            return Err(
                fields.wrong("the tensor `token_embd.weight` is missing, or no matrix of a vocabulary")
            );
        }
    };
    let layers = fields.size("block_count")?;
    if layers > gguf.tensors().keys().count() {
        return Err(fields.wrong(format!("{layers} layers, but fewer tensors")));
    }
    Ok(ModelConfig::Llama(LlamaConfig {
        norm_epsilon: epsilon,
        final_norm_epsilon: epsilon,
        tie_embeddings: gguf.tensors().get("output.weight").is_none(),
        max_position: fields.whole("context_length").ok(),
        tokens: fields.tokens(),
        ..LlamaConfig::transformer(vocab_size, layers, attention, fields.size("feed_forward_length")?)
    }))
}

/// The tensors under transformers' names, with the rows of q and k in transformers' order.
///
/// llama.cpp rotates neighbours where its architecture is `llama`: the halves of every head, `[2 d/2]`
/// rows, are stored as pairs, `[d/2 2]`.
pub(in crate::checkpoint) fn canonical(
    gguf: Gguf,
    config: &ModelConfig,
) -> Result<Tensors<'static>, ModelError> {
    let permuted = !Fields::of(&gguf)?.qwen2;
    let head_dim = match config.mixers().first() {
        Some(mamba_ssd::MixerConfig::Attention(attention)) => attention.head_dim,
        _ => 2,
    };
    gguf.into_tensors().each_becomes(|key, tensor| {
        let Some(name) = name(&key) else { return Vec::new() };
        let rotated = name.contains(".q_proj.") || name.contains(".k_proj.");
        let tensor = match permuted && rotated {
            true => tensor.clone().exchanged(head_dim / 2, 2, 1).unwrap_or(tensor),
            false => tensor,
        };
        vec![(name, tensor)]
    })
}

/// transformers' name of a tensor; nothing for the factors of the rotary embedding.
fn name(key: &str) -> Option<String> {
    let fixed = match key {
        ROPE_FACTORS => return None,
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        _ => "",
    };
    if !fixed.is_empty() {
        return Some(fixed.to_string());
    }
    let in_layer = key.strip_prefix("blk.").and_then(indexed);
    let found = in_layer.and_then(|(layer, rest)| {
        let (module, suffix) = rest.rsplit_once('.')?;
        let (_, name) = MODULES.iter().find(|(theirs, _)| *theirs == module)?;
        Some(format!("model.layers.{layer}.{name}.{suffix}"))
    });
    Some(found.unwrap_or_else(|| key.to_string()))
}

const MODULES: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The metadata of one architecture.
struct Fields<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
    qwen2: bool,
}

impl<'a> Fields<'a> {
    fn of(gguf: &'a Gguf) -> Result<Self, ModelError> {
        let architecture = gguf.get("general.architecture").and_then(Value::as_str).unwrap_or("");
        let fields = Self { gguf, architecture, qwen2: architecture == "qwen2" };
        match architecture {
            "llama" | "qwen2" => Ok(fields),
            other => {
                Err(fields.wrong(format!("`general.architecture` is \"{other}\", expected llama or qwen2")))
            }
        }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.gguf.get(&format!("{}.{name}", self.architecture))
    }

    fn whole(&self, name: &str) -> Result<usize, ModelError> {
        let value = self.get(name).and_then(Value::as_usize);
        value.ok_or_else(|| {
            let architecture = self.architecture;
            self.wrong(format!("`{architecture}.{name}` is missing or no whole number"))
        })
    }

    /// A whole number that sizes something: not 0, and small enough to be a size.
    fn size(&self, name: &str) -> Result<usize, ModelError> {
        match self.whole(name)? {
            size @ 1..=LARGEST => Ok(size),
            size => {
                Err(self.wrong(format!("`{}.{name}` is {size}, expected 1 to {LARGEST}", self.architecture)))
            }
        }
    }

    fn size_or(&self, name: &str, default: usize) -> Result<usize, ModelError> {
        self.get(name).map_or(Ok(default), |_| self.size(name))
    }

    fn real(&self, name: &str) -> Result<f64, ModelError> {
        let value = self.get(name).and_then(Value::as_f64);
        value.ok_or_else(|| self.wrong(format!("`{}.{name}` is missing or no number", self.architecture)))
    }

    fn rotary(&self, head_dim: usize) -> Result<RotaryConfig, ModelError> {
        if let Some(kind) =
            self.get("rope.scaling.type").and_then(Value::as_str).filter(|&kind| kind != "none")
        {
            return Err(self.wrong(format!("`rope.scaling.type` is \"{kind}\", only \"none\" is covered")));
        }
        let dim = self.size_or("rope.dimension_count", head_dim)?;
        if dim != head_dim {
            return Err(self.wrong(format!("{dim} of {head_dim} features rotate, only all are covered")));
        }
        let theta = self.get("rope.freq_base").and_then(Value::as_f64).unwrap_or(10000.0);
        let plain = RotaryConfig::new(dim).with_theta(theta);
        match self.gguf.tensors().get(ROPE_FACTORS) {
            None => Ok(plain),
            Some(factors) => self.scaled(plain, factors),
        }
    }

    /// Llama 3's scaling, which llama.cpp stores as one factor for each frequency. Everything but the
    /// largest factor is the same in every published model.
    fn scaled(&self, plain: RotaryConfig, factors: &Stored) -> Result<RotaryConfig, ModelError> {
        let found: Vec<f32> =
            factors.read()?.convert_dtype(burn::tensor::DType::F32).try_to_vec().unwrap_or_default();
        let largest = f64::from(found.iter().copied().fold(1.0, f32::max));
        let scaled = plain.clone().with_scaling(Some(Llama3Scaling::new(largest, 1.0, 4.0, 8192)));
        let expected =
            plain.inv_freq().into_iter().zip(scaled.inv_freq()).map(|(plain, scaled)| plain / scaled);
        let same = |(found, expected): (&f32, f64)| (f64::from(*found) / expected - 1.0).abs() < 1e-3;
        if found.len() == plain.dim / 2 && found.iter().zip(expected).all(same) {
            return Ok(scaled);
        }
        Err(self.wrong(format!(
            "`{ROPE_FACTORS}` are not the factors of Llama 3's scaling, which alone is covered"
        )))
    }

    fn tokens(&self) -> SpecialTokens {
        let id = |name| self.gguf.get(name).and_then(Value::as_usize).and_then(|id| u32::try_from(id).ok());
        let mut eos: Vec<u32> = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"]
            .into_iter()
            .filter_map(id)
            .collect();
        eos.dedup();
        SpecialTokens { bos: id("tokenizer.ggml.bos_token_id"), eos }
    }

    fn wrong(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Config { path: self.gguf.tensors().path().to_path_buf(), reason: reason.into() }
    }
}

/// The tokenizer of a file's metadata as a `tokenizer.json`, if there is one.
pub(in crate::checkpoint) fn tokenizer(gguf: &Gguf) -> Result<Option<Vec<u8>>, String> {
    let text = |name: &str| gguf.get(&format!("tokenizer.ggml.{name}")).and_then(Value::as_str);
    match text("model") {
        None => return Ok(None),
        Some("gpt2") => {}
        Some("llama") => return sentencepiece::tokenizer_json(&pieces(gguf)?).map(Some),
        Some(other) => {
            return Err(format!(
                "`tokenizer.ggml.model` is \"{other}\", expected \"gpt2\" (byte-level BPE) or \"llama\" (SentencePiece)"
            ));
        }
    }
    let vocabulary = Vocabulary {
        tokens: texts(gguf, "tokens")?,
        merges: texts(gguf, "merges")?,
        special: of_kind(gguf, &CONTROL),
        whole: of_kind(gguf, &USER_DEFINED),
        splits: text("pre").unwrap_or("default"),
        bos: first_token(gguf),
    };
    tokenizer_json(vocabulary).map(Some)
}

/// A SentencePiece vocabulary; what a file does not say is as in llama.cpp.
fn pieces(gguf: &Gguf) -> Result<Pieces, String> {
    let get = |name: &str| gguf.get(&format!("tokenizer.ggml.{name}"));
    let yes = |name: &str| get(name).and_then(Value::as_bool).unwrap_or(true);
    let id = |name: &str, default| get(name).and_then(Value::as_usize).unwrap_or(default);
    if get("add_eos_token").and_then(Value::as_bool).unwrap_or(false) {
        return Err("`tokenizer.ggml.add_eos_token` is true, only false is covered".into());
    }
    let scores = get("scores").and_then(Value::as_list);
    let scores = scores.and_then(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>());
    Ok(Pieces {
        tokens: texts(gguf, "tokens")?,
        scores: scores.ok_or("`tokenizer.ggml.scores` is missing or no list of numbers")?,
        special: [of_kind(gguf, &CONTROL), of_kind(gguf, &UNKNOWN)].concat(),
        whole: of_kind(gguf, &USER_DEFINED),
        unknown: id("unknown_token_id", 0),
        bos: yes("add_bos_token").then(|| id("bos_token_id", 1)),
        space: yes("add_space_prefix"),
    })
}

/// The template of a conversation.
pub(in crate::checkpoint) fn chat_template(gguf: &Gguf) -> Option<String> {
    gguf.get("tokenizer.chat_template").and_then(Value::as_str).map(str::to_string)
}

fn texts(gguf: &Gguf, name: &str) -> Result<Vec<String>, String> {
    let list = gguf.get(&format!("tokenizer.ggml.{name}")).and_then(Value::as_list);
    let texts = list.and_then(|list| list.iter().map(|text| text.as_str().map(str::to_string)).collect());
    texts.ok_or_else(|| format!("`tokenizer.ggml.{name}` is missing or no list of texts"))
}

/// llama.cpp's kinds of tokens: that of unknown text, those that are no text, and those that are found before any
/// merge.
const UNKNOWN: Value = Value::Whole(2);
const CONTROL: Value = Value::Whole(3);
const USER_DEFINED: Value = Value::Whole(4);

/// The tokens of a kind.
fn of_kind(gguf: &Gguf, wanted: &Value) -> Vec<usize> {
    let kinds = gguf.get("tokenizer.ggml.token_type").and_then(Value::as_list).unwrap_or_default();
    kinds.iter().enumerate().filter(|(_, kind)| *kind == wanted).map(|(id, _)| id).collect()
}

/// The token that the tokenizer puts in front of every text; Llama 3's does so where a file does not say.
fn first_token(gguf: &Gguf) -> Option<usize> {
    let named = gguf.get("tokenizer.ggml.pre").and_then(Value::as_str).is_some_and(is_llama3);
    let adds = gguf.get("tokenizer.ggml.add_bos_token").and_then(Value::as_bool).unwrap_or(named);
    gguf.get("tokenizer.ggml.bos_token_id").filter(|_| adds).and_then(Value::as_usize)
}
