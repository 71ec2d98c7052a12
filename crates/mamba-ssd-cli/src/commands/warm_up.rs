//! `warm-up`: compiles and tunes the kernels that a model needs, so that later runs do not.

use std::time::Instant;

use anyhow::{Result, ensure};
use burn::tensor::{Device, Int, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use mamba_ssd::Backbone;

use crate::args::WarmUpArgs;
use crate::console::say;
use crate::hub;
use crate::language_model::LanguageModel;
use crate::table::Table;

/// Runs a prefill of every length and steps of every batch twice: what the first costs more is what stays.
pub fn run(args: &WarmUpArgs) -> Result<()> {
    ensure!(args.lengths.iter().all(|&length| length > 0), "--lengths holds 0, expected tokens, at least 1");
    ensure!(args.batches.iter().all(|&batch| batch > 0), "--batches holds 0, expected rows, at least 1");
    let (device, held) = args.weights.on(args.device)?;
    let model = LanguageModel::load_held(&hub::local(&args.model)?, &device, held)?.model;
    let style = ProgressStyle::with_template("{bar:20.cyan/dim} {pos} of {len}  {wide_msg}");
    let bar = ProgressBar::new((args.lengths.len() * args.batches.len()) as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut table = Table::new(["rows", "tokens", "first", "again"]);
    for &batch in &args.batches {
        for &length in &args.lengths {
            bar.set_message(format!("{batch} x {length} tokens"));
            let [first, again] = [(); 2].map(|()| seconds(&model, batch, length, &device));
            table.row([batch.to_string(), length.to_string(), show(first?), show(again?)]);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    say(&table);
    Ok(())
}

fn show(seconds: f64) -> String {
    format!("{seconds:.2} s")
}

/// Seconds of a prefill, two steps and the wait for them.
fn seconds<M: Backbone>(model: &M, batch: usize, length: usize, device: &Device) -> Result<f64> {
    let started = Instant::now();
    let tokens = Tensor::<2, Int>::zeros([batch, length], device);
    let (_, mut state) = model.prefill(tokens, model.init_state(batch, device));
    for _ in 0..2 {
        state = model.step(Tensor::zeros([batch], device), state).1;
    }
    drop(state);
    device.sync().map_err(|error| anyhow::anyhow!("the device failed: {error:?}"))?;
    Ok(started.elapsed().as_secs_f64())
}
