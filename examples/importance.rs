//! Which attention layers a Transformer needs most: each is silenced alone, and what the model then predicts is held
//! against what it predicted before, on texts and on random strings to copy. A hybrid keeps the first of the list.
//!
//! ```text
//! cargo run --release -p mamba-ssd-examples --example importance -- MODEL TEXTS.jsonl
//! ```

#![allow(clippy::print_stdout)] // an example prints its result

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use burn::module::Param;
use burn::tensor::{DType, Device, Tensor};
use clap::Parser;
use mamba_ssd::{Backbone, Mixer};
use mamba_ssd_eval::{Agreement, Recall, Scored, agreement, score};
use mamba_ssd_models::{Checkpoint, Llama, Model};
use mamba_ssd_mohawk::data::{TextFormat, read_texts};

#[derive(Parser)]
struct Args {
    /// A model of the Llama family, in files of any format.
    model: PathBuf,
    /// Texts, JSON lines with a field "text" or plain.
    texts: PathBuf,
    /// Texts to read.
    #[arg(long, default_value_t = 2)]
    documents: usize,
    /// Tokens of a text, and of a string with its copy.
    #[arg(long, default_value_t = 512)]
    length: usize,
    /// Strings to copy.
    #[arg(long, default_value_t = 4)]
    strings: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    mamba_ssd::keep_kernels();
    let device = Device::default();
    let checkpoint = Checkpoint::open(&args.model)?;
    let tokenizer = checkpoint.tokenizer()?;
    let Model::Llama(model) = checkpoint.load(&device, DType::F32)? else {
        bail!("{} is no model of the Llama family", args.model.display());
    };
    let texts = read_texts(&args.texts, TextFormat::new("text"))?.texts.into_iter().take(args.documents);
    let texts = texts.map(|text| Ok(tokenizer.encode(&text.text)?.into_iter().take(args.length).collect()));
    let texts: Vec<Vec<u32>> = texts.collect::<Result<_>>()?;
    let size = tokenizer.vocab_size() as u32;
    let eos = tokenizer.eos_ids().first().copied().unwrap_or(0);
    let string = |index| Recall::Copying.text(args.length, &(size / 10..size / 10 * 9), eos, 0, index);
    let strings: Vec<Scored> = (0..args.strings).map(string).collect();
    let copied = |model: &Llama| {
        let scores = score(model, &strings, |_| ());
        let right: usize = scores.iter().map(|score| score.right).sum();
        100.0 * right as f64 / scores.iter().map(|score| score.tokens).sum::<usize>() as f64
    };

    println!(
        "whole: {:.1} % of tokens copied\n\n| layer | KL, nats a token | copied, % |\n|---:|---:|---:|",
        copied(&model)
    );
    let mut rows = Vec::new();
    for layer in 0..model.n_layers() {
        let Some(silent) = without(&model, layer) else { continue };
        rows.push((layer, Agreement::of(&agreement(&model, &silent, &texts, |_| ())).kl(), copied(&silent)));
    }
    ensure!(!rows.is_empty(), "{} has no attention layer", args.model.display());
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (layer, kl, copied) in rows {
        println!("| {layer} | {kl:.4} | {copied:.1} |");
    }
    Ok(())
}

/// The model with a layer's attention silenced, if it has one.
fn without(model: &Llama, layer: usize) -> Option<Llama> {
    let mut silent = model.clone();
    let Mixer::Attention(attention) = &mut silent.layers[layer].mixer else { return None };
    let weight = attention.o_proj.weight.val();
    attention.o_proj.weight = Param::from_tensor(Tensor::zeros_like(&weight));
    Some(silent)
}
