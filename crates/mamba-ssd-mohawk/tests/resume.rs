//! A run that is stopped or killed and resumed ends bit-equal with one that was not.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use common::{Tiny, changed, dataset, in_dtype, recipe, student, teacher};
use mamba_ssd_mohawk::data::Dataset;
use mamba_ssd_mohawk::{
    CHECKPOINT, Distillation, METRICS, MohawkError, Observer, Outcome, Recipe, StageReport, StepReport,
    read_metrics,
};

const STEPS: usize = 5;

fn three_stages() -> Recipe {
    let stage = |kind: &str| {
        format!("kind = \"{kind}\"\ntokens = 320\nlr = 1e-2\nbatch = 4\nseq_len = 16\naccumulation = 2")
    };
    let mut recipe = recipe(&[&stage("matrices"), &stage("hidden"), &stage("logits")]);
    recipe.checkpoint.every_steps = 2;
    recipe.checkpoint.every_seconds = 0;
    recipe
}

/// Stops after so many steps, or copies the folder as kill -9 would leave it and goes on.
#[derive(Default)]
struct Script {
    steps: usize,
    stop_after: Option<usize>,
    snapshot: Option<(usize, PathBuf, PathBuf)>,
    stages: Vec<StageReport>,
}

impl Observer<Tiny> for Script {
    fn on_step(&mut self, _step: &StepReport) -> ControlFlow<()> {
        self.steps += 1;
        if let Some((at, from, to)) = &self.snapshot
            && *at == self.steps
        {
            copy(from, to);
        }
        if self.stop_after == Some(self.steps) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn on_stage_end(&mut self, stage: &StageReport, _student: &Tiny) {
        self.stages.push(stage.clone());
    }
}

fn copy(from: &Path, to: &Path) {
    for name in [CHECKPOINT, METRICS] {
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).expect("a copy");
        }
    }
}

struct Setting {
    recipe: Recipe,
    data: Dataset,
    teacher: Tiny,
    student: Tiny,
}

impl Setting {
    fn new() -> Self {
        let teacher = teacher(3);
        let student = student(&teacher, &[0, 2], 2);
        Self { recipe: three_stages(), data: dataset(), teacher, student }
    }

    fn fresh(&self) -> Distillation<'_, Tiny, Tiny> {
        Distillation::new(&self.recipe, &self.data, self.teacher.clone(), self.student.clone())
    }

    fn start(&self, folder: &Path, script: &mut Script) -> Outcome<Tiny> {
        self.fresh().in_folder(folder).expect("an empty folder").run(script).expect("a run")
    }

    /// Resumes into a student of other random weights, as a new process would build one.
    fn resume(&self, folder: &Path, script: &mut Script) -> Outcome<Tiny> {
        let other = student(&teacher(9), &[0, 2], 2);
        let run = Distillation::new(&self.recipe, &self.data, self.teacher.clone(), other);
        run.resume(folder).expect("a checkpoint").run(script).expect("a run")
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Metrics but for the clock.
fn metrics(folder: &Path) -> Vec<(usize, usize, u64, u64)> {
    let lines = read_metrics(&folder.join(METRICS)).expect("metrics");
    lines.iter().map(|l| (l.stage, l.step, l.loss.to_bits(), l.grad_norm.to_bits())).collect()
}

/// Half precision rounds a step of AdamW away where it is small beside the weight: its f32 masters have to outlive a
/// stop, too.
#[test]
fn a_stopped_run_in_half_precision_goes_on_with_its_masters() {
    let (data, folder) = (dataset(), folder());
    let recipe = recipe(&["kind = \"logits\"\ntokens = 384\nlr = 1e-3\nbatch = 4\nseq_len = 16"]);
    let half = |model| in_dtype(model, DType::BF16);
    let run = |of: Tiny| Distillation::new(&recipe, &data, half(teacher(3)), of);
    let first = || half(student(&teacher(3), &[0, 2], 2));
    let whole = run(first()).run(&mut ()).expect("a run").student;
    let mut stopping = Script { stop_after: Some(3), ..Script::default() };
    run(first()).in_folder(folder.path()).expect("a folder").run(&mut stopping).expect("a run");
    let other = half(student(&teacher(9), &[0, 2], 2));
    let resumed =
        run(other).resume(folder.path()).expect("a checkpoint").run(&mut ()).expect("a run").student;
    assert_eq!(changed(&whole, &resumed), Vec::<String>::new());
}

#[test]
fn two_runs_of_one_recipe_are_bit_equal() {
    let setting = Setting::new();
    let (a, b) = (folder(), folder());
    let one = setting.start(a.path(), &mut Script::default());
    let two = setting.start(b.path(), &mut Script::default());
    assert!(one.finished && changed(&one.student, &two.student).is_empty());
    assert_eq!(metrics(a.path()), metrics(b.path()));
    assert_eq!(metrics(a.path()).len(), 3 * STEPS);
}

#[test]
fn a_run_stopped_after_any_step_ends_bit_equal() {
    let setting = Setting::new();
    let whole = folder();
    let expected = setting.start(whole.path(), &mut Script::default());
    for stop in 1..3 * STEPS {
        let part = folder();
        let mut script = Script { stop_after: Some(stop), ..Script::default() };
        assert!(!setting.start(part.path(), &mut script).finished);
        let mut rest = Script::default();
        let resumed = setting.resume(part.path(), &mut rest);
        assert!(resumed.finished);
        assert_eq!(rest.steps, 3 * STEPS - stop);
        assert_eq!(changed(&expected.student, &resumed.student), Vec::<String>::new(), "after {stop}");
        assert_eq!(metrics(part.path()), metrics(whole.path()));
        let losses = |outcome: &Outcome<Tiny>| -> Vec<(f64, f64)> {
            outcome.stages.iter().map(|stage| (stage.first_loss, stage.last_loss)).collect()
        };
        assert_eq!(losses(&resumed), losses(&expected));
    }
}

/// What is out of memory may go on in smaller pieces, and learns the same but for rounding.
#[test]
fn a_stopped_run_goes_on_with_another_form_of_its_steps() {
    let mut setting = Setting::new();
    let (whole, part) = (folder(), folder());
    let expected = setting.start(whole.path(), &mut Script::default());
    setting.start(part.path(), &mut Script { stop_after: Some(2 * STEPS + 1), ..Script::default() });
    for stage in &mut setting.recipe.stages {
        stage.accumulation = 4;
    }
    setting.recipe.stages[2].checkpointing = true;
    let resumed = setting.resume(part.path(), &mut Script::default());
    assert!(resumed.finished);
    let last = |outcome: &Outcome<Tiny>| outcome.stages[2].last_loss;
    assert!((last(&expected) - last(&resumed)).abs() < 1e-3 * last(&expected).abs());
    setting.recipe.stages[2].lr = 0.5;
    let other =
        Distillation::new(&setting.recipe, &setting.data, setting.teacher.clone(), setting.student.clone());
    assert!(reason(other.resume(part.path())).contains("[[stage]] is another one"));
}

#[test]
fn a_run_killed_between_checkpoints_ends_bit_equal() {
    let setting = Setting::new();
    for killed in 1..=3 * STEPS {
        let (whole, remains) = (folder(), folder());
        let snapshot = Some((killed, whole.path().to_path_buf(), remains.path().to_path_buf()));
        let mut script = Script { snapshot, ..Script::default() };
        let expected = setting.start(whole.path(), &mut script);
        // The kill cut the last line short.
        let path = remains.path().join(METRICS);
        let text = fs::read_to_string(&path).unwrap_or_default() + "{\"stage\":1,\"kin";
        fs::write(&path, text).expect("writable");
        let resumed = setting.resume(remains.path(), &mut Script::default());
        assert_eq!(changed(&expected.student, &resumed.student), Vec::<String>::new(), "at {killed}");
        assert_eq!(metrics(remains.path()), metrics(whole.path()));
    }
}

#[test]
fn a_killed_stage_end_is_told_again_and_a_finished_run_stays_finished() {
    let setting = Setting::new();
    let part = folder();
    let mut script = Script { stop_after: Some(STEPS), ..Script::default() };
    setting.start(part.path(), &mut script);
    assert!(script.stages.is_empty());
    let mut rest = Script::default();
    let finished = setting.resume(part.path(), &mut rest);
    assert_eq!(rest.stages.iter().map(|stage| stage.stage).collect::<Vec<_>>(), [1, 2, 3]);
    let mut again = Script::default();
    let same = setting.resume(part.path(), &mut again);
    assert!(same.finished && again.steps == 0 && again.stages.is_empty());
    assert!(changed(&finished.student, &same.student).is_empty());
}

fn reason<T>(result: Result<T, MohawkError>) -> String {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused_in_one_line() {
    let mut setting = Setting::new();
    let run = folder();
    let mut script = Script { stop_after: Some(3), ..Script::default() };
    setting.start(run.path(), &mut script);
    let path = run.path().join(CHECKPOINT);
    let bytes = fs::read(&path).expect("a checkpoint");

    assert!(reason(setting.fresh().in_folder(run.path())).contains("there already"));

    let smaller = student(&setting.teacher, &[0], 2);
    let run_of =
        |student| Distillation::new(&setting.recipe, &setting.data, setting.teacher.clone(), student);
    let error = reason(run_of(smaller).resume(run.path()));
    assert!(error.contains("found nothing for blocks.2.mixer.Attention"), "{error}");

    for cut in [4, 100, bytes.len() - 1] {
        fs::write(&path, &bytes[..cut]).expect("writable");
        let error = reason(setting.fresh().resume(run.path()));
        assert!(error.contains("damaged") && error.lines().count() == 1, "{error}");
    }
    fs::write(&path, &bytes).expect("writable");

    setting.recipe.stages[2].lr = 1e-3;
    let error = reason(setting.fresh().resume(run.path()));
    assert!(error.contains("[[stage]]"), "{error}");

    setting.recipe.stages[2].lr = 1e-2;
    setting.data = Dataset::from_documents([vec![1, 2, 3]], 10).expect("a document");
    let error = reason(setting.fresh().resume(run.path()));
    assert!(error.contains("its data is another one"), "{error}");
}

#[test]
fn a_checkpoint_without_a_folder_to_write_to_is_an_error() {
    let setting = Setting::new();
    let gone = folder().path().join("gone");
    let run = setting.fresh().in_folder(&gone).expect("nothing there yet");
    assert!(reason(run.run(&mut ())).contains("gone"));
}
