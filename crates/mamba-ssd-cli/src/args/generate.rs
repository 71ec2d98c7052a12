//! Arguments of `generate`.

use std::path::PathBuf;

use clap::Args;

use super::WeightsArg;
use super::sampling::TruncationArgs;
use super::values::{count, finite, not_negative, positive};
use crate::device::DeviceChoice;

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
    /// Go on from a state that --save-state wrote, as if its text stood in front of every text
    #[arg(long, value_name = "FILE", conflicts_with_all = ["chat", "draft"])]
    pub state: Option<PathBuf>,
    /// Read the text and write the model's state behind it, instead of a continuation
    #[arg(long, value_name = "FILE", conflicts_with_all = ["draft", "samples", "json", "stop"])]
    pub save_state: Option<PathBuf>,
    /// Take the text as it stands, even if the model's prompt.txt gives the form it was trained on
    #[arg(long)]
    pub raw: bool,
    /// Tokens to write at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: usize,
    /// 0 takes the likeliest token; higher is more varied
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = not_negative)]
    pub temperature: f64,
    /// Which tokens may be drawn
    #[command(flatten)]
    pub truncation: TruncationArgs,
    /// Make tokens of the text and its continuation less likely; 1 does nothing
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive)]
    pub repetition_penalty: f64,
    /// Make tokens of the continuation less likely; 0 does nothing
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, value_parser = finite)]
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
    /// With the prompt in front of every text: the lines are texts that distill takes as data
    #[arg(long, requires = "json", conflicts_with = "chat")]
    pub echo: bool,
    /// With the log-probability of every token
    #[arg(long, requires = "json")]
    pub log_probabilities: bool,
    /// How weights are held: bf16 on the CPU and on CUDA, int8 on the CPU
    #[arg(long, value_enum, default_value_t)]
    pub weights: WeightsArg,
    /// Where to compute: flex (CPU), wgpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    pub device: DeviceChoice,
}
