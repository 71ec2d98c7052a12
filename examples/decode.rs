//! Decoding and prefill of published shapes with random weights, in bf16 where the device has it:
//! milliseconds a step over the batch, by hand and recorded as one graph, beside the fewest bytes that a step
//! can move, and whether both continue alike. Prints Markdown.
//!
//! ```text
//! cargo run --release -p mamba-ssd-examples --example decode --no-default-features --features cuda
//! ```

#![allow(clippy::print_stdout)] // an example prints its result

use std::time::Instant;

use anyhow::{Context, Result};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor};
use clap::Parser;
use mamba_ssd::{Backbone, Decoder, State};
use mamba_ssd_examples::{at_least_one, preset};
use mamba_ssd_models::Model;

#[derive(Parser)]
struct Args {
    /// Presets; an unknown name lists them.
    #[arg(long, value_delimiter = ',', default_value = "llamba-1b")]
    model: Vec<String>,
    /// Rows of the batch.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256, 512])]
    batch: Vec<usize>,
    /// Lengths of a prefill of one row.
    #[arg(long, value_delimiter = ',', default_values_t = [2048, 8192, 32768])]
    prefill: Vec<usize>,
    /// Only this many of the layers.
    #[arg(long)]
    layers: Option<usize>,
    /// Bytes a second that the device copies, read plus written; an H100 copies 3.0e12.
    #[arg(long, default_value_t = 3.0e12)]
    bandwidth: f64,
    /// Keep SSD states in bf16 instead of f32.
    #[arg(long)]
    half_states: bool,
    /// Timed series of ten steps; the median is printed.
    #[arg(long, default_value_t = 9, value_parser = at_least_one)]
    series: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    mamba_ssd::keep_kernels();
    let mut device = Device::default();
    let half = device.supports_dtype(DType::BF16);
    if half {
        device.configure(FloatDType::BF16).context("the device's default dtype")?;
    }
    for name in &args.model {
        device.seed(1);
        let config = preset(name, args.layers)?;
        let model = config.init(&device);
        let weights = config.n_params() * if half { 2 } else { 4 };
        let dtype = if half { "bf16" } else { "f32" };
        println!("\n{name} on {device:?}, {} parameters, {dtype}\n", config.n_params());
        decoding(&args, &model, weights, &device);
        prefill(&args, &model, &device);
    }
    Ok(())
}

fn decoding(args: &Args, model: &Model, weights: usize, device: &Device) {
    println!(
        "| batch | ms a step | recorded | tokens/s | floor | recorded over floor | the first row continues with |"
    );
    println!("|---:|---:|---:|---:|---:|---:|:---|");
    for &batch in &args.batch {
        let state = || match args.half_states {
            true => model.init_state(batch, device).with_ssm_dtype(FloatDType::BF16),
            false => model.init_state(batch, device),
        };
        let floor = (weights + 2 * state().bytes()) as f64 / args.bandwidth;
        let ([plain, recorded], words) = decode(model, state, args.series, device);
        let rate = batch as f64 / recorded;
        let [plain_ms, recorded_ms, floor_ms] = [plain, recorded, floor].map(|seconds| seconds * 1e3);
        let ratio = recorded / floor;
        println!(
            "| {batch} | {plain_ms:.3} | {recorded_ms:.3} | {rate:.0} | {floor_ms:.3} | {ratio:.2} | {words} |"
        );
    }
}

fn prefill(args: &Args, model: &Model, device: &Device) {
    println!("\n| prefill | ms | tokens/s |\n|---:|---:|---:|");
    for &length in &args.prefill {
        let tokens = Tensor::<2, Int>::zeros([1, length], device);
        let seconds = median(device, args.series.div_ceil(3), || {
            let embedded = model.embed(tokens.clone());
            let layers = 0..model.n_layers();
            let hidden = layers.fold(embedded, |hidden, layer| model.layer(layer, hidden, None));
            drop(model.head(hidden.narrow(1, length - 1, 1))); // what a prefill is for: the last token
        });
        println!("| {length} | {:.2} | {:.0} |", seconds * 1e3, length as f64 / seconds);
    }
}

/// Seconds of a step by hand, and of a recorded one; how the first row goes on from token 0 by likeliest tokens.
fn decode(model: &Model, initial: impl Fn() -> State, series: usize, device: &Device) -> ([f64; 2], String) {
    let mut state = Some(initial());
    let batch = state.as_ref().map_or(1, State::batch);
    let mut step = |tokens: Tensor<1, Int>| {
        let (logits, after) = model.step(tokens, state.take().expect("a step leaves a state"));
        state = Some(after);
        logits
    };
    let zeros = Tensor::<1, Int>::zeros([batch], device);
    let by_hand = likeliest(zeros.clone(), &mut step);
    let plain = median(device, series, || drop(step(zeros.clone())));
    drop(state);
    let mut decoder = Decoder::new(model.clone(), initial(), device);
    let replayed = likeliest(zeros.clone(), |tokens| decoder.step(tokens));
    let recorded = median(device, series, || drop(decoder.step(zeros.clone())));
    let first: Vec<String> = by_hand.iter().take(4).map(i64::to_string).collect();
    let alike = by_hand.iter().zip(&replayed).take_while(|(one, other)| one == other).count();
    let words = format!("{} …; {alike} of {} alike when recorded", first.join(" "), by_hand.len());
    ([plain, recorded], words)
}

/// The likeliest tokens of the first row, each fed to the next step.
fn likeliest(start: Tensor<1, Int>, mut step: impl FnMut(Tensor<1, Int>) -> Tensor<2>) -> Vec<i64> {
    const STEPS: usize = 32;
    let mut tokens = start;
    let mut words = Vec::with_capacity(STEPS);
    for _ in 0..STEPS {
        tokens = step(tokens).argmax(1).squeeze_dim(1);
        words.extend(tokens.clone().narrow(0, 0, 1).into_data().iter::<i64>());
    }
    words
}

/// Seconds of one call, of ten in a row with one wait.
fn median(device: &Device, series: usize, mut run: impl FnMut()) -> f64 {
    const CALLS: usize = 10;
    let mut round = |calls: usize| {
        wait(device);
        let start = Instant::now();
        (0..calls).for_each(|_| run());
        wait(device);
        start.elapsed().as_secs_f64() / calls as f64
    };
    round(3);
    let mut times: Vec<f64> = (0..series).map(|_| round(CALLS)).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn wait(device: &Device) {
    if let Err(error) = device.sync() {
        panic!("the device failed: {error:?}");
    }
}
