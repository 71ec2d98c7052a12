//! One stage of a recipe.

use serde::{Deserialize, Serialize};

use super::RolloutRecipe;
use crate::loss::Divergence;
use crate::schedule::Wsd;
use crate::stage::{HiddenTarget, LogitsLoss, Objective, StageKind, Trainable};

/// One stage: what is compared, for how long, and how fast it is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRecipe {
    /// `matrices`, `hidden` or `logits`.
    pub kind: StageKind,
    /// Tokens to train on, rounded up to whole steps.
    pub tokens: usize,
    /// Learning rate of the stable phase.
    pub lr: f64,
    /// Sequences per optimiser step.
    pub batch: usize,
    /// Tokens per sequence.
    pub seq_len: usize,
    /// Micro-batches a step is split into; divides `batch`.
    #[serde(default = "one")]
    pub accumulation: usize,
    /// Fraction of the steps that warm up.
    #[serde(default = "tenth")]
    pub warmup: f64,
    /// Fraction of the steps that decay.
    #[serde(default = "tenth")]
    pub decay: f64,
    /// What may change; absent: `mixers` in stages 1 and 2, `all` in stage 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable: Option<Trainable>,
    /// `hidden` only: what is compared; absent: `block`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<HiddenTarget>,
    /// `logits` only: absent: `cross_entropy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// `logits` only: temperature of the divergence; absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// `logits` only: share of the data's own tokens in the loss; absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard_label_weight: Option<f64>,
    /// `logits` only: weight of the mixers' outputs, compared as in stage 2, in the loss; absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixer_weight: Option<f64>,
    /// `logits` only: whether a step keeps the input of each layer alone and computes the rest again on its way back, and logits
    /// of some tokens at a time: about one more forward pass for the memory of one layer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub checkpointing: bool,
    /// `logits` only: the steps whose texts the student writes; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollouts: Option<RolloutRecipe>,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn one() -> usize {
    1
}

fn tenth() -> f64 {
    0.1
}

impl StageRecipe {
    /// What this stage minimises.
    pub fn objective(&self) -> Objective {
        match self.kind {
            StageKind::Matrices => Objective::Matrices,
            StageKind::Hidden => Objective::Hidden(self.target.unwrap_or_default()),
            StageKind::Logits => Objective::Logits(LogitsLoss {
                divergence: self.divergence.unwrap_or_default(),
                temperature: self.temperature.unwrap_or(1.0),
                hard_label_weight: self.hard_label_weight.unwrap_or(0.0),
                mixer_weight: self.mixer_weight.unwrap_or(0.0),
            }),
        }
    }

    /// What this stage may change.
    pub fn trainable(&self) -> Trainable {
        self.trainable.unwrap_or(match self.kind {
            StageKind::Matrices | StageKind::Hidden => Trainable::Mixers,
            StageKind::Logits => Trainable::All,
        })
    }

    /// What of it decides what is learned, and not in how many pieces: a run may go on with another rest.
    pub(crate) fn without_form(&self) -> Self {
        Self { accumulation: 1, checkpointing: false, ..self.clone() }
    }

    /// Whether it is held against the teacher's predictions.
    pub(crate) fn asks_for_predictions(&self) -> bool {
        self.kind == StageKind::Logits && self.hard_label_weight != Some(1.0)
    }

    /// Whether the student writes the texts of a step, counted from 0.
    pub fn is_rollout(&self, step: usize) -> bool {
        self.rollouts.is_some_and(|rollouts| rollouts.is_at(step))
    }

    /// Tokens of one optimiser step.
    pub fn tokens_per_step(&self) -> usize {
        self.batch * self.seq_len
    }

    /// Sequences of a micro-batch.
    pub fn micro_batch(&self) -> usize {
        self.batch / self.accumulation
    }

    /// Optimiser steps.
    pub fn steps(&self) -> usize {
        self.tokens.div_ceil(self.tokens_per_step())
    }

    /// The learning rate by step.
    pub fn schedule(&self) -> Wsd {
        Wsd::new(self.lr, self.steps(), self.warmup, self.decay)
    }

    /// What is impossible about this stage, in one line.
    pub(super) fn validate(&self) -> Result<(), String> {
        self.validate_sizes()?;
        self.validate_rates()?;
        self.validate_kind()?;
        self.validate_rollouts()
    }

    /// What a teacher cache cannot do for this stage.
    pub(super) fn validate_cached(&self) -> Result<(), String> {
        if self.rollouts.is_some() {
            let reason =
                "a teacher_cache holds predictions for the data, not for texts that the student writes";
            return Err(format!("{reason}; remove [teacher_cache] or rollouts"));
        }
        let divergence = self.divergence.unwrap_or_default();
        let kept = matches!(divergence, Divergence::CrossEntropy | Divergence::ForwardKl);
        if self.kind == StageKind::Logits && (!kept || self.temperature.is_some_and(|t| t != 1.0)) {
            let expected = "expected divergence \"cross_entropy\" or \"forward_kl\" at temperature 1";
            return Err(format!(
                "a teacher_cache holds the likeliest tokens alone, {expected}; remove [teacher_cache]"
            ));
        }
        Ok(())
    }

    fn validate_sizes(&self) -> Result<(), String> {
        let sizes = [
            ("tokens", self.tokens),
            ("batch", self.batch),
            ("seq_len", self.seq_len),
            ("accumulation", self.accumulation),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(format!("{name} = 0, expected at least 1"));
        }
        if !self.batch.is_multiple_of(self.accumulation) {
            let (batch, parts) = (self.batch, self.accumulation);
            return Err(format!(
                "accumulation = {parts} does not divide batch = {batch}, choose one that does"
            ));
        }
        Ok(())
    }

    fn validate_rates(&self) -> Result<(), String> {
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(format!("lr = {}, expected a number above 0", self.lr));
        }
        let fractions = self.warmup >= 0.0 && self.decay >= 0.0 && self.warmup + self.decay <= 1.0;
        if !fractions {
            let (warmup, decay) = (self.warmup, self.decay);
            return Err(format!(
                "warmup = {warmup} and decay = {decay}, expected fractions that add up to at most 1"
            ));
        }
        Ok(())
    }

    fn validate_kind(&self) -> Result<(), String> {
        let logits = self.kind == StageKind::Logits;
        let misplaced = [
            ("target", self.target.is_some() && self.kind != StageKind::Hidden, "hidden"),
            ("divergence", self.divergence.is_some() && !logits, "logits"),
            ("temperature", self.temperature.is_some() && !logits, "logits"),
            ("hard_label_weight", self.hard_label_weight.is_some() && !logits, "logits"),
            ("mixer_weight", self.mixer_weight.is_some() && !logits, "logits"),
            ("checkpointing", self.checkpointing && !logits, "logits"),
            ("rollouts", self.rollouts.is_some() && !logits, "logits"),
        ];
        if let Some((field, _, kind)) = misplaced.iter().find(|rule| rule.1) {
            return Err(format!("`{field}` belongs to a stage of kind \"{kind}\", remove it"));
        }
        if let Some(Divergence::JensenShannon(beta)) = self.divergence
            && !(beta > 0.0 && beta < 1.0)
        {
            return Err(format!("jensen_shannon = {beta}, expected a number between 0 and 1"));
        }
        if let Some(weight) = self.mixer_weight.filter(|weight| !(*weight >= 0.0 && weight.is_finite())) {
            return Err(format!("mixer_weight = {weight}, expected a number of 0 or more"));
        }
        match (self.temperature, self.hard_label_weight) {
            (Some(t), _) if t.is_nan() || t <= 0.0 => {
                Err(format!("temperature = {t}, expected a number above 0"))
            }
            (_, Some(w)) if !(0.0..=1.0).contains(&w) => {
                Err(format!("hard_label_weight = {w}, expected a number from 0 to 1"))
            }
            _ => Ok(()),
        }
    }

    fn validate_rollouts(&self) -> Result<(), String> {
        let Some(rollouts) = &self.rollouts else { return Ok(()) };
        if self.hard_label_weight.is_some() {
            let reason = "the student's own tokens are no labels";
            return Err(format!("rollouts with hard_label_weight: {reason}, remove hard_label_weight"));
        }
        rollouts.validate(self.seq_len)
    }
}
