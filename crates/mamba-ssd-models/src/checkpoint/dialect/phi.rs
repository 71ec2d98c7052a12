//! Phi-1.5 in the generations of its key names.

use super::super::stored::{Stored, Tensors};
use super::{indexed, projections};
use crate::{ModelError, PhiConfig};
use mamba_ssd::MixerConfig;

/// transformers' names, from any generation.
pub(super) fn canonical<'a>(tensors: Tensors<'a>, config: &PhiConfig) -> Result<Tensors<'a>, ModelError> {
    let has = |part: &str| tensors.keys().any(|key| key.contains(part));
    let (layers, heads) = (config.mixers.len(), heads(config));
    if has("transformer.embd.wte.") {
        tensors.each_becomes(|key, tensor| phi_msft(key, tensor))
    } else if has("layers.0.wte.") {
        tensors.each_becomes(|key, tensor| mixformer(key, tensor, layers))
    } else {
        tensors.each_becomes(|key, tensor| in_development(key, tensor, heads))
    }
}

fn heads(config: &PhiConfig) -> usize {
    let heads = config.mixers.iter().find_map(|mixer| match mixer {
        MixerConfig::Attention(attention) => Some(attention.n_heads),
        _ => None,
    });
    heads.unwrap_or(1)
}

/// The configuration with the mixers that the keys of a hybrid's layers tell, and the layers that it had
/// otherwise. The published hybrid's configuration has never been seen; its layers can be.
pub(super) fn with_mixers_of_keys(mut config: PhiConfig, tensors: &Tensors) -> (PhiConfig, Vec<usize>) {
    let attention = config.mixers.iter().find(|mixer| is_attention(mixer)).cloned();
    let attention = attention.unwrap_or_else(|| MixerConfig::Attention(config.phi_mamba_attention()));
    let ssm = config.mixers.iter().find(|mixer| !is_attention(mixer)).cloned();
    let mut changed = Vec::new();
    for (layer, mixer) in config.mixers.iter_mut().enumerate() {
        let has = |name: &str| tensors.get(&format!("backbone.layers.{layer}.mixer.{name}.weight")).is_some();
        let found = match (has("self_attn.q_proj"), has("in_proj"), &ssm) {
            (true, false, _) if !is_attention(mixer) => &attention,
            (false, true, Some(ssm)) if is_attention(mixer) => ssm,
            _ => continue,
        };
        *mixer = found.clone();
        changed.push(layer);
    }
    (config, changed)
}

fn is_attention(mixer: &MixerConfig) -> bool {
    matches!(mixer, MixerConfig::Attention(_))
}

fn phi_msft(key: String, tensor: Stored) -> Vec<(String, Stored)> {
    if let Some((layer, rest)) = key.strip_prefix("transformer.h.").and_then(indexed) {
        return in_layer(layer, rest, &key, tensor);
    }
    let name = match key.as_str() {
        "transformer.embd.wte.weight" => "model.embed_tokens.weight".to_string(),
        _ => key.replace("lm_head.ln.", "model.final_layernorm.").replace("lm_head.linear.", "lm_head."),
    };
    vec![(name, tensor)]
}

fn mixformer(key: String, tensor: Stored, layers: usize) -> Vec<(String, Stored)> {
    let Some((place, rest)) = key.strip_prefix("layers.").and_then(indexed) else {
        return vec![(key, tensor)];
    };
    let name = match (place, rest) {
        (0, "wte.weight") => "model.embed_tokens.weight".to_string(),
        (place, rest) if place == layers + 1 => {
            rest.replace("ln.", "model.final_layernorm.").replace("linear.", "lm_head.")
        }
        (0, _) => key,
        (place, rest) => return in_layer(place - 1, rest, &key, tensor),
    };
    vec![(name, tensor)]
}

/// A tensor of a layer, named `rest` there by the two older generations.
fn in_layer<'a>(layer: usize, rest: &str, key: &str, tensor: Stored<'a>) -> Vec<(String, Stored<'a>)> {
    let layer = format!("model.layers.{layer}");
    if rest.starts_with("mixer.rotary_emb.") || rest.starts_with("mixer.inner_") {
        return Vec::new(); // buffers, not parameters
    }
    if let Some(suffix) = rest.strip_prefix("mixer.Wqkv.") {
        let parts = tensor.parts();
        return projections(&format!("{layer}.self_attn"), suffix, parts, (key.to_string(), tensor));
    }
    let rest = match rest.split_once('.') {
        Some(("ln", suffix)) => format!("input_layernorm.{suffix}"),
        Some(("mixer", suffix)) => format!("self_attn.{}", suffix.replace("out_proj.", "dense.")),
        _ => rest.to_string(),
    };
    vec![(format!("{layer}.{rest}"), tensor)]
}

/// Two short-lived forms of transformers' own.
fn in_development(key: String, tensor: Stored, heads: usize) -> Vec<(String, Stored)> {
    if let Some((layer, suffix)) = key.split_once(".self_attn.query_key_value.") {
        let rows = tensor.shape().first().copied().unwrap_or_default();
        let apart = tensor.clone().exchanged(heads, 3, rows / (3 * heads).max(1));
        let parts = apart.and_then(|tensor| tensor.parts());
        let (prefix, suffix) = (format!("{layer}.self_attn"), suffix.to_string());
        return projections(&prefix, &suffix, parts, (key, tensor));
    }
    let name = match key.strip_prefix("model.norm.") {
        Some(suffix) => format!("model.final_layernorm.{suffix}"),
        None => key.replace(".self_attn.o_proj.", ".self_attn.dense."),
    };
    vec![(name, tensor)]
}
