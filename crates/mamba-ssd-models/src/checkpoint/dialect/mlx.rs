//! Llamba as its authors publish it for MLX: a single file, the matrices in integers of a few bits.
//!
//! ```text
//! w[r, c] = scales[r, c / group] · q[r, c] + biases[r, c / group]
//! ```
//!
//! with `q` packed into words of 32 bits, the first column in the lowest bits. A layer is two entries,
//! mixer and MLP. The MLP's names are not Llama's: its `in_proj` is the half that silu acts on, Llama's
//! `gate_proj`, and its `gate_proj` is Llama's `up_proj`. The head is a quantised copy of the
//! embedding, and therefore not tied to it. All sizes are those of the tensors.

use burn::tensor::{DType, TensorData};
use mamba_ssd::{DiscreteMamba2Config, MixerConfig};

use super::super::stored::{Stored, Tensors};
use super::indexed;
use crate::config::{LARGEST, LlamaConfig, SpecialTokens};
use crate::{ModelConfig, ModelError};

const EMBEDDING: &str = "embedding.encoder.weight";
/// Heads of every published Llamba when `D` does not say.
const EPSILON: f64 = 1e-5;

/// Whether these are the tensors of such a file.
pub(in crate::checkpoint) fn is_mlx(tensors: &Tensors) -> bool {
    tensors.get(EMBEDDING).is_some()
}

/// Configuration, and tensors under Llamba's names.
pub(in crate::checkpoint) fn open<'a>(
    tensors: Tensors<'a>,
    metadata: &[(String, String)],
) -> Result<(ModelConfig, Tensors<'a>), ModelError> {
    let tensors = dequantised(tensors, metadata)?;
    let config = config(&tensors)?;
    let tensors = tensors.each_becomes(|key, tensor| match name(&key) {
        Some(name) => vec![(name, with_middle_axis(tensor, &key))],
        None => vec![(key, tensor)],
    })?;
    Ok((config, tensors))
}

fn config(tensors: &Tensors) -> Result<ModelConfig, ModelError> {
    let shape = |key: &str| tensors.get(key).map(Stored::shape);
    let missing =
        |key: &str| tensors.malformed(format!("`{key}` is missing, or has other axes than Llamba's"));
    let vector = |key: &str| match shape(key) {
        Some([length]) => Ok(*length),
        _ => Err(missing(key)),
    };
    let matrix = |key: &str| match shape(key) {
        Some([rows, columns]) => Ok((*rows, *columns)),
        _ => Err(missing(key)),
    };
    let (vocab_size, d_model) = matrix(EMBEDDING)?;
    let (heads, d_inner) = (vector("model.layers.0.layer.D")?, vector("model.layers.0.layer.z_bias")?);
    let (channels, taps) = matrix("model.layers.0.layer.conv_weight")?;
    let (d_mlp, _) = matrix("model.layers.1.layer.in_proj.weight")?;
    let sizes = [vocab_size, d_model, heads, d_inner, channels, taps, d_mlp];
    if !sizes.iter().all(|size| (1..=LARGEST).contains(size)) || channels <= d_inner {
        return Err(tensors.malformed(format!("sizes of {sizes:?} are none of a Llamba")));
    }
    let bc = channels.checked_sub(d_inner).filter(|bc| bc.is_multiple_of(2 * heads));
    let (Some(bc), true) = (bc, d_inner.is_multiple_of(d_model) && d_inner.is_multiple_of(heads)) else {
        let reason = format!("{channels} channels and {heads} heads do not fit a width of {d_inner}");
        return Err(tensors.malformed(reason));
    };
    let mixer = DiscreteMamba2Config::new(d_model, heads, bc / (2 * heads))
        .with_expand(d_inner / d_model)
        .with_d_conv(taps);
    let entries =
        tensors.keys().filter(|key| key.ends_with(".norm.weight") && key.starts_with("model.layers."));
    let n_layers = entries.count() / 2;
    Ok(ModelConfig::Llama(LlamaConfig {
        vocab_size,
        d_model,
        d_mlp,
        mixers: vec![MixerConfig::DiscreteMamba2(mixer); n_layers],
        norm_epsilon: EPSILON,
        final_norm_epsilon: EPSILON,
        tie_embeddings: shape("head.linear.weight").is_none(),
        lm_head_bias: shape("head.linear.bias").is_some(),
        mlp_bias: false,
        max_position: None,
        tokens: SpecialTokens::default(),
    }))
}

/// Llamba's name of a tensor.
fn name(key: &str) -> Option<String> {
    let fixed = match key {
        EMBEDDING => "backbone.embedding.weight",
        "model.norm.weight" => "backbone.final_layernorm.weight",
        "head.linear.weight" => "lm_head.weight",
        "head.linear.bias" => "lm_head.bias",
        _ => "",
    };
    if !fixed.is_empty() {
        return Some(fixed.to_string());
    }
    let (entry, rest) = key.strip_prefix("model.layers.").and_then(indexed)?;
    let (layer, in_mlp) = (entry / 2, entry % 2 == 1);
    let name = match (in_mlp, rest) {
        (false, "norm.weight") => "input_layernorm.weight",
        (true, "norm.weight") => "post_attention_layernorm.weight",
        (false, "layer.in_proj.weight") => "mixer.in_proj.weight",
        (false, "layer.out_proj.weight") => "mixer.out_proj.weight",
        (false, "layer.conv_weight") => "mixer.conv1d.weight",
        (false, "layer.conv_bias") => "mixer.conv1d.bias",
        (false, "layer.z_bias") => "mixer.z_bias",
        (false, "layer.D") => "mixer.D",
        (true, "layer.in_proj.weight") => "mlp.gate_proj.weight",
        (true, "layer.gate_proj.weight") => "mlp.up_proj.weight",
        (true, "layer.out_proj.weight") => "mlp.down_proj.weight",
        _ => return None,
    };
    Some(format!("backbone.layers.{layer}.{name}"))
}

/// MLX stores a depthwise convolution as `[channels, taps]`.
fn with_middle_axis<'a>(tensor: Stored<'a>, key: &str) -> Stored<'a> {
    match tensor.shape() {
        &[channels, taps] if key.ends_with(".conv_weight") => {
            tensor.clone().reshaped(vec![channels, 1, taps]).unwrap_or(tensor)
        }
        _ => tensor,
    }
}

/// Every `weight`, `scales` and `biases` of one matrix as its numbers.
fn dequantised<'a>(
    mut tensors: Tensors<'a>,
    metadata: &[(String, String)],
) -> Result<Tensors<'a>, ModelError> {
    let scaled: Vec<String> =
        tensors.keys().filter_map(|key| key.strip_suffix(".scales")).map(str::to_string).collect();
    if scaled.is_empty() {
        return Ok(tensors);
    }
    let bits = metadata
        .iter()
        .find(|(key, _)| key == "quantization_kwargs.bits")
        .and_then(|(_, bits)| bits.parse().ok());
    let bits = bits.filter(|bits| [2, 4, 8].contains(bits)).ok_or_else(|| {
        tensors.malformed("`quantization_kwargs.bits` in the header is not 2, 4 or 8; this is no file of MLX")
    })?;
    for matrix in scaled {
        let part = |name: &str| tensors.get(&format!("{matrix}.{name}")).cloned();
        let affine = match (part("weight"), part("scales"), part("biases")) {
            (Some(weight), Some(scales), Some(biases)) => affine(weight, scales, biases, bits),
            _ => None,
        };
        let affine = affine.ok_or_else(|| {
            tensors.malformed(format!(
                "`{matrix}` is no matrix with a scale and a bias for each group of columns"
            ))
        })?;
        for name in ["weight", "scales", "biases"] {
            tensors.take(&format!("{matrix}.{name}"));
        }
        tensors.insert(format!("{matrix}.weight"), affine)?;
    }
    Ok(tensors)
}

/// The matrix of packed integers, if the three shapes fit.
fn affine<'a>(weight: Stored<'a>, scales: Stored<'a>, biases: Stored<'a>, bits: usize) -> Option<Stored<'a>> {
    let (&[rows, words], &[scale_rows, groups]) = (weight.shape(), scales.shape()) else { return None };
    let columns = words.checked_mul(32 / bits)?;
    let fits = weight.dtype() == "U32" && scale_rows == rows && biases.shape() == scales.shape();
    if !fits || groups == 0 || !columns.is_multiple_of(groups) {
        return None;
    }
    let (group, dtype) = (columns / groups, format!("{bits} bits"));
    Some(Stored::new(dtype, vec![rows, columns], move || {
        let [scales, biases] = [scales.read()?, biases.read()?].map(floats);
        let words = weight.read()?;
        let codes = words.as_bytes().chunks_exact(4).flat_map(|word| {
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            (0..32 / bits).map(move |i| word >> (bits * i) & ((1 << bits) - 1))
        });
        let values =
            codes.enumerate().map(|(i, code)| scales[i / group].mul_add(code as f32, biases[i / group]));
        Ok(TensorData::new(values.collect::<Vec<f32>>(), [rows, columns]))
    }))
}

fn floats(data: TensorData) -> Vec<f32> {
    data.convert_dtype(DType::F32).try_to_vec().unwrap_or_default()
}
