//! MOHAWK's hybrids by heads, in Llamba's format: SSM and attention heads side by side in every layer.
//!
//! ```json
//! {"model_type": "llamba", "block_type": "DoubleBlockAdapter", "ssm_cfg": {"d_state": 16, "n_v_heads": 32},
//!  "attn_cfg": {"num_attention_heads": [1, 0, 0, 0, 1], "head_dim": 64, "rope_theta": 500000.0}}
//! ```
//!
//! The published code is configured by recipes of its own and writes no `config.json`. `block_type`, a field of this
//! crate, holds its class names; `num_attention_heads` counts the attention heads of each layer, which all have
//! keys and values of their own. Where `block_type` is missing, the keys of the weights decide.

use mamba_ssd::{AttentionConfig, DiscreteMamba2Config, JunctionKind, MixerConfig, ParallelConfig};
use serde_json::{Value, json};

use super::json::{self as fields_of, Fields, Result};
use super::llama::ROPE;
use super::{LlamaConfig, ModelConfig, mixers, rope};

/// The published names of the ways to join the heads.
const BLOCKS: [(&str, JunctionKind); 4] = [
    ("DoubleBlockAdapter", JunctionKind::Adapter),
    ("DoubleBlockVanilla", JunctionKind::Vanilla),
    ("DoubleBlockHymba", JunctionKind::Hymba),
    ("DoubleBlockMerger", JunctionKind::Merger),
];

/// What the tensors of a file tell about layers with SSM and attention heads.
pub(crate) struct Blocks {
    pub junction: JunctionKind,
    /// Rows of the attention's queries in each layer; 0 where there is none.
    pub query_rows: Vec<usize>,
}

impl LlamaConfig {
    /// How the layers join their SSM and attention heads, if they have both kinds.
    pub(crate) fn junction(&self) -> Option<JunctionKind> {
        self.mixers.iter().find_map(|mixer| as_parallel(mixer).map(|parallel| parallel.junction))
    }

    /// What models of this kind are called, if the layers have SSM and attention heads.
    pub(super) fn parallel_family(&self) -> Option<&'static str> {
        let family = |junction| match junction {
            JunctionKind::Adapter => "hybrid of Llama and Llamba by heads (Adapter)",
            JunctionKind::Vanilla => "hybrid of Llama and Llamba by heads (Vanilla)",
            JunctionKind::Hymba => "hybrid of Llama and Llamba by heads (Hymba)",
            JunctionKind::Merger => "hybrid of Llama and Llamba by heads (Merger)",
        };
        self.junction().map(family)
    }

    /// The layers of a file with a `block_type`, all of them with these SSM heads.
    pub(super) fn parallel_mixers(
        fields: &Fields,
        n_layers: usize,
        ssm: &DiscreteMamba2Config,
    ) -> Result<Option<Vec<MixerConfig>>> {
        let Some(junction) = junction_of(fields)? else { return Ok(None) };
        if !fields.usizes("attn_layer_idx")?.is_empty() {
            return Err("it has both `block_type` and `attn_layer_idx`, expected one of them".into());
        }
        let attention = fields.opt_object("attn_cfg")?;
        let heads = match &attention {
            Some(attention) => attention.usizes("num_attention_heads")?,
            None => vec![0; n_layers],
        };
        if heads.len() != n_layers {
            return Err(format!(
                "`attn_cfg.num_attention_heads` counts the heads of {} layers, `n_layer` is {n_layers}",
                heads.len()
            ));
        }
        let layer = |heads| parallel_mixer(ssm, junction, attention.as_ref(), heads);
        heads.into_iter().map(layer).collect::<Result<_>>().map(Some)
    }

    /// `block_type` and `attn_cfg`, and the SSM heads that all layers share.
    pub(super) fn write_parallel(&self) -> Result<(&DiscreteMamba2Config, Value)> {
        let layers: Option<Vec<&ParallelConfig>> = self.mixers.iter().map(as_parallel).collect();
        let layers = layers.ok_or("SSM and attention heads lie side by side in some of its layers only")?;
        let first = layers.first().ok_or("it has no layers")?;
        let same = |layer: &&ParallelConfig| {
            let [a, b] = [&first.ssm, &layer.ssm].map(|ssm| MixerConfig::DiscreteMamba2(ssm.clone()));
            layer.junction == first.junction && mixers::same(&a, &b)
        };
        if !layers.iter().all(same) {
            return Err(
                "its layers differ in more than their attention heads, the format has one of all else".into(),
            );
        }
        let mut object = json!({"block_type": name(first.junction)});
        if let Some(attention) = write_attention(&layers)? {
            object["attn_cfg"] = attention;
        }
        Ok((&first.ssm, object))
    }
}

impl ModelConfig {
    /// A Llamba whose `config.json`, of which this is the text, says nothing about attention heads, with the layers
    /// that its tensors tell; and what it said otherwise. Any other model is left as it is.
    pub(crate) fn with_blocks(self, text: &str, blocks: &Blocks) -> Result<(Self, Option<String>)> {
        let Self::Llama(config) = self else { return Ok((self, None)) };
        let discrete: Option<Vec<_>> = config.mixers.iter().map(super::as_discrete).collect();
        let Some([ssm, ..]) = discrete.as_deref() else { return Ok((Self::Llama(config), None)) };
        let value = fields_of::parse(text)?;
        let attention = Fields::new(&value)?.opt_object("attn_cfg")?;
        let head_dim = match &attention {
            Some(attention) => attention.size_or("head_dim", ssm.headdim())?,
            None => ssm.headdim(),
        };
        let layer = |&rows: &usize| match rows % head_dim {
            0 => parallel_mixer(ssm, blocks.junction, attention.as_ref(), rows / head_dim),
            _ => Err(format!(
                "the attention beside the SSM has {rows} rows of queries, expected heads of {head_dim}"
            )),
        };
        let mixers: Vec<MixerConfig> = blocks.query_rows.iter().map(layer).collect::<Result<_>>()?;
        if mixers.len() != config.mixers.len() {
            let (found, expected) = (mixers.len(), config.mixers.len());
            return Err(format!("`n_layer` is {expected}, but the weights have {found} layers"));
        }
        let note =
            format!("the configuration has no `block_type`; the tensors decide: {}", name(blocks.junction));
        Ok((Self::Llama(LlamaConfig { mixers, ..config }), Some(note)))
    }
}

fn name(junction: JunctionKind) -> &'static str {
    let found = BLOCKS.iter().find(|(_, kind)| *kind == junction);
    found.map_or("", |(name, _)| name)
}

fn junction_of(fields: &Fields) -> Result<Option<JunctionKind>> {
    let found = fields.str_or("block_type", "")?;
    if found.is_empty() {
        return Ok(None);
    }
    let known = BLOCKS.iter().find(|(name, _)| *name == found);
    let names = BLOCKS.map(|(name, _)| name).join(", ");
    known
        .map(|(_, kind)| Some(*kind))
        .ok_or_else(|| format!("`block_type` is \"{found}\", expected one of {names}"))
}

/// A layer with some attention heads, or none.
fn parallel_mixer(
    ssm: &DiscreteMamba2Config,
    junction: JunctionKind,
    attention: Option<&Fields>,
    heads: usize,
) -> Result<MixerConfig> {
    let attention = match (heads, attention) {
        (0, _) => None,
        (_, Some(fields)) => Some(parse_attention(fields, ssm, heads)?),
        (_, None) => {
            return Err("`attn_cfg` is missing, expected `head_dim`, `rope_theta` and `rope_scaling` of the attention heads that the weights hold".into());
        }
    };
    Ok(MixerConfig::Parallel(ParallelConfig::new(ssm.clone(), junction).with_attention(attention)))
}

fn parse_attention(fields: &Fields, ssm: &DiscreteMamba2Config, heads: usize) -> Result<AttentionConfig> {
    let head_dim = fields.size_or("head_dim", ssm.headdim())?;
    mixers::check_heads(heads, heads, head_dim)?;
    let rotary = rope::parse(fields, head_dim, ROPE)?;
    let config = AttentionConfig::new(ssm.d_model, heads, heads, head_dim, rotary);
    Ok(config
        .with_qkv_bias(fields.bool_or("qkv_bias", false)?)
        .with_out_bias(fields.bool_or("out_bias", false)?))
}

/// The reverse of [`parse_attention`] for all layers: nothing if none has attention heads.
fn write_attention(layers: &[&ParallelConfig]) -> Result<Option<Value>> {
    let mut written: Option<Value> = None;
    for attention in layers.iter().filter_map(|layer| layer.attention.as_ref()) {
        if attention.n_kv_heads != attention.n_heads || attention.d_conv.is_some() {
            return Err("its attention heads share keys and values, or have a convolution, which its format does not know".into());
        }
        let mut object = mixers::write_attention(attention);
        for count in ["num_attention_heads", "num_key_value_heads"] {
            object.as_object_mut().and_then(|object| object.shift_remove(count));
        }
        match &written {
            Some(first) if *first != object => {
                return Err(
                    "the attention heads of its layers differ, the format has one shape for all".into()
                );
            }
            _ => written = Some(object),
        }
    }
    let heads = |layer: &&ParallelConfig| layer.attention.as_ref().map_or(0, |attention| attention.n_heads);
    let counts: Vec<usize> = layers.iter().map(heads).collect();
    Ok(written.map(|mut object| {
        object["num_attention_heads"] = json!(counts);
        object
    }))
}

/// The SSM and attention heads of a layer, if that is what it holds.
fn as_parallel(mixer: &MixerConfig) -> Option<&ParallelConfig> {
    match mixer {
        MixerConfig::Parallel(config) => Some(config),
        _ => None,
    }
}
