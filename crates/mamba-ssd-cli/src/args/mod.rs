//! The command line.

mod convert;
mod distill;
mod generate;
mod measure;
mod reason;
mod sampling;
mod values;

use std::fmt;

use burn::tensor::{DType, Device, FloatDType};
use clap::{Parser, Subcommand, ValueEnum};
use mamba_ssd::WeightFormat;

use crate::device::DeviceChoice;
pub use convert::{ConvertArgs, InitArg, InspectArgs, LayersArg};
pub use distill::DistillArgs;
pub use generate::GenerateArgs;
pub use measure::{BenchArgs, CompareArgs, EvalArgs, ImportanceArgs, RankArg, WarmUpArgs};
pub use reason::{Budget, ReasonArgs, ScoreArg};
use values::threads;

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
    /// Answer problems many times within a budget, several models in turns: coverage, votes, and who passes whom
    Reason(ReasonArgs),
    /// Measure which attention layers a model needs most: those that a hybrid should keep
    Importance(ImportanceArgs),
    /// Measure how fast a model reads and writes here, beside what the machine could do at best
    Bench(BenchArgs),
    /// Compile and tune the kernels that a model needs on a GPU, once for all later runs
    WarmUp(WarmUpArgs),
    /// Show versions, threads and devices, and whether they work
    Doctor,
}

/// How weights are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum WeightsArg {
    /// As they are computed with.
    #[default]
    F32,
    /// Half the memory, and faster at writing; on CUDA everything but sums and states is then computed in it.
    Bf16,
    /// On the CPU a quarter of the memory, and faster at writing; a weight is off by up to 0.4 % of the largest in its
    /// block.
    Int8,
}

/// How a device holds a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// What it computes in.
    pub dtype: DType,
    /// How it stores weights.
    pub format: WeightFormat,
}

impl WeightsArg {
    /// Opens a device that is to hold weights so.
    ///
    /// # Errors
    /// When the device does not work, or knows no such weights.
    pub fn on(self, device: DeviceChoice) -> anyhow::Result<(Device, Held)> {
        let on_cpu = device == DeviceChoice::Flex;
        let held = |dtype: FloatDType, format| {
            anyhow::Ok((device.open_in(dtype)?, Held { dtype: dtype.into(), format }))
        };
        match self {
            Self::F32 => held(FloatDType::F32, WeightFormat::Full),
            Self::Bf16 if on_cpu => held(FloatDType::F32, WeightFormat::Bf16),
            Self::Bf16 => held(FloatDType::BF16, WeightFormat::Full),
            Self::Int8 => {
                anyhow::ensure!(
                    on_cpu,
                    "--weights int8 is for the CPU; take f32, on CUDA also bf16, or --device flex"
                );
                held(FloatDType::F32, WeightFormat::Int8)
            }
        }
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
