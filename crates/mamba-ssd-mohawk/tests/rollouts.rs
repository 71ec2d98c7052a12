//! Stages whose texts the student writes.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Int, Tensor, TensorData};
use common::{EOS, Tiny, VOCAB, changed, recipe, student, teacher};
use mamba_ssd::Backbone;
use mamba_ssd_mohawk::data::{Cursor, Dataset, Document, Loader};
use mamba_ssd_mohawk::stage::Objective;
use mamba_ssd_mohawk::{
    Assignment, Author, Distillation, METRICS, MohawkError, Observer, Recipe, StepReport, preflight,
    read_metrics,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const STAGE: &str = "kind = \"logits\"\ntokens = 384\nlr = 1e-2\nbatch = 4\nseq_len = 16\ndivergence = { jensen_shannon = 0.5 }";

/// Draws token by token, every text by itself.
#[derive(Debug)]
struct Drawing;

impl Author<Tiny> for Drawing {
    fn write(
        &self,
        student: &Tiny,
        prompts: &[Vec<u32>],
        assignment: &Assignment,
    ) -> Result<Vec<Vec<u32>>, String> {
        let student = student.valid();
        let streams = assignment.first_stream..;
        Ok(prompts
            .iter()
            .zip(streams)
            .map(|(prompt, stream)| text(&student, prompt, assignment, stream))
            .collect())
    }
}

fn text(student: &Tiny, prompt: &[u32], assignment: &Assignment, stream: u64) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(assignment.seed);
    rng.set_stream(stream);
    let mut tokens = prompt.to_vec();
    while tokens.len() < prompt.len() + assignment.max_tokens {
        let ids: Vec<i64> = tokens.iter().copied().map(i64::from).collect();
        let shape = [1, ids.len()];
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), &student.devices()[0]);
        let logits = student.forward(ids, None).narrow(1, shape[1] - 1, 1);
        let p = softmax(logits / assignment.temperature, 2).into_data();
        let mut left = rng.random::<f64>();
        let token = p.iter::<f64>().position(|p| {
            left -= p;
            left < 0.0
        });
        match token.unwrap_or(VOCAB - 1) as u32 {
            EOS => break,
            token => tokens.push(token),
        }
    }
    tokens.split_off(prompt.len())
}

/// Always writes the same token, which the data does not have.
#[derive(Debug)]
struct Stubborn;

const RARE: u32 = 9;

impl Author<Tiny> for Stubborn {
    fn write(&self, _: &Tiny, prompts: &[Vec<u32>], asked: &Assignment) -> Result<Vec<Vec<u32>>, String> {
        Ok(vec![vec![RARE; asked.max_tokens]; prompts.len()])
    }
}

/// Documents without the rare token, the first three of each a prompt.
fn data() -> Dataset {
    let tokens = |d: u32| -> Vec<u32> { (0..6 + d % 5).map(|i| (d * 3 + i * (1 + d % 3)) % RARE).collect() };
    let document = |d: u32| Document { tokens: tokens(d), prompt: 3 };
    Dataset::from_documents((0..40).map(document), EOS).expect("documents")
}

fn with_rollouts(rollouts: &str) -> Recipe {
    recipe(&[&format!("{STAGE}\nrollouts = {rollouts}")])
}

/// A teacher that is sure of itself, so that there is something to learn.
fn sure() -> Tiny {
    let mut teacher = teacher(1);
    let head = teacher.lm_head.weight.clone();
    teacher.lm_head.weight = head.map(|weight| (weight * 4.0).detach().require_grad());
    teacher
}

fn reason<T>(result: Result<T, MohawkError>) -> String {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.to_string(),
    }
}

/// The stage's loss on texts that `learner` writes itself, with draws that no training had.
fn on_its_own_texts(objective: &Objective, teacher: &Tiny, learner: &Tiny) -> f64 {
    let data = data();
    let prompts: Vec<Vec<u32>> = data.prompts().map(<[u32]>::to_vec).collect();
    let assignment = Assignment { max_tokens: 8, temperature: 1.0, seed: 1234, first_stream: 0 };
    let texts = Drawing.write(learner, &prompts, &assignment).expect("texts");
    let whole = |(prompt, text): (Vec<u32>, Vec<u32>)| Document {
        prompt: prompt.len(),
        tokens: prompt.into_iter().chain(text).collect(),
    };
    let texts = Dataset::from_documents(prompts.into_iter().zip(texts).map(whole), EOS).expect("texts");
    let mut loader = Loader::new(&texts, 16, 1, Cursor::default());
    let batch = loader.next_batch(loader.rows_per_epoch(), &common::device());
    objective.loss(teacher, learner, &batch).0.into_data().iter::<f64>().next().expect("a scalar")
}

#[test]
fn a_student_comes_closer_to_its_teacher_on_its_own_texts() {
    let (teacher, data) = (sure(), data());
    let start = student(&teacher, &[0, 1, 2], 2);
    let mut recipe = with_rollouts("{ max_tokens = 8 }");
    recipe.stages[0].tokens = 40 * 64;
    let objective = recipe.stages[0].objective();
    let run = Distillation::new(&recipe, &data, teacher.clone(), start.clone()).written_by(&Drawing);
    let end = run.run(&mut ()).expect("a run").student;
    let [before, after] = [&start, &end].map(|learner| on_its_own_texts(&objective, &teacher, learner));
    assert!(after < 0.5 * before, "{before} before, {after} after");
}

/// Teacher and student differ in the embedding of a token alone, which only the author writes.
#[test]
fn a_share_of_the_steps_learns_from_what_the_author_wrote_and_metrics_tell_which() {
    let data = data();
    let teacher = student(&teacher(1), &[0, 2], 2);
    let mut learner = teacher.clone();
    let embedding = learner.embedding.weight.clone();
    let tokens = Tensor::<1, Int>::arange(0..VOCAB as i64, &common::device());
    let rare = tokens.equal_elem(RARE).float().unsqueeze_dim::<2>(1);
    learner.embedding.weight = embedding.map(|weight| (weight + rare).detach().require_grad());
    let mut recipe = with_rollouts("{ share = 0.5, max_tokens = 8 }");
    recipe.stages[0].lr = 1e-9;
    let folder = tempfile::tempdir().expect("a folder");
    let run = Distillation::new(&recipe, &data, teacher, learner).written_by(&Stubborn);
    run.in_folder(folder.path()).expect("an empty folder").run(&mut ()).expect("a run");
    let steps = read_metrics(&folder.path().join(METRICS)).expect("metrics");
    let told: Vec<bool> = steps.iter().map(|step| step.rollout).collect();
    assert_eq!(told, [false, true, false, true, false, true]);
    for step in &steps {
        assert_eq!(step.rollout, step.loss > 1e-3, "step {}: {}", step.step, step.loss);
        assert!(step.rollout || step.loss < 1e-6, "step {}: {}", step.step, step.loss);
    }
    let lines = fs::read_to_string(folder.path().join(METRICS)).expect("metrics");
    let with_the_field = lines.lines().map(|line| line.contains("\"rollout\":true"));
    assert!(with_the_field.eq(told), "{lines}");
    assert!(!lines.contains("\"rollout\":false"), "{lines}");
}

/// Stops after so many steps.
struct Stop(usize);

impl Observer<Tiny> for Stop {
    fn on_step(&mut self, step: &StepReport) -> ControlFlow<()> {
        if step.step == self.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn a_stopped_run_writes_the_same_texts_as_one_that_was_not() {
    let (teacher, data) = (sure(), data());
    let start = student(&teacher, &[0, 2], 2);
    let other = student(&common::teacher(9), &[0, 2], 2);
    for rollouts in ["{ max_tokens = 8 }", "{ share = 0.5, max_tokens = 8, temperature = 0.7 }"] {
        let recipe = with_rollouts(rollouts);
        let run = |learner| Distillation::new(&recipe, &data, teacher.clone(), learner).written_by(&Drawing);
        let losses = |folder: &Path| -> Vec<u64> {
            let steps = read_metrics(&folder.join(METRICS)).expect("metrics");
            steps.iter().map(|step| step.loss.to_bits()).collect()
        };
        let whole = tempfile::tempdir().expect("a folder");
        let expected =
            run(start.clone()).in_folder(whole.path()).expect("empty").run(&mut ()).expect("a run");
        assert!(expected.finished && !changed(&start, &expected.student).is_empty());
        for stop in 1..recipe.stages[0].steps() {
            let part = tempfile::tempdir().expect("a folder");
            let stopped = run(start.clone()).in_folder(part.path()).expect("empty").run(&mut Stop(stop));
            assert!(!stopped.expect("a run").finished);
            let rest = run(other.clone()).resume(part.path()).expect("a checkpoint");
            // Steps of the student's own texts take no row of the data.
            let of_data = (0..stop).filter(|&step| !recipe.stages[0].is_rollout(step)).count();
            assert_eq!(rest.progress().cursor, Cursor { epoch: 0, position: 4 * of_data });
            let resumed = rest.run(&mut ()).expect("a run");
            assert_eq!(changed(&expected.student, &resumed.student), Vec::<String>::new(), "after {stop}");
            assert_eq!(losses(part.path()), losses(whole.path()));
        }
    }
}

#[test]
fn data_without_prompts_is_refused_in_one_line() {
    let teacher = teacher(1);
    let learner = student(&teacher, &[0, 2], 2);
    let recipe = with_rollouts("{ max_tokens = 8 }");
    let long = |d: u32| Document { tokens: vec![d; 20], prompt: 16 };
    let cases = [
        (
            common::dataset(),
            "preflight: stage 1: rollouts, and no document of the data has a prompt; set prompt_field or prompt_marker in [data]",
        ),
        (
            Dataset::from_documents((0..4).map(long), EOS).expect("documents"),
            "preflight: stage 1: rollouts, and the shortest prompt has 16 tokens, expected fewer than seq_len = 16; raise seq_len",
        ),
    ];
    for (data, expected) in &cases {
        assert_eq!(&reason(preflight(&recipe, data, &teacher, &learner, None)), expected);
        let run = Distillation::new(&recipe, data, teacher.clone(), learner.clone()).written_by(&Drawing);
        assert_eq!(&reason(run.run(&mut ())), expected);
    }
    let report = preflight(&recipe, &data(), &teacher, &learner, None).expect("prompts of three tokens");
    assert!(report.warnings.is_empty(), "{report}");
    let few = with_rollouts("{ max_tokens = 8, share = 0.1 }");
    let report = preflight(&few, &data(), &teacher, &learner, None).expect("prompts of three tokens");
    assert_eq!(report.warnings, ["stage 1: the share of rollouts is less than one of its 6 steps"]);
    preflight(&common::recipe(&[STAGE]), &cases[0].0, &teacher, &learner, None).expect("no rollouts");
}

#[test]
fn rollouts_without_an_author_or_on_several_devices_are_refused_before_anything_is_done() {
    let (teacher, data) = (teacher(1), data());
    let learner = student(&teacher, &[0, 2], 2);
    let recipe = with_rollouts("{ max_tokens = 8 }");
    let run = || Distillation::new(&recipe, &data, teacher.clone(), learner.clone());
    let folder = tempfile::tempdir().expect("a folder");
    let line = reason(run().in_folder(folder.path()).expect("empty").run(&mut ()));
    assert_eq!(
        line,
        "preflight: stage 1: rollouts and no author; give one to the run (Distillation::written_by), or remove rollouts"
    );
    assert!(fs::read_dir(folder.path()).expect("a folder").next().is_none());
    assert_eq!(
        reason(run().written_by(&Drawing).and_on(&[common::device()])),
        "preflight: stage 1: rollouts on several devices are not built; train on one, or remove rollouts"
    );
    run().written_by(&Drawing).and_on(&[]).expect("one device");
}
