//! The teacher's predictions from disk train what the teacher trains.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Int, Tensor, TensorData};
use common::{Tiny, VOCAB, changed, dataset, in_f64, recipe, student, teacher, worst_difference};
use mamba_ssd::Backbone;
use mamba_ssd_mohawk::data::{Cursor, Loader};
use mamba_ssd_mohawk::loss::Divergence;
use mamba_ssd_mohawk::stage::{LogitsLoss, Objective};
use mamba_ssd_mohawk::{CacheRecipe, Distillation, Kept, MohawkError, Recipe, read_metrics};

/// One padded row holds all documents, so that rows are the same wherever they are cut.
const LONG: &str = "kind = \"logits\"\ntokens = 4096\nlr = 1e-2\nbatch = 2\nseq_len = 1024";

fn with_cache(folder: &Path, top_k: usize, stage: &str) -> Recipe {
    let mut recipe = recipe(&[stage]);
    recipe.teacher_cache = Some(CacheRecipe { path: folder.join("cache"), top_k });
    recipe
}

fn run(recipe: &Recipe, teacher: &Tiny, student: &Tiny) -> Result<Tiny, MohawkError> {
    let data = dataset();
    let run = Distillation::new(recipe, &data, teacher.clone(), student.clone());
    Ok(run.run(&mut ())?.student)
}

fn rows(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.join("cache")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                open.push(entry);
            } else if entry.extension().is_some_and(|end| end == "safetensors") {
                found.push(entry);
            }
        }
    }
    found
}

#[test]
fn all_tokens_kept_are_the_online_loss() {
    assert!(dataset().len() < 1024);
    let (teacher, folder) = (in_f64(teacher(1)), tempfile::tempdir().expect("a folder"));
    let student = in_f64(student(&teacher, &[0, 2], 2));
    let longer =
        "kind = \"logits\"\ntokens = 2500\nlr = 1e-2\nbatch = 1\nseq_len = 2500\ncheckpointing = true";
    let more = ["", "divergence = \"forward_kl\"\nhard_label_weight = 0.3", "checkpointing = true"];
    let stages = more.map(|more| format!("{LONG}\n{more}"));
    for (stage, rows_there) in stages.iter().map(|stage| (stage.as_str(), 1)).chain([(longer, 2)]) {
        let online = run(&recipe(&[stage]), &teacher, &student).expect("a run");
        let kept = run(&with_cache(folder.path(), VOCAB, stage), &teacher, &student).expect("a run");
        assert!(!changed(&student, &kept).is_empty());
        let worst = worst_difference(&online, &kept); // log-probabilities are kept in f32
        assert!(worst < 1e-5, "{stage}: weights differ by {worst}");
        assert_eq!(rows(folder.path()).len(), rows_there);
    }
}

/// The likeliest k of the teacher's own predictions.
fn kept(logits: &Tensor<3>, k: usize) -> Kept {
    let [b, t, v] = logits.dims();
    let (mut ids, mut log_p, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    let values: Vec<f64> = logits.clone().into_data().iter::<f64>().collect();
    for row in values.chunks(v) {
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        let mut order: Vec<usize> = (0..v).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        ids.extend(order[..k].iter().map(|&id| id as i64));
        log_p.extend(order[..k].iter().map(|&id| row[id] - sum.ln()));
        rest.push(order[k..].iter().map(|&id| row[id].exp() / sum).sum::<f64>());
    }
    let device = logits.device();
    let float = |numbers: Vec<f64>, shape: &[usize]| TensorData::new(numbers, shape.to_vec());
    Kept {
        ids: Tensor::<3, Int>::from_data(TensorData::new(ids, [b, t, k]), &device),
        log_p: Tensor::from_data(float(log_p, &[b, t, k]), (&device, logits.dtype())),
        rest: Tensor::from_data(float(rest, &[b, t]), (&device, logits.dtype())),
    }
}

#[test]
fn what_is_not_kept_counts_as_one_token_more() {
    let teacher = in_f64(teacher(1));
    let student = in_f64(student(&teacher, &[0, 1, 2], 2));
    let mut batch = Loader::new(&dataset(), 16, 1, Cursor::default()).next_batch(4, &common::device());
    let logits = teacher.forward(batch.tokens.clone(), batch.segments.as_ref());
    let mut loss = |divergence, k: Option<usize>| {
        batch.kept = k.map(|k| kept(&logits, k));
        let objective = Objective::Logits(LogitsLoss { divergence, ..LogitsLoss::default() });
        objective.loss(&teacher, &student, &batch).0.into_data().iter::<f64>().next().expect("a scalar")
    };
    // Tokens thrown together can only hide a divergence; the fewer are kept, the more.
    let whole = loss(Divergence::ForwardKl, None);
    let by_k: Vec<f64> = [1, 3, 6, VOCAB].map(|k| loss(Divergence::ForwardKl, Some(k))).into();
    assert!(by_k.windows(2).all(|pair| pair[0] < pair[1]), "{by_k:?}");
    assert!((by_k[3] - whole).abs() < 1e-9 && by_k[0] > 0.0, "{by_k:?}, online {whole}");
    let cross = loss(Divergence::CrossEntropy, Some(VOCAB)) - loss(Divergence::CrossEntropy, None);
    assert!(cross.abs() < 1e-9, "{cross}");
}

#[test]
fn a_cache_is_filled_once_and_serves_replicas_and_later_runs() {
    let (teacher, folder) = (teacher(1), tempfile::tempdir().expect("a folder"));
    let student = student(&teacher, &[0, 2], 2);
    let stage = "kind = \"logits\"\ntokens = 512\nlr = 1e-2\nbatch = 4\nseq_len = 16";
    let recipe = with_cache(folder.path(), 4, stage);
    let first = run(&recipe, &teacher, &student).expect("a run");
    let files = rows(folder.path());
    assert!(!files.is_empty() && files.len() <= dataset().len() / 16, "{} rows", files.len());
    let written: Vec<_> =
        files.iter().map(|file| fs::metadata(file).and_then(|m| m.modified()).expect("a time")).collect();
    let again = run(&recipe, &teacher, &student).expect("a run");
    assert!(changed(&first, &again).is_empty());
    let kept: Vec<_> =
        files.iter().map(|file| fs::metadata(file).and_then(|m| m.modified()).expect("a time")).collect();
    assert_eq!(written, kept, "a row was written again");

    // Two devices fill a cache of their own with the same rows.
    let other = tempfile::tempdir().expect("a folder");
    let (recipe, data) = (with_cache(other.path(), 4, stage), dataset());
    let run = Distillation::new(&recipe, &data, teacher.clone(), student.clone()).in_folder(other.path());
    let run =
        run.expect("a folder").and_on(&[common::device()]).expect("rows divide").run(&mut ()).expect("a run");
    assert!(run.finished);
    let contents = |folder: &Path| -> Vec<_> {
        let mut files: Vec<_> = rows(folder)
            .into_iter()
            .map(|file| (file.file_name().map(ToOwned::to_owned), fs::read(file).expect("a row")))
            .collect();
        files.sort();
        files
    };
    assert!(
        contents(folder.path()) == contents(other.path()),
        "rows of two devices differ from those of one"
    );
    assert_eq!(read_metrics(&other.path().join("metrics.jsonl")).expect("metrics").len(), 8);
}

#[test]
fn a_cache_of_something_else_is_refused_in_one_line() {
    let (one, folder) = (teacher(1), tempfile::tempdir().expect("a folder"));
    let learner = student(&one, &[0, 2], 2);
    let stage = "kind = \"logits\"\ntokens = 64\nlr = 1e-2\nbatch = 4\nseq_len = 16";
    run(&with_cache(folder.path(), 4, stage), &one, &learner).expect("a run");
    let refused = |recipe: &Recipe, teacher: &Tiny, part: &str| {
        let line = run(recipe, teacher, &learner).map(drop).expect_err(part).to_string();
        assert!(line.contains(part) && !line.contains('\n'), "{line}");
    };
    refused(&with_cache(folder.path(), 4, stage), &teacher(2), "predictions of another teacher");
    refused(&with_cache(folder.path(), 5, stage), &one, "another number of likeliest tokens");
    for file in rows(folder.path()) {
        fs::write(file, b"half").expect("writable");
    }
    refused(&with_cache(folder.path(), 4, stage), &one, "remove the file");
    // The third of four devices meets the only damaged row of the first batch: it is named.
    let other = tempfile::tempdir().expect("a folder");
    let (recipe, data) = (with_cache(other.path(), 4, stage), dataset());
    run(&recipe, &one, &learner).expect("a run");
    let first =
        Loader::new(&data, 16, recipe.seed, Cursor::default()).aligned().next_batch(4, &common::device());
    let row = format!("{:07}.safetensors", first.starts[2] / 16);
    let damaged =
        rows(other.path()).into_iter().find(|file| file.ends_with(&row)).expect("a row of the first batch");
    fs::write(&damaged, b"half").expect("writable");
    let run = Distillation::new(&recipe, &data, one.clone(), learner.clone());
    let run = run.and_on(&[common::device(), common::device(), common::device()]).expect("rows divide");
    let line = run.run(&mut ()).map(drop).expect_err("a damaged row").to_string();
    assert!(line.contains(&row) && line.contains("remove the file"), "{line}");
    let reverse = with_cache(folder.path(), 4, &format!("{stage}\ndivergence = \"reverse_kl\""));
    let line = reverse.validate().expect_err("no likeliest tokens").to_string();
    assert!(line.contains("likeliest tokens alone"), "{line}");
}
