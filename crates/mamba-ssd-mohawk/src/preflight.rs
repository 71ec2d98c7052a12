//! Everything that can be known to go wrong, before any training.
//!
//! Shapes, heads, vocabulary and tokenizer are compared; then every stage takes one backward pass
//! on one row of the data, which tells the scale of its first loss and which parameters it trains.
//! Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use burn::tensor::{Int, Tensor};
use mamba_ssd::{Backbone, MatrixMixer};

use crate::backward::Pass;
use crate::data::{Batch, Cursor, Dataset, Loader};
use crate::error::MohawkError;
use crate::gradients::Place;
use crate::loss::hidden_alignment;
use crate::parameters::{Parameter, parameters, train_only};
use crate::recipe::{Recipe, StageRecipe};
use crate::rollouts::prompts;
use crate::stage::{Objective, StageKind, mixer_layers};

/// What a run is about to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Preflight {
    /// Every parameter of the student.
    pub parameters: Vec<ParameterPlan>,
    /// Every stage of the recipe.
    pub stages: Vec<StagePlan>,
    /// What looks wrong but need not be, one line each.
    pub warnings: Vec<String>,
}

/// Where a parameter comes from and who trains it.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterPlan {
    /// Module path.
    pub path: String,
    /// Number of elements.
    pub count: usize,
    /// Whether the teacher has the same values at the same path.
    pub copied: bool,
    /// The stages whose loss reaches it, counted from 1.
    pub trained_by: Vec<usize>,
}

/// A stage in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePlan {
    /// What it compares.
    pub kind: StageKind,
    /// Optimiser steps.
    pub steps: usize,
    /// Tokens.
    pub tokens: usize,
    /// Parameters that its loss reaches.
    pub trained: usize,
    /// Loss of the untrained student on one row.
    pub loss: f64,
    /// What a loss of a sound start stays below.
    pub limit: f64,
}

/// Examines a run. `tokenizer_vocab` is the number of tokens that the tokenizer can produce.
///
/// # Errors
///
/// One line saying what does not fit: what was found, what was expected, what to do.
pub fn preflight<T: Backbone, S: Backbone>(
    recipe: &Recipe,
    data: &Dataset,
    teacher: &T,
    student: &S,
    tokenizer_vocab: Option<usize>,
) -> Result<Preflight, MohawkError> {
    recipe.validate()?;
    check_devices(teacher, student)?;
    check_shapes(recipe, teacher, student)?;
    check_vocabulary(data, student, tokenizer_vocab)?;
    check_prompts(recipe, data)?;
    let teacher = teacher.clone().no_grad();
    let mut plans = plan_parameters(&teacher, student);
    let mut stages = Vec::new();
    for (index, stage) in recipe.stages.iter().enumerate() {
        let (plan, reached) = probe(recipe, index, data, &teacher, student)?;
        for plan in plans.iter_mut().filter(|plan| reached.contains(&plan.path)) {
            plan.trained_by.push(index + 1);
        }
        let trained = plans.iter().filter(|p| reached.contains(&p.path)).map(|p| p.count).sum();
        let (kind, steps) = (stage.kind, stage.steps());
        let tokens = steps * stage.tokens_per_step();
        stages.push(StagePlan { kind, steps, tokens, trained, loss: plan.loss, limit: plan.limit });
    }
    let warnings = warnings(recipe, &plans, &stages);
    Ok(Preflight { parameters: plans, stages, warnings })
}

fn fail<V>(reason: String) -> Result<V, MohawkError> {
    Err(MohawkError::Preflight(reason))
}

fn check_devices<T: Backbone, S: Backbone>(teacher: &T, student: &S) -> Result<(), MohawkError> {
    let (of_teacher, of_student) = (teacher.devices(), student.devices());
    if of_student.iter().chain(&of_teacher).any(|device| !device.is_autodiff()) {
        return fail("a device without autodiff, expected teacher and student on `device.autodiff()`".into());
    }
    if of_teacher != of_student || of_student.len() != 1 {
        let found = format!("teacher on {of_teacher:?}, student on {of_student:?}");
        return fail(format!("{found}, expected one device for both"));
    }
    Ok(())
}

fn check_shapes<T: Backbone, S: Backbone>(
    recipe: &Recipe,
    teacher: &T,
    student: &S,
) -> Result<(), MohawkError> {
    let sizes = [
        ("layers", student.n_layers(), teacher.n_layers()),
        ("d_model", student.d_model(), teacher.d_model()),
        ("vocabulary", student.vocab_size(), teacher.vocab_size()),
    ];
    if let Some((name, student, teacher)) = sizes.iter().find(|(_, student, teacher)| student != teacher) {
        let reason = format!("{name}: student {student}, teacher {teacher}, expected the same");
        return fail(format!("{reason}; convert the student from this teacher"));
    }
    let layers = mixer_layers(student);
    if layers.is_empty() {
        return fail(
            "the student has only attention, expected at least one mixer; see [student] layers".into(),
        );
    }
    if !recipe.stages.iter().any(|stage| stage.kind == StageKind::Matrices) {
        return Ok(());
    }
    for layer in layers {
        let (heads, expected) = (student.mixer(layer).n_heads(), teacher.mixer(layer).n_heads());
        if heads != expected {
            let reason = format!("layer {layer}: student {heads} heads, teacher {expected} query heads");
            return fail(format!(
                "{reason}; give the student {expected} heads or leave out stage \"matrices\""
            ));
        }
    }
    Ok(())
}

fn check_vocabulary<S: Backbone>(
    data: &Dataset,
    student: &S,
    tokenizer_vocab: Option<usize>,
) -> Result<(), MohawkError> {
    let vocab = student.vocab_size();
    if let Some(tokens) = tokenizer_vocab.filter(|&tokens| tokens > vocab) {
        let reason = format!("the tokenizer has {tokens} tokens, the models {vocab}");
        return fail(format!("{reason}; use the tokenizer of this teacher"));
    }
    let largest = data.max_token() as usize;
    if largest >= vocab {
        let reason = format!("the data holds token {largest}, the models know 0 to {}", vocab - 1);
        return fail(format!("{reason}; use the tokenizer of this teacher"));
    }
    Ok(())
}

fn check_prompts(recipe: &Recipe, data: &Dataset) -> Result<(), MohawkError> {
    let stages = recipe.stages.iter().enumerate();
    let mut written = stages.filter(|(_, stage)| stage.rollouts.is_some());
    written.try_for_each(|(index, stage)| prompts(data, index, stage.seq_len).map(drop))
}

/// Compares parameters of the same path and shape on the device and reads all answers at once.
fn plan_parameters<T: Backbone, S: Backbone>(teacher: &T, student: &S) -> Vec<ParameterPlan> {
    let of_teacher: BTreeMap<String, Parameter> =
        parameters(teacher).into_iter().map(|parameter| (parameter.path.clone(), parameter)).collect();
    let mut plans = Vec::new();
    let mut answers: Vec<Tensor<1, Int>> = Vec::new();
    let mut asked = Vec::new();
    for (index, Parameter { path, shape, value, .. }) in parameters(student).into_iter().enumerate() {
        let same = of_teacher.get(&path).filter(|t| t.shape == shape && t.value.dtype() == value.dtype());
        if let Some(same) = same {
            answers.push(value.equal(same.value.clone()).all().int());
            asked.push(index);
        }
        let count = shape.iter().product();
        plans.push(ParameterPlan { path, count, copied: false, trained_by: Vec::new() });
    }
    if !answers.is_empty() {
        let answers = Tensor::cat(answers, 0).into_data();
        asked
            .into_iter()
            .zip(answers.iter::<i64>())
            .for_each(|(index, same)| plans[index].copied = same != 0);
    }
    plans
}

struct Probe {
    loss: f64,
    limit: f64,
}

/// One backward pass of a stage on one row: its loss, and the paths it reaches.
fn probe<T: Backbone, S: Backbone>(
    recipe: &Recipe,
    index: usize,
    data: &Dataset,
    teacher: &T,
    student: &S,
) -> Result<(Probe, BTreeSet<String>), MohawkError> {
    let stage = &recipe.stages[index];
    let pass = Pass { objective: stage.objective(), checkpointing: stage.checkpointing };
    let student = train_only(student.clone(), &stage.trainable().ids(student));
    let device = student.devices().swap_remove(0);
    let batch = Loader::new(data, stage.seq_len, recipe.seed, Cursor::default()).next_batch(1, &device);
    let (terms, gradients) = pass.backward(teacher, &student, vec![(batch.clone(), batch.counts)]);
    let place = Place { stage: index + 1, step: 0 };
    let reading = terms.read(&gradients.squared(), place)?;
    let reached = gradients.paths().map(str::to_string).collect();
    let limit = limit(stage, &pass.objective, teacher, &batch);
    Ok((Probe { loss: reading.loss(), limit }, reached))
}

/// The scale of a sound start.
///
/// Stage 1: the rows of a teacher's matrix sum to one, so its norm is at most √t; ten times that
/// per layer. Stage 2: ten times the norm of what the student should have put out. Stage 3: twice
/// the ln v of a uniform guess.
fn limit<T: Backbone>(stage: &StageRecipe, objective: &Objective, teacher: &T, batch: &Batch) -> f64 {
    let layers = teacher.n_layers() as f64;
    match objective {
        Objective::Matrices => 10.0 * layers * (stage.seq_len as f64).sqrt(),
        Objective::Hidden(_) => {
            let states = teacher.hidden_states(batch.tokens.clone(), batch.segments.as_ref());
            let norms = states.into_iter().map(|state| hidden_alignment(state.zeros_like(), state, None));
            let norms = Tensor::cat(norms.collect(), 0).into_data();
            10.0 * norms.iter::<f64>().sum::<f64>()
        }
        Objective::Logits { .. } => 2.0 * (teacher.vocab_size() as f64).ln(),
    }
}

fn warnings(recipe: &Recipe, plans: &[ParameterPlan], stages: &[StagePlan]) -> Vec<String> {
    let high =
        stages.iter().enumerate().filter(|(_, stage)| stage.loss > stage.limit).map(|(index, stage)| {
            let (loss, limit) = (stage.loss, stage.limit);
            format!("stage {}: first loss {loss:.4e}, a sound start stays below {limit:.4e}", index + 1)
        });
    let idle = plans.iter().filter(|plan| !plan.copied && plan.trained_by.is_empty());
    let idle = idle.map(|plan| format!("{} is neither copied nor trained by any stage", plan.path));
    let silent = recipe.stages.iter().enumerate().filter(|(_, stage)| {
        stage.rollouts.is_some() && !(0..stage.steps()).any(|step| stage.is_rollout(step))
    });
    let silent = silent.map(|(index, stage)| {
        let (stage, steps) = (index + 1, stage.steps());
        format!("stage {stage}: the share of rollouts is less than one of its {steps} steps")
    });
    high.chain(idle).chain(silent).collect()
}

impl Preflight {
    /// Parameters of the student.
    pub fn n_params(&self) -> usize {
        self.parameters.iter().map(|plan| plan.count).sum()
    }

    /// Parameters that equal the teacher's.
    pub fn n_copied(&self) -> usize {
        self.parameters.iter().filter(|plan| plan.copied).map(|plan| plan.count).sum()
    }
}

impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, copied) = (self.n_params(), self.n_copied());
        writeln!(f, "student      {all} parameters: {copied} copied, {} initialised", all - copied)?;
        for (index, stage) in self.stages.iter().enumerate() {
            let StagePlan { kind, steps, tokens, trained, loss, limit } = stage;
            let kind = format!("{kind:?}").to_lowercase();
            write!(f, "stage {} {kind:<9}  {steps} steps, {tokens} tokens, ", index + 1)?;
            writeln!(f, "{trained} parameters trained, first loss {loss:.4} (sound below {limit:.4})")?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}
