//! What a run tells the outside. The crate itself prints nothing.

use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::stage::StageKind;

/// A stage that is about to begin, or to go on after a resume.
#[derive(Clone, Debug, PartialEq)]
pub struct StageInfo {
    /// Which stage, counted from 1.
    pub stage: usize,
    /// How many stages the run has.
    pub stages: usize,
    /// What it compares.
    pub kind: StageKind,
    /// Steps of the stage.
    pub steps: usize,
    /// Steps already taken before a resume.
    pub done: usize,
    /// Tokens per step.
    pub tokens_per_step: usize,
    /// The layers whose mixers are compared.
    pub layers: Vec<usize>,
}

/// One optimiser step: a line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Which stage, counted from 1.
    pub stage: usize,
    /// What it compares.
    pub kind: StageKind,
    /// Which step of the stage, counted from 1.
    pub step: usize,
    /// Steps of the stage.
    pub steps: usize,
    /// Tokens of the stage so far.
    pub tokens: usize,
    /// Whether the student wrote its texts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rollout: bool,
    /// The stage's loss before this step's update.
    pub loss: f64,
    /// The loss of every layer, none for those that keep their attention; empty in stage 3.
    pub layers: Vec<Option<f64>>,
    /// Learning rate.
    pub lr: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Seconds this step took.
    pub seconds: f64,
    /// Seconds of these until both passes were handed to the device, on a CPU until they were computed. A GPU waits for the
    /// host where they are nearly all; but a GPU with a full queue makes the host wait, too.
    #[serde(default)]
    pub host_seconds: f64,
    /// Tokens of this step per second.
    pub tokens_per_second: f64,
    /// Bytes of its memory that the device holds for this process, where it says so: GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<u64>,
}

/// A finished stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// Which stage, counted from 1.
    pub stage: usize,
    /// What it compared.
    pub kind: StageKind,
    /// Steps taken.
    pub steps: usize,
    /// Tokens seen.
    pub tokens: usize,
    /// Seconds spent in steps.
    pub seconds: f64,
    /// Loss of the first step.
    pub first_loss: f64,
    /// Loss of the last step.
    pub last_loss: f64,
}

/// Follows a run: draws bars, examines students, stops on Ctrl-C.
pub trait Observer<S> {
    /// A stage begins, or goes on after a resume.
    fn on_stage_start(&mut self, _stage: &StageInfo) {}

    /// A step is done. `Break` writes a checkpoint and ends the run.
    fn on_step(&mut self, step: &StepReport) -> ControlFlow<()>;

    /// A stage is done; `student` is still on the autodiff device. A run killed in here comes here
    /// again when it is resumed.
    fn on_stage_end(&mut self, _stage: &StageReport, _student: &S) {}

    /// A checkpoint was written.
    fn on_checkpoint(&mut self, _path: &Path) {}
}

/// An observer that neither looks nor stops.
impl<S> Observer<S> for () {
    fn on_step(&mut self, _step: &StepReport) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
