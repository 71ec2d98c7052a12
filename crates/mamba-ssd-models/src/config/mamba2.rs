//! Mamba-2, as transformers and state-spaces describe it, and with some attention (`mamba2attn`), which only
//! state-spaces does.

use burn::module::Initializer;
use burn::nn::{EmbeddingConfig, LinearConfig};
use burn::tensor::Device;
use mamba_ssd::norm::NormConfig;
use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{AttentionConfig, Mamba2Config, MixerConfig};
use serde_json::{Value, json};

use super::json::{self as fields_of, Fields, Result};
use super::{SpecialTokens, as_attention, as_mamba2, mixers, padded};
use crate::mamba2::{Mamba2Block, Mamba2Lm};

/// ε of every norm in state-spaces' code.
const EPSILON: f64 = 1e-5;

/// Shapes of a [`Mamba2Lm`].
#[derive(Clone, Debug)]
pub struct Mamba2LmConfig {
    /// Rows of the embedding, v.
    pub vocab_size: usize,
    /// Width of the residual stream, d.
    pub d_model: usize,
    /// The mixer of every layer.
    pub mixers: Vec<MixerConfig>,
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
        let (v, d) = (self.vocab_size, self.d_model);
        let embeddings = if self.tie_embeddings { v * d } else { 2 * v * d };
        embeddings + self.mixers.iter().map(|mixer| mixers::n_params(mixer) + d).sum::<usize>() + d
    }

    /// Whether some layer holds attention.
    pub(super) fn has_attention(&self) -> bool {
        self.mixers.iter().any(|mixer| as_attention(mixer).is_some())
    }

    /// A model with random weights: normal with deviation 0.02 for the embedding, the mixers as
    /// [`MixerConfig::init`] makes them.
    pub fn init(&self, device: &Device) -> Mamba2Lm {
        let d_model = self.d_model;
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        let embedding = EmbeddingConfig::new(self.vocab_size, d_model).with_initializer(normal);
        let norm = NormConfig::new(d_model).with_epsilon(self.norm_epsilon);
        let head = LinearConfig::new(d_model, self.vocab_size).with_bias(false);
        let block =
            |mixer: &MixerConfig| Mamba2Block { norm: norm.init_rms(device), mixer: mixer.init(device) };
        Mamba2Lm {
            embedding: embedding.init(device),
            layers: self.mixers.iter().map(block).collect(),
            final_layernorm: norm.init_rms(device),
            lm_head: (!self.tie_embeddings).then(|| head.init(device)),
            config: self.clone(),
        }
    }

    pub(super) fn from_transformers(fields: &Fields) -> Result<Self> {
        fields.only_str("hidden_act", "silu")?;
        refuse_step_limits(fields, "time_step_limit")?;
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
        Ok(Self {
            vocab_size: fields.size("vocab_size")?,
            d_model: mixer.d_model,
            mixers: vec![checked(mixer)?; fields.layers("num_hidden_layers")?],
            norm_epsilon: epsilon,
            tie_embeddings: fields.bool_or("tie_word_embeddings", false)?,
            tokens: SpecialTokens::parse(fields)?,
        })
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
        let d_intermediate = fields.usize_or("d_intermediate", 0)?;
        if d_intermediate > 0 {
            return Err(format!("`d_intermediate` is {d_intermediate}, only 0 is covered"));
        }
        fields.only_bool("rms_norm", true)?;
        ssm.only_bool("norm_before_gate", false)?;
        refuse_step_limits(&ssm, "dt_limit")?;
        let mixer = Mamba2Config::new(fields.size("d_model")?)
            .with_d_state(ssm.size_or("d_state", 128)?)
            .with_d_conv(ssm.size_or("d_conv", 4)?)
            .with_expand(ssm.size_or("expand", 2)?)
            .with_headdim(ssm.size_or("headdim", 64)?)
            .with_ngroups(ssm.size_or("ngroups", 1)?)
            .with_bias(ssm.bool_or("bias", false)?)
            .with_conv_bias(ssm.bool_or("conv_bias", true)?)
            .with_chunk_size(ssm.size_or("chunk_size", 256)?);
        let (d_model, n_layers) = (mixer.d_model, fields.layers("n_layer")?);
        let mut mixers = vec![checked(mixer)?; n_layers];
        for layer in fields.layer_indices("attn_layer_idx", n_layers)? {
            mixers[layer] = MixerConfig::Attention(parse_attention(&fields.object("attn_cfg")?, d_model)?);
        }
        Ok(Self {
            vocab_size: padded(fields.size("vocab_size")?, fields.size_or("pad_vocab_size_multiple", 8)?),
            d_model,
            mixers,
            norm_epsilon: EPSILON,
            tie_embeddings: fields.bool_or("tie_embeddings", true)?,
            tokens: SpecialTokens::parse(fields)?,
        })
    }

    /// Codestral as Mistral publishes it; what it leaves out are the defaults of state-spaces' code.
    pub(super) fn from_mistral(fields: &Fields) -> Result<Self> {
        fields.only_bool("rms_norm", true)?;
        let mixer = Mamba2Config::new(fields.size("dim")?).with_ngroups(fields.size("n_groups")?);
        Ok(Self {
            vocab_size: padded(fields.size("vocab_size")?, fields.size_or("pad_vocab_size_multiple", 1)?),
            d_model: mixer.d_model,
            mixers: vec![checked(mixer)?; fields.layers("n_layers")?],
            norm_epsilon: EPSILON,
            tie_embeddings: fields.bool_or("tie_embeddings", true)?,
            tokens: SpecialTokens::parse(fields)?,
        })
    }

    /// transformers' format, or that of state-spaces where some layer holds attention.
    pub(super) fn to_json(&self) -> Result<Value> {
        let known = |mixer: &&MixerConfig| as_mamba2(mixer).is_some() || as_attention(mixer).is_some();
        if let Some(mixer) = self.mixers.iter().find(|mixer| !known(mixer)) {
            return Err(mixers::unknown(mixer));
        }
        let mixer = mixers::shared(&self.mixers, as_mamba2)?.ok_or("it has no Mamba-2 layer")?;
        if mixer.d_xb.is_some() {
            return Err("its Mamba-2 repeats heads of x and B, which its format does not know".into());
        }
        match mixers::shared(&self.mixers, as_attention)? {
            None => Ok(self.to_transformers(mixer)),
            Some(attention) => self.to_state_spaces(mixer, attention),
        }
    }

    fn to_state_spaces(&self, mixer: &Mamba2Config, attention: &AttentionConfig) -> Result<Value> {
        if self.norm_epsilon != EPSILON || mixer.norm_epsilon != EPSILON {
            return Err(format!("its norms have another ε than state-spaces' {EPSILON}"));
        }
        let layers = (0..self.mixers.len()).filter(|&layer| as_attention(&self.mixers[layer]).is_some());
        let mut json = json!({
            "d_model": self.d_model,
            "d_intermediate": 0,
            "n_layer": self.mixers.len(),
            "vocab_size": self.vocab_size,
            "ssm_cfg": {
                "layer": "Mamba2",
                "d_state": mixer.d_state,
                "d_conv": mixer.d_conv,
                "expand": mixer.expand,
                "headdim": mixer.headdim,
                "ngroups": mixer.ngroups,
                "bias": mixer.bias,
                "conv_bias": mixer.conv_bias,
                "chunk_size": mixer.chunk_size,
            },
            "attn_layer_idx": layers.collect::<Vec<_>>(),
            "attn_cfg": write_attention(attention)?,
            "rms_norm": true,
            "residual_in_fp32": true,
            "fused_add_norm": true,
            "pad_vocab_size_multiple": 1,
            "tie_embeddings": self.tie_embeddings,
        });
        if self.tokens != SpecialTokens::default() {
            self.tokens.write(&mut json); // state-spaces' own code takes no further fields
        }
        Ok(json)
    }

    fn to_transformers(&self, mixer: &Mamba2Config) -> Value {
        let mut json = json!({
            "architectures": ["Mamba2ForCausalLM"],
            "model_type": "mamba2",
            "vocab_size": self.vocab_size,
            "hidden_size": mixer.d_model,
            "num_hidden_layers": self.mixers.len(),
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
        json
    }
}

/// An error if the heads and groups do not divide.
fn checked(mixer: Mamba2Config) -> Result<MixerConfig> {
    fields_of::axis("the inner width", mixer.expand, mixer.d_model)?;
    fields_of::axis("the width of B and C", mixer.ngroups, mixer.d_state)?;
    let (d_inner, headdim, ngroups) = (mixer.d_inner(), mixer.headdim, mixer.ngroups);
    if !d_inner.is_multiple_of(headdim) || !mixer.n_heads().is_multiple_of(ngroups) {
        return Err(format!(
            "heads of {headdim} in {ngroups} groups do not divide an inner width of {d_inner}"
        ));
    }
    Ok(MixerConfig::Mamba2(mixer))
}

/// `attn_cfg` of state-spaces; what it leaves out are the defaults of its code.
fn parse_attention(fields: &Fields, d_model: usize) -> Result<AttentionConfig> {
    if !fields.bool_or("causal", false)? {
        return Err("`attn_cfg.causal` is false, as it is where it is missing; only true is covered".into());
    }
    let n_heads = fields.size("num_heads")?;
    let n_kv_heads = fields.size_or("num_heads_kv", n_heads)?;
    let head_dim = fields.size_or("head_dim", (d_model / n_heads).max(1))?;
    mixers::check_heads(n_heads, n_kv_heads, head_dim)?;
    let dim = fields.usize_or("rotary_emb_dim", 0)?;
    if dim > head_dim || !dim.is_multiple_of(2) {
        return Err(format!(
            "`attn_cfg.rotary_emb_dim` is {dim}, expected an even number of at most {head_dim}"
        ));
    }
    fields.only_bool("rotary_emb_interleaved", false)?;
    let rotary = RotaryConfig::new(dim).with_theta(fields.f64_or("rotary_emb_base", 10000.0)?);
    let taps = match fields.usize_or("d_conv", 0)? {
        0 => None,
        _ => Some(fields.size("d_conv")?),
    };
    if fields.get("softmax_scale").is_some() {
        return Err("`attn_cfg.softmax_scale` is not covered".into());
    }
    Ok(AttentionConfig::new(d_model, n_heads, n_kv_heads, head_dim, rotary)
        .with_qkv_bias(fields.bool_or("qkv_proj_bias", true)?)
        .with_out_bias(fields.bool_or("out_proj_bias", true)?)
        .with_d_conv(taps))
}

/// The reverse of [`parse_attention`], with every field.
fn write_attention(config: &AttentionConfig) -> Result<Value> {
    if config.rotary.scaling.is_some() {
        return Err(
            "its attention scales the rotary frequencies, which state-spaces' format does not know".into()
        );
    }
    Ok(json!({
        "causal": true,
        "d_conv": config.d_conv.unwrap_or(0),
        "head_dim": config.head_dim,
        "num_heads": config.n_heads,
        "num_heads_kv": config.n_kv_heads,
        "out_proj_bias": config.out_bias,
        "qkv_proj_bias": config.qkv_bias,
        "rotary_emb_dim": config.rotary.dim,
        "rotary_emb_base": config.rotary.theta,
    }))
}

/// The mixer has no limits on the step size.
fn refuse_step_limits(fields: &Fields, name: &str) -> Result<()> {
    match fields.f64s(name)?.as_slice() {
        [] => Ok(()),
        [low, high] if *low <= 0.0 && *high == f64::INFINITY => Ok(()),
        other => Err(format!("`{name}` is {other:?}, only [0, Infinity] is covered")),
    }
}
