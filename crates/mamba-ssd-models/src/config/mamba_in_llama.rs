//! MambaInLlama and M1: the `mamba_config.json` that makes a hybrid of a Llama's `config.json`.
//!
//! ```json
//! {"d_model": 3072, "ssm_cfg": {"expand": 1, "ngroups": 24, "d_state": 128}, "rms_norm_eps": 1e-05, "vocab_size": null,
//!  "d_inner": 3072, "d_xb": 1024, "intermediate_size": 8192, "hidden_act": "silu", "n_layer": 28, "attn_layers": [1, 3, 5]}
//! ```
//!
//! Layers outside `attn_layers` hold Mamba-2 if `ssm_cfg` has `ngroups` or `d_state`, and else Mamba-1;
//! `d_inner` is `expand` times `d_model` unless it is given.
//!
//! One field is ours: `"rope_scaling": false` has the remaining attention rotate without the frequency
//! scaling of `config.json`. MambaInLlama was trained with it. The code of M1 has none, so that M1-3B most
//! likely wants `false`; no published file says so.
//!
//! Wang et al., "The Mamba in the Llama" (2024); M1: Wang et al. (2025).

use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{AttentionConfig, Mamba1Config, Mamba2Config, MixerConfig};
use serde_json::{Value, json};

use super::json::{self as fields_of, Fields, Result};
use super::{LlamaConfig, as_attention, as_mamba1, as_mamba2, mixers};

/// State size of Mamba-1 and ε of Mamba-2's norm, which are fixed in the code.
const MAMBA1_STATE: usize = 16;
const MAMBA2_EPSILON: f64 = 1e-5;

impl LlamaConfig {
    /// Whether Mamba-1 or Mamba-2, but none of Llamba's mixers, is in some layer.
    pub(crate) fn is_mamba_in_llama(&self) -> bool {
        let mamba = |mixer| as_mamba1(mixer).is_some() || as_mamba2(mixer).is_some();
        let discrete = |mixer: &MixerConfig| matches!(mixer, MixerConfig::DiscreteMamba2(_));
        self.mixers.iter().any(mamba) && !self.mixers.iter().any(discrete)
    }

    /// What models of this kind are called, with attention in some layers.
    pub(super) fn mamba_family(&self, attention: usize) -> &'static str {
        let mamba1 = self.mixers.iter().any(|mixer| as_mamba1(mixer).is_some());
        match (mamba1, attention) {
            (true, 0) => "MambaInLlama with Mamba-1",
            (true, _) => "MambaInLlama hybrid with Mamba-1",
            (false, 0) => "MambaInLlama with Mamba-2",
            (false, _) => "MambaInLlama hybrid with Mamba-2",
        }
    }

    /// This Transformer with the layers of a `mamba_config.json`.
    pub(super) fn with_mamba(self, fields: &Fields) -> Result<Self> {
        self.check_same(fields)?;
        fields.only_str("hidden_act", "silu")?;
        let mut attention = self.heads()?;
        if !fields.bool_or("rope_scaling", true)? {
            attention.rotary.scaling = None;
        }
        let kept = fields.layer_indices("attn_layers", self.mixers.len())?;
        let (attention, mamba) = (MixerConfig::Attention(attention), parse_mamba(fields, self.d_model)?);
        let mixer = |layer| if kept.contains(&layer) { attention.clone() } else { mamba.clone() };
        Ok(Self { mixers: (0..self.mixers.len()).map(mixer).collect(), ..self })
    }

    /// An error where the two files contradict each other.
    fn check_same(&self, fields: &Fields) -> Result<()> {
        let sizes = [
            ("d_model", self.d_model),
            ("n_layer", self.mixers.len()),
            ("intermediate_size", self.d_mlp),
            ("vocab_size", self.vocab_size),
        ];
        for (name, expected) in sizes {
            let found = fields.usize_or(name, expected)?;
            if found != expected {
                return Err(format!("`{name}` is {found}, but config.json says {expected}"));
            }
        }
        let (found, expected) = (fields.f64_or("rms_norm_eps", self.norm_epsilon)?, self.norm_epsilon);
        if found != expected {
            return Err(format!("`rms_norm_eps` is {found}, but config.json says {expected}"));
        }
        Ok(())
    }

    /// The `mamba_config.json`, the reverse of [`LlamaConfig::with_mamba`].
    pub(super) fn to_mamba(&self) -> Result<Value> {
        let (d_inner, d_xb, ssm) = self.write_mamba()?;
        let layers = (0..self.mixers.len()).filter(|&layer| as_attention(&self.mixers[layer]).is_some());
        Ok(json!({
            "d_model": self.d_model,
            "ssm_cfg": ssm,
            "rms_norm_eps": self.norm_epsilon,
            "vocab_size": null,
            "d_inner": d_inner,
            "d_xb": d_xb,
            "intermediate_size": self.d_mlp,
            "hidden_act": "silu",
            "n_layer": self.mixers.len(),
            "attn_layers": layers.collect::<Vec<_>>(),
        }))
    }

    /// `d_inner`, `d_xb` and `ssm_cfg` of all layers without attention.
    fn write_mamba(&self) -> Result<(usize, usize, Value)> {
        let mamba1 = mixers::shared(&self.mixers, as_mamba1)?;
        let mamba2 = mixers::shared(&self.mixers, as_mamba2)?;
        match (mamba1, mamba2) {
            (Some(config), None) => Ok((config.d_inner, config.d_xb, write_mamba1(config)?)),
            (None, Some(config)) => {
                let (d_xb, ssm) = write_mamba2(config)?;
                Ok((config.d_inner(), d_xb, ssm))
            }
            _ => Err("MambaInLlama has layers of Mamba-1 or of Mamba-2, not of both".into()),
        }
    }

    /// The heads for `config.json`, which has some in any case: those of the attention, or else those that
    /// the mixers repeat.
    pub(super) fn heads(&self) -> Result<AttentionConfig> {
        let heads = match mixers::shared(&self.mixers, as_attention)? {
            Some(attention) => attention.clone(),
            None => self.repeated_heads()?,
        };
        if heads.qkv_bias || heads.out_bias || self.mlp_bias {
            return Err("MambaInLlama has no biases in attention and MLP".into());
        }
        mixers::check_known(&MixerConfig::Attention(heads.clone()))?;
        Ok(heads)
    }

    fn repeated_heads(&self) -> Result<AttentionConfig> {
        let (d_inner, d_xb, d_state) = match self.mixers.first() {
            Some(MixerConfig::Mamba1(config)) => (config.d_inner, config.d_xb, config.d_state),
            Some(MixerConfig::Mamba2(config)) => (config.d_inner(), write_mamba2(config)?.0, config.d_state),
            _ => return Err("it has no layers".into()),
        };
        let rotary = RotaryConfig::new(d_state);
        Ok(AttentionConfig::new(self.d_model, d_inner / d_state, d_xb / d_state, d_state, rotary))
    }
}

/// The mixer of the layers without attention.
fn parse_mamba(fields: &Fields, d_model: usize) -> Result<MixerConfig> {
    let ssm = fields.object("ssm_cfg")?;
    let d_inner = match fields.get("d_inner") {
        Some(_) => fields.size("d_inner")?,
        None => fields_of::axis("the inner width", ssm.size_or("expand", 2)?, d_model)?,
    };
    let (d_xb, d_conv) = (fields.size("d_xb")?, ssm.size_or("d_conv", 4)?);
    let mixer = if ssm.get("ngroups").is_some() || ssm.get("d_state").is_some() {
        MixerConfig::Mamba2(parse_mamba2(&ssm, d_model, d_inner)?.with_d_xb(Some(d_xb)).with_d_conv(d_conv))
    } else {
        let config = Mamba1Config::new(d_model, d_inner, d_xb).with_d_conv(d_conv);
        MixerConfig::Mamba1(config.with_dt_rank(ssm.opt_size("dt_rank")?))
    };
    check_groups(&mixer, d_inner, d_xb)?;
    Ok(mixer)
}

/// Mamba-2 with as many heads as groups, each as wide as its state.
fn parse_mamba2(ssm: &Fields, d_model: usize, d_inner: usize) -> Result<Mamba2Config> {
    ssm.only_bool("norm_before_gate", false)?;
    let (ngroups, d_state) = (ssm.size_or("ngroups", 1)?, ssm.size_or("d_state", 128)?);
    if ngroups.checked_mul(d_state) != Some(d_inner) {
        return Err(format!("{ngroups} groups of {d_state} do not add up to the inner width {d_inner}"));
    }
    if !d_inner.is_multiple_of(d_model) {
        return Err(format!("`d_inner` is {d_inner}, expected a multiple of the width {d_model}"));
    }
    Ok(Mamba2Config::new(d_model)
        .with_expand(d_inner / d_model)
        .with_d_state(d_state)
        .with_headdim(d_state)
        .with_ngroups(ngroups)
        .with_norm_epsilon(MAMBA2_EPSILON)
        .with_chunk_size(ssm.size_or("chunk_size", 256)?))
}

/// An error unless the heads of x and B divide those of C.
fn check_groups(mixer: &MixerConfig, d_inner: usize, d_xb: usize) -> Result<()> {
    let d_state = match mixer {
        MixerConfig::Mamba2(config) => config.d_state,
        _ => MAMBA1_STATE,
    };
    if d_xb.is_multiple_of(d_state) && d_inner.is_multiple_of(d_xb) {
        return Ok(());
    }
    Err(format!("`d_xb` is {d_xb}, expected a multiple of {d_state} that divides the inner width {d_inner}"))
}

fn write_mamba1(config: &Mamba1Config) -> Result<Value> {
    if config.d_state != MAMBA1_STATE {
        return Err(format!(
            "its Mamba-1 has states of {}, MambaInLlama's of {MAMBA1_STATE}",
            config.d_state
        ));
    }
    let mut ssm = json!({"expand": 1, "d_conv": config.d_conv});
    if let Some(dt_rank) = config.dt_rank {
        ssm["dt_rank"] = json!(dt_rank);
    }
    Ok(ssm)
}

/// `d_xb` and `ssm_cfg`.
fn write_mamba2(config: &Mamba2Config) -> Result<(usize, Value)> {
    let heads = config.headdim == config.d_state && config.ngroups == config.n_heads();
    let plain = !config.bias && config.conv_bias && config.norm_epsilon == MAMBA2_EPSILON;
    let Some(d_xb) = config.d_xb.filter(|_| heads && plain) else {
        return Err("MambaInLlama's Mamba-2 has `d_xb`, as many groups as heads, heads as wide as the state, and biases in the convolution only".into());
    };
    let ssm = json!({
        "expand": config.expand,
        "ngroups": config.ngroups,
        "d_state": config.d_state,
        "d_conv": config.d_conv,
        "chunk_size": config.chunk_size,
    });
    Ok((d_xb, ssm))
}
