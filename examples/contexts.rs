//! Draws milliseconds a step against the tokens read before, or tokens a second against the rows of the batch, from what
//! `bench --json` printed for several models.
//!
//! ```text
//! mamba-ssd bench mamba2-130m --context 1024,32768,262144 --json > mamba2.json
//! cargo run --release -p mamba-ssd-examples --example contexts -- contexts.svg "Mamba-2 130M=mamba2.json"
//! mamba-ssd bench llamba-1b --batch 1,16,256 --context 4096 --json > llamba.json
//! cargo run --release -p mamba-ssd-examples --example contexts -- rows.svg --context 4096 "Llamba-1B=llamba.json"
//! ```

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mamba_ssd_examples::chart::{NamedFile, draw_curves};
use serde_json::Value;

#[derive(Parser)]
struct Args {
    /// The picture
    #[arg(value_name = "OUT.svg")]
    out: PathBuf,
    /// What to call a model, and its measurements
    #[arg(value_name = "NAME=bench.json", required = true)]
    models: Vec<NamedFile>,
    /// Rows of the batch, where steps are drawn against tokens
    #[arg(long, default_value_t = 1, conflicts_with = "context")]
    rows: u64,
    /// Tokens read before, where tokens a second are drawn against rows
    #[arg(long)]
    context: Option<u64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let curve = |model: &NamedFile| Ok((model.name.clone(), curve(model, &args)?));
    let curves = args.models.iter().map(curve).collect::<Result<Vec<_>>>()?;
    let axes = match args.context {
        Some(_) => ["rows of the batch", "thousands of tokens/s"],
        None => ["tokens read before", "ms a step"],
    };
    draw_curves(&args.out, axes, &curves)
}

/// Tokens and milliseconds, or rows and thousands of tokens a second. What did not fit into memory is no point.
fn curve(model: &NamedFile, args: &Args) -> Result<Vec<(f64, f64)>> {
    let path = model.file.display();
    let text = std::fs::read_to_string(&model.file).with_context(|| format!("{path}"))?;
    let bench: Value = serde_json::from_str(&text)
        .with_context(|| format!("{path}: expected what `bench --json` prints"))?;
    let decode = bench["decode"]
        .as_array()
        .with_context(|| format!("{path}: no `decode`, expected what `bench --json` prints"))?;
    let (field, wanted) = match args.context {
        Some(tokens) => ("tokens", tokens),
        None => ("rows", args.rows),
    };
    let drawn: Vec<&Value> =
        decode.iter().filter(|row| row[field] == wanted && !row["seconds"].is_null()).collect();
    ensure!(!drawn.is_empty(), "{path}: nothing measured at {field} {wanted}");
    let point = |row: &&Value| {
        let seconds = row["seconds"].as_f64()?;
        Some(match args.context {
            Some(_) => (row["rows"].as_f64()?, row["tokens_per_second"].as_f64()? / 1e3),
            None => (row["tokens"].as_f64()?, seconds * 1e3),
        })
    };
    drawn.iter().map(|row| point(row).with_context(|| format!("{path}: a row without numbers"))).collect()
}
