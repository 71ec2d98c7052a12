//! `reason` as a user runs it: budgets, interruptions, and what is wrong with problems.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const TERMS: [&str; 12] = [
    "--generated",
    "5",
    "-n",
    "4",
    "--batch",
    "3",
    "--max-tokens",
    "60",
    "--temperature",
    "0.9",
    "--seed",
    "1",
];

fn reason(args: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mamba-ssd"));
    command.arg("reason").args(args).current_dir(folder).env_remove("RUST_LOG").stdin(Stdio::null());
    command.output().expect("the program starts")
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn run(args: &[&str], folder: &Path) -> Output {
    let output = reason(&[args, &TERMS[..]].concat(), folder);
    assert!(output.status.success(), "{args:?}: {}", errors(&output));
    output
}

/// Texts of all attempts, by model, problem and attempt.
fn texts(out: &Path) -> BTreeMap<[u64; 3], String> {
    let lines = fs::read_to_string(out.join("completions.jsonl")).expect("completions");
    let mut texts = BTreeMap::new();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let key = ["model", "problem", "attempt"].map(|name| line[name].as_u64().expect("a number"));
        let text = line["text"].as_str().expect("a text").to_string();
        assert!(texts.insert(key, text).is_none(), "{key:?} twice");
    }
    texts
}

#[test]
fn models_make_the_same_attempts_and_all_files_tell_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let teacher = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/teacher");
    let models = ["bundled", teacher.to_str().expect("UTF-8")];
    let args = [&models[..], &["--budget", "5000tokens", "--score", "own", "--raw", "--out", "run"]].concat();
    let output = run(&args, folder.path());
    let out = folder.path().join("run");
    let texts = texts(&out);
    assert_eq!(texts.len(), 2 * 5 * 4);
    for ([model, problem, attempt], text) in &texts {
        assert_eq!(text, &texts[&[1 - model, *problem, *attempt]], "an attempt depends on what is beside it");
    }
    assert!(texts.values().any(|text| text != &texts[&[0, 0, 0]]), "attempts differ");

    // What ended in one step of the batch has one time; later attempts have later ones.
    let lines = fs::read_to_string(out.join("completions.jsonl")).expect("completions");
    let mut clocks = [0.0; 2];
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let (model, seconds) = (line["model"].as_u64().expect("a number") as usize, line["seconds"].as_f64());
        let seconds = seconds.expect("a time");
        assert!(seconds >= clocks[model], "{line} ended before the one in front of it");
        clocks[model] = seconds;
    }

    let curves: Value =
        serde_json::from_str(&fs::read_to_string(out.join("curves.json")).expect("curves")).expect("JSON");
    for model in curves["models"].as_array().expect("models") {
        let of = |over: &str, name: &str| -> Vec<Value> {
            let curves = model[over].as_array().expect("curves").iter();
            let curve = curves.clone().find(|curve| curve["name"] == name).expect("the curve");
            curve["points"].as_array().expect("points").clone()
        };
        let places: Vec<Value> =
            of("over_attempts", "coverage").iter().map(|point| point["at"].clone()).collect();
        assert_eq!(places, [1.0, 2.0, 4.0]);
        for rule in ["majority", "weighted", "best"] {
            for (chosen, coverage) in of("over_seconds", rule).iter().zip(of("over_seconds", "coverage")) {
                assert!(
                    chosen["mean"].as_f64() <= coverage["mean"].as_f64(),
                    "{rule}: {chosen} above {coverage}"
                );
            }
        }
        assert_eq!(
            of("over_seconds", "coverage").last().expect("the end")["mean"],
            of("over_attempts", "coverage")[2]["mean"]
        );
    }
    assert!(fs::read_to_string(out.join("curves.csv")).expect("a table").lines().count() > 100);
    let page = fs::read_to_string(out.join("report.html")).expect("a page");
    assert!(page.contains("<svg") && page.contains("coverage"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("majority"));
}

#[test]
fn a_run_goes_on_with_a_larger_budget_as_if_it_had_had_it() {
    let folder = tempfile::tempdir().expect("a folder");
    run(&["bundled", "--budget", "5000tokens", "--out", "whole"], folder.path());
    run(&["bundled", "--budget", "300tokens", "--out", "parts"], folder.path());
    let parts = folder.path().join("parts");
    let begun = texts(&parts).len();
    assert!((1..20).contains(&begun), "{begun} attempts of 300 tokens");
    run(&["bundled", "--budget", "5000tokens", "--out", "parts", "--resume"], folder.path());
    assert_eq!(texts(&parts), texts(&folder.path().join("whole")));

    let other = ["bundled", "--budget", "300tokens", "--out", "parts", "--resume", "--generated", "6"];
    let output = reason(&other, folder.path());
    assert!(!output.status.success() && errors(&output).contains("other models, problems or settings"));
    let output = reason(&["bundled", "--generated", "5", "--budget", "1s", "--out", "parts"], folder.path());
    assert!(!output.status.success() && errors(&output).contains("not empty"), "{}", errors(&output));
}

#[test]
fn what_cannot_be_asked_is_told_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("p.jsonl");
    fs::write(&file, "{\"question\": \"1 + 1?\", \"answer\": \"2\"}\n\n{\"question\": \"2 + 2?\"}\n")
        .expect("written");
    let output =
        reason(&["bundled", "--problems", "p.jsonl", "--budget", "1s", "--out", "run"], folder.path());
    let told = errors(&output);
    assert!(
        !output.status.success() && told.contains("line 3") && told.contains("without an answer"),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(!folder.path().join("run").exists());
    let output = reason(&["bundled", "--generated", "5", "--budget", "1h", "--out", "run"], folder.path());
    assert!(errors(&output).contains("60s"), "{}", errors(&output));

    let args = ["bundled", "--generated", "5", "--budget", "10tokens", "--out", "parts", "--resume"];
    run(&["bundled", "--budget", "300tokens", "--out", "parts"], folder.path());
    let output = reason(&[&args[..], &TERMS[2..]].concat(), folder.path());
    assert!(errors(&output).contains("spent already"), "{}", errors(&output));

    let output = run(&["bundled", "--budget", "1tokens", "--out", "small"], folder.path());
    assert!(errors(&output).contains("no attempt ended within the budget"), "{}", errors(&output));
}

#[test]
fn the_first_model_judges_and_right_attempts_are_texts_to_train_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = [
        "bundled",
        "--budget",
        "5000tokens",
        "--score",
        "first",
        "--traces",
        "2",
        "--train-split",
        "--out",
        "run",
    ];
    run(&args, folder.path());
    let out = folder.path().join("run");
    let lines: Vec<Value> = fs::read_to_string(out.join("completions.jsonl"))
        .expect("completions")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert!(lines.iter().all(|line| line["score"].as_f64().is_some_and(|score| score < 0.0)), "{lines:?}");
    let right = |line: &&Value| line["correct"] == true && line["finish"] != "length";
    let traces = fs::read_to_string(out.join("traces.jsonl")).expect("traces");
    let mut of_problem: BTreeMap<String, usize> = BTreeMap::new();
    for line in traces.lines() {
        let trace: Value = serde_json::from_str(line).expect("JSON");
        let [text, prompt, completion] =
            ["text", "prompt", "completion"].map(|name| trace[name].as_str().expect("a text"));
        assert_eq!(text, format!("{prompt}{completion}"));
        assert!(
            lines.iter().filter(right).any(|line| line["text"] == completion),
            "{completion} was not right"
        );
        *of_problem.entry(prompt.to_string()).or_default() += 1;
    }
    assert!(of_problem.values().all(|count| *count <= 2));
    let solved: std::collections::BTreeSet<u64> =
        lines.iter().filter(right).map(|line| line["problem"].as_u64().expect("a number")).collect();
    assert!(solved.len() > 2, "the teacher solves some: {solved:?}");
    assert_eq!(of_problem.len(), solved.len());
}
