//! `distill` with what a recipe can ask for beyond stages, and what belongs to it: `importance`, and texts that the teacher writes.

mod support;

use std::fs;
use std::path::Path;

use support::{assert_refused, folder, run, succeeded, teacher, text};

const TEXT: &str =
    "Q: Ann has 3 apples. She buys 4 more. How many apples does Ann have?\nA: 3 + 4 = 7. The answer is 7.";

/// Texts as JSON lines, a few of them.
fn texts(folder: &Path) {
    let line =
        |index: usize| serde_json::json!({ "text": TEXT.replace('3', &(index % 9).to_string()) }).to_string();
    fs::write(folder.join("texts.jsonl"), (0..24).map(line).collect::<Vec<_>>().join("\n"))
        .expect("writable");
}

/// A recipe of two short stages.
fn recipe(folder: &Path, more: &str, of_stage: &str) {
    let stage = |kind: &str, more: &str| {
        format!("[[stage]]\nkind = \"{kind}\"\ntokens = 256\nlr = 1e-3\nbatch = 4\nseq_len = 32\n{more}\n")
    };
    let text = format!(
        "name = \"small\"\nteacher = \"teacher\"\n[data]\npath = \"texts.jsonl\"\n[eval]\ndocuments = 2\n{more}\n{}{}",
        stage("hidden", ""),
        stage("logits", of_stage)
    );
    fs::write(folder.join("small.toml"), text).expect("writable");
}

#[test]
fn a_hybrid_keeps_what_is_measured_to_be_important_and_trains_on_two_devices() {
    let folder = folder();
    teacher(folder.path());
    texts(folder.path());
    let table = succeeded(
        &["importance", "teacher", "--texts", "texts.jsonl", "--length", "48", "--keep", "1"],
        folder.path(),
    );
    let line = table.lines().last().expect("a line");
    let (_, kept) = line.split_once("layers = { all_except = [").expect("what a recipe would say");
    let kept = kept.trim_end_matches("] }");
    assert!(table.contains("without layer") && table.contains("none"), "{table}");

    recipe(
        folder.path(),
        "[student]\nlayers = { all_except_most_important = 1 }\ninit = \"qkvo\"\nbias = true",
        "checkpointing = true\nmixer_weight = 0.1",
    );
    // On one thread, too: a replica that waits computes for the other.
    let distill = ["distill", "--recipe", "small.toml", "--out", "run", "--replicas", "2", "--threads", "1"];
    let output = succeeded(&distill, folder.path());
    assert!(output.contains("2 replicas from flex"), "{output}");
    assert!(output.contains("keeps attention in layers ["), "{output}");
    let resolved = fs::read_to_string(folder.path().join("run/recipe.toml")).expect("the recipe");
    assert!(resolved.contains("all_except = ["), "{resolved}");
    assert!(kept.parse::<usize>().is_ok_and(|layer| layer < 5), "one layer in {line}");
    let report = fs::read_to_string(folder.path().join("run/report.html")).expect("the report");
    for part in ["gradient norm", "tokens a second"] {
        assert!(report.contains(part), "{part}");
    }
    let odd = ["distill", "--recipe", "small.toml", "--out", "other", "--replicas", "3"];
    assert_refused(&odd, folder.path(), &["4 sequences", "on 3 devices"]);
    assert!(!folder.path().join("other").exists(), "refused before anything was done");
    let recipe = fs::read_to_string(folder.path().join("small.toml")).expect("the recipe");
    fs::write(folder.path().join("many.toml"), recipe.replace("important = 1", "important = 99"))
        .expect("writable");
    let many = ["distill", "--recipe", "many.toml"];
    assert_refused(&many, folder.path(), &["all_except_most_important = 99, expected 1 to"]);
}

#[test]
fn heads_that_retrieve_stay_beside_the_mixers_of_a_distilled_student() {
    let folder = folder();
    teacher(folder.path());
    texts(folder.path());
    recipe(
        folder.path(),
        "[student]\ninit = \"qkvo\"\nbias = true\n[student.kept]\njunction = \"adapter\"\nheads = [[1, 3], [1, 0]]",
        "",
    );
    succeeded(&["distill", "--recipe", "small.toml", "--out", "run"], folder.path());
    let shown = succeeded(&["inspect", "run/student"], folder.path());
    assert!(shown.contains("hybrid of Llama and Llamba by heads (Adapter)"), "{shown}");
    let answer = ["generate", "--model", "run/student", "--prompt", "Ann has 3", "--max-tokens", "3"];
    succeeded(&answer, folder.path());
}

#[test]
fn texts_that_the_teacher_writes_are_data_and_its_predictions_are_kept() {
    let folder = folder();
    teacher(folder.path());
    fs::write(folder.path().join("prompts.txt"), "Q: Ann has 3 apples.\nQ: Tom has 5 pears.\n")
        .expect("writable");
    let write = [
        "generate",
        "--model",
        "teacher",
        "--raw",
        "--prompts",
        "prompts.txt",
        "-n",
        "8",
        "--temperature",
        "1",
        "--max-tokens",
        "40",
        "--json",
        "--echo",
    ];
    let lines = succeeded(&write, folder.path());
    assert!(lines.lines().all(|line| line.contains("\"text\":\"Q: ")), "{lines}");
    assert_eq!(lines.lines().count(), 16);
    fs::write(folder.path().join("texts.jsonl"), lines).expect("writable");
    recipe(
        folder.path(),
        "[student]\ninit = \"qkvo\"\nbias = true\n[teacher_cache]\npath = \"cache\"\ntop_k = 8",
        "",
    );
    succeeded(&["distill", "--recipe", "small.toml", "--out", "run"], folder.path());
    assert!(folder.path().join("cache/cache.json").exists() && folder.path().join("cache/32/0000").is_dir());
}

#[test]
fn a_distilled_student_learns_from_texts_of_its_own() {
    let folder = folder();
    teacher(folder.path());
    texts(folder.path());
    let rollouts = "divergence = { jensen_shannon = 0.5 }\nrollouts = { share = 0.5, max_tokens = 16, temperature = 0.9 }";
    recipe(folder.path(), "[student]\ninit = \"qkvo\"\nbias = true", rollouts);
    let path = folder.path().join("small.toml");
    let without = fs::read_to_string(&path).expect("the recipe").replace("seq_len = 32", "seq_len = 64");
    let without = without.replace("batch = 4", "batch = 2");
    fs::write(&path, without.replace("[data]", "[data]\nprompt_marker = \"A:\"")).expect("writable");
    fs::write(folder.path().join("without.toml"), without).expect("writable");

    succeeded(&["distill", "--recipe", "small.toml", "--out", "run"], folder.path());
    let metrics = fs::read_to_string(folder.path().join("run/metrics.jsonl")).expect("metrics");
    let own: Vec<bool> = metrics.lines().map(|line| line.contains("\"rollout\":true")).collect();
    assert_eq!(own, [false, false, false, true], "two steps of hidden, two of logits: {metrics}");
    let report = fs::read_to_string(folder.path().join("run/report.html")).expect("the report");
    assert!(report.contains("loss on its own texts"), "a curve of its own");

    let distill = |recipe| ["distill", "--recipe", recipe, "--out", "other"];
    let missing = ["stage 2: rollouts", "prompt_field or prompt_marker"];
    assert_refused(&distill("without.toml"), folder.path(), &missing);
    let two = [&distill("small.toml")[..], &["--replicas", "2"]].concat();
    assert_refused(&two, folder.path(), &["rollouts on several devices are not built"]);
}

/// What is printed when a run is stopped continues it where it was.
#[test]
fn a_recipe_from_elsewhere_is_resumed_from_anywhere() {
    let folder = folder();
    teacher(folder.path());
    texts(folder.path());
    fs::write(folder.path().join("valid.jsonl"), format!("{}\n", serde_json::json!({ "text": TEXT })))
        .expect("writable");
    recipe(folder.path(), "path = \"valid.jsonl\"\n[student]\ninit = \"qkvo\"\nbias = true", "");
    let output = run(&["distill", "--recipe", "small.toml", "--out", "run"], folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let resolved = fs::read_to_string(folder.path().join("run/recipe.toml")).expect("the recipe");
    let whole = |name: &str| format!("\"{}\"", folder.path().join(name).display());
    for name in ["teacher", "texts.jsonl", "valid.jsonl"] {
        assert!(resolved.contains(&whole(name)), "{name} in {resolved}");
    }
    // A run that was killed right behind its first file, from another folder.
    let killed = folder.path().join("killed");
    fs::create_dir_all(killed.join("elsewhere")).expect("a folder");
    fs::write(killed.join("recipe.toml"), resolved).expect("writable");
    succeeded(&["distill", "--resume", ".."], &killed.join("elsewhere"));
    assert!(killed.join("student/config.json").exists());
    assert_refused(
        &["distill", "--resume", "."],
        &killed.join("elsewhere"),
        &["holds no run", "recipe.toml is missing"],
    );
}
