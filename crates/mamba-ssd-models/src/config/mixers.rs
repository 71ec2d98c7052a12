//! The mixers of Llamba, Phi-Mamba and their hybrids, as their files describe them.

use mamba_ssd::{Activation, AttentionConfig, DiscreteMamba2Config, JunctionKind, MixerConfig};
use serde_json::{Value, json};

use super::json::{self as fields_of, Fields, Result};
use super::rope::{self, RopeDefaults};

/// `ssm_cfg` of Llamba, `core_input` of Phi-Mamba.
pub(super) fn parse_ssm(fields: &Fields, d_model: usize) -> Result<DiscreteMamba2Config> {
    let n_heads = fields.size("n_v_heads")?;
    let groups = fields.size_or("n_qk_heads", n_heads)?;
    let bias = fields.bool_or("bias", false)?;
    let config = DiscreteMamba2Config::new(d_model, n_heads, fields.size("d_state")?)
        .with_n_qk_heads((groups != n_heads).then_some(groups))
        .with_expand(fields.size_or("expand", 1)?)
        .with_d_conv(fields.size_or("d_conv", 4)?)
        .with_conv_bias(fields.bool_or("conv_bias", true)?)
        .with_activation(parse_activation(fields)?)
        .with_bias(bias)
        .with_z_bias(fields.bool_or("z_bias", !bias)?)
        .with_chunk_size(fields.size_or("chunk_size", 128)?);
    fields_of::axis("the inner width", config.expand, d_model)?;
    fields_of::axis("the width of B and C", groups, config.d_state)?;
    if !config.d_inner().is_multiple_of(n_heads) || !n_heads.is_multiple_of(groups) {
        let d_inner = config.d_inner();
        return Err(format!(
            "{n_heads} heads and {groups} query-key heads do not divide a width of {d_inner}"
        ));
    }
    Ok(config)
}

fn parse_activation(fields: &Fields) -> Result<Activation> {
    match fields.str_or("activation", "identity")? {
        "identity" => Ok(Activation::Identity),
        "silu" | "swish" => Ok(Activation::Silu),
        other => Err(format!(
            "`{}` is \"{other}\", expected \"identity\" or \"silu\"",
            fields.path_to("activation")
        )),
    }
}

/// The reverse of [`parse_ssm`]; `z_bias` is written only where the published code would not know it.
pub(super) fn write_ssm(config: &DiscreteMamba2Config) -> Value {
    let mut object = json!({
        "d_state": config.d_state,
        "n_v_heads": config.n_heads,
        "n_qk_heads": config.groups(),
        "d_conv": config.d_conv,
        "conv_bias": config.conv_bias,
        "expand": config.expand,
        "chunk_size": config.chunk_size,
        "activation": if config.activation == Activation::Silu { "silu" } else { "identity" },
        "bias": config.bias,
    });
    if config.z_bias == config.bias {
        object["z_bias"] = json!(config.z_bias);
    }
    object
}

/// What an attention has when its file does not say.
pub(super) struct AttentionDefaults {
    pub heads: Option<usize>,
    pub biases: bool,
    pub rope: RopeDefaults,
}

/// `attn_cfg` of a Llamba hybrid, `core_input` of a Phi-Mamba hybrid.
pub(super) fn parse_attention(
    fields: &Fields,
    d_model: usize,
    defaults: AttentionDefaults,
) -> Result<AttentionConfig> {
    let n_heads = match defaults.heads {
        Some(heads) => fields.size_or("num_attention_heads", heads)?,
        None => fields.size("num_attention_heads")?,
    };
    let n_kv_heads = fields.size_or("num_key_value_heads", n_heads)?;
    let head_dim = fields.size_or("head_dim", (d_model / n_heads).max(1))?;
    check_heads(n_heads, n_kv_heads, head_dim)?;
    let rotary = rope::parse(fields, head_dim, defaults.rope)?;
    let config = AttentionConfig::new(d_model, n_heads, n_kv_heads, head_dim, rotary);
    let (qkv, out) =
        (fields.bool_or("qkv_bias", defaults.biases)?, fields.bool_or("out_bias", defaults.biases)?);
    Ok(config.with_qkv_bias(qkv).with_out_bias(out))
}

/// An error unless the key-value heads divide the query heads, and these are no wider than any.
pub(super) fn check_heads(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Result<()> {
    fields_of::axis("the width of the heads", n_heads, head_dim)?;
    if n_heads.is_multiple_of(n_kv_heads) {
        return Ok(());
    }
    Err(format!("{n_kv_heads} key-value heads do not divide {n_heads} heads"))
}

/// The reverse of [`parse_attention`], with every field.
pub(super) fn write_attention(config: &AttentionConfig) -> Value {
    let mut object = json!({
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "qkv_bias": config.qkv_bias,
        "out_bias": config.out_bias,
        "partial_rotary_factor": config.rotary.dim as f64 / config.head_dim as f64,
    });
    rope::write(&mut object, &config.rotary, config.head_dim);
    object
}

/// Parameters of a mixer.
pub(super) fn n_params(mixer: &MixerConfig) -> usize {
    match mixer {
        MixerConfig::Attention(config) => config.n_params(),
        MixerConfig::DiscreteMamba2(config) => config.n_params(),
        MixerConfig::Mamba1(config) => config.n_params(),
        MixerConfig::Mamba2(config) => config.n_params(),
        MixerConfig::Parallel(config) => config.n_params(),
    }
}

/// Whether a mixer takes the place of the norm in front of it.
pub(super) fn norms_its_input(mixer: &MixerConfig) -> bool {
    matches!(mixer, MixerConfig::Parallel(config) if config.junction == JunctionKind::Merger)
}

/// What a mixer is called in messages.
pub(crate) fn kind(mixer: &MixerConfig) -> &'static str {
    match mixer {
        MixerConfig::Attention(config) if config.d_conv.is_some() => "attention with a convolution",
        MixerConfig::Attention(_) => "attention",
        MixerConfig::DiscreteMamba2(_) => "a discrete Mamba-2 mixer",
        MixerConfig::Mamba1(_) => "a Mamba-1 mixer",
        MixerConfig::Mamba2(_) => "a Mamba-2 mixer",
        MixerConfig::Parallel(_) => "SSM and attention heads side by side",
    }
}

/// An error where the dialects of transformers and MOHAWK do not know a mixer.
pub(super) fn check_known(mixer: &MixerConfig) -> Result<()> {
    match mixer {
        MixerConfig::Attention(config) if config.d_conv.is_none() => Ok(()),
        MixerConfig::DiscreteMamba2(_) => Ok(()),
        _ => Err(unknown(mixer)),
    }
}

/// What is said of a mixer that a dialect does not know.
pub(super) fn unknown(mixer: &MixerConfig) -> String {
    format!("it has a layer with {}, which its format does not know", kind(mixer))
}

/// Whether two mixers have the same shapes. (burn's configs are compared by what they write.)
pub(super) fn same(a: &MixerConfig, b: &MixerConfig) -> bool {
    let written = |mixer| serde_json::to_value(mixer).ok();
    written(a) == written(b)
}

/// The one config of all mixers that `select` accepts; an error if two differ, or one has another
/// variant than the format can hold.
pub(super) fn shared<'a, T>(
    mixers: &'a [MixerConfig],
    select: impl Fn(&'a MixerConfig) -> Option<&'a T>,
) -> Result<Option<&'a T>> {
    let mut selected = mixers.iter().filter(|mixer| select(mixer).is_some());
    let Some(first) = selected.next() else { return Ok(None) };
    match selected.find(|mixer| !same(first, mixer)) {
        None => Ok(select(first)),
        Some(_) => Err(format!("its layers of {} differ in shape, the format has one for all", kind(first))),
    }
}
