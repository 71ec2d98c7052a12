//! A sequence mixer is a matrix: that of the teacher's attention, and that of a Mamba-2 mixer made of
//! it, for one sentence.
//!
//! ```text
//! cargo run --release -p mamba-ssd-examples --example mixing_matrix -- --layer 1 --head 2
//! ```
#![allow(clippy::print_stdout, reason = "a program")]

use std::path::PathBuf;

use anyhow::{Result, ensure};
use burn::tensor::{Device, Int, Tensor};
use clap::Parser;
use mamba_ssd::{Backbone, MatrixMixer};
use mamba_ssd_convert::{ConversionPlan, Init};
use mamba_ssd_models::{Model, Tokenizer};

#[derive(Parser)]
#[command(about = "Compares the mixing matrices of attention and of a Mamba-2 mixer")]
struct Args {
    /// Folder of a Transformer.
    #[arg(long, default_value = "crates/mamba-ssd-cli/assets/teacher")]
    model: PathBuf,
    /// What it reads.
    #[arg(long, default_value = "Q: Mia has 34 shells. She finds 58 more.")]
    text: String,
    /// Which layer.
    #[arg(long, default_value_t = 0)]
    layer: usize,
    /// Which head.
    #[arg(long, default_value_t = 0)]
    head: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = Device::flex();
    let teacher = Model::load(&args.model, &device)?;
    let tokenizer = Tokenizer::from_file(&args.model.join("tokenizer.json"))?;
    let (student, _) = teacher.convert(&ConversionPlan { init: Init::Qkvo, ..ConversionPlan::default() })?;
    ensure!(
        args.layer < teacher.n_layers(),
        "found layer {}, expected less than {}",
        args.layer,
        teacher.n_layers()
    );
    ensure!(args.head < teacher.mixer(args.layer).n_heads(), "the layer has no head {}", args.head);

    let ids = tokenizer.encode(&args.text)?;
    let words: Vec<String> = ids.iter().map(|&id| tokenizer.decode(&[id])).collect::<Result<_, _>>()?;
    let tokens: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let tokens = Tensor::<1, Int>::from_data(tokens.as_slice(), &device).unsqueeze::<2>();
    // Both see what the teacher's layer sees, as in MOHAWK's first stage.
    let hidden = teacher.hidden_states(tokens, None).swap_remove(args.layer);
    let [attention, mamba] = [&teacher, &student].map(|model| matrix(model, &hidden, &args));

    draw("attention", &attention, &words);
    draw("Mamba-2 with the same projections, untrained", &mamba, &words);
    let distance = (attention.clone() - mamba).square().sum().sqrt() / attention.square().sum().sqrt();
    println!("relative distance {:.2}", distance.into_scalar::<f32>());
    Ok(())
}

/// `[t t]`.
fn matrix(model: &Model, hidden: &Tensor<3>, args: &Args) -> Tensor<2> {
    let matrix = model.mixing_matrix(args.layer, hidden.clone(), None); // b h t t
    matrix.narrow(1, args.head, 1).squeeze_dims(&[0, 1])
}

/// Draws how much every token (row) takes from every earlier one (column), relative to the largest.
fn draw(title: &str, matrix: &Tensor<2>, words: &[String]) {
    let largest: f32 = matrix.clone().abs().max().into_scalar();
    println!("{title}, largest entry {largest:.3}");
    let values: Vec<f32> = matrix.clone().into_data().iter::<f32>().collect();
    for (word, row) in words.iter().zip(values.chunks(words.len())) {
        let shades: String = row.iter().map(|value| shade(value.abs() / largest)).collect();
        println!("{:>8} {shades}", word.trim());
    }
    println!();
}

/// A darker character for a larger share.
fn shade(share: f32) -> char {
    const SHADES: [char; 6] = [' ', '.', ':', '+', '#', '@'];
    SHADES[((share * SHADES.len() as f32) as usize).min(SHADES.len() - 1)]
}
