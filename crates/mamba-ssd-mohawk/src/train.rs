//! The training loop.
//!
//! For each stage, for each step: batches; the stage's terms, each with its own backward pass; one
//! look at all losses and gradient norms; clip; AdamW; a line of metrics. The optimiser starts
//! afresh in every stage. The teacher is frozen and lives on the student's autodiff device. With several
//! devices every one of them runs this loop on its part of the batches ([`replica`](crate::replica)).

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use mamba_ssd::Backbone;

use crate::backward::Pass;
use crate::checkpoint::{self, CHECKPOINT, Identity, Progress};
use crate::data::{Batch, Counts, Dataset, Loader};
use crate::error::MohawkError;
use crate::gradients::{Place, Reading};
use crate::metrics::Metrics;
use crate::observer::{Observer, StageInfo, StageReport, StepReport};
use crate::optim::AdamW;
use crate::parameters::train_only;
use crate::recipe::{Recipe, StageRecipe};
use crate::replica::Replica;
use crate::rollouts::{Author, Rollouts};
use crate::stage::mixer_layers;
use crate::teacher_cache::TeacherCache;

/// Name of the metrics in a run's folder.
pub const METRICS: &str = "metrics.jsonl";

/// A distillation that is set up.
#[derive(Debug)]
pub struct Distillation<'a, T, S> {
    recipe: &'a Recipe,
    data: &'a Dataset,
    teacher: T,
    student: S,
    optimizer: AdamW,
    progress: Progress,
    folder: Option<PathBuf>,
    resumed: bool,
    devices: Vec<Device>,
    author: Option<&'a dyn Author<S>>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome<S> {
    /// The student, on the autodiff device.
    pub student: S,
    /// The stages that are done.
    pub stages: Vec<StageReport>,
    /// Whether all stages are done; otherwise the observer stopped the run.
    pub finished: bool,
}

impl<'a, T: Backbone, S: Backbone> Distillation<'a, T, S> {
    /// A run that keeps nothing on disk. `teacher` and `student` are on one autodiff device.
    pub fn new(recipe: &'a Recipe, data: &'a Dataset, teacher: T, student: S) -> Self {
        Self {
            recipe,
            data,
            teacher: teacher.no_grad(),
            student,
            optimizer: AdamW::new(recipe.optimizer),
            progress: Progress::default(),
            folder: None,
            resumed: false,
            devices: Vec::new(),
            author: None,
        }
    }

    /// Lets the student write by `author` in stages with rollouts.
    pub fn written_by(mut self, author: &'a dyn Author<S>) -> Self {
        self.author = Some(author);
        self
    }

    /// Trains on these further autodiff devices, too: each takes an equal part of every micro-batch. The result is that of
    /// one device up to rounding, and a run may be resumed on another number of them. The CPU may be named several times.
    ///
    /// # Errors
    ///
    /// If the rows of a micro-batch do not divide among the devices, or a stage has rollouts.
    ///
    /// # Panics
    ///
    /// If a device has no autodiff.
    pub fn and_on(mut self, devices: &[Device]) -> Result<Self, MohawkError> {
        assert!(devices.iter().all(Device::is_autodiff), "a device without autodiff");
        self.recipe.check_replicas(1 + devices.len())?;
        self.devices = devices.to_vec();
        Ok(self)
    }

    /// Writes metrics and checkpoints into `folder`, which exists.
    ///
    /// # Errors
    ///
    /// If it already holds a checkpoint.
    pub fn in_folder(mut self, folder: &Path) -> Result<Self, MohawkError> {
        let path = folder.join(CHECKPOINT);
        if path.exists() {
            let reason = "there already, resume it or choose another folder";
            return Err(MohawkError::checkpoint(&path, reason));
        }
        self.folder = Some(folder.to_path_buf());
        Ok(self)
    }

    /// Goes on with the run in `folder`, and writes into it. A run that was killed before it began
    /// starts with the student that was given.
    ///
    /// # Errors
    ///
    /// If the checkpoint is damaged, or was written with another recipe, data or student.
    pub fn resume(mut self, folder: &Path) -> Result<Self, MohawkError> {
        let path = folder.join(CHECKPOINT);
        self.folder = Some(folder.to_path_buf());
        if path.exists() {
            let identity = Identity::of(self.recipe, self.data);
            let restored = checkpoint::load(&path, &identity, self.student)?;
            self.student = restored.student;
            self.optimizer = restored.optimizer;
            self.progress = restored.progress;
            self.resumed = true;
        }
        Ok(self)
    }

    /// How far the run has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Runs until all stages are done or the observer stops it.
    ///
    /// # Errors
    ///
    /// If a loss or a gradient is not finite, a file cannot be written, or there is nobody to write rollouts or no prompt for
    /// them.
    ///
    /// # Panics
    ///
    /// If the student is on a device without autodiff, or shapes do not fit: see
    /// [`preflight`](crate::preflight).
    pub fn run<O: Observer<S>>(self, observer: &mut O) -> Result<Outcome<S>, MohawkError> {
        let device = self.student.devices().swap_remove(0);
        assert!(device.is_autodiff(), "the student's device has no autodiff");
        for stage in 0..self.recipe.stages.len() {
            Rollouts::of(self.recipe, stage, self.data, self.author)?;
        }
        let mut journal = Journal::open(&self)?;
        if let Some(journal) = journal.as_mut().filter(|_| !self.resumed) {
            // A run killed before its first step resumes from the very student it began with.
            journal.save(&self.progress, &self.student, &self.optimizer)?;
        }
        let cache = self.recipe.teacher_cache.as_ref();
        let cache = cache.map(|cache| TeacherCache::open(cache, self.data, &self.teacher)).transpose()?;
        let devices: Vec<Device> = [device].into_iter().chain(self.devices.clone()).collect();
        let mut others = Replica::team(&devices);
        let first = others.remove(0);
        let Self { recipe, data, teacher, student, optimizer, progress, author, .. } = self;
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for replica in others {
                let (teacher, optimizer, progress) = (teacher.clone(), optimizer.clone(), progress.clone());
                let (journal, cache) = (None, cache.clone());
                let run = Run { recipe, data, teacher, optimizer, progress, journal, replica, cache };
                let student = student.clone();
                let beside = move || {
                    run.on_its_device(student, |run, student| run.stages(student, None, &mut ())).map(drop)
                };
                let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, beside);
                threads.push(thread.map_err(MohawkError::io(Path::new("a thread for each device")))?);
            }
            let run = Run { recipe, data, teacher, optimizer, progress, journal, replica: first, cache };
            let mut outcome = run.stages(student, author, observer);
            for thread in threads {
                match thread.join() {
                    Err(panic) => std::panic::resume_unwind(panic), // why the others stopped
                    // That another is gone is the least that can be said.
                    Ok(Err(why)) if matches!(outcome, Err(MohawkError::Replica(_))) => outcome = Err(why),
                    Ok(_) => {}
                }
            }
            outcome
        })
    }
}

/// Bytes of the stack of a replica's thread, as deep as a main thread's, and more.
const STACK: usize = 16 << 20;

/// A run in progress, as one device sees it. The student travels by value: every step makes a new one.
struct Run<'a, T> {
    recipe: &'a Recipe,
    data: &'a Dataset,
    teacher: T,
    optimizer: AdamW,
    progress: Progress,
    journal: Option<Journal>,
    replica: Replica,
    cache: Option<TeacherCache>,
}

impl<T: Backbone> Run<'_, T> {
    /// The same after all that is needed was copied to the replica's device.
    fn on_its_device<S: Backbone, R>(mut self, student: S, go: impl FnOnce(Self, S) -> R) -> R {
        let device = self.replica.device().clone();
        self.teacher = self.teacher.fork(&device);
        self.optimizer = self.optimizer.to_device(&device.clone().inner());
        let student = student.fork(&device);
        go(self, student)
    }

    /// Runs the stages that are left.
    fn stages<S: Backbone, O: Observer<S>>(
        mut self,
        mut student: S,
        author: Option<&dyn Author<S>>,
        observer: &mut O,
    ) -> Result<Outcome<S>, MohawkError> {
        while self.progress.stage < self.recipe.stages.len() {
            let (next, flow) = self.stage(student, author, observer)?;
            student = next;
            if flow.is_break() {
                break;
            }
        }
        let finished = self.progress.stage == self.recipe.stages.len();
        Ok(Outcome { student, stages: self.progress.completed, finished })
    }

    /// Runs the current stage from the current step on.
    fn stage<S: Backbone, O: Observer<S>>(
        &mut self,
        student: S,
        author: Option<&dyn Author<S>>,
        observer: &mut O,
    ) -> Result<(S, ControlFlow<()>), MohawkError> {
        let stage = &self.recipe.stages[self.progress.stage];
        let trainable = stage.trainable().ids(&student);
        let mut student = train_only(student, &trainable);
        let seed = self.recipe.seed.wrapping_add(self.progress.stage as u64);
        let mut loader = Loader::new(self.data, stage.seq_len, seed, self.progress.cursor);
        if self.cache_of(stage).is_some() {
            loader = loader.aligned();
        }
        let rollouts = Rollouts::of(self.recipe, self.progress.stage, self.data, author)?;
        observer.on_stage_start(&self.info(stage, &student));
        while self.progress.step < stage.steps() {
            let (next, report) = self.step(student, stage, &mut loader, rollouts.as_ref())?;
            student = next;
            let flow = observer.on_step(&report);
            let finished = self.progress.step == stage.steps();
            self.record(&report, &student, observer, finished || flow.is_break())?;
            if self.replica.agree(flow.is_break())? {
                return Ok((student, ControlFlow::Break(())));
            }
        }
        self.end_stage(stage, &student, observer)?;
        Ok((student, ControlFlow::Continue(())))
    }

    /// Where the teacher's predictions are kept, if the stage asks for them.
    fn cache_of(&self, stage: &StageRecipe) -> Option<&TeacherCache> {
        self.cache.as_ref().filter(|_| stage.asks_for_predictions())
    }

    fn info<S: Backbone>(&self, stage: &StageRecipe, student: &S) -> StageInfo {
        StageInfo {
            stage: self.progress.stage + 1,
            stages: self.recipe.stages.len(),
            kind: stage.kind,
            steps: stage.steps(),
            done: self.progress.step,
            tokens_per_step: stage.tokens_per_step(),
            layers: mixer_layers(student),
        }
    }

    /// One optimiser step.
    fn step<S: Backbone>(
        &mut self,
        student: S,
        stage: &StageRecipe,
        loader: &mut Loader<'_>,
        rollouts: Option<&Rollouts<'_, S>>,
    ) -> Result<(S, StepReport), MohawkError> {
        let started = Instant::now();
        let step = self.progress.step;
        let batches = match rollouts.filter(|_| stage.is_rollout(step)) {
            Some(rollouts) => self.batches(stage, &mut rollouts.texts(&student, step)?.rows())?,
            None => self.batches(stage, loader)?,
        };
        let pass = Pass { objective: stage.objective(), checkpointing: stage.checkpointing };
        let (terms, gradients) = pass.backward(&self.teacher, &student, batches);
        self.replica.settle();
        let (terms, gradients) = (terms.sum_over(&self.replica)?, gradients.sum_over(&self.replica)?);
        let host_seconds = started.elapsed().as_secs_f64();
        let place = Place { stage: self.progress.stage + 1, step: self.progress.step + 1 };
        let lr = stage.schedule().lr(self.progress.step);
        let squared = gradients.squared();
        let scale = self.replica.of_first(squared.clip(self.recipe.optimizer.clip))?;
        let student = self.optimizer.step(student, gradients, lr, &scale);
        let reading = terms.read(&squared, place)?; // the only wait for the device

        let seconds = started.elapsed().as_secs_f64();
        self.advance(stage, loader, &reading, seconds);
        let layers = terms.by_layer(&reading, student.n_layers());
        Ok((student, self.report(stage, &reading, layers, lr, [host_seconds, seconds])))
    }

    /// The next micro-batches of a step.
    fn batches(
        &self,
        stage: &StageRecipe,
        loader: &mut Loader<'_>,
    ) -> Result<Vec<(Batch, Counts)>, MohawkError> {
        let (rows, device) = (stage.micro_batch(), self.replica.device());
        let part = self.replica.part(rows);
        let next = |_| {
            let (mut batch, all) = loader.next_part(rows, part.clone(), device);
            if let Some(cache) = self.cache_of(stage) {
                batch.kept = Some(cache.of(&self.teacher, &batch)?);
            }
            Ok((batch, all))
        };
        (0..stage.accumulation).map(next).collect()
    }

    fn advance(&mut self, stage: &StageRecipe, loader: &Loader<'_>, reading: &Reading, seconds: f64) {
        let progress = &mut self.progress;
        let loss = reading.loss();
        if progress.step == 0 {
            progress.first_loss = loss;
        }
        progress.step += 1;
        progress.tokens += stage.tokens_per_step();
        progress.seconds += seconds;
        progress.last_loss = loss;
        progress.cursor = loader.cursor();
    }

    fn report(
        &self,
        stage: &StageRecipe,
        reading: &Reading,
        layers: Vec<Option<f64>>,
        lr: f64,
        [host_seconds, seconds]: [f64; 2],
    ) -> StepReport {
        StepReport {
            stage: self.progress.stage + 1,
            kind: stage.kind,
            step: self.progress.step,
            steps: stage.steps(),
            tokens: self.progress.tokens,
            rollout: stage.is_rollout(self.progress.step - 1),
            loss: reading.loss(),
            layers,
            lr,
            grad_norm: reading.norm,
            seconds,
            host_seconds,
            tokens_per_second: stage.tokens_per_step() as f64 / seconds,
            device_bytes: self.replica.device().memory_pool_usage().map(|usage| usage.bytes_reserved),
        }
    }

    fn record<S: Backbone, O: Observer<S>>(
        &mut self,
        report: &StepReport,
        student: &S,
        observer: &mut O,
        must_save: bool,
    ) -> Result<(), MohawkError> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        journal.metrics.append(report)?;
        if must_save || journal.is_due(self.recipe, self.progress.step) {
            journal.save(&self.progress, student, &self.optimizer)?;
            observer.on_checkpoint(&journal.path);
        }
        Ok(())
    }

    /// Lets the observer examine the student, then moves on with a fresh optimiser.
    fn end_stage<S: Backbone, O: Observer<S>>(
        &mut self,
        stage: &StageRecipe,
        student: &S,
        observer: &mut O,
    ) -> Result<(), MohawkError> {
        let done = std::mem::take(&mut self.progress);
        let report = StageReport {
            stage: done.stage + 1,
            kind: stage.kind,
            steps: done.step,
            tokens: done.tokens,
            seconds: done.seconds,
            first_loss: done.first_loss,
            last_loss: done.last_loss,
        };
        observer.on_stage_end(&report, student);
        self.progress.stage = done.stage + 1;
        self.progress.completed = done.completed;
        self.progress.completed.push(report);
        self.optimizer = AdamW::new(self.recipe.optimizer);
        if let Some(journal) = &mut self.journal {
            journal.save(&self.progress, student, &self.optimizer)?;
            observer.on_checkpoint(&journal.path);
        }
        Ok(())
    }
}

/// The files of a run.
struct Journal {
    path: PathBuf,
    identity: Identity,
    metrics: Metrics,
    saved: Instant,
}

impl Journal {
    fn open<T, S>(run: &Distillation<'_, T, S>) -> Result<Option<Self>, MohawkError> {
        let Some(folder) = &run.folder else { return Ok(None) };
        let path = folder.join(METRICS);
        let metrics = if run.resumed {
            Metrics::resume(&path, run.progress.stage + 1, run.progress.step)?
        } else {
            Metrics::create(&path)?
        };
        Ok(Some(Self {
            path: folder.join(CHECKPOINT),
            identity: Identity::of(run.recipe, run.data),
            metrics,
            saved: Instant::now(),
        }))
    }

    fn is_due(&self, recipe: &Recipe, step: usize) -> bool {
        let every = recipe.checkpoint;
        let by_steps = every.every_steps > 0 && step.is_multiple_of(every.every_steps);
        let interval = Duration::from_secs(every.every_seconds);
        by_steps || (every.every_seconds > 0 && self.saved.elapsed() >= interval)
    }

    fn save<S: Backbone>(
        &mut self,
        progress: &Progress,
        student: &S,
        optimizer: &AdamW,
    ) -> Result<(), MohawkError> {
        self.metrics.sync()?;
        checkpoint::save(&self.path, &self.identity, progress, student, optimizer)?;
        self.saved = Instant::now();
        Ok(())
    }
}
