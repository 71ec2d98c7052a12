//! Llama, Llamba and the hybrids of Llama.

use burn::module::Initializer;
use burn::nn::{EmbeddingConfig, LinearConfig};
use burn::tensor::Device;
use mamba_ssd::norm::NormConfig;
use mamba_ssd::{AttentionConfig, DiscreteMamba2Config, MixerConfig};
use serde_json::{Value, json};

use super::json::{Fields, Result};
use super::mixers::{self, AttentionDefaults};
use super::rope::{self, RopeDefaults};
use super::{SpecialTokens, as_attention, as_discrete, is_transformer, padded};
use crate::llama::{Llama, LlamaBlock, LlamaMlp};

/// ε of a norm when a file does not say.
const EPSILON: f64 = 1e-5;
/// θ of the rotary embedding when a file does not say.
pub(super) const ROPE: RopeDefaults = RopeDefaults { partial: 1.0, theta: 10000.0 };

/// Shapes of a [`Llama`].
#[derive(Clone, Debug)]
pub struct LlamaConfig {
    /// Rows of the embedding, v.
    pub vocab_size: usize,
    /// Width of the residual stream, d.
    pub d_model: usize,
    /// Width inside the MLPs.
    pub d_mlp: usize,
    /// The mixer of every layer.
    pub mixers: Vec<MixerConfig>,
    /// ε of the norms inside the layers.
    pub norm_epsilon: f64,
    /// ε of the norm in front of the head.
    pub final_norm_epsilon: f64,
    /// Whether the embedding is also the head.
    pub tie_embeddings: bool,
    /// Whether a head of its own has a bias.
    pub lm_head_bias: bool,
    /// Whether the MLPs have biases.
    pub mlp_bias: bool,
    /// Context length the model was trained for, if known.
    pub max_position: Option<usize>,
    /// Tokens with a meaning of their own.
    pub tokens: SpecialTokens,
}

impl LlamaConfig {
    /// A Transformer of `n_layers`, with a tied head.
    pub fn transformer(vocab_size: usize, n_layers: usize, attention: AttentionConfig, d_mlp: usize) -> Self {
        Self {
            vocab_size,
            d_model: attention.d_model,
            d_mlp,
            mixers: vec![MixerConfig::Attention(attention); n_layers],
            norm_epsilon: EPSILON,
            final_norm_epsilon: EPSILON,
            tie_embeddings: true,
            lm_head_bias: false,
            mlp_bias: false,
            max_position: None,
            tokens: SpecialTokens::default(),
        }
    }

    /// Number of parameters, counted without allocating any. A tied head counts once.
    pub fn n_params(&self) -> usize {
        let (v, d, i) = (self.vocab_size, self.d_model, self.d_mlp);
        let head = if self.tie_embeddings { 0 } else { v * d + if self.lm_head_bias { v } else { 0 } };
        let mlp = 3 * d * i + if self.mlp_bias { 2 * i + d } else { 0 };
        let norms = |mixer| if mixers::norms_its_input(mixer) { d } else { 2 * d };
        let layer = |mixer| mixers::n_params(mixer) + norms(mixer) + mlp;
        v * d + head + self.mixers.iter().map(layer).sum::<usize>() + d
    }

    /// A model with random weights: normal with deviation 0.02 for the embedding, PyTorch's default
    /// elsewhere.
    pub fn init(&self, device: &Device) -> Llama {
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        let embedding = EmbeddingConfig::new(self.vocab_size, self.d_model).with_initializer(normal);
        let head = LinearConfig::new(self.d_model, self.vocab_size).with_bias(self.lm_head_bias);
        let norm = NormConfig::new(self.d_model).with_epsilon(self.final_norm_epsilon);
        Llama {
            embedding: embedding.init(device),
            layers: self.mixers.iter().map(|mixer| self.init_block(mixer, device)).collect(),
            final_layernorm: norm.init_rms(device),
            lm_head: (!self.tie_embeddings).then(|| head.init(device)),
            config: self.clone(),
        }
    }

    fn init_block(&self, mixer: &MixerConfig, device: &Device) -> LlamaBlock {
        let linear = |input, output| LinearConfig::new(input, output).with_bias(self.mlp_bias).init(device);
        let norm = NormConfig::new(self.d_model).with_epsilon(self.norm_epsilon);
        LlamaBlock {
            input_layernorm: (!mixers::norms_its_input(mixer)).then(|| norm.init_rms(device)),
            mixer: mixer.init(device),
            post_attention_layernorm: norm.init_rms(device),
            mlp: LlamaMlp {
                gate_proj: linear(self.d_model, self.d_mlp),
                up_proj: linear(self.d_model, self.d_mlp),
                down_proj: linear(self.d_mlp, self.d_model),
            },
        }
    }

    /// What models of this kind are called, with attention alone in some layers.
    pub(super) fn family(&self, attention: usize) -> &'static str {
        match (self.parallel_family(), attention) {
            (Some(family), _) => family,
            (None, n) if n == self.mixers.len() => self.transformer_family(),
            (None, n) if self.is_mamba_in_llama() => self.mamba_family(n),
            (None, 0) => "Llamba",
            (None, _) => "hybrid of Llama and Llamba",
        }
    }

    /// transformers' name for this model with attention in every layer.
    pub(super) fn transformer_family(&self) -> &'static str {
        match self.mixers.first() {
            Some(MixerConfig::Attention(attention)) if attention.qkv_bias && !attention.out_bias => "Qwen2",
            _ => "Llama",
        }
    }

    /// Qwen2 is Llama with biases on queries, keys and values; its sliding window is off in every
    /// published model.
    pub(super) fn from_qwen2(fields: &Fields) -> Result<Self> {
        fields.only_bool("use_sliding_window", false)?;
        let mut config = Self::from_llama(fields)?;
        for mixer in &mut config.mixers {
            if let MixerConfig::Attention(attention) = mixer {
                (attention.qkv_bias, attention.out_bias) = (true, false);
            }
        }
        Ok(config)
    }

    pub(super) fn from_llama(fields: &Fields) -> Result<Self> {
        fields.only_str("hidden_act", "silu")?;
        let (d_model, n_heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
        let n_kv_heads = fields.size_or("num_key_value_heads", n_heads)?;
        let head_dim = fields.size_or("head_dim", (d_model / n_heads).max(1))?;
        mixers::check_heads(n_heads, n_kv_heads, head_dim)?;
        let bias = fields.bool_or("attention_bias", false)?;
        let rotary = rope::parse(fields, head_dim, ROPE)?;
        let attention = AttentionConfig::new(d_model, n_heads, n_kv_heads, head_dim, rotary);
        let attention = attention.with_qkv_bias(bias).with_out_bias(bias);
        let epsilon = fields.f64_or("rms_norm_eps", 1e-6)?;
        let sizes = (fields.size("vocab_size")?, fields.layers("num_hidden_layers")?);
        Ok(Self {
            norm_epsilon: epsilon,
            final_norm_epsilon: epsilon,
            tie_embeddings: fields.bool_or("tie_word_embeddings", false)?,
            mlp_bias: fields.bool_or("mlp_bias", false)?,
            max_position: fields.opt_usize("max_position_embeddings")?,
            tokens: SpecialTokens::parse(fields)?,
            ..Self::transformer(sizes.0, sizes.1, attention, fields.size("intermediate_size")?)
        })
    }

    /// Llamba's own format. Published files have no `attn_layer_idx`, `attn_cfg` and
    /// `block_norm_epsilon`; the code they belong to fixes the latter at 1e-5.
    pub(super) fn from_llamba(fields: &Fields) -> Result<Self> {
        let mlp = fields.object("mlp_cfg")?;
        mlp.only_str("act_fn", "silu")?;
        let vocab_size = padded(fields.size("vocab_size")?, fields.size_or("pad_vocab_size_multiple", 8)?);
        Ok(Self {
            vocab_size,
            d_model: fields.size("d_model")?,
            d_mlp: mlp.size("intermediate_size")?,
            mixers: Self::llamba_mixers(fields)?,
            norm_epsilon: fields.f64_or("block_norm_epsilon", EPSILON)?,
            final_norm_epsilon: fields.f64_or("norm_epsilon", EPSILON)?,
            tie_embeddings: fields.bool_or("tie_embeddings", false)?,
            lm_head_bias: fields.bool_or("lm_head_bias", false)?,
            mlp_bias: mlp.bool_or("bias", false)?,
            max_position: fields.opt_usize("max_position_embeddings")?,
            tokens: SpecialTokens::parse(fields)?,
        })
    }

    fn llamba_mixers(fields: &Fields) -> Result<Vec<MixerConfig>> {
        let (d_model, n_layers) = (fields.size("d_model")?, fields.layers("n_layer")?);
        let attention_layers = fields.layer_indices("attn_layer_idx", n_layers)?;
        let ssm = mixers::parse_ssm(&fields.object("ssm_cfg")?, d_model)?;
        if let Some(mixers) = Self::parallel_mixers(fields, n_layers, &ssm)? {
            return Ok(mixers);
        }
        let mut mixers = vec![MixerConfig::DiscreteMamba2(ssm); n_layers];
        if !attention_layers.is_empty() {
            let defaults = AttentionDefaults { heads: None, biases: false, rope: ROPE };
            let attention = mixers::parse_attention(&fields.object("attn_cfg")?, d_model, defaults)?;
            for layer in attention_layers {
                mixers[layer] = MixerConfig::Attention(attention.clone());
            }
        }
        Ok(mixers)
    }

    pub(super) fn to_json(&self) -> Result<Value> {
        if self.is_mamba_in_llama() {
            return self.to_llama(&self.heads()?);
        }
        if self.junction().is_some() {
            let (ssm, blocks) = self.write_parallel()?;
            return Ok(self.llamba_with(ssm, blocks));
        }
        self.mixers.iter().try_for_each(mixers::check_known)?;
        if !is_transformer(&self.mixers) {
            return self.to_llamba();
        }
        self.to_llama(mixers::shared(&self.mixers, as_attention)?.ok_or("it has no layers")?)
    }

    /// transformers' file of a model with this attention.
    fn to_llama(&self, attention: &AttentionConfig) -> Result<Value> {
        let qwen2 = self.transformer_family() == "Qwen2";
        let covered = qwen2 || attention.qkv_bias == attention.out_bias;
        if !covered || (qwen2 && self.mlp_bias) || self.norm_epsilon != self.final_norm_epsilon {
            return Err("transformers' Llama has biases on all projections or none, its Qwen2 on queries, keys and values, both one norm epsilon".into());
        }
        if self.lm_head_bias {
            return Err("its head has a bias, which transformers' Llama does not know".into());
        }
        let mut json = json!({
            "architectures": [if qwen2 { "Qwen2ForCausalLM" } else { "LlamaForCausalLM" }],
            "model_type": if qwen2 { "qwen2" } else { "llama" },
            "vocab_size": self.vocab_size,
            "hidden_size": self.d_model,
            "intermediate_size": self.d_mlp,
            "num_hidden_layers": self.mixers.len(),
            "num_attention_heads": attention.n_heads,
            "num_key_value_heads": attention.n_kv_heads,
            "head_dim": attention.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_epsilon,
            "tie_word_embeddings": self.tie_embeddings,
        });
        if qwen2 {
            json["use_sliding_window"] = json!(false);
        } else {
            json["attention_bias"] = json!(attention.qkv_bias);
            json["mlp_bias"] = json!(self.mlp_bias);
        }
        if let Some(max_position) = self.max_position {
            json["max_position_embeddings"] = json!(max_position);
        }
        rope::write(&mut json, &attention.rotary, attention.head_dim);
        self.tokens.write(&mut json);
        Ok(json)
    }

    fn to_llamba(&self) -> Result<Value> {
        let ssm = mixers::shared(&self.mixers, as_discrete)?.ok_or("it has no discrete Mamba-2 layer")?;
        let mut hybrid = json!({});
        if let Some(attention) = mixers::shared(&self.mixers, as_attention)? {
            let layers = (0..self.mixers.len()).filter(|&layer| as_attention(&self.mixers[layer]).is_some());
            hybrid["attn_layer_idx"] = json!(layers.collect::<Vec<_>>());
            hybrid["attn_cfg"] = mixers::write_attention(attention);
        }
        Ok(self.llamba_with(ssm, hybrid))
    }

    /// Llamba's file, with what makes it a hybrid.
    fn llamba_with(&self, ssm: &DiscreteMamba2Config, hybrid: Value) -> Value {
        let mut json = json!({
            "model_type": "llamba",
            "vocab_size": self.vocab_size,
            "tie_embeddings": self.tie_embeddings,
            "pad_vocab_size_multiple": 1,
            "lm_head_bias": self.lm_head_bias,
            "d_model": self.d_model,
            "n_layer": self.mixers.len(),
            "resid_dropout": 0.0,
            "norm_epsilon": self.final_norm_epsilon,
            "mlp_cfg": {"intermediate_size": self.d_mlp, "bias": self.mlp_bias, "act_fn": "silu"},
            "ssm_cfg": mixers::write_ssm(ssm),
        });
        if self.norm_epsilon != EPSILON {
            json["block_norm_epsilon"] = json!(self.norm_epsilon);
        }
        if let Some(max_position) = self.max_position {
            json["max_position_embeddings"] = json!(max_position);
        }
        for (name, value) in hybrid.as_object().into_iter().flatten() {
            json[name] = value.clone();
        }
        self.tokens.write(&mut json);
        json
    }
}
