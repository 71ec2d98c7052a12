//! `eval` as a user runs it, on the bundled teacher.

mod support;

use std::fs;

use serde_json::Value;
use support::{assert_refused, folder, succeeded, teacher};

/// Items in the teacher's own language: it has to know what follows.
const CHOICES: &str = r#"{"context": "Q: Ann has 3 apples. She buys 4 more. How many apples does Ann have?\nA: 3 + 4 =", "choices": [" 7", " 9"], "answer": 0}
{"context": "Q: Ann has 5 apples. She buys 6 more. How many apples does Ann have?\nA: 5 + 6 =", "choices": [" 14", " 11"], "answer": 1}
{"context": "Q: Ann has 2 apples. She buys 6 more. How many apples does Ann have?\nA: 2 + 6 =", "choices": [" 1", " 8"], "answer": 1}
"#;

#[test]
fn models_are_examined_side_by_side() {
    let folder = folder();
    let teacher = teacher(folder.path());
    let teacher = teacher.to_str().expect("a path");
    fs::write(folder.path().join("sums.jsonl"), CHOICES).expect("a file");
    fs::write(
        folder.path().join("texts.txt"),
        "3 + 4 = 7. The answer is 7.\n\n5 + 6 = 11. The answer is 11.\n",
    )
    .expect("a file");
    let worked = r#"{"context": "Q: Ann has 3 apples. She buys 4 more.\nA:", "continuation": " 3 + 4 = 7. The answer is 7."}"#;
    fs::write(folder.path().join("worked.jsonl"), worked).expect("a file");
    succeeded(&["convert", teacher, "student", "--init", "qkvo"], folder.path());
    let args = [
        "eval",
        teacher,
        "student",
        "--requests",
        ".",
        "--tasks",
        "sums,worked",
        "--texts",
        "texts.txt",
        "--recall",
        "16",
        "--agreement",
        "--cache",
        "cache",
        "--out",
        "results.json",
    ];
    let table = succeeded(&args, folder.path());
    for part in [
        "sums, acc ",
        "sums, acc_norm",
        "bits/byte",
        "word perplexity",
        "copying, 16 tokens",
        "KL from the first",
    ] {
        assert!(table.contains(part), "{part:?} is not in {table}");
    }
    assert!(table.contains("worked, bits/byte") && !table.contains("worked, acc"), "{table}");
    let read = || -> Value {
        let json = fs::read(folder.path().join("results.json")).expect("the results");
        serde_json::from_slice(&json).expect("JSON")
    };
    let first = read();
    let models = first["models"].as_array().expect("models");
    assert_eq!(models[0]["tasks"]["sums"]["acc"]["value"], 1.0, "the teacher can add");
    assert_eq!(models[0]["tasks"]["sums"]["chance"], 0.5);
    assert_eq!(models[0]["above_chance"], 0.5);
    assert!(models[0]["agreement"].is_null());
    assert!(
        models[1]["agreement"]["kl"]["value"].as_f64().expect("a number") > 0.1,
        "an untrained student is far off"
    );
    let perplexity = |model: usize| models[model]["texts"]["perplexity"]["value"].as_f64().expect("a number");
    assert!(perplexity(0) < perplexity(1));

    // From the cache: two tasks, texts and three kinds of recall of each model, and their agreement; the same verdicts.
    assert_eq!(fs::read_dir(folder.path().join("cache")).expect("the cache").count(), 2 * 6 + 1);
    succeeded(&args, folder.path());
    let again = read();
    for part in ["tasks", "texts", "recall", "agreement"] {
        assert_eq!(again["models"][1][part], models[1][part], "{part}");
    }
    // What 11 words cost, by definition: perplexity over tokens, to the power of tokens a word.
    let texts = &models[0]["texts"];
    let number =
        |name: &str| texts[name]["value"].as_f64().unwrap_or_else(|| texts[name].as_f64().expect("a number"));
    let nats = number("perplexity").ln() * number("tokens");
    assert_eq!((number("words"), number("bytes")), (18.0, 56.0));
    assert!((number("word_perplexity").ln() - nats / 18.0).abs() < 1e-9);
    assert!((number("bits_per_byte") - nats / 2f64.ln() / 56.0).abs() < 1e-9);
}

/// Windows share the words and bytes of their text.
#[test]
fn texts_in_several_windows_have_their_bytes_once() {
    let folder = folder();
    let teacher = teacher(folder.path());
    let teacher = teacher.to_str().expect("a path");
    let line = "Ann has 3 apples. She buys 4 more. 3 + 4 = 7. The answer is 7. ".repeat(4);
    fs::write(folder.path().join("texts.txt"), format!("{line}\n\n5 + 6 = 11. The answer is 11.\n"))
        .expect("a file");
    for more in [&["--window", "12"][..], &["--window", "12", "--stride", "5"]] {
        let args = [&["eval", teacher, "--texts", "texts.txt", "--json"], more].concat();
        let found: Value = serde_json::from_str(&succeeded(&args, folder.path())).expect("JSON");
        let texts = &found["models"][0]["texts"];
        let value = |name: &str| texts[name]["value"].as_f64().expect("a number");
        let count = |name: &str| texts[name].as_f64().expect("a number");
        let nats = value("perplexity").ln() * count("tokens");
        assert!(count("tokens") > 36.0, "several windows: {texts}");
        assert!(
            (value("bits_per_byte") - nats / 2f64.ln() / count("bytes")).abs() < 1e-9,
            "{more:?}: {texts}"
        );
        assert!((value("word_perplexity").ln() - nats / count("words")).abs() < 1e-9, "{more:?}: {texts}");
    }
}

#[test]
fn what_cannot_be_examined_is_refused() {
    let folder = folder();
    let teacher = teacher(folder.path());
    let teacher = teacher.to_str().expect("a path");
    fs::write(
        folder.path().join("broken.jsonl"),
        "{\"context\": \"a\", \"choices\": [\"b\"], \"answer\": 1}",
    )
    .expect("a file");
    let refused = |args: &[&str], parts: &[&str]| {
        let args: Vec<&str> = ["eval", teacher].iter().chain(args).copied().collect();
        assert_refused(&args, folder.path(), parts);
    };
    refused(&["--requests", ".", "--tasks", "none"], &["no task none", "none.jsonl"]);
    refused(
        &["--requests", ".", "--tasks", "broken"],
        &["broken.jsonl", "item 1", "expected one of 1 choices"],
    );
    refused(&["--texts", "absent.txt"], &["absent.txt"]);
    refused(&["--recall", "3"], &["--recall", "below 8"]);
    refused(&["--recall", "16", "--agreement"], &["--texts, which is not given"]);
    fs::write(folder.path().join("text.txt"), "a b c").expect("a file");
    refused(&["--texts", "text.txt", "--window", "8", "--stride", "9"], &["--stride is 9"]);
    refused(&["--texts", "text.txt", "--dtype", "bf16"], &["BF16 is for GPUs", "another --device"]);
    fs::write(folder.path().join("text.jsonl.zst"), "no zstd").expect("a file");
    refused(&["--texts", "text.jsonl.zst"], &["text.jsonl.zst", "no zstd stream"]);
}
