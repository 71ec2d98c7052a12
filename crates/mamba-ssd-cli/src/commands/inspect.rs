//! `inspect`: what a model's files hold, after a strict comparison of their tensors with its configuration, or the
//! shapes of a published model. No weights are read.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use mamba_ssd::{AttentionConfig, DiscreteMamba2Config, MixerConfig, StateSize};
use mamba_ssd_models::{Checkpoint, ModelConfig, presets};

use crate::args::InspectArgs;
use crate::console::{say, thousands};
use crate::device::DeviceChoice;
use crate::hub;

/// Prints family, sizes, tensors, mixers, what a sequence costs in memory, and what is odd.
pub fn run(args: &InspectArgs) -> Result<()> {
    match (&args.preset, &args.model) {
        (Some(name), _) => preset(name),
        (None, Some(model)) => files(model),
        (None, None) => bail!("neither a model nor a preset was named"), // clap asks for one of them
    }
}

fn files(model: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(&hub::local(model)?)?;
    checkpoint.check(&DeviceChoice::any()?)?;
    shapes(checkpoint.config());
    say(format_args!("tensors     {}", tensors(&checkpoint)));
    say(format_args!("tokenizer   {}", tokenizer(&checkpoint)));
    costs(checkpoint.config());
    for oddity in oddities(&checkpoint) {
        say(format_args!("odd         {oddity}"));
    }
    Ok(())
}

fn preset(name: &str) -> Result<()> {
    let Some(preset) = presets::by_name(name) else {
        let names: Vec<&str> = presets::PRESETS.iter().map(|preset| preset.name).collect();
        bail!("there is no preset {name:?}; there are {}", names.join(", "));
    };
    let config = preset.config();
    shapes(&config);
    say(format_args!("published   {}", preset.source));
    costs(&config);
    Ok(())
}

/// Family and sizes.
fn shapes(config: &ModelConfig) {
    let tied = if config.tied() { "the embedding is also the head" } else { "the head is its own" };
    say(format_args!("family      {}", config.family()));
    say(format_args!("parameters  {}; {tied}", thousands(config.n_params())));
    say(format_args!("width       {}, vocabulary {}", config.d_model(), thousands(config.vocab_size())));
}

/// What a sequence costs in memory, and the mixers.
fn costs(config: &ModelConfig) {
    say(format_args!("state       {}", state(config)));
    for line in mixers(&config.mixers()) {
        say(line);
    }
}

/// How many there are of each type, the most frequent first.
fn tensors(checkpoint: &Checkpoint) -> String {
    let mut counts = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        *counts.entry(tensor.dtype).or_insert(0) += 1;
    }
    let total: usize = counts.values().sum();
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let each: Vec<String> = counts.iter().map(|(dtype, count)| format!("{count} {dtype}")).collect();
    format!("{total} in {}: {}", checkpoint.format(), each.join(", "))
}

fn tokenizer(checkpoint: &Checkpoint) -> String {
    let chat = if checkpoint.chat_template().is_some() { ", a chat template" } else { "" };
    match checkpoint.tokenizer() {
        Err(_) if checkpoint.tokenizer_json().is_none() => match checkpoint.tokenizer_refusal() {
            Some(reason) => format!("none that can be used: {reason}"),
            None => "none beside or inside the weights".into(),
        },
        Err(error) => error.to_string(),
        Ok(tokenizer) => {
            let mut eos = checkpoint.config().tokens().eos.clone();
            if eos.is_empty() {
                eos = tokenizer.eos_ids();
            }
            let words: Vec<String> = eos.iter().filter_map(|&id| tokenizer.word(id)).collect();
            let ends = if words.is_empty() {
                "no token ends a text".into()
            } else {
                format!("a text ends with {}", words.join(" or "))
            };
            format!("{} tokens, {ends}{chat}", thousands(tokenizer.vocab_size()))
        }
    }
}

/// What decoding carries, at two bytes a number and four.
fn state(config: &ModelConfig) -> String {
    let StateSize { constant, per_token } = config.state_size();
    let bytes = |numbers: usize| {
        format!("{} bytes in f32 ({} in bf16)", thousands(4 * numbers), thousands(2 * numbers))
    };
    match (constant, per_token) {
        (0, per_token) => format!("{} for every token of a sequence", bytes(per_token)),
        (constant, 0) => format!("{} for a sequence of any length", bytes(constant)),
        (constant, per_token) => {
            format!("{} for a sequence, {} more for every token", bytes(constant), bytes(per_token))
        }
    }
}

/// One line for each run of layers with the same mixer.
fn mixers(mixers: &[MixerConfig]) -> Vec<String> {
    let described: Vec<String> = mixers.iter().map(describe).collect();
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
            format!("{}, {} for keys and values{conv}", attention_heads(c), c.n_kv_heads)
        }
        MixerConfig::DiscreteMamba2(c) => discrete(c),
        MixerConfig::Parallel(c) => {
            let beside = c.attention.as_ref().map_or("no attention heads".into(), attention_heads);
            format!("{}; beside it {beside} ({:?})", discrete(&c.ssm), c.junction)
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

fn attention_heads(config: &AttentionConfig) -> String {
    format!("attention, {} heads of {}", config.n_heads, config.head_dim)
}

fn discrete(config: &DiscreteMamba2Config) -> String {
    let (heads, headdim, groups) = (config.n_heads, config.headdim(), config.groups());
    format!("discrete Mamba-2, {heads} heads of {headdim}, state {}, {groups} for B and C", config.d_state)
}

/// What a user should know before anything goes wrong.
fn oddities(checkpoint: &Checkpoint) -> Vec<String> {
    let config = checkpoint.config();
    let mut found: Vec<String> = checkpoint.note().map(str::to_string).into_iter().collect();
    let Ok(tokenizer) = checkpoint.tokenizer() else { return found };
    let (words, rows) = (tokenizer.vocab_size(), config.vocab_size());
    if words > rows {
        found.push(format!(
            "the tokenizer has {} tokens, the model knows {}",
            thousands(words),
            thousands(rows)
        ));
    }
    if words < rows {
        found.push(format!("{} rows of the embedding are no token", thousands(rows - words)));
    }
    let tokens = config.tokens();
    for id in tokens.eos.iter().chain(&tokens.bos).filter(|&&id| tokenizer.word(id).is_none()) {
        found.push(format!("the configuration names token {id}, which the tokenizer does not have"));
    }
    if tokens.eos.is_empty() && tokenizer.eos_ids().is_empty() {
        found.push("no token is known to end a text".into());
    }
    found
}
