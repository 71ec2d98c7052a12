//! Follows a run: bars, Ctrl-C, and an examination of the student after each stage.

use std::ops::ControlFlow;

use anyhow::Result;
use mamba_ssd_models::Model;
use mamba_ssd_mohawk::{Observer, StageInfo, StageReport, StepReport};

use super::describe;
use super::examine::Examiner;
use super::folder::RunFolder;
use crate::console::{duration, say, thousands};
use crate::interrupt::Interrupt;
use crate::progress::StageBar;

/// The bars of a run that Ctrl-C can stop.
#[derive(Debug)]
pub struct Bars<'a> {
    interrupt: &'a Interrupt,
    bar: Option<StageBar>,
}

impl<'a> Bars<'a> {
    /// No bar yet.
    pub fn new(interrupt: &'a Interrupt) -> Self {
        Self { interrupt, bar: None }
    }
}

impl<S> Observer<S> for Bars<'_> {
    fn on_stage_start(&mut self, stage: &StageInfo) {
        let (total, done) = (stage.steps * stage.tokens_per_step, stage.done * stage.tokens_per_step);
        self.bar = Some(StageBar::new(describe::kind(stage.kind), total, done));
    }

    fn on_step(&mut self, step: &StepReport) -> ControlFlow<()> {
        if let Some(bar) = &self.bar {
            bar.update(step);
        }
        if self.interrupt.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn on_stage_end(&mut self, _stage: &StageReport, _student: &S) {
        self.bar = None;
    }
}

/// The bars of the main run, with an examination after each stage.
#[derive(Debug)]
pub struct Watch<'a> {
    bars: Bars<'a>,
    examiner: &'a Examiner,
    folder: &'a mut RunFolder,
    failure: Option<anyhow::Error>,
}

impl<'a> Watch<'a> {
    /// Examinations go into the folder's record.
    pub fn new(interrupt: &'a Interrupt, examiner: &'a Examiner, folder: &'a mut RunFolder) -> Self {
        Self { bars: Bars::new(interrupt), examiner, folder, failure: None }
    }

    /// What went wrong while the run called back.
    ///
    /// # Errors
    /// That, if anything did.
    pub fn close(self) -> Result<()> {
        self.failure.map_or(Ok(()), Err)
    }

    /// Examines the student; a stage that was examined before an interruption is examined again.
    fn examine(&mut self, stage: &StageReport, student: &Model) -> Result<()> {
        let examination = self.examiner.examine(&format!("after {}", describe::kind(stage.kind)), student)?;
        say(format_args!(
            "{:<10} {} tokens in {} ({} tokens/s), loss {:.4} to {:.4}; {}",
            describe::kind(stage.kind),
            thousands(stage.tokens),
            duration(stage.seconds),
            thousands((stage.tokens as f64 / stage.seconds.max(1e-9)) as usize),
            stage.first_loss,
            stage.last_loss,
            describe::quality(&examination.quality)
        ));
        self.folder.record.stages.truncate(stage.stage - 1);
        self.folder.record.stages.push(examination);
        self.folder.save_record()
    }
}

impl Observer<Model> for Watch<'_> {
    fn on_stage_start(&mut self, stage: &StageInfo) {
        Observer::<Model>::on_stage_start(&mut self.bars, stage);
    }

    fn on_step(&mut self, step: &StepReport) -> ControlFlow<()> {
        let flow = Observer::<Model>::on_step(&mut self.bars, step);
        if self.failure.is_some() { ControlFlow::Break(()) } else { flow }
    }

    fn on_stage_end(&mut self, stage: &StageReport, student: &Model) {
        self.bars.on_stage_end(stage, student);
        if let Err(failure) = self.examine(stage, student) {
            self.failure.get_or_insert(failure);
        }
    }
}
