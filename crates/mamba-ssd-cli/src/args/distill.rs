//! Arguments of `distill`.

use std::path::PathBuf;

use clap::Args;

use super::values::{count, scale};
use crate::device::DeviceChoice;

/// Distil a Transformer into a Mamba-2 student.
#[derive(Debug, Args)]
pub struct DistillArgs {
    /// Recipe to follow
    #[arg(long, value_name = "FILE.toml", conflicts_with = "preset")]
    pub recipe: Option<PathBuf>,
    /// Built-in recipe to follow [default: demo]
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// The teacher: a folder, a file of weights (safetensors, PyTorch, GGUF) or hf:OWNER/NAME[@REVISION]
    /// [default: the bundled teacher]
    #[arg(long, value_name = "MODEL")]
    pub teacher: Option<PathBuf>,
    /// Folder for everything the run writes; must be new or empty [default: runs/PRESET-N]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Continue the interrupted run in this folder, with the recipe and teacher it was started with
    #[arg(long, value_name = "DIR", conflicts_with_all = ["recipe", "preset", "teacher", "out", "ablation", "scale"])]
    pub resume: Option<PathBuf>,
    /// Where to compute: flex (CPU), wgpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    pub device: DeviceChoice,
    /// Train on so many devices at once: with --device cuda:K on K, K+1 and so on. Each takes its part of every batch; the
    /// result is that of one device up to rounding
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub replicas: usize,
    /// Also compare stages 3, 2+3 and 1+2+3 on the same number of tokens (a longer run of its own)
    #[arg(long)]
    pub ablation: bool,
    /// Number of seeds for the ablation
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100), requires = "ablation")]
    pub seeds: u64,
    /// Shrink every token budget and evaluation by this factor, for a quick look
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = scale)]
    pub scale: f64,
}
