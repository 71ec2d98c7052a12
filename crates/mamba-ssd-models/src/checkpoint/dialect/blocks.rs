//! MOHAWK's layers with SSM and attention heads side by side, as their keys tell them.

use mamba_ssd::JunctionKind;

use super::super::stored::Tensors;
use super::indexed;
use crate::config::Blocks;

const LAYERS: &str = "backbone.layers.";

/// What the keys tell, if there are SSM heads beside which attention heads can be.
pub(super) fn found(tensors: &Tensors) -> Option<Blocks> {
    let in_layers = || {
        tensors.iter().filter_map(|(key, tensor)| {
            let (layer, name) = indexed(key.strip_prefix(LAYERS)?)?;
            Some((layer, name, tensor))
        })
    };
    let has = |part: &str| in_layers().any(|(_, name, _)| name.starts_with(part));
    if !has("mixer1.") {
        return None;
    }
    let junction = match () {
        () if has("ssm_gate") => JunctionKind::Hymba,
        () if has("input_layernorm.ssm_weight") => JunctionKind::Merger,
        () if has("adapter.") => JunctionKind::Adapter,
        () => JunctionKind::Vanilla, // without any attention head an Adapter is the same
    };
    let layers =
        (0..).take_while(|layer| tensors.get(&format!("{LAYERS}{layer}.mixer1.in_proj.weight")).is_some());
    let rows = |layer| {
        let queries = tensors.get(&format!("{LAYERS}{layer}.mixer2.self_attn.q_proj.weight"));
        queries.and_then(|queries| queries.shape().first().copied()).unwrap_or(0)
    };
    Some(Blocks { junction, query_rows: layers.map(rows).collect() })
}
