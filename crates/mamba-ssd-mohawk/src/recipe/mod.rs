//! A run in one TOML file: teacher, student, data, optimiser and stages.
//!
//! ```toml
//! name = "example"
//! teacher = "models/teacher"        # a checkpoint folder; absent: the bundled teacher
//! seed = 42
//! dtype = "bf16"                    # absent: f32
//!
//! [student]                         # which layers change, and how: see `ConversionPlan`
//! init = "mohawk"
//!
//! [data]
//! path = "corpus.jsonl"             # absent: the bundled generator's problems
//!
//! [[stage]]
//! kind = "matrices"
//! tokens = 1_000_000
//! lr = 1e-4
//! batch = 64                        # sequences per step ...
//! accumulation = 8                  # ... in this many micro-batches
//! seq_len = 512
//!
//! [[stage]]
//! kind = "logits"
//! tokens = 1_000_000
//! lr = 1e-5
//! batch = 16
//! seq_len = 512
//! rollouts = { share = 1.0, max_tokens = 256, temperature = 1.0 }   # the student writes the texts; absent: the data's
//! ```
//!
//! Every field is known or an error; no file includes another.

mod preset;
mod rollouts;
mod stage;

pub use preset::PRESETS;
pub use rollouts::RolloutRecipe;
pub use stage::StageRecipe;

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use mamba_ssd_convert::ConversionPlan;
use serde::{Deserialize, Serialize};

use crate::error::MohawkError;
use crate::optim::AdamWConfig;
use crate::teacher_cache::CacheRecipe;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run.
    pub name: String,
    /// Folder of the teacher's checkpoint; absent: the bundled teacher.
    #[serde(default)]
    pub teacher: Option<PathBuf>,
    /// Seed of the order of the data.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Float type that teacher and student compute in. Losses, and the weights that the optimiser moves, are in f32.
    #[serde(default)]
    pub dtype: ComputeType,
    /// How the teacher becomes a student.
    #[serde(default)]
    pub student: ConversionPlan,
    /// What both read.
    #[serde(default)]
    pub data: DataRecipe,
    /// How the student learns.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// Where the teacher's predictions are kept for stages of logits; absent: it is asked at every step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_cache: Option<CacheRecipe>,
    /// When the run is written down.
    #[serde(default)]
    pub checkpoint: CheckpointRecipe,
    /// How teacher and student are examined.
    #[serde(default)]
    pub eval: EvalRecipe,
    /// The stages, in order.
    #[serde(rename = "stage")]
    pub stages: Vec<StageRecipe>,
}

fn default_seed() -> u64 {
    42
}

/// A float type to compute in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeType {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, 8 of them of exponent: as far as f32 reaches, so that losses need no scaling.
    Bf16,
}

impl From<ComputeType> for FloatDType {
    fn from(dtype: ComputeType) -> Self {
        match dtype {
            ComputeType::F32 => Self::F32,
            ComputeType::Bf16 => Self::BF16,
        }
    }
}

/// Where documents come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataRecipe {
    /// A `.jsonl` or text file, as it is or compressed (`.gz`, `.zst`); absent: documents of the bundled generator.
    pub path: Option<PathBuf>,
    /// The JSON field that holds the text.
    pub field: String,
    /// Number of generated documents when there is no file.
    pub documents: usize,
    /// Text up to and including the first of this marker carries no loss in stage 3.
    pub prompt_marker: Option<String>,
    /// The JSON field that holds the prompt a text begins with, which carries no loss in stage 3.
    pub prompt_field: Option<String>,
    /// Whether generated documents and problems take four to eight steps, not two to four.
    pub long: bool,
    /// Whether lines of a file that cannot be read are passed over and counted, also inside a document of plain text;
    /// otherwise the first one ends the run.
    pub skip_bad_lines: bool,
}

impl Default for DataRecipe {
    fn default() -> Self {
        Self {
            path: None,
            field: "text".to_string(),
            documents: 20_000,
            prompt_marker: None,
            prompt_field: None,
            long: false,
            skip_bad_lines: false,
        }
    }
}

/// When a checkpoint is written; stage ends and stops always write one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointRecipe {
    /// Every so many steps of a stage; 0: not by steps.
    pub every_steps: usize,
    /// Every so many seconds; 0: not by time.
    pub every_seconds: u64,
}

impl Default for CheckpointRecipe {
    fn default() -> Self {
        Self { every_steps: 0, every_seconds: 60 }
    }
}

/// How much teacher and student are examined; what it means is up to the program that does it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalRecipe {
    /// A file of held-out documents; absent: the last documents of the data.
    pub path: Option<PathBuf>,
    /// Held-out documents for perplexity.
    pub documents: usize,
    /// Held-out problems to solve.
    pub problems: usize,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
}

impl Default for EvalRecipe {
    fn default() -> Self {
        Self { path: None, documents: 256, problems: 200, max_new_tokens: 160 }
    }
}

impl Recipe {
    /// Parses and validates a recipe.
    ///
    /// # Errors
    ///
    /// If the text is no TOML, has an unknown field, or asks for something impossible.
    pub fn from_toml(text: &str) -> Result<Self, MohawkError> {
        let recipe: Self = toml::from_str(text).map_err(|error| MohawkError::Recipe(one_line(&error)))?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// Reads a recipe file.
    ///
    /// # Errors
    ///
    /// As [`from_toml`](Self::from_toml), and if the file cannot be read.
    pub fn from_file(path: &Path) -> Result<Self, MohawkError> {
        let text = fs::read_to_string(path).map_err(MohawkError::io(path))?;
        Self::from_toml(&text).map_err(|error| match error {
            MohawkError::Recipe(reason) => MohawkError::Recipe(format!("{}: {reason}", path.display())),
            other => other,
        })
    }

    /// One of the recipes that come with the crate.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    pub fn preset(name: &str) -> Result<Self, MohawkError> {
        let (_, text) = PRESETS.iter().find(|(preset, _)| *preset == name).ok_or_else(|| {
            let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
            MohawkError::Recipe(format!("no preset `{name}`, expected one of {}", names.join(", ")))
        })?;
        Self::from_toml(text)
    }

    /// The recipe as TOML.
    ///
    /// # Errors
    ///
    /// If a number does not fit into TOML.
    pub fn to_toml(&self) -> Result<String, MohawkError> {
        toml::to_string(self).map_err(|error| MohawkError::Recipe(error.to_string()))
    }

    /// Checks what types cannot express. Call it after changing a recipe.
    ///
    /// # Errors
    ///
    /// One line naming the first thing that is impossible.
    pub fn validate(&self) -> Result<(), MohawkError> {
        if self.stages.is_empty() {
            return Err(MohawkError::Recipe("found no [[stage]], expected at least one".to_string()));
        }
        for (index, stage) in self.stages.iter().enumerate() {
            let reason = |reason| MohawkError::Recipe(format!("stage {}: {reason}", index + 1));
            stage.validate().map_err(reason)?;
            if self.teacher_cache.is_some() {
                stage.validate_cached().map_err(reason)?;
            }
        }
        if self.teacher_cache.as_ref().is_some_and(|cache| cache.top_k == 0) {
            return Err(MohawkError::Recipe("teacher_cache: top_k = 0, expected at least 1".into()));
        }
        self.validate_optimizer()
    }

    /// Checks that so many devices can share the rows of every micro-batch.
    ///
    /// # Errors
    ///
    /// One line naming the first stage whose rows do not divide, or that has rollouts and several devices.
    pub fn check_replicas(&self, replicas: usize) -> Result<(), MohawkError> {
        for (index, stage) in self.stages.iter().enumerate() {
            if replicas > 1 && stage.rollouts.is_some() {
                let found = format!("stage {}: rollouts on several devices are not built", index + 1);
                return Err(MohawkError::Preflight(format!("{found}; train on one, or remove rollouts")));
            }
            if replicas == 0 || !stage.micro_batch().is_multiple_of(replicas) {
                let (stage, rows) = (index + 1, stage.micro_batch());
                let found = format!(
                    "stage {stage}: {rows} sequences (batch over accumulation) on {replicas} devices"
                );
                return Err(MohawkError::Preflight(format!("{found}, expected a number that they divide")));
            }
        }
        Ok(())
    }

    fn validate_optimizer(&self) -> Result<(), MohawkError> {
        let AdamWConfig { beta1, beta2, epsilon, weight_decay, clip } = self.optimizer;
        let rules = [
            ((0.0..1.0).contains(&beta1), "beta1", beta1, "in [0, 1)"),
            ((0.0..1.0).contains(&beta2), "beta2", beta2, "in [0, 1)"),
            (epsilon > 0.0, "epsilon", epsilon, "above 0"),
            (weight_decay >= 0.0, "weight_decay", weight_decay, "0 or more"),
            (clip >= 0.0, "clip", clip, "0 or more"),
        ];
        match rules.iter().find(|rule| !rule.0) {
            Some((_, name, found, expected)) => {
                let line = format!("optimizer: {name} = {found}, expected a number {expected}");
                Err(MohawkError::Recipe(line))
            }
            None => Ok(()),
        }
    }

    /// Tokens of all stages.
    pub fn tokens(&self) -> usize {
        self.stages.iter().map(|stage| stage.steps() * stage.tokens_per_step()).sum()
    }
}

/// TOML errors draw the line they are about; the reader of an error line wants one line.
fn one_line(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let place = text.lines().next().unwrap_or_default().trim_start_matches("TOML parse error ");
    format!("{}: {}", place, error.message().replace('\n', " "))
}

#[cfg(test)]
mod tests;
