//! Key names and arrangements that other writers use, turned into those of [`Names`](super::Names).
//!
//! | dialect | recognised by | differs by |
//! |---|---|---|
//! | phi-msft, late 2023 | `transformer.embd.wte.weight` | names; q, k and v in one matrix |
//! | MixFormer, September 2023 | `layers.0.wte.weight` | the same, and layers counted from 1 |
//! | transformers' Phi in development | `query_key_value` | q, k and v in one matrix, head by head |
//! | MambaInLlama's training code | `mamba.in_proj_z`, `self_attn.q_proj` | matrices in parts |
//! | MOHAWK's hybrids by heads | `mixer1.` | names; the keys may tell what the configuration does not |
//! | Codestral as Mistral publishes it | `model.backbone.` | a prefix |
//! | Llamba in MLX | `embedding.encoder.weight` | names; integers of a few bits |
//! | llama.cpp | a GGUF file | names; rows of q and k for the interleaved rotation |
//!
//! A tensor that a dialect does not know keeps its key, and the strict reading that follows lists it.

mod blocks;
pub(super) mod gguf;
mod mamba_in_llama;
pub(super) mod mlx;
mod phi;
mod sentencepiece;
mod vocabulary;

use super::stored::{Stored, Tensors};
use crate::{ModelConfig, ModelError};

/// The tensors under the names of [`Names`](super::Names), whatever the dialect. (MLX and GGUF carry
/// their configurations, and have been treated when this one was read.)
pub(super) fn canonical<'a>(tensors: Tensors<'a>, config: &ModelConfig) -> Result<Tensors<'a>, ModelError> {
    let tensors = without_prefix(tensors)?;
    match config {
        ModelConfig::Phi(config) => phi::canonical(tensors, config),
        ModelConfig::Llama(config) if config.is_mamba_in_llama() => {
            mamba_in_llama::canonical(tensors, config)
        }
        _ => Ok(tensors),
    }
}

/// The configuration, whose `config.json` is `text`, as the tensors have it, and what it said otherwise.
pub(super) fn settled(
    config: ModelConfig,
    text: &str,
    tensors: &Tensors,
) -> Result<(ModelConfig, Option<String>), String> {
    if let Some(blocks) = blocks::found(tensors) {
        return config.with_blocks(text, &blocks);
    }
    let ModelConfig::Phi(config) = config else { return Ok((config, None)) };
    let (config, changed) = phi::with_mixers_of_keys(config, tensors);
    let note = (!changed.is_empty()).then(|| {
        format!("layers {changed:?} hold another mixer than the configuration says; the tensors decide")
    });
    Ok((ModelConfig::Phi(config), note))
}

/// Removes `model.` in front of every key of a Mamba-2 model.
fn without_prefix(tensors: Tensors) -> Result<Tensors, ModelError> {
    const PREFIX: &str = "model.";
    if !tensors.keys().any(|key| key.starts_with("model.backbone.")) {
        return Ok(tensors);
    }
    tensors.each_becomes(|key, tensor| match key.strip_prefix(PREFIX) {
        Some(rest) => vec![(rest.to_string(), tensor)],
        None => vec![(key, tensor)],
    })
}

/// The number in front of the first `.` of a key, and what follows.
fn indexed(key: &str) -> Option<(usize, &str)> {
    let (index, rest) = key.split_once('.')?;
    Some((index.parse().ok()?, rest))
}

/// Three tensors out of one, named after `prefix`; the one itself if it is nothing of the kind.
fn projections<'a>(
    prefix: &str,
    suffix: &str,
    parts: Option<[Stored<'a>; 3]>,
    whole: (String, Stored<'a>),
) -> Vec<(String, Stored<'a>)> {
    let Some(parts) = parts else { return vec![whole] };
    let names = ["q_proj", "k_proj", "v_proj"].map(|name| format!("{prefix}.{name}.{suffix}"));
    names.into_iter().zip(parts).collect()
}
