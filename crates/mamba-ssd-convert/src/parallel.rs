//! One attention to a mixer with all heads beside the few attention heads that are kept.
//!
//! ```text
//! q_proj ← rows of the kept heads     k_proj, v_proj ← rows of the heads that they read     o_proj ← their columns
//! ```
//!
//! Each kept head gets keys and values of its own, also where the teacher's heads share them. The bias of `o_proj`
//! belongs to no head and is copied whole. (MOHAWK's tool for the same indexes that bias by head; no teacher of its
//! has one.) The rotation stays the teacher's.
//!
//! What joins the two starts as the published code has it: a random projection, norms 1, Hymba's gates 0. The two
//! scales of a Merger's norm start as that of the layer's norm, whose place it takes.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::Linear;
use burn::tensor::{DType, Tensor};
use mamba_ssd::{
    Attention, AttentionConfig, DiscreteMamba2Config, Junction, JunctionKind, Parallel, ParallelConfig,
};

use crate::blocks::Draw;
use crate::heads::select;
use crate::layer::{QKVO, parameter, vector};
use crate::{Action, ConvertError, KeptHeads, LayerPlan, LayerReport, attention_to_discrete_mamba2};

/// Makes a mixer from an attention, keeps heads of it beside that mixer, and tells what became of each parameter.
///
/// `norm [d]` is the scale of the norm in front, which only a [`JunctionKind::Merger`] takes over.
///
/// # Errors
///
/// As [`attention_to_discrete_mamba2`]; also if a head does not exist, or the heads share a convolution.
pub fn attention_to_parallel(
    attention: &Attention,
    config: &DiscreteMamba2Config,
    kept: &KeptHeads,
    norm: Option<Tensor<1>>,
    plan: LayerPlan,
) -> Result<(Parallel, LayerReport), ConvertError> {
    let (layer, n_heads, heads) = (plan.layer, attention.config().n_heads, kept.of_layer(plan.layer));
    if let Some(&head) = heads.iter().find(|&&head| head >= n_heads) {
        return Err(ConvertError::NoSuchHead { layer, head, n_heads });
    }
    if !heads.is_empty() && attention.config().d_conv.is_some() {
        return Err(ConvertError::HeadsWithConvolution { layer });
    }
    let (mixer1, mut report) = attention_to_discrete_mamba2(attention, config, plan)?;
    let mixer2 = (!heads.is_empty()).then(|| kept_attention(attention, &heads));
    let shapes = ParallelConfig::new(config.clone(), kept.junction)
        .with_attention(mixer2.as_ref().map(|mixer| mixer.config().clone()));
    let weight = attention.q_proj.weight.val();
    let mut draw = Draw { rng: plan.junction_rng(), device: weight.device(), dtype: weight.dtype() };
    let mut mixer = shapes.init(&draw.device);
    mixer.mixer1 = mixer1;
    mixer.mixer2 = mixer2;
    mixer.junction = mixer.junction.map(|junction| started(junction, norm.clone(), &mut draw));
    tell_heads(&mut report, attention.config(), &heads);
    tell_junction(&mut report, &shapes, norm.is_some());
    Ok((mixer, report))
}

/// The attention of some heads, each with the keys and values that it reads.
fn kept_attention(attention: &Attention, heads: &[usize]) -> Attention {
    let AttentionConfig { d_model, n_heads, n_kv_heads, head_dim, ref rotary, .. } = *attention.config();
    let sources: Vec<usize> = heads.iter().map(|head| head / (n_heads / n_kv_heads)).collect();
    let config = AttentionConfig::new(d_model, heads.len(), heads.len(), head_dim, rotary.clone())
        .with_qkv_bias(attention.config().qkv_bias)
        .with_out_bias(attention.config().out_bias);
    let mut kept = config.init(&attention.q_proj.weight.device());
    kept.q_proj = columns(&attention.q_proj, n_heads, heads);
    kept.k_proj = columns(&attention.k_proj, n_kv_heads, &sources);
    kept.v_proj = columns(&attention.v_proj, n_kv_heads, &sources);
    let rows = select(attention.o_proj.weight.val().transpose(), n_heads, heads).transpose();
    let bias = attention.o_proj.bias.as_ref().map(|bias| vector(bias.val().unsqueeze_dim(0)));
    kept.o_proj = Linear { weight: parameter(rows), bias };
    kept
}

/// The outputs of a projection that are the chosen of its heads.
fn columns(linear: &Linear, heads: usize, chosen: &[usize]) -> Linear {
    let bias = linear.bias.as_ref().map(|bias| vector(select(bias.val().unsqueeze_dim(0), heads, chosen)));
    Linear { weight: parameter(select(linear.weight.val(), heads, chosen)), bias }
}

/// A junction at its start, in the attention's dtype.
fn started(mut junction: Junction, norm: Option<Tensor<1>>, draw: &mut Draw) -> Junction {
    let out_proj = match &mut junction {
        Junction::Adapter(adapter) => &mut adapter.out_proj,
        Junction::Hymba(hymba) => &mut hymba.out_proj,
        Junction::Merger(merger) => {
            if let Some(norm) = norm {
                let row = || vector(norm.clone().unsqueeze_dim(0));
                (merger.input_layernorm.ssm_weight, merger.input_layernorm.attn_weight) = (row(), row());
            }
            &mut merger.out_proj
        }
    };
    let d = out_proj.weight.dims()[0];
    let bound = (d as f64).powf(-0.5);
    let (weight, bias) = (draw.uniform([d, d], bound), draw.uniform([1, d], bound));
    *out_proj = Linear { weight: parameter(weight), bias: Some(vector(bias)) };
    junction.map(&mut Cast(draw.dtype))
}

/// Parameters of another float type.
struct Cast(DType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        Param::from_tensor(param.val().cast(self.0).detach())
    }
}

fn tell_heads(report: &mut LayerReport, config: &AttentionConfig, heads: &[usize]) {
    if heads.is_empty() {
        return;
    }
    let AttentionConfig { d_model, n_heads, n_kv_heads, head_dim, .. } = *config;
    let read: BTreeSet<usize> = heads.iter().map(|head| head / (n_heads / n_kv_heads)).collect();
    let per_head = (d_model + usize::from(config.qkv_bias)) * head_dim;
    let (own, out_bias) = (heads.len() * per_head, if config.out_bias { d_model } else { 0 });
    let o_proj = heads.len() * head_dim * d_model + out_bias;
    let shared = if read.len() < heads.len() { Action::Repeated } else { Action::Copied };
    let note = format!("heads {heads:?} of {n_heads}");
    report.add(Action::Copied, "mixer2 q_proj", own, note.clone());
    report.add(shared, "mixer2 k, v_proj", 2 * own, format!("heads {read:?} of {n_kv_heads}"));
    report.add(Action::Copied, "mixer2 o_proj", o_proj, note);
    let used = own + 2 * read.len() * per_head + o_proj;
    for entry in report.entries.iter_mut().filter(|entry| entry.tensor == QKVO) {
        entry.params -= used;
        entry.note = format!("{}; all but the kept heads", entry.note);
    }
}

fn tell_junction(report: &mut LayerReport, shapes: &ParallelConfig, normed: bool) {
    let d = shapes.ssm.d_model;
    let params = shapes.junction.n_params(d, shapes.attention.is_some());
    let taken = if shapes.junction == JunctionKind::Merger && normed { 2 * d } else { 0 };
    if taken > 0 {
        report.add(Action::Repeated, "input_layernorm", taken, "the layer's norm, for mixer and attention");
    }
    if params > taken {
        let note = "projection uniform in ±1/√d, norms 1, gates 0";
        report.add(Action::Initialised, "junction", params - taken, note);
    }
}
