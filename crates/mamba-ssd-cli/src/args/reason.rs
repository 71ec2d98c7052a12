//! Arguments of `reason`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::WeightsArg;
use super::sampling::TruncationArgs;
use super::values::{count, not_negative, positive};
use crate::device::DeviceChoice;

/// Answer problems many times within a budget.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("asked").required(true).args(["problems", "generated"]))]
pub struct ReasonArgs {
    /// Models to compare, the teacher first: folders, files of weights, hf:OWNER/NAME[@REVISION], or bundled, the teacher inside
    /// this program
    #[arg(required = true, value_name = "MODEL")]
    pub models: Vec<PathBuf>,
    /// File of problems, one JSON object a line: "question" or "problem" or "prompt", and "answer" or "solution"
    #[arg(long, value_name = "FILE")]
    pub problems: Option<PathBuf>,
    /// So many of the generator's held-out word problems
    #[arg(long, value_name = "N", value_parser = count)]
    pub generated: Option<usize>,
    /// Generated problems of four to eight steps, not of two to four
    #[arg(long, requires = "generated")]
    pub long: bool,
    /// Generated problems of the training split, for traces
    #[arg(long, requires = "generated")]
    pub train_split: bool,
    /// Problems to take from the beginning of the file
    #[arg(long, value_name = "N", value_parser = count)]
    pub limit: Option<usize>,
    /// What each model may spend on all problems: 60s, 5m, 100000tokens or 1e15flops
    #[arg(long, value_name = "BUDGET")]
    pub budget: Budget,
    /// The budget is that of each problem on average: that of all is as many times as much
    #[arg(long)]
    pub per_problem: bool,
    /// Attempts at each problem at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64, value_parser = count)]
    pub samples: usize,
    /// Folder for completions.jsonl, curves.json, curves.csv and report.html
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Go on with the run in the folder, after Ctrl-C or with a larger budget
    #[arg(long)]
    pub resume: bool,
    /// Attempts that are written at the same time [default: what is fastest, tried before the run]
    #[arg(long, value_name = "N", value_parser = count)]
    pub batch: Option<usize>,
    /// Tokens of an attempt at most
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count)]
    pub max_tokens: usize,
    /// How varied attempts are
    #[arg(long, value_name = "T", default_value_t = 0.7, value_parser = not_negative)]
    pub temperature: f64,
    /// Which tokens may be drawn
    #[command(flatten)]
    pub truncation: TruncationArgs,
    /// Seed of the sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// End an attempt in front of this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Put the problem into a conversation, as the model's chat template forms it
    #[arg(long, conflicts_with = "raw")]
    pub chat: bool,
    /// What the conversation begins with
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Take the problem as it stands, even if the model's prompt.txt gives the form it was trained on
    #[arg(long)]
    pub raw: bool,
    /// Score attempts, for the rules weighted and best
    #[arg(long, value_enum, value_name = "JUDGE")]
    pub score: Option<ScoreArg>,
    /// Write up to N different right attempts of each problem to traces.jsonl, texts that distill takes as data
    #[arg(long, value_name = "N", value_parser = count)]
    pub traces: Option<usize>,
    /// Seconds that a model computes before it is the next one's turn
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = positive)]
    pub turn: f64,
    /// How weights are held: bf16 on the CPU and on CUDA, int8 on the CPU
    #[arg(long, value_enum, default_value_t)]
    pub weights: WeightsArg,
    /// Where to compute: flex (CPU), wgpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    pub device: DeviceChoice,
}

/// Who judges attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScoreArg {
    /// The model that wrote an attempt: the mean log-probability of its tokens, taken while they are drawn.
    Own,
    /// The first model, such as the teacher: the mean log-likelihood of the attempt's text, after the run and off the clock.
    First,
}

/// What may be spent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Seconds of computing.
    Seconds(f64),
    /// Tokens that are written.
    Tokens(f64),
    /// Operations of the products of tokens that are written.
    Flops(f64),
}

impl Budget {
    /// So many times as much.
    pub fn times(self, factor: usize) -> Self {
        let factor = factor as f64;
        match self {
            Self::Seconds(amount) => Self::Seconds(amount * factor),
            Self::Tokens(amount) => Self::Tokens(amount * factor),
            Self::Flops(amount) => Self::Flops(amount * factor),
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?}: expected a number with its unit, as in 60s, 5m, 100000tokens or 1e15flops");
        let unit =
            ["tokens", "flops", "s", "m"].into_iter().find(|unit| text.ends_with(unit)).ok_or_else(wrong)?;
        let number = text[..text.len() - unit.len()].trim();
        let amount = number.parse().ok().filter(|amount: &f64| amount.is_finite() && *amount > 0.0);
        let amount = amount.ok_or_else(wrong)?;
        Ok(match unit {
            "tokens" => Self::Tokens(amount),
            "flops" => Self::Flops(amount),
            "m" => Self::Seconds(60.0 * amount),
            _ => Self::Seconds(amount),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_number_with_a_unit() {
        assert_eq!("60s".parse(), Ok(Budget::Seconds(60.0)));
        assert_eq!("1.5m".parse(), Ok(Budget::Seconds(90.0)));
        assert_eq!("1000 tokens".parse(), Ok(Budget::Tokens(1000.0)));
        assert_eq!("1e15flops".parse(), Ok(Budget::Flops(1e15)));
        for wrong in ["60", "s", "-1s", "0tokens", "nan s", "1h", ""] {
            assert!(wrong.parse::<Budget>().is_err(), "{wrong:?} was taken");
        }
    }
}
