//! `generate` as a user runs it: many prompts, many samples, whatever is wrong with one of them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn teacher() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/teacher").to_string_lossy().into_owned()
}

fn generate(args: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mamba-ssd"));
    command.args(["generate", "--model", &teacher(), "--raw", "--max-tokens", "12"]).args(args);
    command.current_dir(folder).env_remove("RUST_LOG").stdin(Stdio::null());
    command.output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn answered(args: &[&str], folder: &Path) -> String {
    let output = generate(args, folder);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn objects(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

const SAMPLED: [&str; 4] = ["--temperature", "1", "--seed", "5"];
const PROMPTS: [&str; 3] = ["Mia has 34 shells.", "Tom", "Ann has 3 apples. She buys 4 more."];

#[test]
fn a_prompt_is_answered_alike_alone_among_others_and_from_files() {
    let folder = folder();
    let alone =
        PROMPTS.map(|prompt| answered(&[&["--prompt", prompt], &SAMPLED[..]].concat(), folder.path()));
    fs::write(folder.path().join("p.txt"), PROMPTS.join("\n\n")).expect("written");
    let lines = PROMPTS.map(|prompt| serde_json::json!({"id": 1, "prompt": prompt}).to_string());
    fs::write(folder.path().join("p.jsonl"), lines.join("\n")).expect("written");
    for file in ["p.txt", "p.jsonl"] {
        for batch in ["1", "2", "16"] {
            let args = [&["--prompts", file, "--batch", batch, "--json"], &SAMPLED[..]].concat();
            let found = objects(&answered(&args, folder.path()));
            assert_eq!(found.len(), 3);
            for (index, object) in found.iter().enumerate() {
                assert_eq!((&object["index"], &object["prompt"]), (&index.into(), &PROMPTS[index].into()));
                let text = object["text"].as_str().expect("a text");
                assert_eq!(
                    text.trim_end_matches('\n'),
                    alone[index].trim_end_matches('\n'),
                    "{file}, {batch}"
                );
                assert!(["eos", "length"].contains(&object["finish"].as_str().expect("a reason")));
            }
        }
    }
    let titled = answered(&[&["--prompts", "p.txt"], &SAMPLED[..]].concat(), folder.path());
    assert!(titled.starts_with("== prompt 1\n") && titled.contains("\n== prompt 3\n"), "{titled}");
}

#[test]
fn samples_of_a_prompt_differ_and_are_the_same_again() {
    let folder = folder();
    let ask = |batch: &str| {
        let args = ["--prompt", PROMPTS[0], "-n", "5", "--json", "--log-probabilities", "--batch", batch];
        objects(&answered(&[&args, &SAMPLED[..]].concat(), folder.path()))
    };
    let found = ask("3");
    assert_eq!(found, ask("8"));
    let texts: std::collections::BTreeSet<String> =
        found.iter().map(|sample| sample["text"].to_string()).collect();
    assert!(found.len() == 5 && texts.len() > 1, "{texts:?}");
    for (index, sample) in found.iter().enumerate() {
        assert_eq!(sample["sample"], index);
        let length = |key: &str| sample[key].as_array().expect("a list").len();
        assert_eq!(length("tokens"), length("log_probabilities"));
    }
}

#[test]
fn a_text_ends_in_front_of_a_stop_string() {
    let folder = folder();
    let whole = answered(&["--prompt", PROMPTS[0]], folder.path());
    let stop: String = whole.chars().skip(6).take(4).collect();
    let cut = answered(&["--prompt", PROMPTS[0], "--stop", &stop], folder.path());
    assert_eq!(cut.trim_end_matches('\n'), &whole[..whole.find(&stop).expect("it is there")]);
}

/// A text that was read once is continued as if it stood in front.
#[test]
fn a_text_goes_on_from_a_state_in_a_file() {
    let folder = folder();
    let (first, second) = PROMPTS[0].split_at(PROMPTS[0].rfind(' ').expect("words"));
    let whole = answered(&["--prompt", PROMPTS[0]], folder.path());
    let read = generate(&["--prompt", first, "--save-state", "s.safetensors"], folder.path());
    assert!(read.status.success() && text(&read.stdout).is_empty(), "{}", text(&read.stderr));
    assert!(text(&read.stderr).starts_with("read "), "{}", text(&read.stderr));
    let behind = answered(&["--prompt", second, "--state", "s.safetensors"], folder.path());
    assert_eq!(behind, whole);
    let narrower = ["--prompt", second, "--state", "s.safetensors", "--weights", "int8"];
    let refused = generate(&narrower, folder.path());
    assert!(text(&refused.stderr).contains("with other weights"), "{}", text(&refused.stderr));
    let two = ["--prompt", "x", "--prompt", "y", "--save-state", "t.safetensors"];
    let refused = generate(&two, folder.path());
    assert!(text(&refused.stderr).contains("one text, found 2"), "{}", text(&refused.stderr));
    assert!(!folder.path().join("t.safetensors").exists());
}

#[test]
fn how_fast_it_was_is_said_on_standard_error() {
    let output = generate(&["--prompt", PROMPTS[0]], folder().path());
    let line = text(&output.stderr);
    for part in ["prompt ", "written ", " tokens/s", "first token after ", "peak memory "] {
        assert!(line.contains(part), "{part:?} in {line}");
    }
    assert_eq!(line.lines().count(), 1, "{line}");
    let output = generate(&["--prompt", PROMPTS[0], "-n", "6", "--batch", "4"], folder().path());
    let lines = text(&output.stderr);
    let first = lines.lines().next().unwrap_or_default();
    assert!(first.starts_with("6 samples of up to ") && first.contains(", 4 at a time: "), "{lines}");
}

#[test]
fn a_prompt_that_cannot_be_answered_keeps_no_other_from_it() {
    let folder = folder();
    let long = "Mia has 34 shells. ".repeat(400);
    let args = ["--prompt", PROMPTS[0], "--prompt", &long, "--prompt", PROMPTS[1], "--json"];
    let output = generate(&args, folder.path());
    let (found, error) = (objects(&text(&output.stdout)), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(found[0]["text"].is_string() && found[2]["text"].is_string());
    for part in ["positions", "shorten it"] {
        assert!(found[1]["error"].as_str().expect("an error").contains(part), "{}", found[1]);
        assert!(error.contains(part), "{error}");
    }
    let empty = generate(&["--prompt", "", "--prompt", PROMPTS[1], "--json"], folder.path());
    let found = objects(&text(&empty.stdout));
    assert_eq!(empty.status.code(), Some(1));
    assert!(found[0]["error"].as_str().expect("an error").contains("empty"), "{}", found[0]);
    assert!(found[1]["text"].is_string() && text(&empty.stderr).contains("an answer is missing"));
    let alone = generate(&["--prompt", &long], folder.path());
    let error = text(&alone.stderr);
    assert!(error.starts_with("error: the prompt has ") && error.trim_end().lines().count() == 1, "{error}");
}

#[test]
fn a_file_without_prompts_is_refused_by_its_line() {
    let folder = folder();
    let refused = |name: &str, contents: &str, part: &str| {
        fs::write(folder.path().join(name), contents).expect("written");
        let output = generate(&["--prompts", name], folder.path());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains(part) && error.contains(name) && error.trim_end().lines().count() == 1,
            "{error}"
        );
    };
    refused("empty.txt", "\n \n", "no prompt");
    refused("a.jsonl", "{\"prompt\": \"x\"}\nno\n", "line 2");
    refused("b.jsonl", "{\"text\": \"x\"}\n", "\"prompt\"");
    refused("c.jsonl", "[1]\n", "line 1");
    let neither = generate(&[], folder.path());
    assert_eq!(neither.status.code(), Some(2));
    assert!(text(&neither.stderr).contains("--prompts"));
}

#[test]
fn a_draft_changes_nothing_but_says_what_was_accepted() {
    let folder = folder();
    let student = folder.path().join("student").to_string_lossy().into_owned();
    let mut convert = Command::new(env!("CARGO_BIN_EXE_mamba-ssd"));
    let converted =
        convert.args(["convert", &teacher(), &student, "--init", "qkvo"]).output().expect("it starts");
    assert!(converted.status.success(), "{}", text(&converted.stderr));
    let prompts = ["--prompt", PROMPTS[0], "--prompt", PROMPTS[2], "--json"];
    let alone = objects(&answered(&prompts, folder.path()));
    for draft in [student.as_str(), &teacher()] {
        let output =
            generate(&[&prompts, &["--draft", draft, "--draft-tokens", "3"][..]].concat(), folder.path());
        let line = text(&output.stderr);
        assert_eq!(objects(&text(&output.stdout)), alone, "{line}");
        assert!(line.contains("; drafted ") && line.contains(", accepted "), "{line}");
        assert_eq!(line.contains("accepted 100.0 %"), draft != student, "{line}");
    }
    let tokenizer = folder.path().join("student/tokenizer.json");
    let words = fs::read_to_string(&tokenizer).expect("a tokenizer");
    fs::write(&tokenizer, words.replace("endoftext", "end-of-text")).expect("written");
    let strange = generate(&["--prompt", "x", "--draft", &student], folder.path());
    assert!(text(&strange.stderr).contains("different vocabularies"), "{}", text(&strange.stderr));
    for penalty in ["nan", "inf"] {
        let refused = generate(&["--prompt", "x", "--presence-penalty", penalty], folder.path());
        assert!(text(&refused.stderr).contains("expected a finite number"), "{}", text(&refused.stderr));
    }
    let sampled = generate(&["--prompt", "x", "--draft", &student, "--temperature", "1"], folder.path());
    assert_eq!(sampled.status.code(), Some(2), "drafts are for greedy texts");
}

/// The teacher is sure enough of its words that rounding its weights does not change them.
#[test]
fn weights_may_be_stored_narrower() {
    let folder = folder();
    let whole = answered(&["--prompt", PROMPTS[0]], folder.path());
    for weights in ["bf16", "int8"] {
        assert_eq!(
            answered(&["--prompt", PROMPTS[0], "--weights", weights], folder.path()),
            whole,
            "{weights}"
        );
    }
    let lines =
        answered(&["--prompt", PROMPTS[0], "--weights", "int8", "--draft", &teacher()], folder.path());
    assert_eq!(lines, whole);
}
