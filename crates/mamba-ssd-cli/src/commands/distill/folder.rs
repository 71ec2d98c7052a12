//! The folder of a run: what a resumed run needs, and what a finished one leaves.
//!
//! | file | written | holds |
//! |---|---|---|
//! | `recipe.toml` | first | the resolved recipe |
//! | `run.json` | after each examination | the [`Record`] |
//! | `checkpoint.safetensors` | while training | weights, optimiser, data cursor |
//! | `metrics.jsonl` | while training | a line for each step |
//! | `student/`, `summary.json`, `report.html` | last | the result |

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use mamba_ssd_mohawk::{CHECKPOINT, Recipe};
use serde::{Deserialize, Serialize};

use crate::args::DistillArgs;
use crate::device::DeviceChoice;
use crate::files::{self, OutputFolder};
use crate::hub;
use crate::summary::Quality;

/// The resolved recipe.
pub const RECIPE: &str = "recipe.toml";
const RECORD: &str = "run.json";
const PRESET: &str = "demo";
const RUNS: &str = "runs";

/// How a model did on the held-out texts and problems.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Examination {
    /// The figures.
    pub quality: Quality,
    /// Its answers to the first problems, as text.
    pub answers: Vec<String>,
}

/// One student of the ablation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Index of the recipe's stage it began with.
    pub first_stage: usize,
    /// Its seed.
    pub seed: u64,
    /// How good it became.
    pub quality: Quality,
}

/// What a run was asked for beside its recipe, and what it has measured so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Number of seeds of the ablation; 0 without one.
    pub ablation_seeds: u64,
    /// The teacher.
    pub teacher: Option<Examination>,
    /// The student before the first stage.
    pub start: Option<Examination>,
    /// The student after each stage that is done.
    pub stages: Vec<Examination>,
    /// The ablation's students that are done.
    pub trials: Vec<Trial>,
    /// Nothing is left to do.
    pub finished: bool,
}

/// An open run folder.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Removes a new folder that stayed empty.
    _claim: Option<OutputFolder>,
    /// The resolved recipe.
    pub recipe: Recipe,
    /// What has been measured.
    pub record: Record,
    /// The folder held a run before.
    pub resumed: bool,
    /// The arguments that say where to compute.
    place: String,
}

impl RunFolder {
    /// Opens the folder that the command line asks for. A new one stays empty until [`RunFolder::begin`].
    ///
    /// # Errors
    /// When the recipe is wrong, the folder cannot be used, or there is nothing to resume in it.
    pub fn open(args: &DistillArgs) -> Result<Self> {
        match &args.resume {
            Some(path) => Self::reopen(path, args),
            None => Self::create(args),
        }
    }

    fn create(args: &DistillArgs) -> Result<Self> {
        let mut recipe = match &args.recipe {
            Some(path) => Recipe::from_file(path)?,
            None => Recipe::preset(args.preset.as_deref().unwrap_or(PRESET))?,
        };
        resolve(&mut recipe, args)?;
        let default = || files::unused(Path::new(RUNS), &recipe.name);
        let path = args.out.clone().unwrap_or_else(default);
        let claim = OutputFolder::claim(&path, "with --out")?;
        let record =
            Record { ablation_seeds: if args.ablation { args.seeds } else { 0 }, ..Record::default() };
        Ok(Self { path, _claim: Some(claim), recipe, record, resumed: false, place: place(args) })
    }

    fn reopen(path: &Path, args: &DistillArgs) -> Result<Self> {
        let [record, recipe] = [RECORD, RECIPE].map(|name| path.join(name));
        if !recipe.exists() {
            bail!(
                "{} holds no run ({RECIPE} is missing); give --resume the folder of an interrupted run",
                path.display()
            );
        }
        let record: Record = match record.exists() {
            true => serde_json::from_str(&files::read(&record)?)
                .with_context(|| format!("{} is damaged", record.display()))?,
            false => Record::default(), // killed between its first two files
        };
        ensure!(!record.finished, "the run in {} is finished; its report is report.html", path.display());
        let recipe = Recipe::from_file(&recipe)?;
        Ok(Self { path: path.to_path_buf(), _claim: None, recipe, record, resumed: true, place: place(args) })
    }

    /// Writes the first files of a new run.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn begin(&self) -> Result<()> {
        if self.resumed {
            return Ok(());
        }
        files::write(&self.path.join(RECIPE), self.recipe.to_toml()?)?;
        self.save_record()
    }

    /// Writes the record.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn save_record(&self) -> Result<()> {
        files::write(&self.path.join(RECORD), serde_json::to_string_pretty(&self.record)?)
    }

    /// Marks the run as finished and drops what only a resumed run needs.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn finish(&mut self) -> Result<()> {
        self.record.finished = true;
        self.save_record()?;
        let checkpoint = self.path.join(CHECKPOINT);
        std::fs::remove_file(&checkpoint).with_context(|| format!("cannot remove {}", checkpoint.display()))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The command that continues this run.
    pub fn resume_command(&self) -> String {
        format!("mamba-ssd distill --resume {}{}", self.path.display(), self.place)
    }
}

fn place(args: &DistillArgs) -> String {
    let device = match args.device {
        DeviceChoice::Flex => String::new(),
        device => format!(" --device {device}"),
    };
    let replicas = if args.replicas > 1 { format!(" --replicas {}", args.replicas) } else { String::new() };
    device + &replicas
}

/// Applies the command line to the recipe, and makes its paths independent of the working directory.
fn resolve(recipe: &mut Recipe, args: &DistillArgs) -> Result<()> {
    if let Some(teacher) = &args.teacher {
        recipe.teacher = Some(hub::local(teacher)?);
    }
    let cache = recipe.teacher_cache.as_mut().map(|cache| &mut cache.path);
    let named = [&mut recipe.teacher, &mut recipe.data.path, &mut recipe.eval.path].into_iter().flatten();
    for path in named.chain(cache) {
        *path = std::path::absolute(&*path).with_context(|| format!("cannot resolve {}", path.display()))?;
    }
    shrink(recipe, args.scale);
    Ok(recipe.validate()?)
}

/// Scales every budget, leaving at least enough to run on.
fn shrink(recipe: &mut Recipe, scale: f64) {
    let scaled = |count: usize, least: usize| ((count as f64 * scale).ceil() as usize).max(least.min(count));
    for stage in &mut recipe.stages {
        stage.tokens = scaled(stage.tokens, 1);
    }
    recipe.data.documents = scaled(recipe.data.documents, 64);
    recipe.eval.documents = scaled(recipe.eval.documents, 4);
    recipe.eval.problems = scaled(recipe.eval.problems, 4);
}
