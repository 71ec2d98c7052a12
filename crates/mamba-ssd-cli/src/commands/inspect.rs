//! `inspect`: what a model directory holds, after a strict reading of it.

use anyhow::Result;
use burn::tensor::{Device, Int, Tensor};
use mamba_ssd::{Backbone, MixerConfig};
use mamba_ssd_models::Model;

use crate::args::InspectArgs;
use crate::console::{say, thousands};
use crate::device::DeviceChoice;
use crate::language_model::LanguageModel;

/// Prints family, sizes, mixers and what a sequence costs in memory.
pub fn run(args: &InspectArgs) -> Result<()> {
    let device = DeviceChoice::any()?;
    let LanguageModel { model, tokenizer, eos, .. } = LanguageModel::load(&args.model, &device)?;
    say(format_args!("family      {}", family(&model)));
    say(format_args!("parameters  {}", thousands(model.n_params())));
    say(format_args!("width       {}, vocabulary {}", model.d_model(), thousands(model.vocab_size())));
    say(format_args!("tokenizer   {} tokens, a text ends with {eos:?}", thousands(tokenizer.vocab_size())));
    say(format_args!("memory      {}", memory(&model, &device)));
    for line in mixers(&model) {
        say(line);
    }
    Ok(())
}

fn family(model: &Model) -> &'static str {
    let attention = (0..model.n_layers()).filter(|&layer| model.mixer(layer).is_attention()).count();
    match (model, attention) {
        (Model::Llama(_), n) if n == model.n_layers() => "Llama",
        (Model::Llama(_), 0) => "Llamba",
        (Model::Llama(_), _) => "Llama with some Mamba-2 mixers",
        (Model::Phi(_), n) if n == model.n_layers() => "Phi",
        (Model::Phi(_), 0) => "Phi-Mamba",
        (Model::Phi(_), _) => "Phi with some Mamba-2 mixers",
        (Model::Mamba2(_), _) => "Mamba-2",
    }
}

/// Bytes that decoding keeps, at the start and for each further token.
fn memory(model: &Model, device: &Device) -> String {
    let start = model.init_state(1, device);
    let fixed = start.bytes();
    let (_, after) = model.prefill(Tensor::<2, Int>::zeros([1, 1], device), start);
    let growth = after.bytes() - fixed;
    format!("{} bytes for each sequence, {} more for each token", thousands(fixed), thousands(growth))
}

/// One line for each run of layers with the same mixer.
fn mixers(model: &Model) -> Vec<String> {
    let described: Vec<String> =
        (0..model.n_layers()).map(|layer| describe(&model.mixer(layer).config())).collect();
    let mut first = 0;
    let mut lines = Vec::new();
    for run in described.chunk_by(|a, b| a == b) {
        let layers = if run.len() == 1 {
            format!("layer {first}")
        } else {
            format!("layers {first}-{}", first + run.len() - 1)
        };
        lines.push(format!("{layers:<11} {}", run[0]));
        first += run.len();
    }
    lines
}

fn describe(mixer: &MixerConfig) -> String {
    match mixer {
        MixerConfig::Attention(c) => {
            let conv = c.d_conv.map_or(String::new(), |taps| format!(", convolution of {taps}"));
            format!(
                "attention, {} heads of {}, {} for keys and values{conv}",
                c.n_heads, c.head_dim, c.n_kv_heads
            )
        }
        MixerConfig::DiscreteMamba2(c) => {
            format!(
                "discrete Mamba-2, {} heads of {}, state {}, {} for B and C",
                c.n_heads,
                c.headdim(),
                c.d_state,
                c.groups()
            )
        }
        MixerConfig::Mamba1(c) => format!(
            "Mamba-1, {} channels, state {}, {} for x and B",
            thousands(c.d_inner),
            c.d_state,
            thousands(c.d_xb)
        ),
        MixerConfig::Mamba2(c) => {
            let repeated =
                c.d_xb.map_or(String::new(), |channels| format!(", {} for x and B", thousands(channels)));
            format!(
                "Mamba-2, {} heads of {}, state {}, {} groups{repeated}",
                c.n_heads(),
                c.headdim,
                c.d_state,
                c.ngroups
            )
        }
    }
}
