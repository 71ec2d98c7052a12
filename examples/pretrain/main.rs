//! Trains the bundled teacher: a small Llama that solves arithmetic word problems, and with `--long` one of problems of many steps.
//!
//! ```text
//! cargo run --release -p mamba-ssd-examples --example pretrain -- --out DIR --steps 2000
//! cargo run --release -p mamba-ssd-examples --features cuda --example pretrain -- --out DIR --device cuda --minutes 8
//! ```
//!
//! Next-token prediction on problems that are generated while training goes on, each seen once; with `--worked` on those of a file
//! between them. On GPUs in bf16, with f32 masters. The
//! folder written holds `config.json`, `model.safetensors` in bf16, `tokenizer.json`, `prompt.txt`, and
//! `training.json` with the arguments and the figures of the saved weights.
#![allow(clippy::print_stdout, reason = "a program")]

mod args;
mod exam;
mod optimizer;
mod problems;
mod progress;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use burn::module::Module;
use burn::tensor::{DType, Device, FloatDType, Tensor};
use clap::Parser;
use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{AttentionConfig, Backbone};
use mamba_ssd_models::{Llama, LlamaConfig, Model, SaveOptions, SpecialTokens, Tokenizer};
use mamba_ssd_mohawk::data::{Batch, Cursor, Loader};
use mamba_ssd_mohawk::loss::{Reduction, cross_entropy_hard};
use serde_json::json;

use args::Args;
use exam::Exam;
use optimizer::Optimizer;
use progress::Progress;

fn main() -> Result<()> {
    let args = Args::parse();
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    mamba_ssd::keep_kernels();
    let mut device = mamba_ssd_examples::device(&args.device)?;
    if dtype(&device) == DType::BF16 {
        device.configure(FloatDType::BF16).context("the device's default dtype")?;
    }
    let device = device.autodiff();
    device.seed(args.seed);
    let tokenizer =
        args.from.as_ref().map_or_else(|| args.tokenizer.clone(), |from| from.join("tokenizer.json"));
    let tokenizer_json =
        std::fs::read(&tokenizer).with_context(|| format!("cannot read {}", tokenizer.display()))?;
    let exam = Exam::new(&args, Tokenizer::from_bytes(&tokenizer_json)?)?;
    let model = match &args.from {
        Some(from) => continued(from, &args, &device)?,
        None => architecture(&args, &exam).init(&device),
    };
    println!("{} parameters, {} tokens a step", model.num_params(), args.rows * args.seq_len);

    let mut progress = Progress::new(&args);
    let model = train(model, &args, &exam, &mut progress, &tokenizer_json)?;
    save(&model, &args, &tokenizer_json)?;
    write_figures(&args, &exam, &progress, &device)
}

/// What is computed in.
fn dtype(device: &Device) -> DType {
    let half = !mamba_ssd::computes_on_host(device) && device.supports_dtype(DType::BF16);
    if half { DType::BF16 } else { DType::F32 }
}

fn architecture(args: &Args, exam: &Exam) -> LlamaConfig {
    let head_dim = args.hidden / args.heads;
    let attention =
        AttentionConfig::new(args.hidden, args.heads, args.kv_heads, head_dim, RotaryConfig::new(head_dim));
    LlamaConfig {
        max_position: Some(args.seq_len),
        tokens: SpecialTokens { bos: None, eos: vec![exam.eos] },
        ..LlamaConfig::transformer(exam.tokenizer.vocab_size(), args.layers, attention, args.intermediate)
    }
}

/// A model to go on from.
fn continued(from: &Path, args: &Args, device: &Device) -> Result<Llama> {
    let Model::Llama(model) = Model::load_as(from, device, dtype(device))? else {
        bail!("{}: not a Llama", from.display());
    };
    let known = model.config().max_position.unwrap_or(usize::MAX);
    ensure!(args.seq_len <= known, "{}: knows {known} positions, lower --seq-len", from.display());
    Ok(model)
}

/// Steps through block after block of fresh problems until the progress is complete.
fn train(
    mut model: Llama,
    args: &Args,
    exam: &Exam,
    progress: &mut Progress,
    tokenizer_json: &[u8],
) -> Result<Llama> {
    let device = model.devices().remove(0);
    let mut optimizer = Optimizer::default();
    for (block, dataset) in problems::stream(tokenizer_json, args, exam.eos)?.into_iter().enumerate() {
        let dataset = dataset?;
        let mut loader = Loader::new(&dataset, args.seq_len, block as u64, Cursor::default());
        for _ in 0..loader.rows_per_epoch() / args.rows {
            let batch = loader.next_batch(args.rows, &device);
            let lr = progress.learning_rate(args);
            let (next, loss) = step(model, &mut optimizer, &batch, lr, args);
            model = next;
            progress.advance(args, loss, lr)?;
            if progress.is_complete() {
                return Ok(model);
            }
            if progress.step.is_multiple_of(args.eval_every) {
                save(&model, args, tokenizer_json)?;
                let decoding = mamba_ssd_examples::decoding_device(&device);
                let saved = Model::load_as(&args.out, &decoding, dtype(&decoding))?;
                let result = exam.sit(&saved, args.eval_problems)?;
                progress.print(&result);
                if args.until.is_some_and(|enough| result.accuracy >= enough) {
                    return Ok(model);
                }
            }
        }
    }
    unreachable!("the stream of problems has no end")
}

/// One step of AdamW down the gradient of the mean loss.
fn step(model: Llama, optimizer: &mut Optimizer, batch: &Batch, lr: f64, args: &Args) -> (Llama, Tensor<1>) {
    let logits = model.forward(batch.tokens.clone(), batch.segments.as_ref());
    let loss = cross_entropy_hard(logits, batch.targets.clone(), batch.mask.as_ref(), Reduction::TokenMean);
    let gradients = loss.backward();
    (optimizer.step(model, gradients, lr, args.weight_decay, args.clip), loss.detach())
}

fn save(model: &Llama, args: &Args, tokenizer_json: &[u8]) -> Result<()> {
    let options =
        SaveOptions { tokenizer_json: Some(tokenizer_json), dtype: Some(DType::BF16), ..Default::default() };
    Model::Llama(model.valid()).save_with(&args.out, &options)?;
    let path = args.out.join("prompt.txt"); // in which form a question is asked
    std::fs::write(&path, "Q: {}\nA:").with_context(|| format!("cannot write {}", path.display()))
}

/// Examines the weights as they were saved, and writes the figures beside them.
fn write_figures(args: &Args, exam: &Exam, progress: &Progress, device: &Device) -> Result<()> {
    let decoding = mamba_ssd_examples::decoding_device(device);
    let saved = Model::load_as(&args.out, &decoding, dtype(&decoding))?;
    let result = exam.sit(&saved, args.final_problems)?;
    progress.print(&result);
    let figures = json!({
        "arguments": std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        "seed": args.seed,
        "parameters": saved.n_params(),
        "steps": progress.step,
        "tokens": progress.tokens(args),
        "loss": progress.loss,
        "held_out_problems": args.final_problems,
        "held_out_accuracy": result.accuracy,
        "held_out_perplexity": result.perplexity,
        "seconds": progress.seconds().round(),
        "device": args.device,
    });
    let path = args.out.join("training.json");
    std::fs::write(&path, format!("{figures:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}
