//! Measures what a CPU user feels first: how each evaluation of SSD scales with the length, and what
//! decoding costs at a short and at a long context. Prints Markdown.
//!
//! ```text
//! cargo run --release -p mamba-ssd-examples --example benchmarks -- [MODEL]
//! ```

#![allow(clippy::print_stdout)] // an example prints its result

use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Int, Tensor};
use clap::Parser;
use mamba_ssd::{Backbone, EVALUATIONS, SsdInput};
use mamba_ssd_convert::ConversionPlan;
use mamba_ssd_models::Model;

/// As in the program `mamba-ssd`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    /// A Transformer to compare with its Mamba-2 conversion.
    #[arg(default_value = "crates/mamba-ssd-cli/assets/teacher")]
    model: PathBuf,
    /// Timed runs; the median is printed.
    #[arg(long, default_value_t = 15)]
    runs: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let device = Device::flex();
    evaluations(args.runs, &device);
    decoding(&args, &device)
}

/// Milliseconds of every evaluation over the length, at the demo's shape.
fn evaluations(runs: usize, device: &Device) {
    let lengths = [128, 512, 1024, 2048, 8192];
    println!("Forward, f32, b 1, h 4, p 32, n 32, milliseconds:\n");
    println!("| evaluation | {} | t(8192)/t(1024) |", lengths.map(|t| format!("t = {t}")).join(" | "));
    println!("|---|{}", "---:|".repeat(lengths.len() + 1));
    for evaluation in EVALUATIONS {
        let times = lengths.map(|t| {
            let input = random_input(t, device);
            median(runs, || (evaluation.run)(input.clone()).y.sum().into_scalar::<f32>())
        });
        let cells = times.map(|time| format!("{:.2}", time * 1e3)).join(" | ");
        println!("| {} | {cells} | {:.1} |", evaluation.name, times[4] / times[2]);
    }
}

fn random_input(t: usize, device: &Device) -> SsdInput {
    let normal = |width| Tensor::<4>::random([1, t, 4, width], Distribution::Normal(0.0, 1.0), device);
    let log_a = -Tensor::<3>::random([1, t, 4], Distribution::Uniform(0.0, 1.0), device);
    SsdInput::new(normal(32), log_a, normal(32), normal(32))
}

/// Tokens a second, one row, after a short and after a long context.
fn decoding(args: &Args, device: &Device) -> anyhow::Result<()> {
    let teacher = Model::load(&args.model, device)?;
    let (student, _) = teacher.convert(&ConversionPlan::default())?;
    println!("\nDecoding, f32, batch 1, tokens a second:\n");
    println!("| model | context 100 | context 10,000 | ratio | state at 10,000 |\n|---|---:|---:|---:|---:|");
    for (name, model) in [("Transformer", &teacher), ("Mamba-2", &student)] {
        let short = decode(model, 100, args.runs, device);
        let long = decode(model, 10_000, args.runs, device);
        let state = long.1 as f64 / 1024.0;
        println!("| {name} | {:.0} | {:.0} | {:.2} | {state:.0} KiB |", short.0, long.0, long.0 / short.0);
    }
    Ok(())
}

/// Tokens a second after `context` tokens, and the bytes of state held then.
fn decode<B: Backbone>(model: &B, context: usize, runs: usize, device: &Device) -> (f64, usize) {
    const STEPS: usize = 256;
    let tokens =
        |n: usize| Tensor::<1, Int>::arange(0..n as i64, device).remainder_scalar(model.vocab_size() as i64);
    let mut state = model.init_state(1, device);
    for chunk in 0..context.div_ceil(500) {
        let length = 500.min(context - chunk * 500);
        (_, state) = model.prefill(tokens(length).unsqueeze(), state);
    }
    let bytes = state.bytes();
    let seconds = median(runs, || {
        let mut state = state.clone();
        let mut last = 0.0;
        for _ in 0..STEPS {
            let (logits, next) = model.step(tokens(1), state);
            state = next;
            last = logits.max().into_scalar::<f32>();
        }
        last
    });
    (STEPS as f64 / seconds, bytes)
}

/// Median seconds of `runs` calls, after one that is not counted.
fn median(runs: usize, mut call: impl FnMut() -> f32) -> f64 {
    let mut seconds: Vec<f64> = (0..=runs)
        .map(|_| {
            let start = Instant::now();
            assert!(call().is_finite());
            start.elapsed().as_secs_f64()
        })
        .skip(1)
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[runs / 2]
}
