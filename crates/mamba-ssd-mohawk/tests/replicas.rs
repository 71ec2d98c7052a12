//! Several devices train what one does.

mod common;

use std::ops::ControlFlow;

use burn::tensor::Device;
use common::{Tiny, changed, dataset, device, in_f64, recipe, student, teacher, worst_difference};
use mamba_ssd_mohawk::{Distillation, Observer, Recipe, StepReport};

const MATRICES: &str =
    "kind = \"matrices\"\ntokens = 192\nlr = 1e-2\nbatch = 8\nseq_len = 16\naccumulation = 2";
const HIDDEN: &str = "kind = \"hidden\"\ntokens = 192\nlr = 1e-2\nbatch = 4\nseq_len = 16";
const LOGITS: &str = "kind = \"logits\"\ntokens = 192\nlr = 1e-2\nbatch = 4\nseq_len = 16\nmixer_weight = 0.3\nhard_label_weight = 0.1";

#[derive(Default)]
struct Record {
    steps: Vec<StepReport>,
    stop_after: Option<usize>,
}

impl Observer<Tiny> for Record {
    fn on_step(&mut self, step: &StepReport) -> ControlFlow<()> {
        self.steps.push(step.clone());
        if self.stop_after == Some(self.steps.len()) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

fn further(replicas: usize) -> Vec<Device> {
    vec![device(); replicas - 1]
}

fn three_stages() -> Recipe {
    recipe(&[MATRICES, HIDDEN, LOGITS])
}

#[test]
fn two_and_four_replicas_train_what_one_does() {
    // Rows of ragged documents: replicas have different numbers of unmasked tokens.
    let (recipe, data) = (three_stages(), dataset());
    let teacher = in_f64(teacher(1));
    let student = in_f64(student(&teacher, &[0, 2], 2));
    let run = |replicas: usize| {
        let mut record = Record::default();
        let run = Distillation::new(&recipe, &data, teacher.clone(), student.clone());
        let run = run.and_on(&further(replicas)).expect("rows divide");
        let outcome = run.run(&mut record).expect("a finished run");
        assert!(outcome.finished);
        (outcome.student, record.steps)
    };
    let (whole, reports) = run(1);
    assert!(!changed(&student, &whole).is_empty());
    for replicas in [2, 4] {
        let (student, others) = run(replicas);
        assert_eq!(reports.len(), others.len());
        for (a, b) in reports.iter().zip(&others) {
            assert!((a.loss - b.loss).abs() < 1e-10, "{} and {}", a.loss, b.loss);
            assert!((a.grad_norm - b.grad_norm).abs() < 1e-9);
            assert_eq!(a.layers.len(), b.layers.len());
            for (a, b) in a.layers.iter().zip(&b.layers) {
                assert!((a.unwrap_or(0.0) - b.unwrap_or(0.0)).abs() < 1e-10);
            }
        }
        let worst = worst_difference(&whole, &student);
        assert!(worst < 1e-8, "{replicas}: weights differ by {worst}");
    }
}

#[test]
fn a_run_stopped_on_two_devices_goes_on_with_one_and_with_four() {
    let (recipe, data) = (three_stages(), dataset());
    let teacher = in_f64(teacher(1));
    let start = in_f64(student(&teacher, &[0, 2], 2));
    let run = |student: &Tiny| Distillation::new(&recipe, &data, teacher.clone(), student.clone());
    let whole = run(&start).run(&mut ()).expect("a run").student;
    let folder = tempfile::tempdir().expect("a folder");
    let mut rest = Vec::new();
    for (stop_after, replicas) in [(Some(2), 2), (Some(3), 1), (None, 4)] {
        let mut record = Record { stop_after, ..Record::default() };
        let other = in_f64(student(&common::teacher(9), &[0, 2], 2));
        let next = run(if rest.is_empty() { &start } else { &other });
        let next = if rest.is_empty() { next.in_folder(folder.path()) } else { next.resume(folder.path()) };
        let next = next.expect("a folder").and_on(&further(replicas)).expect("rows divide");
        let outcome = next.run(&mut record).expect("a run");
        assert_eq!(outcome.finished, stop_after.is_none());
        rest.push(outcome.student);
    }
    let worst = worst_difference(&whole, &rest[2]);
    assert!(worst < 1e-8, "weights differ by {worst}");
}

#[test]
fn rows_that_do_not_divide_are_refused_in_one_line() {
    let (recipe, data) = (three_stages(), dataset());
    let teacher = teacher(1);
    let student = student(&teacher, &[0, 2], 2);
    let run = Distillation::new(&recipe, &data, teacher, student).and_on(&further(3));
    let line = run.map(drop).expect_err("4 rows on 3 devices").to_string();
    assert_eq!(
        line,
        "preflight: stage 1: 4 sequences (batch over accumulation) on 3 devices, expected a number that they divide"
    );
}

/// Fails at its third step.
struct Panics(usize);

impl Observer<Tiny> for Panics {
    fn on_step(&mut self, _step: &StepReport) -> ControlFlow<()> {
        self.0 += 1;
        assert!(self.0 < 3, "the observer gave up");
        ControlFlow::Continue(())
    }
}

#[test]
#[should_panic(expected = "the observer gave up")]
fn a_panic_ends_all_replicas() {
    let (recipe, data) = (three_stages(), dataset());
    let teacher = teacher(1);
    let student = student(&teacher, &[0, 2], 2);
    let run = Distillation::new(&recipe, &data, teacher, student).and_on(&further(2));
    let _ = run.expect("rows divide").run(&mut Panics(0));
}
