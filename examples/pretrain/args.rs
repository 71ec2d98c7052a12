//! The command line.

use std::path::PathBuf;

use clap::Parser;
use mamba_ssd_eval::problems::{Problem, Split, long_problem, problem};

/// What to train, on what, for how long.
#[derive(Parser)]
#[command(about = "Trains a small Llama on arithmetic word problems")]
pub struct Args {
    /// Folder that the model is written to.
    #[arg(long)]
    pub out: PathBuf,
    /// Folder of a model to go on from, whose tokenizer and shape are kept; another --seed gives it other problems.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["tokenizer", "hidden", "layers", "heads", "kv_heads", "intermediate"])]
    pub from: Option<PathBuf>,
    /// The tokenizer; see the example of that name.
    #[arg(long, default_value = "crates/mamba-ssd-cli/assets/teacher/tokenizer.json")]
    pub tokenizer: PathBuf,
    /// flex, wgpu or cuda.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Ends after so many steps.
    #[arg(long, required_unless_present = "minutes")]
    pub steps: Option<usize>,
    /// Ends after so many minutes, examinations included.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Problems of four to eight steps, not of two to four: a teacher for `mamba-ssd reason --long`.
    #[arg(long)]
    pub long: bool,
    /// Worked problems to mix in, JSON lines of "question" and "answer" as GSM8K has them.
    #[arg(long, value_name = "FILE", requires = "share")]
    pub worked: Option<PathBuf>,
    /// Their share of all problems.
    #[arg(long, value_parser = share)]
    pub share: Option<f64>,
    /// Ends when an examination on the way finds that this share of the problems is solved.
    #[arg(long, value_parser = share)]
    pub until: Option<f64>,
    /// Seed of problems and weights.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Width of the residual stream.
    #[arg(long, default_value_t = 128)]
    pub hidden: usize,
    /// Layers.
    #[arg(long, default_value_t = 5)]
    pub layers: usize,
    /// Attention heads.
    #[arg(long, default_value_t = 4)]
    pub heads: usize,
    /// Key-value heads.
    #[arg(long, default_value_t = 4)]
    pub kv_heads: usize,
    /// Width inside the MLPs.
    #[arg(long, default_value_t = 512)]
    pub intermediate: usize,

    /// Rows in a batch.
    #[arg(long, default_value_t = 256)]
    pub rows: usize,
    /// Tokens in a row.
    #[arg(long, default_value_t = 256)]
    pub seq_len: usize,
    /// Learning rate between warm-up and decay.
    #[arg(long, default_value_t = 2e-3)]
    pub lr: f64,
    /// Steps of linear warm-up.
    #[arg(long, default_value_t = 200)]
    pub warmup: usize,
    /// Last part of the training, in which the learning rate falls to 0.
    #[arg(long, default_value_t = 0.25)]
    pub decay: f64,
    /// Weight decay of matrices.
    #[arg(long, default_value_t = 0.1)]
    pub weight_decay: f64,
    /// Largest norm of the gradient of all parameters together.
    #[arg(long, default_value_t = 1.0)]
    pub clip: f64,

    /// Steps between readings of the loss, each of which waits for the device.
    #[arg(long, default_value_t = 50)]
    pub log_every: usize,
    /// Steps between examinations.
    #[arg(long, default_value_t = 1000)]
    pub eval_every: usize,
    /// Held-out problems of an examination on the way.
    #[arg(long, default_value_t = 256)]
    pub eval_problems: usize,
    /// Held-out problems of the last examination.
    #[arg(long, default_value_t = 1024)]
    pub final_problems: usize,
}

/// A number between 0 and 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

/// A problem of a seed, split and index.
pub type Draw = fn(u64, Split, u64) -> Problem;

impl Args {
    /// What problems come from.
    pub fn draw(&self) -> Draw {
        if self.long { long_problem } else { problem }
    }
}
