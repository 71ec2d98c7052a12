//! Decoding and prefill of a model of Llamba-1B's shape with random weights, in bf16 where the device has
//! it: milliseconds a step over the batch, by hand and recorded as one graph, beside the fewest bytes that a
//! step can move. Prints Markdown.
//!
//! ```text
//! cargo run --release -p mamba-ssd-examples --example decode --no-default-features --features cuda
//! ```

#![allow(clippy::print_stdout)] // an example prints its result

use std::time::Instant;

use anyhow::{Context, Result};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor};
use clap::Parser;
use mamba_ssd::{Backbone, Decoder, DiscreteMamba2Config, MixerConfig, State};
use mamba_ssd_models::{Llama, LlamaConfig};

#[derive(Parser)]
struct Args {
    /// Rows of the batch.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256, 512])]
    batch: Vec<usize>,
    /// Lengths of a prefill of one row.
    #[arg(long, value_delimiter = ',', default_values_t = [2048, 8192, 32768])]
    prefill: Vec<usize>,
    /// Layers; Llamba-1B has 16.
    #[arg(long, default_value_t = 16)]
    layers: usize,
    /// Bytes a second that the device copies, read plus written; an H100 copies 3.0e12.
    #[arg(long, default_value_t = 3.0e12)]
    bandwidth: f64,
    /// Keep SSD states in bf16 instead of f32.
    #[arg(long)]
    half_states: bool,
    /// Timed series of ten steps; the median is printed.
    #[arg(long, default_value_t = 9)]
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
    let config = llamba_1b(args.layers);
    let model = config.init(&device);
    let weights = config.n_params() * if half { 2 } else { 4 };
    println!("device {device:?}, {} parameters, {}\n", config.n_params(), if half { "bf16" } else { "f32" });

    println!("| batch | ms a step | recorded | tokens/s | floor | recorded over floor |");
    println!("|---:|---:|---:|---:|---:|---:|");
    for batch in args.batch {
        let state = || match args.half_states {
            true => model.init_state(batch, &device).with_ssm_dtype(FloatDType::BF16),
            false => model.init_state(batch, &device),
        };
        let floor = (weights + 2 * state().bytes()) as f64 / args.bandwidth;
        let [plain, recorded] = decode(&model, state, args.series, &device);
        let rate = batch as f64 / recorded;
        let [plain_ms, recorded_ms, floor_ms] = [plain, recorded, floor].map(|seconds| seconds * 1e3);
        let ratio = recorded / floor;
        println!("| {batch} | {plain_ms:.3} | {recorded_ms:.3} | {rate:.0} | {floor_ms:.3} | {ratio:.2} |");
    }

    println!("\n| prefill | ms | tokens/s |\n|---:|---:|---:|");
    for length in args.prefill {
        let tokens = Tensor::<2, Int>::zeros([1, length], &device);
        let seconds = median(&device, args.series.div_ceil(3), || {
            let embedded = model.embed(tokens.clone());
            let layers = 0..model.n_layers();
            let hidden = layers.fold(embedded, |hidden, layer| model.layer(layer, hidden, None));
            drop(model.head(hidden.narrow(1, length - 1, 1))); // what a prefill is for: the last token
        });
        println!("| {length} | {:.2} | {:.0} |", seconds * 1e3, length as f64 / seconds);
    }
    Ok(())
}

/// Seconds of a step by hand, and of a recorded one.
fn decode(model: &Llama, initial: impl Fn() -> State, series: usize, device: &Device) -> [f64; 2] {
    let mut state = Some(initial());
    let batch = state.as_ref().map_or(1, State::batch);
    let tokens = Tensor::<1, Int>::zeros([batch], device);
    let plain = median(device, series, || {
        let Some(before) = state.take() else { return };
        state = Some(model.step(tokens.clone(), before).1);
    });
    drop(state);
    let mut decoder = Decoder::new(model.clone(), initial(), device);
    let recorded = median(device, series, || drop(decoder.step(tokens.clone())));
    [plain, recorded]
}

/// Llama-3.2-1B's shape with the mixers of Llamba-1B.
fn llamba_1b(layers: usize) -> LlamaConfig {
    let mixer = DiscreteMamba2Config::new(2048, 32, 64);
    LlamaConfig {
        vocab_size: 128_256,
        d_model: 2048,
        d_mlp: 8192,
        mixers: vec![MixerConfig::DiscreteMamba2(mixer); layers],
        norm_epsilon: 1e-5,
        final_norm_epsilon: 1e-5,
        tie_embeddings: true,
        lm_head_bias: false,
        mlp_bias: false,
        max_position: None,
        tokens: Default::default(),
    }
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
