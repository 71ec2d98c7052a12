//! MambaInLlama as its training code writes it: matrices in parts, which its inference code and M1 stack.

use mamba_ssd::MixerConfig;

use super::super::stored::{Stored, Tensors};
use crate::{LlamaConfig, ModelError};

/// A matrix of a layer, and its parts from top to bottom, each with its rows.
type Matrix = (&'static str, Vec<(&'static str, usize)>);

const ATTENTION_IN: [&str; 3] =
    ["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"];
const MAMBA1_IN: [&str; 5] = [
    "mamba.in_proj_z.weight",
    "mamba.in_proj_x.weight",
    "mamba.B_proj.weight",
    "mamba.C_proj.weight",
    "mamba.dt_proj_down.weight",
];

/// The inference code's names, from either. (Mamba-2 is the same in both.)
pub(super) fn canonical<'a>(
    mut tensors: Tensors<'a>,
    config: &LlamaConfig,
) -> Result<Tensors<'a>, ModelError> {
    for (layer, mixer) in config.mixers.iter().enumerate() {
        for matrix in matrices(mixer) {
            stack(&mut tensors, layer, matrix)?;
        }
    }
    Ok(tensors)
}

fn matrices(mixer: &MixerConfig) -> Vec<Matrix> {
    match mixer {
        MixerConfig::Attention(config) => vec![
            ("mha.in_proj.weight", ATTENTION_IN.into_iter().zip(config.qkv_parts()).collect()),
            ("mha.out_proj.weight", vec![("self_attn.o_proj.weight", config.d_model)]),
        ],
        MixerConfig::Mamba1(config) => {
            vec![("mamba.in_proj.weight", MAMBA1_IN.into_iter().zip(config.in_proj_parts()).collect())]
        }
        _ => Vec::new(),
    }
}

/// Puts a matrix in the place of its parts, if there are any.
fn stack(tensors: &mut Tensors, layer: usize, (whole, parts): Matrix) -> Result<(), ModelError> {
    let key = |name: &str| format!("model.layers.{layer}.{name}");
    if parts.iter().all(|(name, _)| tensors.get(&key(name)).is_none()) {
        return Ok(());
    }
    let mut found = Vec::with_capacity(parts.len());
    for (name, rows) in parts {
        let key = key(name);
        let part = tensors.take(&key).ok_or_else(|| {
            tensors.malformed(format!("`{key}` is missing, expected {rows} rows of `{whole}`"))
        })?;
        if part.shape().first() != Some(&rows) {
            return Err(tensors.malformed(format!("`{key}` is {:?}, expected {rows} rows", part.shape())));
        }
        found.push(part);
    }
    let parts = Stored::stack(found);
    let matrix = parts
        .ok_or_else(|| tensors.malformed(format!("the parts of `{}` differ in their columns", key(whole))))?;
    tensors.insert(key(whole), matrix)
}
