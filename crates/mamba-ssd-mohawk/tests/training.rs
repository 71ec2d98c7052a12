//! Optimiser, sentinel and preflight, seen from outside.

mod common;

use burn::module::Module;
use burn::nn::LinearConfig;
use burn::tensor::Tensor;
use common::{D, Tiny, changed, dataset, device, recipe, student, teacher, weights};
use mamba_ssd_mohawk::data::Dataset;
use mamba_ssd_mohawk::{CHECKPOINT, Distillation, METRICS, MohawkError, preflight};

const MATRICES: &str = "kind = \"matrices\"\ntokens = 64\nlr = 1e-2\nbatch = 4\nseq_len = 16";
const HIDDEN: &str = "kind = \"hidden\"\ntokens = 64\nlr = 1e-2\nbatch = 4\nseq_len = 16";
const LOGITS: &str = "kind = \"logits\"\ntokens = 64\nlr = 1e-2\nbatch = 4\nseq_len = 16";

fn reason<T>(result: Result<T, MohawkError>) -> String {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.to_string(),
    }
}

fn floats(model: &Tiny, path: &str) -> Vec<f32> {
    let all = weights(model);
    let (_, bytes) = all.iter().find(|(name, _)| name == path).expect("the parameter");
    bytes.chunks_exact(4).map(|n| f32::from_le_bytes(n.try_into().expect("four bytes"))).collect()
}

#[test]
fn weight_decay_acts_on_matrices_only() {
    let teacher = teacher(1);
    let start = student(&teacher, &[0, 1, 2], 2);
    let data = dataset();
    let run = |decay: f64| {
        let mut recipe = recipe(&[LOGITS]);
        recipe.optimizer.weight_decay = decay;
        let run = Distillation::new(&recipe, &data, teacher.clone(), start.clone());
        run.run(&mut ()).expect("a finished run").student
    };
    let decayed = changed(&run(0.0), &run(10.0));
    let names = [
        "in_proj.weight",
        "out_proj.weight",
        "up.weight",
        "down.weight",
        "lm_head.weight",
        "embedding.weight",
    ];
    let matrices = |path: &String| names.iter().any(|name| path.ends_with(name));
    assert!(decayed.iter().all(matrices), "{decayed:?}");
    assert_eq!(decayed.len(), 3 * 4 + 2);
}

#[test]
fn the_first_step_moves_by_the_learning_rate_whatever_the_clipping() {
    let teacher = teacher(1);
    let start = student(&teacher, &[0, 1, 2], 2);
    let data = dataset();
    for clip in [0.0, 1e-3] {
        let mut recipe = recipe(&[LOGITS]);
        recipe.optimizer.clip = clip;
        let run = Distillation::new(&recipe, &data, teacher.clone(), start.clone());
        let end = run.run(&mut ()).expect("a finished run").student;
        // AdamW's first step is lr · sign(g) where the gradient is not tiny.
        let path = "blocks.1.mixer.DiscreteMamba2.d";
        for (a, b) in floats(&start, path).iter().zip(floats(&end, path)) {
            assert!(((a - b).abs() - 1e-2).abs() < 1e-3, "{a} to {b}");
        }
    }
}

/// A gradient whose norm is far below ε moves nothing, one that is not clipped moves by the learning rate.
#[test]
fn gradients_are_clipped_to_the_norm_that_the_recipe_gives() {
    let teacher = teacher(1);
    let start = student(&teacher, &[0, 1, 2], 2);
    let data = dataset();
    let moved = |clip: f64| -> f32 {
        let mut recipe = recipe(&[LOGITS]);
        recipe.optimizer.clip = clip;
        let run = Distillation::new(&recipe, &data, teacher.clone(), start.clone());
        let end = run.run(&mut ()).expect("a finished run").student;
        let path = "blocks.1.mixer.DiscreteMamba2.d";
        let pairs = floats(&start, path).into_iter().zip(floats(&end, path));
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!((moved(0.0) - 1e-2).abs() < 1e-3, "{}", moved(0.0));
    assert!(moved(1e-12) < 1e-5, "{}", moved(1e-12));
}

#[test]
fn a_loss_that_is_no_number_names_its_layer_and_overwrites_nothing() {
    let teacher = teacher(1);
    let mut broken = student(&teacher, &[0, 1, 2], 2);
    broken.blocks[1].mixer = broken.blocks[1].mixer.clone().map(&mut Poison);
    let (recipe, data) = (recipe(&[HIDDEN]), dataset());
    let folder = tempfile::tempdir().expect("a folder");
    let run = Distillation::new(&recipe, &data, teacher, broken).in_folder(folder.path()).expect("empty");
    let error = reason(run.run(&mut ()));
    assert!(error.contains("the loss of layer 1 is NaN in stage 1, step 1"), "{error}");
    // The checkpoint is still that of the start.
    let bytes = std::fs::read(folder.path().join(CHECKPOINT)).expect("a checkpoint");
    assert!(String::from_utf8_lossy(&bytes).contains("\\\"step\\\":0"));
    let metrics = std::fs::read_to_string(folder.path().join(METRICS)).expect("metrics");
    assert!(metrics.is_empty());
}

/// Makes every weight of a mixer NaN.
struct Poison;

impl burn::module::ModuleMapper for Poison {
    fn map_float<const R: usize>(
        &mut self,
        param: burn::module::Param<Tensor<R>>,
    ) -> burn::module::Param<Tensor<R>> {
        param.map(|tensor| tensor.mul_scalar(f32::NAN).detach().require_grad())
    }
}

#[test]
fn preflight_reports_origin_training_and_scale() {
    let teacher = teacher(1);
    let student = student(&teacher, &[0, 2], 2);
    let recipe = recipe(&[MATRICES, HIDDEN, LOGITS]);
    let before = weights(&student);
    let report = preflight(&recipe, &dataset(), &teacher, &student, Some(11)).expect("it fits");
    assert_eq!(weights(&student), before);
    let plan = |path: &str| report.parameters.iter().find(|plan| plan.path == path).expect("a parameter");
    assert!(plan("embedding.weight").copied);
    assert_eq!(plan("embedding.weight").trained_by, [3]);
    let mixer = "blocks.2.mixer.DiscreteMamba2";
    assert!(!plan(&format!("{mixer}.in_proj.weight")).copied);
    assert_eq!(plan(&format!("{mixer}.in_proj.weight")).trained_by, [1, 2, 3]);
    assert_eq!(plan(&format!("{mixer}.out_proj.weight")).trained_by, [2, 3]);
    assert_eq!(plan("blocks.1.mixer.Attention.q_proj.weight").trained_by, [3]);
    assert!(report.stages.iter().all(|stage| stage.loss > 0.0 && stage.loss < stage.limit), "{report}");
    assert!(report.warnings.is_empty(), "{report}");
    assert_eq!(report.to_string().lines().count(), 4, "{report}");
}

#[test]
fn preflight_warns_of_what_nobody_trains() {
    let teacher = teacher(1);
    let student = student(&teacher, &[0], 2);
    let report = preflight(&recipe(&[MATRICES]), &dataset(), &teacher, &student, None).expect("it fits");
    let warning = "blocks.0.mixer.DiscreteMamba2.out_proj.weight is neither copied nor trained";
    assert!(report.to_string().contains(warning), "{report}");
}

#[test]
fn preflight_refuses_what_does_not_fit_in_one_line() {
    let teacher = teacher(1);
    let fitting = student(&teacher, &[0, 1, 2], 2);
    let (matrices, hidden) = (recipe(&[MATRICES]), recipe(&[HIDDEN]));
    let check = |recipe, data: &Dataset, student: &Tiny, vocab| {
        reason(preflight(recipe, data, &teacher, student, vocab))
    };
    let data = dataset();

    let four_heads = student(&teacher, &[0, 1, 2], 4);
    assert_eq!(common::heads(&four_heads, 0), 4);
    let mut short = fitting.clone();
    short.blocks.pop();
    let foreign = Dataset::from_documents([vec![1, 99]], 10).expect("a document");
    let plain = fitting.clone().valid();
    let errors = [
        (check(&matrices, &data, &four_heads, None), "student 4 heads, teacher 2 query heads"),
        (check(&matrices, &data, &short, None), "layers: student 2, teacher 3"),
        (check(&matrices, &data, &teacher, None), "only attention"),
        (check(&matrices, &data, &fitting, Some(12)), "tokenizer has 12 tokens, the models 11"),
        (check(&matrices, &foreign, &fitting, None), "token 99"),
        (check(&matrices, &data, &plain, None), "without autodiff"),
    ];
    for (error, expected) in errors {
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
    }
    preflight(&hidden, &data, &teacher, &four_heads, None).expect("heads matter in stage 1 only");

    let mut narrow = fitting;
    narrow.lm_head = LinearConfig::new(D, 11).init(&device());
    narrow.embedding = burn::nn::EmbeddingConfig::new(10, D).init(&device());
    assert!(check(&hidden, &data, &narrow, None).contains("vocabulary: student 10, teacher 11"));
}
