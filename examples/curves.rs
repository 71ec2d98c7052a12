//! Draws what several distillations lost in one stage, beside each other: the mean loss of the steps so far seen through a
//! window, against tokens.
//!
//! ```text
//! cargo run --release -p mamba-ssd-examples --example curves -- curves.svg "6 M=runs/a/metrics.jsonl" "24 M=runs/b/metrics.jsonl"
//! ```

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mamba_ssd_mohawk::read_metrics;
use mamba_ssd_mohawk::stage::StageKind;
use plotters::prelude::*;

#[derive(Parser)]
struct Args {
    /// The picture
    #[arg(value_name = "OUT.svg")]
    out: PathBuf,
    /// What to call a run, and its metrics
    #[arg(value_name = "NAME=metrics.jsonl", required = true)]
    runs: Vec<Run>,
    /// The stage
    #[arg(long, default_value = "logits")]
    stage: String,
    /// Steps of a mean
    #[arg(long, default_value_t = 50)]
    window: usize,
}

#[derive(Clone)]
struct Run {
    name: String,
    metrics: PathBuf,
}

impl FromStr for Run {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, metrics) = text.split_once('=').ok_or("expected NAME=FILE")?;
        Ok(Self { name: name.to_string(), metrics: metrics.into() })
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.window > 0, "--window is 0, expected steps, at least 1");
    let kind: StageKind = serde_json::from_value(serde_json::json!(args.stage))
        .with_context(|| format!("--stage {}, expected matrices, hidden or logits", args.stage))?;
    let curves = args.runs.iter().map(|run| curve(run, kind, args.window)).collect::<Result<Vec<_>>>()?;
    draw(&args, &curves).with_context(|| format!("{}", args.out.display()))
}

/// Millions of tokens, and the mean loss of the steps behind them.
fn curve(run: &Run, kind: StageKind, window: usize) -> Result<Vec<(f64, f64)>> {
    let steps = read_metrics(&run.metrics)?;
    let steps: Vec<_> = steps.into_iter().filter(|step| step.kind == kind).collect();
    ensure!(steps.len() >= window, "{}: {} steps of the stage, fewer than --window", run.name, steps.len());
    let mean = |steps: &[mamba_ssd_mohawk::StepReport]| {
        steps.iter().map(|step| step.loss).sum::<f64>() / steps.len() as f64
    };
    Ok(steps.windows(window).map(|seen| (seen[window - 1].tokens as f64 / 1e6, mean(seen))).collect())
}

/// 1, 2 and 5 of every power of ten.
fn ticks() -> Vec<f64> {
    (-2..6).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power))).collect()
}

fn draw(args: &Args, curves: &[Vec<(f64, f64)>]) -> Result<()> {
    let all = || curves.iter().flatten();
    let longest = all().map(|point| point.0).fold(0.0, f64::max);
    let shortest = all().map(|point| point.0).fold(f64::MAX, f64::min);
    let highest = all().map(|point| point.1).fold(f64::MIN, f64::max);
    let lowest = all().map(|point| point.1).fold(f64::MAX, f64::min);
    let room = 0.05 * (highest - lowest).max(1e-6);
    let area = SVGBackend::new(&args.out, (720, 400)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut axes =
        ChartBuilder::on(&area).margin(10).x_label_area_size(42).y_label_area_size(56).build_cartesian_2d(
            (shortest..longest).log_scale().with_key_points(ticks()),
            lowest - room..highest + room,
        )?;
    axes.configure_mesh()
        .x_desc("tokens of the stage, millions")
        .y_desc(format!("loss, mean of {} steps", args.window))
        .x_label_formatter(&|millions| format!("{millions}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (index, (run, points)) in args.runs.iter().zip(curves).enumerate() {
        let color = Palette99::pick(index).to_rgba();
        axes.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(&run.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    axes.configure_series_labels().background_style(WHITE.mix(0.9)).border_style(BLACK.mix(0.3)).draw()?;
    area.present()?;
    Ok(())
}
