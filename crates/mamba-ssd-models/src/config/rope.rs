//! Rotary embeddings as `config.json` writes them.
//!
//! transformers 5 has one object, `rope_parameters {rope_theta, rope_type, factor, ..}`; older files
//! have `rope_theta` beside `rope_scaling {rope_type or type, factor, ..}`, and Phi has
//! `partial_rotary_factor` beside both. All are read. The older form is written: both generations of
//! transformers read it.

use mamba_ssd::rope::{Llama3Scaling, RotaryConfig};
use serde_json::{Value, json};

use super::json::{Fields, Result};

/// Fraction of a head that rotates and base of the frequencies, when a file does not say.
pub(super) struct RopeDefaults {
    pub partial: f64,
    pub theta: f64,
}

/// The rotary embedding of heads of `head_dim` features.
pub(super) fn parse(fields: &Fields, head_dim: usize, defaults: RopeDefaults) -> Result<RotaryConfig> {
    let nested = fields.opt_object("rope_parameters")?;
    let scaling = fields.opt_object("rope_scaling")?;
    let theta = fields.f64_or("rope_theta", defaults.theta)?;
    let partial = fields.f64_or("partial_rotary_factor", defaults.partial)?;
    let (theta, partial) = match &nested {
        Some(nested) => {
            (nested.f64_or("rope_theta", theta)?, nested.f64_or("partial_rotary_factor", partial)?)
        }
        None => (theta, partial),
    };
    let scaling = nested.or(scaling).map(|object| parse_scaling(&object)).transpose()?.flatten();
    let dim = (head_dim as f64 * partial).round() as usize;
    if dim > head_dim || !dim.is_multiple_of(2) {
        return Err(format!(
            "{partial} of {head_dim} features rotate, expected an even number of at most {head_dim}"
        ));
    }
    Ok(RotaryConfig::new(dim).with_theta(theta).with_scaling(scaling))
}

fn parse_scaling(fields: &Fields) -> Result<Option<Llama3Scaling>> {
    let kind = fields.str_or("rope_type", fields.str_or("type", "default")?)?;
    match kind {
        "default" => Ok(None),
        "llama3" => {
            let original = fields.size("original_max_position_embeddings")?;
            let (low, high) = (fields.f64("low_freq_factor")?, fields.f64("high_freq_factor")?);
            Ok(Some(Llama3Scaling::new(fields.f64("factor")?, low, high, original)))
        }
        other => Err(format!(
            "`{}` is \"{other}\", only \"default\" and \"llama3\" are covered",
            fields.path_to("rope_type")
        )),
    }
}

/// Writes the older form of `rotary` into `object`.
pub(super) fn write(object: &mut Value, rotary: &RotaryConfig, head_dim: usize) {
    object["rope_theta"] = json!(rotary.theta);
    let scaling = rotary.scaling.as_ref().map(|scaling| {
        json!({
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position,
        })
    });
    object["rope_scaling"] = json!(scaling);
    if rotary.dim != head_dim {
        object["partial_rotary_factor"] = json!(rotary.dim as f64 / head_dim as f64);
    }
}
