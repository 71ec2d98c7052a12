//! Phi, Phi-Mamba and the hybrids of the two.

use burn::module::Initializer;
use burn::nn::{EmbeddingConfig, LinearConfig};
use burn::tensor::Device;
use mamba_ssd::norm::NormConfig;
use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{AttentionConfig, MixerConfig};
use serde_json::{Value, json};

use super::json::{self as fields_of, Fields, Result};
use super::mixers::{self, AttentionDefaults};
use super::rope::{self, RopeDefaults};
use super::{SpecialTokens, as_attention, is_transformer, padded};
use crate::phi::{Phi, PhiBlock, PhiMlp};

/// ε of a norm when a file does not say.
const EPSILON: f64 = 1e-5;
/// Heads of a Phi-Mamba hybrid's attention when its file does not say: those of Phi-1.5.
const HEADS: usize = 32;
const ROPE: RopeDefaults = RopeDefaults { partial: 0.5, theta: 10000.0 };

const SSM: &str = "modules.mixers.discrete_mamba2";
const ATTENTION: &str = "modules.mixers.phi_attention";

/// Shapes of a [`Phi`].
#[derive(Clone, Debug)]
pub struct PhiConfig {
    /// Rows of the embedding, v.
    pub vocab_size: usize,
    /// Width of the residual stream, d.
    pub d_model: usize,
    /// Width inside the MLPs.
    pub d_mlp: usize,
    /// The mixer of every layer.
    pub mixers: Vec<MixerConfig>,
    /// ε of the norms.
    pub norm_epsilon: f64,
    /// Context length the model was trained for, if known.
    pub max_position: Option<usize>,
    /// Tokens with a meaning of their own.
    pub tokens: SpecialTokens,
}

impl PhiConfig {
    /// Number of parameters, counted without allocating any.
    pub fn n_params(&self) -> usize {
        let (v, d, i) = (self.vocab_size, self.d_model, self.d_mlp);
        let layer = |mixer| mixers::n_params(mixer) + 2 * d + 2 * d * i + i + d;
        2 * v * d + v + self.mixers.iter().map(layer).sum::<usize>() + 2 * d
    }

    /// A model with random weights: normal with deviation 0.02 for the embedding, PyTorch's default
    /// elsewhere.
    pub fn init(&self, device: &Device) -> Phi {
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        let embedding = EmbeddingConfig::new(self.vocab_size, self.d_model).with_initializer(normal);
        let norm = NormConfig::new(self.d_model).with_epsilon(self.norm_epsilon);
        Phi {
            embedding: embedding.init(device),
            layers: self.mixers.iter().map(|mixer| self.init_block(mixer, device)).collect(),
            final_layernorm: norm.init_layer(device),
            lm_head: LinearConfig::new(self.d_model, self.vocab_size).init(device),
            config: self.clone(),
        }
    }

    fn init_block(&self, mixer: &MixerConfig, device: &Device) -> PhiBlock {
        let norm = NormConfig::new(self.d_model).with_epsilon(self.norm_epsilon);
        PhiBlock {
            input_layernorm: norm.init_layer(device),
            mixer: mixer.init(device),
            mlp: PhiMlp {
                fc1: LinearConfig::new(self.d_model, self.d_mlp).init(device),
                fc2: LinearConfig::new(self.d_mlp, self.d_model).init(device),
            },
        }
    }

    pub(super) fn from_phi(fields: &Fields) -> Result<Self> {
        fields.only_str("hidden_act", "gelu_new")?;
        fields.only_bool("qk_layernorm", false)?;
        fields.only_bool("tie_word_embeddings", false)?;
        let (d_model, n_heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
        let n_kv_heads = fields.size_or("num_key_value_heads", n_heads)?;
        let head_dim = (d_model / n_heads).max(1);
        mixers::check_heads(n_heads, n_kv_heads, head_dim)?;
        let rotary = rope::parse(fields, head_dim, ROPE)?;
        let attention = AttentionConfig::new(d_model, n_heads, n_kv_heads, head_dim, rotary);
        let mixer = MixerConfig::Attention(attention.with_qkv_bias(true).with_out_bias(true));
        Ok(Self {
            vocab_size: fields.size("vocab_size")?,
            d_model,
            d_mlp: fields.size("intermediate_size")?,
            mixers: vec![mixer; fields.layers("num_hidden_layers")?],
            norm_epsilon: fields.f64_or("layer_norm_eps", EPSILON)?,
            max_position: fields.opt_usize("max_position_embeddings")?,
            tokens: SpecialTokens::parse(fields)?,
        })
    }

    /// Phi-1.5 before transformers knew it: phi-msft, and MixFormer before that.
    pub(super) fn from_older_phi(fields: &Fields) -> Result<Self> {
        fields.only_str("activation_function", "gelu_new")?;
        fields.only_bool("tie_word_embeddings", false)?;
        let (d_model, n_heads) = (fields.size("n_embd")?, fields.size("n_head")?);
        let n_kv_heads = fields.size_or("n_head_kv", n_heads)?;
        if n_kv_heads != n_heads || !d_model.is_multiple_of(n_heads) {
            return Err(format!(
                "{n_heads} heads with {n_kv_heads} for keys and values in a width of {d_model}: expected as many of each, which divide the width"
            ));
        }
        let head_dim = d_model / n_heads;
        let dim = fields.size("rotary_dim")?;
        if dim > head_dim || !dim.is_multiple_of(2) {
            return Err(format!("`rotary_dim` is {dim}, expected an even number of at most {head_dim}"));
        }
        let attention = AttentionConfig::new(d_model, n_heads, n_heads, head_dim, RotaryConfig::new(dim));
        let mixer = MixerConfig::Attention(attention.with_qkv_bias(true).with_out_bias(true));
        Ok(Self {
            vocab_size: fields.size("vocab_size")?,
            d_model,
            d_mlp: fields.size_or("n_inner", fields_of::axis("the width of the MLP", 4, d_model)?)?,
            mixers: vec![mixer; fields.layers("n_layer")?],
            norm_epsilon: fields.f64_or("layer_norm_epsilon", EPSILON)?,
            max_position: fields.opt_usize("n_positions")?,
            tokens: SpecialTokens::parse(fields)?,
        })
    }

    /// Phi-Mamba's own format. Published files have no `norm_epsilon` and `intermediate_size`; the
    /// code they belong to fixes them at 1e-5 and four times the width.
    pub(super) fn from_phi_mamba(fields: &Fields) -> Result<Self> {
        let language = fields.object("LanguageModel")?.object("input")?;
        let model = fields.object("MixerModel")?.object("input")?;
        model.only_str("lm_head_prenorm", "layer")?;
        let (d_model, n_layers) = (model.size("d_model")?, model.layers("n_layer")?);
        let multiple = language.size_or("pad_vocab_size_multiple", 8)?;
        let mut mixers = Vec::new();
        for (name, _) in fields.iter().filter(|(name, _)| name.starts_with("Block")) {
            let block = fields.object(name)?;
            mixers.extend(vec![phi_mamba_mixer(&block, d_model)?; block.layers("n_layers")?]);
        }
        if mixers.len() != n_layers {
            return Err(format!(
                "the blocks add up to {} layers, `MixerModel.input.n_layer` is {n_layers}",
                mixers.len()
            ));
        }
        Ok(Self {
            vocab_size: padded(language.size("vocab_size")?, multiple),
            d_model,
            d_mlp: model
                .size_or("intermediate_size", fields_of::axis("the width of the MLP", 4, d_model)?)?,
            mixers,
            norm_epsilon: model.f64_or("norm_epsilon", EPSILON)?,
            max_position: None,
            tokens: SpecialTokens::parse(fields)?,
        })
    }

    /// The attention of Phi-Mamba's hybrids, which its code takes from Phi-1.5 whatever a file says.
    pub(crate) fn phi_mamba_attention(&self) -> AttentionConfig {
        let head_dim = (self.d_model / HEADS).max(1);
        let rotary =
            RotaryConfig::new((head_dim as f64 * ROPE.partial / 2.0) as usize * 2).with_theta(ROPE.theta);
        AttentionConfig::new(self.d_model, HEADS, HEADS, head_dim, rotary)
            .with_qkv_bias(true)
            .with_out_bias(true)
    }

    pub(super) fn to_json(&self) -> Result<Value> {
        self.mixers.iter().try_for_each(mixers::check_known)?;
        if is_transformer(&self.mixers) { self.to_phi() } else { self.to_phi_mamba() }
    }

    fn to_phi(&self) -> Result<Value> {
        let attention = mixers::shared(&self.mixers, as_attention)?.ok_or("it has no layers")?;
        if !(attention.qkv_bias && attention.out_bias)
            || attention.n_heads * attention.head_dim != self.d_model
        {
            return Err(
                "transformers' Phi has biases on all projections, and heads that add up to its width".into(),
            );
        }
        let mut json = json!({
            "architectures": ["PhiForCausalLM"],
            "model_type": "phi",
            "vocab_size": self.vocab_size,
            "hidden_size": self.d_model,
            "intermediate_size": self.d_mlp,
            "num_hidden_layers": self.mixers.len(),
            "num_attention_heads": attention.n_heads,
            "num_key_value_heads": attention.n_kv_heads,
            "hidden_act": "gelu_new",
            "layer_norm_eps": self.norm_epsilon,
            "qk_layernorm": false,
            "tie_word_embeddings": false,
        });
        if let Some(max_position) = self.max_position {
            json["max_position_embeddings"] = json!(max_position);
        }
        rope::write(&mut json, &attention.rotary, attention.head_dim);
        json["partial_rotary_factor"] = json!(attention.rotary.dim as f64 / attention.head_dim as f64);
        self.tokens.write(&mut json);
        Ok(json)
    }

    fn to_phi_mamba(&self) -> Result<Value> {
        let mut model =
            json!({"d_model": self.d_model, "n_layer": self.mixers.len(), "lm_head_prenorm": "layer"});
        if self.norm_epsilon != EPSILON {
            model["norm_epsilon"] = json!(self.norm_epsilon);
        }
        if self.d_mlp != 4 * self.d_model {
            model["intermediate_size"] = json!(self.d_mlp);
        }
        let mut json = json!({
            "LanguageModel": {"input": {"vocab_size": self.vocab_size, "pad_vocab_size_multiple": 1}},
            "MixerModel": {"input": model},
        });
        for (index, run) in self.mixers.chunk_by(mixers::same).enumerate() {
            json[format!("Block{}", index + 1)] = write_block(&run[0], run.len())?;
        }
        self.tokens.write(&mut json);
        Ok(json)
    }
}

fn phi_mamba_mixer(block: &Fields, d_model: usize) -> Result<MixerConfig> {
    let core = block.object("core_input")?;
    match block.str_or("CoreType", SSM)? {
        SSM => mixers::parse_ssm(&core, d_model).map(MixerConfig::DiscreteMamba2),
        ATTENTION => {
            let defaults = AttentionDefaults { heads: Some(HEADS), biases: true, rope: ROPE };
            mixers::parse_attention(&core, d_model, defaults).map(MixerConfig::Attention)
        }
        other => Err(format!(
            "`{}` is \"{other}\", expected \"{SSM}\" or \"{ATTENTION}\"",
            block.path_to("CoreType")
        )),
    }
}

fn write_block(mixer: &MixerConfig, n_layers: usize) -> Result<Value> {
    let (core, input) = match mixer {
        MixerConfig::Attention(config) => (ATTENTION, mixers::write_attention(config)),
        MixerConfig::DiscreteMamba2(config) => (SSM, mixers::write_ssm(config)),
        MixerConfig::Mamba1(_) | MixerConfig::Mamba2(_) | MixerConfig::Parallel(_) => {
            return Err(mixers::unknown(mixer));
        }
    };
    Ok(json!({
        "n_layers": n_layers,
        "BlockType": "modules.phi_block",
        "block_input": {"resid_dropout": 0.0},
        "CoreType": core,
        "core_input": input,
    }))
}
