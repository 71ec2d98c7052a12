//! The steps of the three stages at published shapes with random weights, teacher and student in bf16 where the device
//! has it: tokens a second, and the share of the device's peak that the products alone account for. Prints Markdown.
//!
//! ```text
//! cargo run --release -p mamba-ssd-examples --example training --no-default-features --features cuda
//! ```

#![allow(clippy::print_stdout)] // an example prints its result

use std::ops::ControlFlow;

use anyhow::{Context, Result};
use burn::tensor::{DType, Device, FloatDType};
use clap::Parser;
use mamba_ssd_examples::{at_least_one, preset};
use mamba_ssd_models::Model;
use mamba_ssd_mohawk::data::Dataset;
use mamba_ssd_mohawk::{Distillation, Observer, Recipe, StepReport};

#[derive(Parser)]
struct Args {
    /// The preset that is the teacher.
    #[arg(long, default_value = "smollm2-135m")]
    teacher: String,
    /// The preset that is trained.
    #[arg(long, default_value = "smollm2-135m-llamba")]
    student: String,
    /// Only this many of their layers.
    #[arg(long)]
    layers: Option<usize>,
    /// Stages of MOHAWK.
    #[arg(long, value_delimiter = ',', default_values_t = ["matrices".to_string(), "hidden".into(), "logits".into()])]
    stages: Vec<String>,
    /// Sequences a step.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Tokens a sequence.
    #[arg(long, default_value_t = 1024)]
    length: usize,
    /// Micro-batches a step is split into.
    #[arg(long, default_value_t = 1)]
    accumulation: usize,
    /// Steps; the median of the second half is printed.
    #[arg(long, default_value_t = 12, value_parser = at_least_one)]
    steps: usize,
    /// Operations a second that the device does at most; an H100 does 9.89e14 in bf16.
    #[arg(long, default_value_t = 9.89e14)]
    peak: f64,
}

/// Seconds of every step, and of these the seconds until both passes were handed to the device.
#[derive(Default)]
struct Clock {
    seconds: Vec<f64>,
    host: Vec<f64>,
    losses: Vec<f64>,
}

impl Observer<Model> for Clock {
    fn on_step(&mut self, report: &StepReport) -> ControlFlow<()> {
        self.seconds.push(report.seconds);
        self.host.push(report.host_seconds);
        self.losses.push(report.loss);
        ControlFlow::Continue(())
    }
}

/// The median of the second half.
fn late_median(seconds: &[f64]) -> f64 {
    let mut late = seconds[seconds.len() / 2..].to_vec();
    late.sort_by(f64::total_cmp);
    late[late.len() / 2]
}

fn main() -> Result<()> {
    let args = Args::parse();
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    mamba_ssd::keep_kernels();
    let mut device = Device::default();
    if device.supports_dtype(DType::BF16) {
        device.configure(FloatDType::BF16).context("the device's default dtype")?;
    }
    let device = device.autodiff();
    let [teacher, student] = [&args.teacher, &args.student].map(|name| preset(name, args.layers));
    let (teacher, student) = (teacher?, student?);
    println!(
        "{} of {} parameters, to be {} of {}, on {device:?}, {} x {} tokens a step\n",
        args.teacher,
        teacher.n_params(),
        args.student,
        student.n_params(),
        args.batch,
        args.length
    );
    let vocabulary = student.vocab_size() as u64;
    let word = |i: u64| (i.wrapping_mul(6_364_136_223_846_793_005) >> 33) % (vocabulary - 1);
    let documents = (0..args.batch as u64)
        .map(|row| (0..4 * args.length as u64).map(|i| word(row << 32 | i) as u32).collect::<Vec<u32>>());
    let data = Dataset::from_documents(documents, vocabulary as u32 - 1)?;

    println!("| stage | ms a step | to launch | tokens/s | of peak | losses, first to last | GB reserved |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for stage in &args.stages {
        let recipe = Recipe::from_toml(&format!(
            "name = \"benchmark\"\nseed = 1\n[[stage]]\nkind = \"{stage}\"\ntokens = {}\nlr = 1e-4\nbatch = {}\nseq_len = {}\naccumulation = {}",
            args.steps * args.batch * args.length,
            args.batch,
            args.length,
            args.accumulation
        ))?;
        device.seed(1);
        let (of_teacher, of_student) = (teacher.init(&device), student.init(&device));
        let mut clock = Clock::default();
        Distillation::new(&recipe, &data, of_teacher, of_student).run(&mut clock)?;
        let [seconds, host] = [&clock.seconds, &clock.host].map(|each| late_median(each));
        let tokens = (args.batch * args.length) as f64;
        let operations = tokens * (2 * teacher.n_params() + 6 * student.n_params()) as f64;
        let share = if stage == "logits" {
            format!("{:.0} %", 100.0 * operations / seconds / args.peak)
        } else {
            String::new()
        };
        let reserved = device.memory_pool_usage().map_or(0.0, |usage| usage.bytes_reserved as f64 / 1e9);
        let [first, last] = [0, clock.losses.len() - 1].map(|i| clock.losses[i]);
        println!(
            "| {stage} | {:.1} | {:.1} | {:.0} | {share} | {first:.3} to {last:.3} | {reserved:.1} |",
            seconds * 1e3,
            host * 1e3,
            tokens / seconds
        );
        device.memory_cleanup();
    }
    Ok(())
}
