//! Mamba-2, as transformers and state-spaces describe it.

use burn::module::Initializer;
use burn::nn::{EmbeddingConfig, LinearConfig};
use burn::tensor::Device;
use mamba_ssd::norm::NormConfig;
use mamba_ssd::{Mamba2Config, Mixer};
use serde_json::{Value, json};

use super::json::{self as fields_of, Fields, Result};
use super::{SpecialTokens, padded};
use crate::mamba2::{Mamba2Block, Mamba2Lm};

/// Shapes of a [`Mamba2Lm`].
#[derive(Clone, Debug)]
pub struct Mamba2LmConfig {
    /// Rows of the embedding, v.
    pub vocab_size: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// The mixer of every layer.
    pub mixer: Mamba2Config,
    /// ε of the norms.
    pub norm_epsilon: f64,
    /// Whether the embedding is also the head.
    pub tie_embeddings: bool,
    /// Tokens with a meaning of their own.
    pub tokens: SpecialTokens,
}

impl Mamba2LmConfig {
    /// Number of parameters, counted without allocating any. A tied head counts once.
    pub fn n_params(&self) -> usize {
        let (v, d) = (self.vocab_size, self.mixer.d_model);
        let embeddings = if self.tie_embeddings { v * d } else { 2 * v * d };
        embeddings + self.n_layers * (self.mixer.n_params() + d) + d
    }

    /// A model with random weights: normal with deviation 0.02 for the embedding, the mixers as
    /// [`Mamba2Config::init`] makes them.
    pub fn init(&self, device: &Device) -> Mamba2Lm {
        let d_model = self.mixer.d_model;
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        let embedding = EmbeddingConfig::new(self.vocab_size, d_model).with_initializer(normal);
        let norm = NormConfig::new(d_model).with_epsilon(self.norm_epsilon);
        let head = LinearConfig::new(d_model, self.vocab_size).with_bias(false);
        let block =
            |_| Mamba2Block { norm: norm.init_rms(device), mixer: Mixer::Mamba2(self.mixer.init(device)) };
        Mamba2Lm {
            embedding: embedding.init(device),
            layers: (0..self.n_layers).map(block).collect(),
            final_layernorm: norm.init_rms(device),
            lm_head: (!self.tie_embeddings).then(|| head.init(device)),
            config: self.clone(),
        }
    }

    pub(super) fn from_transformers(fields: &Fields) -> Result<Self> {
        fields.only_str("hidden_act", "silu")?;
        refuse_step_limits(fields)?;
        let epsilon = fields.f64_or("layer_norm_epsilon", 1e-5)?;
        let mixer = Mamba2Config::new(fields.size("hidden_size")?)
            .with_d_state(fields.size("state_size")?)
            .with_d_conv(fields.size_or("conv_kernel", 4)?)
            .with_expand(fields.size_or("expand", 2)?)
            .with_headdim(fields.size("head_dim")?)
            .with_ngroups(fields.size("n_groups")?)
            .with_bias(fields.bool_or("use_bias", false)?)
            .with_conv_bias(fields.bool_or("use_conv_bias", true)?)
            .with_norm_epsilon(epsilon)
            .with_chunk_size(fields.size_or("chunk_size", 256)?);
        let n_heads = fields.size("num_heads")?;
        if n_heads.checked_mul(mixer.headdim) != mixer.expand.checked_mul(mixer.d_model) {
            let (head_dim, d_inner) = (mixer.headdim, mixer.d_inner());
            return Err(format!("{n_heads} heads of {head_dim} do not add up to the inner width {d_inner}"));
        }
        Self {
            vocab_size: fields.size("vocab_size")?,
            n_layers: fields.layers("num_hidden_layers")?,
            mixer,
            norm_epsilon: epsilon,
            tie_embeddings: fields.bool_or("tie_word_embeddings", false)?,
            tokens: SpecialTokens::parse(fields)?,
        }
        .checked()
    }

    /// state-spaces' own format; what it leaves out are the defaults of its code.
    pub(super) fn from_state_spaces(fields: &Fields) -> Result<Self> {
        let ssm = fields.object("ssm_cfg")?;
        ssm.only_str("layer", "Mamba2")?;
        if ssm.get("layer").is_none() {
            return Err(
                "`ssm_cfg.layer` is missing, expected \"Mamba2\" (the default, Mamba1, is not covered)"
                    .into(),
            );
        }
        if fields.usize_or("d_intermediate", 0)? > 0 || !fields.usizes("attn_layer_idx")?.is_empty() {
            return Err("`d_intermediate` and `attn_layer_idx` are not covered, expected 0 and []".into());
        }
        fields.only_bool("rms_norm", true)?;
        let mixer = Mamba2Config::new(fields.size("d_model")?)
            .with_d_state(ssm.size_or("d_state", 128)?)
            .with_d_conv(ssm.size_or("d_conv", 4)?)
            .with_expand(ssm.size_or("expand", 2)?)
            .with_headdim(ssm.size_or("headdim", 64)?)
            .with_ngroups(ssm.size_or("ngroups", 1)?)
            .with_chunk_size(ssm.size_or("chunk_size", 256)?);
        Self {
            vocab_size: padded(fields.size("vocab_size")?, fields.size_or("pad_vocab_size_multiple", 8)?),
            n_layers: fields.layers("n_layer")?,
            mixer,
            norm_epsilon: 1e-5,
            tie_embeddings: fields.bool_or("tie_embeddings", true)?,
            tokens: SpecialTokens::parse(fields)?,
        }
        .checked()
    }

    /// Codestral as Mistral publishes it; what it leaves out are the defaults of state-spaces' code.
    pub(super) fn from_mistral(fields: &Fields) -> Result<Self> {
        fields.only_bool("rms_norm", true)?;
        let mixer = Mamba2Config::new(fields.size("dim")?).with_ngroups(fields.size("n_groups")?);
        Self {
            vocab_size: padded(fields.size("vocab_size")?, fields.size_or("pad_vocab_size_multiple", 1)?),
            n_layers: fields.layers("n_layers")?,
            mixer,
            norm_epsilon: 1e-5,
            tie_embeddings: fields.bool_or("tie_embeddings", true)?,
            tokens: SpecialTokens::parse(fields)?,
        }
        .checked()
    }

    /// An error if the heads and groups do not divide.
    fn checked(self) -> Result<Self> {
        fields_of::axis("the inner width", self.mixer.expand, self.mixer.d_model)?;
        fields_of::axis("the width of B and C", self.mixer.ngroups, self.mixer.d_state)?;
        let (d_inner, headdim, ngroups) = (self.mixer.d_inner(), self.mixer.headdim, self.mixer.ngroups);
        if !d_inner.is_multiple_of(headdim) || !self.mixer.n_heads().is_multiple_of(ngroups) {
            return Err(format!(
                "heads of {headdim} in {ngroups} groups do not divide an inner width of {d_inner}"
            ));
        }
        Ok(self)
    }

    pub(super) fn to_json(&self) -> Result<Value> {
        let mixer = &self.mixer;
        if mixer.d_xb.is_some() {
            return Err("transformers' Mamba-2 does not repeat heads of x and B".into());
        }
        let mut json = json!({
            "architectures": ["Mamba2ForCausalLM"],
            "model_type": "mamba2",
            "vocab_size": self.vocab_size,
            "hidden_size": mixer.d_model,
            "num_hidden_layers": self.n_layers,
            "state_size": mixer.d_state,
            "num_heads": mixer.n_heads(),
            "head_dim": mixer.headdim,
            "n_groups": mixer.ngroups,
            "expand": mixer.expand,
            "conv_kernel": mixer.d_conv,
            "chunk_size": mixer.chunk_size,
            "hidden_act": "silu",
            "use_bias": mixer.bias,
            "use_conv_bias": mixer.conv_bias,
            "rms_norm": true,
            "layer_norm_epsilon": self.norm_epsilon,
            "residual_in_fp32": true,
            "tie_word_embeddings": self.tie_embeddings,
        });
        self.tokens.write(&mut json);
        Ok(json)
    }
}

/// The mixer has no limits on the step size.
fn refuse_step_limits(fields: &Fields) -> Result<()> {
    match fields.f64s("time_step_limit")?.as_slice() {
        [] => Ok(()),
        [low, high] if *low <= 0.0 && *high == f64::INFINITY => Ok(()),
        other => Err(format!("`time_step_limit` is {other:?}, only [0, Infinity] is covered")),
    }
}
