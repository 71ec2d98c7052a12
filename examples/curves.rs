//! Draws what several distillations lost in one stage, beside each other: the mean loss of the steps so far seen through a
//! window, against tokens.
//!
//! ```text
//! cargo run --release -p mamba-ssd-examples --example curves -- curves.svg "6 M=runs/a/metrics.jsonl" "24 M=runs/b/metrics.jsonl"
//! ```

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mamba_ssd_examples::chart::{NamedFile, draw_curves};
use mamba_ssd_mohawk::read_metrics;
use mamba_ssd_mohawk::stage::StageKind;

#[derive(Parser)]
struct Args {
    /// The picture
    #[arg(value_name = "OUT.svg")]
    out: PathBuf,
    /// What to call a run, and its metrics
    #[arg(value_name = "NAME=metrics.jsonl", required = true)]
    runs: Vec<NamedFile>,
    /// The stage
    #[arg(long, default_value = "logits")]
    stage: String,
    /// Steps of a mean
    #[arg(long, default_value_t = 50)]
    window: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.window > 0, "--window is 0, expected steps, at least 1");
    let kind: StageKind = serde_json::from_value(serde_json::json!(args.stage))
        .with_context(|| format!("--stage {}, expected matrices, hidden or logits", args.stage))?;
    let curve = |run: &NamedFile| Ok((run.name.clone(), curve(run, kind, args.window)?));
    let curves = args.runs.iter().map(curve).collect::<Result<Vec<_>>>()?;
    let loss = format!("loss, mean of {} steps", args.window);
    draw_curves(&args.out, ["tokens of the stage, millions", &loss], &curves)
}

/// Millions of tokens, and the mean loss of the steps behind them.
fn curve(run: &NamedFile, kind: StageKind, window: usize) -> Result<Vec<(f64, f64)>> {
    let steps = read_metrics(&run.file)?;
    let steps: Vec<_> = steps.into_iter().filter(|step| step.kind == kind).collect();
    ensure!(steps.len() >= window, "{}: {} steps of the stage, fewer than --window", run.name, steps.len());
    let mean = |steps: &[mamba_ssd_mohawk::StepReport]| {
        steps.iter().map(|step| step.loss).sum::<f64>() / steps.len() as f64
    };
    Ok(steps.windows(window).map(|seen| (seen[window - 1].tokens as f64 / 1e6, mean(seen))).collect())
}
