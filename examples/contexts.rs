//! Draws milliseconds a step against the tokens read before, from what `bench --json` printed for several models.
//!
//! ```text
//! mamba-ssd bench mamba2-130m --context 1024,32768,262144 --json > mamba2.json
//! cargo run --release -p mamba-ssd-examples --example contexts -- contexts.svg "Mamba-2 130M=mamba2.json"
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
    /// Rows of the batch
    #[arg(long, default_value_t = 1)]
    rows: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let curve = |model: &NamedFile| Ok((model.name.clone(), curve(model, args.rows)?));
    let curves = args.models.iter().map(curve).collect::<Result<Vec<_>>>()?;
    draw_curves(&args.out, ["tokens read before", "ms a step"], &curves)
}

/// Tokens and milliseconds.
fn curve(model: &NamedFile, rows: u64) -> Result<Vec<(f64, f64)>> {
    let path = model.file.display();
    let text = std::fs::read_to_string(&model.file).with_context(|| format!("{path}"))?;
    let bench: Value = serde_json::from_str(&text)
        .with_context(|| format!("{path}: expected what `bench --json` prints"))?;
    let decode = bench["decode"]
        .as_array()
        .with_context(|| format!("{path}: no `decode`, expected what `bench --json` prints"))?;
    let of_rows: Vec<&Value> = decode.iter().filter(|row| row["rows"] == rows).collect();
    ensure!(!of_rows.is_empty(), "{path}: no row of --rows {rows}");
    let point = |row: &&Value| Some((row["tokens"].as_f64()?, row["seconds"].as_f64()? * 1e3));
    let points =
        of_rows.iter().map(|row| point(row).with_context(|| format!("{path}: a row without numbers")));
    points.collect()
}
