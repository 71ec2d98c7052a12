//! What the three stages compute, and which parameters they touch.

mod common;

use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::Tensor;
use common::{Tiny, changed, dataset, device, in_f64, recipe, student, teacher, worst_difference};
use mamba_ssd::Backbone;
use mamba_ssd_mohawk::data::{Batch, Cursor, Loader};
use mamba_ssd_mohawk::loss::{Divergence, hidden_alignment, matrix_orientation};
use mamba_ssd_mohawk::stage::{HiddenTarget, LogitsLoss, Objective, mixer_layers};
use mamba_ssd_mohawk::{Distillation, Observer, StepReport};

const MATRICES: &str = "kind = \"matrices\"\ntokens = 1\nlr = 1e-2\nbatch = 4\nseq_len = 16";
const HIDDEN: &str = "kind = \"hidden\"\ntokens = 1\nlr = 1e-2\nbatch = 4\nseq_len = 16";
const LOGITS: &str = "kind = \"logits\"\ntokens = 1\nlr = 1e-2\nbatch = 4\nseq_len = 16";

fn batch() -> Batch {
    Loader::new(&dataset(), 16, 1, Cursor::default()).next_batch(4, &device())
}

fn scalar(tensor: &Tensor<1>) -> f64 {
    tensor.clone().into_data().iter::<f64>().next().expect("a scalar")
}

/// The student after one step of a stage.
fn after(stage: &str, teacher: &Tiny, student: &Tiny) -> Tiny {
    let (recipe, data) = (recipe(&[stage]), dataset());
    let run = Distillation::new(&recipe, &data, teacher.clone(), student.clone());
    run.run(&mut ()).expect("a finished run").student
}

#[test]
fn stages_one_and_two_feed_every_layer_the_teachers_hidden_state() {
    let teacher = in_f64(teacher(1)).no_grad();
    let student = in_f64(student(&teacher, &[0, 1, 2], 2));
    let batch = batch();
    let segments = batch.segments.as_ref();
    let states = teacher.hidden_states(batch.tokens.clone(), segments);

    let (total, terms) = Objective::Matrices.loss(&teacher, &student, &batch);
    for (layer, term) in &terms {
        let layer = layer.expect("a layer");
        let expected = matrix_orientation(
            student.mixing_matrix(layer, states[layer].clone(), segments),
            teacher.mixing_matrix(layer, states[layer].clone(), segments),
            None,
        );
        assert!((scalar(term) - scalar(&expected)).abs() < 1e-12);
    }
    let sum: f64 = terms.iter().map(|(_, term)| scalar(term)).sum();
    assert!((scalar(&total) - sum).abs() < 1e-12);

    let (_, terms) = Objective::Hidden(HiddenTarget::Block).loss(&teacher, &student, &batch);
    assert_eq!(terms.len(), 3);
    for (layer, term) in &terms {
        let layer = layer.expect("a layer");
        let output = student.layer(layer, states[layer].clone(), segments);
        let expected = hidden_alignment(output, states[layer + 1].clone(), None);
        assert!((scalar(term) - scalar(&expected)).abs() < 1e-12);
    }

    // The residual stream and the MLP aside, the mixers' outputs.
    let (_, terms) = Objective::Hidden(HiddenTarget::Mixer).loss(&teacher, &student, &batch);
    let output = student.mixer_output(2, states[2].clone(), segments);
    let expected = hidden_alignment(output, teacher.mixer_output(2, states[2].clone(), segments), None);
    assert!((scalar(&terms[2].1) - scalar(&expected)).abs() < 1e-12);
}

#[test]
fn a_student_that_is_the_teacher_has_no_loss() {
    let teacher = in_f64(teacher(1)).no_grad();
    let logits = Objective::Logits(LogitsLoss { divergence: Divergence::ForwardKl, ..LogitsLoss::default() });
    let (loss, _) = logits.loss(&teacher, &teacher.clone(), &batch());
    assert!(scalar(&loss).abs() < 1e-12, "{}", scalar(&loss));
}

#[test]
fn attention_layers_of_a_hybrid_are_skipped() {
    let teacher = teacher(1);
    let hybrid = student(&teacher, &[0, 2], 2);
    assert_eq!(mixer_layers(&hybrid), [0, 2]);
    for objective in [Objective::Matrices, Objective::Hidden(HiddenTarget::Block)] {
        let (_, terms) = objective.loss(&teacher, &hybrid, &batch());
        let layers: Vec<_> = terms.iter().map(|(layer, _)| *layer).collect();
        assert_eq!(layers, [Some(0), Some(2)]);
    }
}

#[test]
fn stage_one_trains_what_makes_the_matrix() {
    let teacher = teacher(1);
    let student = student(&teacher, &[0, 1, 2], 2);
    let changed = changed(&student, &after(MATRICES, &teacher, &student));
    let expected: Vec<String> = (0..3)
        .flat_map(|layer| {
            ["in_proj.weight", "conv1d.weight", "conv1d.bias", "d"]
                .map(|name| format!("blocks.{layer}.mixer.DiscreteMamba2.{name}"))
        })
        .collect();
    assert_eq!(changed, expected);
}

#[test]
fn stage_two_trains_the_mixers_and_only_on_request_the_blocks() {
    let teacher = teacher(1);
    let hybrid = student(&teacher, &[0, 2], 2);
    let mixers = changed(&hybrid, &after(HIDDEN, &teacher, &hybrid));
    assert!(mixers.iter().all(|path| path.contains("DiscreteMamba2")), "{mixers:?}");
    assert!(mixers.iter().any(|path| path.ends_with("0.mixer.DiscreteMamba2.out_proj.weight")));
    assert!(mixers.iter().any(|path| path.ends_with("2.mixer.DiscreteMamba2.z_bias")));

    let all = format!("{HIDDEN}\ntrainable = \"all\"");
    let all = changed(&hybrid, &after(&all, &teacher, &hybrid));
    assert!(all.iter().any(|path| path == "blocks.0.up.weight"));
    // Neither the layer that is attention on both sides, nor what lies outside the blocks.
    assert!(all.iter().all(|path| path.starts_with("blocks.0") || path.starts_with("blocks.2")), "{all:?}");
}

#[test]
fn stage_three_trains_everything_or_the_mixers() {
    let teacher = teacher(1);
    let student = student(&teacher, &[0, 1, 2], 2);
    let all = changed(&student, &after(LOGITS, &teacher, &student));
    assert_eq!(all.len(), common::weights(&student).len());

    let mixers = format!("{LOGITS}\ntrainable = \"mixers\"");
    let mixers = changed(&student, &after(&mixers, &teacher, &student));
    assert!(!mixers.is_empty() && mixers.iter().all(|path| path.contains("DiscreteMamba2")));
}

#[test]
fn the_teacher_never_changes_and_never_sees_a_gradient() {
    let teacher = teacher(1);
    let student = student(&teacher, &[0, 1, 2], 2);
    let before = common::weights(&teacher);
    after(LOGITS, &teacher, &student);
    assert_eq!(common::weights(&teacher), before);
}

#[test]
fn hard_labels_alone_do_not_ask_the_teacher() {
    let one = teacher(1);
    let learner = student(&one, &[0, 1, 2], 2);
    let hard = format!("{LOGITS}\nhard_label_weight = 1.0");
    let a = after(&hard, &one, &learner);
    let b = after(&hard, &teacher(2), &learner);
    assert!(changed(&a, &b).is_empty());
    let soft = format!("{LOGITS}\nhard_label_weight = 0.5");
    let a = after(&soft, &one, &learner);
    let b = after(&soft, &teacher(2), &learner);
    assert!(!changed(&a, &b).is_empty());
}

/// Losses and gradient norms of a run.
#[derive(Default)]
struct Record(Vec<StepReport>);

impl Observer<Tiny> for Record {
    fn on_step(&mut self, step: &StepReport) -> ControlFlow<()> {
        self.0.push(step.clone());
        ControlFlow::Continue(())
    }
}

#[test]
fn accumulated_micro_batches_equal_one_large_batch() {
    // Rows of ragged documents: micro-batches have different numbers of unmasked tokens.
    for stage in [MATRICES, HIDDEN, LOGITS] {
        let teacher = in_f64(teacher(1));
        let student = in_f64(student(&teacher, &[0, 1, 2], 2));
        let run = |accumulation: usize| {
            let text = stage.replace("tokens = 1\n", "tokens = 192\n");
            let recipe = recipe(&[&format!("{text}\naccumulation = {accumulation}")]);
            let mut record = Record::default();
            let data = dataset();
            let run = Distillation::new(&recipe, &data, teacher.clone(), student.clone());
            let outcome = run.run(&mut record).expect("a finished run");
            (outcome.student, record.0)
        };
        let (whole, reports) = run(1);
        for parts in [2, 4] {
            let (parts, other) = run(parts);
            for (a, b) in reports.iter().zip(&other) {
                assert!((a.loss - b.loss).abs() < 1e-10, "{stage}: {} and {}", a.loss, b.loss);
                assert!((a.grad_norm - b.grad_norm).abs() < 1e-9);
                for (a, b) in a.layers.iter().zip(&b.layers) {
                    assert!((a.unwrap_or(0.0) - b.unwrap_or(0.0)).abs() < 1e-10);
                }
            }
            let worst = worst_difference(&whole, &parts);
            assert!(worst < 1e-8, "{stage}: weights differ by {worst}");
        }
    }
}

#[test]
fn checkpointing_changes_no_gradient() {
    let more = [
        "",
        "hard_label_weight = 0.4",
        "hard_label_weight = 1.0",
        "trainable = \"mixers\"",
        "mixer_weight = 0.2\naccumulation = 2",
    ];
    for more in more {
        let teacher = in_f64(teacher(1));
        let student = in_f64(student(&teacher, &[1, 2], 2));
        let run = |checkpointing: bool| {
            let text = LOGITS.replace("tokens = 1\n", "tokens = 128\n");
            let recipe = recipe(&[&format!("{text}\n{more}\ncheckpointing = {checkpointing}")]);
            let (mut record, data) = (Record::default(), dataset());
            let run = Distillation::new(&recipe, &data, teacher.clone(), student.clone());
            let outcome = run.run(&mut record).expect("a finished run");
            (outcome.student, record.0)
        };
        let ((whole, reports), (by_layers, others)) = (run(false), run(true));
        for (a, b) in reports.iter().zip(&others) {
            assert!((a.loss - b.loss).abs() < 1e-11, "{more}: {} and {}", a.loss, b.loss);
            assert!((a.grad_norm - b.grad_norm).abs() < 1e-10 * a.grad_norm, "{more}");
        }
        assert_eq!(changed(&student, &whole), changed(&student, &by_layers), "{more}");
        let worst = worst_difference(&whole, &by_layers);
        assert!(worst < 1e-9, "{more}: weights differ by {worst}");
    }
}

/// More tokens than go through the head at a time, the last ones padding.
#[test]
fn the_head_in_pieces_changes_no_gradient() {
    let teacher = in_f64(teacher(1));
    let student = in_f64(student(&teacher, &[1, 2], 2));
    let run = |checkpointing: bool| {
        let text = "kind = \"logits\"\ntokens = 8800\nlr = 1e-2\nbatch = 4\nseq_len = 1100";
        let recipe = recipe(&[&format!("{text}\ncheckpointing = {checkpointing}")]);
        let data = dataset();
        let run = Distillation::new(&recipe, &data, teacher.clone(), student.clone());
        run.run(&mut ()).expect("a finished run").student
    };
    let (whole, in_pieces) = (run(false), run(true));
    assert!(!changed(&student, &whole).is_empty());
    let worst = worst_difference(&whole, &in_pieces);
    assert!(worst < 1e-9, "weights differ by {worst}");
}

#[test]
fn every_stage_lowers_its_own_loss() {
    let logits = format!("{LOGITS}\ndivergence = \"forward_kl\"");
    for stage in [MATRICES, HIDDEN, &logits] {
        let teacher = teacher(1);
        let student = student(&teacher, &[0, 1, 2], 2);
        let recipe = recipe(&[&stage.replace("tokens = 1\n", "tokens = 2560\n")]);
        let data = dataset();
        let mut record = Record::default();
        let run = Distillation::new(&recipe, &data, teacher, student);
        let outcome = run.run(&mut record).expect("a finished run");
        let report = &outcome.stages[0];
        assert_eq!((report.steps, record.0.len()), (40, 40));
        let (first, last) = (report.first_loss, report.last_loss);
        assert!(last < 0.8 * first, "{stage}: {first} to {last}");
    }
}
