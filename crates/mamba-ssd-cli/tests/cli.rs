//! Drives the program as a user would: what is wrong with the input is one line and a failure, nothing is written by
//! halves, and a run that was stopped goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

mod support;

use support::{assert_refused, folder, program, run, succeeded, teacher, text};

const SMALL: [&str; 2] = ["--scale", "0.002"];

fn write(folder: &Path, name: &str, contents: &str) {
    fs::write(folder.join(name), contents).expect("a writable folder");
}

fn recipe(extra: &str) -> String {
    format!(
        "name = \"tiny\"\n{extra}\n[[stage]]\nkind = \"logits\"\ntokens = 64\nlr = 1e-3\nbatch = 1\nseq_len = 32\n"
    )
}

fn json(path: &Path) -> serde_json::Value {
    let text = fs::read_to_string(path).expect("a written file");
    serde_json::from_str(&text).expect("valid JSON")
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Waits until `path` is there and not empty.
fn await_file(path: &Path, child: &mut Child) {
    let started = Instant::now();
    while !fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        let status = child.try_wait().expect("a child to ask");
        assert!(status.is_none(), "ended with {status:?} before {} was there", path.display());
        assert!(started.elapsed() < Duration::from_secs(100), "{} does not come", path.display());
        sleep(Duration::from_millis(20));
    }
}

fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(status.expect("kill runs").success());
}

#[test]
fn an_unknown_recipe_field_is_named() {
    let folder = folder();
    write(folder.path(), "recipe.toml", &recipe("learning_rate = 3"));
    assert_refused(&["distill", "--recipe", "recipe.toml"], folder.path(), &["recipe.toml", "learning_rate"]);
    assert_eq!(entries(folder.path()), ["recipe.toml"]);
}

#[test]
fn a_recipe_for_a_gpu_is_refused_on_the_cpu_and_without_a_teacher() {
    let folder = folder();
    write(folder.path(), "recipe.toml", &recipe("dtype = \"bf16\"").replace("learning_rate", "lr"));
    assert_refused(
        &["distill", "--recipe", "recipe.toml"],
        folder.path(),
        &["bundled teacher computes in f32"],
    );
    let teacher = teacher(folder.path());
    let teacher = teacher.to_str().expect("a path");
    let args = ["distill", "--recipe", "recipe.toml", "--teacher", teacher];
    assert_refused(&args, folder.path(), &["BF16 is for GPUs"]);
}

#[test]
fn an_unknown_preset_is_answered_with_those_there_are() {
    assert_refused(&["distill", "--preset", "demoo"], folder().path(), &["demoo", "demo", "llamba-1b"]);
}

#[test]
fn a_missing_file_is_named() {
    let folder = folder();
    assert_refused(&["distill", "--recipe", "absent.toml"], folder.path(), &["absent.toml", "No such file"]);
    assert_refused(&["inspect", "absent"], folder.path(), &["absent", "No such file"]);
    assert_refused(&["generate", "--model", "absent", "--prompt", "hello"], folder.path(), &["absent"]);
    assert_refused(&["distill", "--resume", "absent"], folder.path(), &["absent", "--resume"]);
    assert_eq!(entries(folder.path()), [""; 0]);
}

#[test]
fn truncated_weights_are_refused_and_nothing_is_written() {
    let folder = folder();
    let weights = teacher(folder.path()).join("model.safetensors");
    let bytes = fs::read(&weights).expect("weights");
    fs::write(&weights, &bytes[..bytes.len() / 2]).expect("a writable folder");
    assert_refused(
        &["distill", "--teacher", "teacher", "--out", "run"],
        folder.path(),
        &["model.safetensors"],
    );
    assert_refused(&["convert", "teacher", "out"], folder.path(), &["model.safetensors"]);
    assert_eq!(entries(folder.path()), ["teacher"]);
}

#[test]
fn weights_of_another_shape_are_listed() {
    let folder = folder();
    let path = teacher(folder.path()).join("config.json");
    let mut config = json(&path);
    let layers = config["num_hidden_layers"].as_u64().expect("a number of layers");
    config["intermediate_size"] = (config["intermediate_size"].as_u64().expect("a width") + 8).into();
    fs::write(&path, config.to_string()).expect("a writable folder");
    assert_refused(&["inspect", "teacher"], folder.path(), &["wrong shape", "mlp.gate_proj.weight"]);
    config["num_hidden_layers"] = (layers + 1).into();
    fs::write(&path, config.to_string()).expect("a writable folder");
    assert_refused(&["distill", "--teacher", "teacher"], folder.path(), &["missing"]);
}

#[test]
fn a_config_of_another_family_is_answered_with_those_covered() {
    let folder = folder();
    write(&teacher(folder.path()), "config.json", "{\"model_type\": \"bert\", \"hidden_size\": 64}");
    assert_refused(&["inspect", "teacher"], folder.path(), &["config.json", "bert", "llama"]);
}

#[test]
fn an_empty_data_file_is_refused() {
    let folder = folder();
    write(folder.path(), "data.jsonl", "");
    write(folder.path(), "recipe.toml", &recipe("[data]\npath = \"data.jsonl\""));
    assert_refused(
        &["distill", "--recipe", "recipe.toml", "--out", "run"],
        folder.path(),
        &["data.jsonl", "no text"],
    );
    assert_eq!(entries(folder.path()), ["data.jsonl", "recipe.toml"]);
}

#[test]
fn a_bad_line_of_data_is_named_or_counted_and_passed_over() {
    let folder = folder();
    let good = "{\"text\": \"Sam has 4 apples and buys 5 more. Sam has 9 apples.\"}\n";
    write(folder.path(), "data.jsonl", &format!("{good}{{\"text\": 3}}\n{}", good.repeat(3)));
    let data =
        |more: &str| format!("[data]\npath = \"data.jsonl\"\n{more}[eval]\ndocuments = 1\nproblems = 0");
    write(folder.path(), "recipe.toml", &recipe(&data("")));
    let command = ["distill", "--recipe", "recipe.toml", "--out", "run"];
    assert_refused(&command, folder.path(), &["data.jsonl, line 2", "expected a string"]);
    assert_eq!(entries(folder.path()), ["data.jsonl", "recipe.toml"]);

    write(folder.path(), "recipe.toml", &recipe(&data("skip_bad_lines = true\n")));
    let output = run(&command, folder.path());
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("passed over 1 bad line, the first is line 2: `text` is a number"), "{said}");
    assert!(folder.path().join("run/student").exists());
}

#[test]
fn weights_in_8_bits_are_refused_for_gpus() {
    let folder = folder();
    teacher(folder.path());
    let command =
        ["generate", "--model", "teacher", "--prompt", "1", "--weights", "int8", "--device", "cuda"];
    assert_refused(&command, folder.path(), &["--weights int8 is for the CPU", "--device flex"]);
}

#[test]
fn an_output_folder_must_be_empty_and_writable() {
    let folder = folder();
    write(folder.path(), "file", "in the way");
    assert_refused(&["distill", "--out", "."], folder.path(), &["not empty", "--out"]);
    assert_refused(&["distill", "--out", "file/run"], folder.path(), &["cannot write", "file/run"]);
    assert_eq!(entries(folder.path()), ["file"]);
}

#[test]
fn an_empty_prompt_is_refused() {
    assert_refused(&["generate", "--model", ".", "--prompt", ""], folder().path(), &["--prompt is empty"]);
}

#[test]
fn a_device_that_is_not_compiled_in_is_refused() {
    if cfg!(not(feature = "cuda")) {
        assert_refused(
            &["distill", "--device", "cuda:1"],
            folder().path(),
            &["without cuda", "--features cuda"],
        );
    }
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let folder = folder();
    teacher(folder.path());
    let mut child = program(&["inspect", "teacher"], folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn doctor_finds_the_cpu() {
    let output = run(&["doctor"], folder().path());
    assert!(
        output.status.success() && text(&output.stdout).contains("flex       works"),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn conversion_reports_writes_and_can_be_read_back() {
    let folder = folder();
    teacher(folder.path());
    let dry = run(&["convert", "teacher", "student", "--dry-run"], folder.path());
    assert!(
        dry.status.success() && text(&dry.stdout).contains("nothing was written"),
        "{}",
        text(&dry.stderr)
    );
    assert_eq!(entries(folder.path()), ["teacher"]);
    let hybrid = run(&["convert", "teacher", "student", "--layers", "0", "--init", "qkvo"], folder.path());
    assert!(hybrid.status.success(), "{}", text(&hybrid.stderr));
    let shown = text(&run(&["inspect", "student"], folder.path()).stdout);
    assert!(shown.contains("layer 0     discrete Mamba-2") && shown.contains("attention"), "{shown}");
}

#[test]
fn published_models_are_shown_by_name_without_files() {
    let shown = run(&["inspect", "--preset", "llamba-1b"], folder().path());
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    for part in [
        "family      Llamba",
        "parameters  1,405,159,936; the embedding is also the head",
        "published   cartesia-ai/Llamba-1B",
        "state       9,568,256 bytes in f32 (4,784,128 in bf16) for a sequence of any length",
        "layers 0-15 discrete Mamba-2, 32 heads of 64, state 64, 32 for B and C",
    ] {
        assert!(text(&shown.stdout).contains(part), "{part} in {}", text(&shown.stdout));
    }
    assert_refused(
        &["inspect", "--preset", "llamba"],
        folder().path(),
        &["no preset \"llamba\"", "llamba-1b, llamba-3b"],
    );
}

#[test]
fn heads_stay_beside_the_mixers_that_replace_them() {
    let folder = folder();
    teacher(folder.path());
    let heads = run(&["convert", "teacher", "student", "--heads", "1:3,1:0"], folder.path());
    assert!(heads.status.success(), "{}", text(&heads.stderr));
    let shown = text(&run(&["inspect", "student"], folder.path()).stdout);
    for part in [
        "hybrid of Llama and Llamba by heads (Adapter)",
        "layer 1     discrete Mamba-2",
        "beside it attention, 2 heads of",
        "beside it no attention heads (Adapter)",
        "more for every token",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let nothing = ["convert", "teacher", "other", "--heads", "1:3", "--layers", "none"];
    assert_refused(&nothing, folder.path(), &["--heads", "--layers none"]);
    let refused = |heads: &str, parts: &[&str]| {
        assert_refused(&["convert", "teacher", "other", "--heads", heads], folder.path(), parts);
    };
    refused("1:99", &["head 99 of layer 1 was to be kept", "0 to"]);
    refused("77:0", &["head 0 of layer 77 was to be kept, but that layer is not converted"]);
}

#[test]
fn a_small_run_writes_everything_and_its_student_answers() {
    let folder = folder();
    let output = run(&[&["distill"], &SMALL[..]].concat(), folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty(), "a bar on no terminal: {}", text(&output.stderr));
    let run_folder = folder.path().join("runs/demo-1");
    assert_eq!(
        entries(&run_folder),
        [
            "matrices.svg",
            "metrics.jsonl",
            "recipe.toml",
            "report.html",
            "run.json",
            "student",
            "summary.json"
        ]
    );
    let summary = json(&run_folder.join("summary.json"));
    for figure in [
        "teacher_params",
        "student_params",
        "teacher_ppl",
        "student_ppl",
        "teacher_accuracy",
        "student_accuracy",
    ] {
        assert!(summary[figure].is_number(), "{figure} is {}", summary[figure]);
    }
    assert_eq!(summary["student_ppl_by_stage"].as_array().map(Vec::len), Some(3));
    let kinds: Vec<_> =
        summary["stages"].as_array().expect("stages").iter().map(|stage| &stage["kind"]).collect();
    assert_eq!(kinds, ["matrices", "hidden", "logits"]);
    let report = fs::read_to_string(run_folder.join("report.html")).expect("a report");
    assert!(report.contains("<svg") && report.contains("layer 0, head 0"));
    let args =
        ["generate", "--model", "runs/demo-1/student", "--prompt", "Ann has 3 apples.", "--max-tokens", "4"];
    let answer = run(&args, folder.path());
    assert!(answer.status.success(), "{}", text(&answer.stderr));
}

#[test]
fn ctrl_c_saves_and_a_killed_run_goes_on() {
    let folder = folder();
    let run_folder = folder.path().join("run");
    let start = [&["distill", "--out", "run"], &SMALL[..]].concat();
    let mut child = program(&start, folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    await_file(&run_folder.join("metrics.jsonl"), &mut child);
    signal(&child, "-INT");
    let stopped = child.wait_with_output().expect("it ends");
    assert_eq!(stopped.status.code(), Some(130));
    assert!(text(&stopped.stderr).contains("mamba-ssd distill --resume run"), "{}", text(&stopped.stderr));
    assert!(run_folder.join("checkpoint.safetensors").exists() && !run_folder.join("summary.json").exists());

    let resume = ["distill", "--resume", "run"];
    let before = fs::metadata(run_folder.join("metrics.jsonl")).expect("metrics").len();
    let mut child = program(&resume, folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let started = Instant::now();
    while fs::metadata(run_folder.join("metrics.jsonl")).map_or(0, |file| file.len()) <= before {
        assert!(started.elapsed() < Duration::from_secs(100) && child.try_wait().expect("a child").is_none());
        sleep(Duration::from_millis(20));
    }
    signal(&child, "-KILL");
    assert!(!child.wait().expect("it ends").success());

    let finished = run(&resume, folder.path());
    assert!(finished.status.success(), "{}", text(&finished.stderr));
    assert!(json(&run_folder.join("summary.json"))["student_ppl"].is_number());
    let metrics = fs::read_to_string(run_folder.join("metrics.jsonl")).expect("metrics");
    let steps: Vec<serde_json::Value> =
        metrics.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut places: Vec<_> =
        steps.iter().map(|step| (step["stage"].as_u64(), step["step"].as_u64())).collect();
    let count = places.len();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), count, "a step is there twice");
    assert_refused(&resume, folder.path(), &["finished"]);
}

/// A file that the tests of `mamba-ssd-models` use.
fn model_data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../mamba-ssd-models/tests/data").join(name)
}

#[test]
fn a_gguf_file_is_inspected_converted_and_asked_like_any_model() {
    let folder = folder();
    let gguf = model_data("tiny.gguf").to_string_lossy().into_owned();
    let shown = succeeded(&["inspect", &gguf], folder.path());
    for part in
        ["family      Llama", "8 Q8_0", "260 tokens, a text ends with <|end|>, a chat template", "in f32"]
    {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    succeeded(&["convert", &gguf, "plain", "--layers", "none"], folder.path());
    succeeded(&["convert", &gguf, "student"], folder.path());
    let names = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"];
    assert_eq!(entries(&folder.path().join("plain")), names);
    assert!(succeeded(&["inspect", "student"], folder.path()).contains("family      Llamba"));

    let ask = |model: &str| {
        let args = [
            "generate",
            "--model",
            model,
            "--prompt",
            "hello",
            "--max-tokens",
            "5",
            "--chat",
            "--system",
            "be",
        ];
        succeeded(&args, folder.path())
    };
    assert_eq!(ask(&gguf), ask("plain"), "the same model in another format");
    assert!(!ask("student").is_empty());
}

#[test]
fn a_model_is_held_against_a_reference() {
    let folder = folder();
    for (from, to) in
        [("llama32.config.json", "config.json"), ("llama32.weights.safetensors", "model.safetensors")]
    {
        fs::copy(model_data(from), folder.path().join(to)).expect("a model");
    }
    let golden = fs::read(model_data("llama32.golden.safetensors")).expect("a file");
    let golden = safetensors::SafeTensors::deserialize(&golden).expect("a file");
    let reference = |logits: &str| {
        let renamed = |key: &str| match key {
            key if key == logits => Some("logits"),
            "input_ids" => Some("input_ids"),
            "hidden.1" => Some("hidden_states.1"),
            _ => None,
        };
        let views = golden.iter().filter_map(|(key, view)| Some((renamed(key)?, view)));
        fs::write(folder.path().join("r.safetensors"), safetensors::serialize(views, None).expect("bytes"))
            .expect("a writable folder");
    };
    reference("logits");
    let shown = succeeded(&["compare", ".", "--reference", "r.safetensors"], folder.path());
    assert!(shown.contains("hidden_states.1") && shown.contains("all 2 agree within 1e-3"), "{shown}");
    let strict = ["compare", ".", "--reference", "r.safetensors", "--rtol", "1e-12"];
    assert_refused(&strict, folder.path(), &["hidden_states.1 of layer 0 is the first to depart", "1.0e-12"]);
    reference("hidden.0");
    let wrong = ["compare", ".", "--reference", "r.safetensors"];
    assert_refused(&wrong, folder.path(), &["`logits` is", "the model's is"]);
    assert_refused(
        &["compare", ".", "--reference", "config.json"],
        folder.path(),
        &["config.json", "weight_map"],
    );
}

#[test]
fn what_is_no_name_of_a_repository_is_refused_without_the_network() {
    for name in ["hf:", "hf:only", "hf:a/b/c", "hf:../b"] {
        assert_refused(&["inspect", name], folder().path(), &[name, "hf:owner/name"]);
    }
}

#[test]
fn a_model_without_a_chat_template_is_not_chatted_with() {
    let folder = folder();
    teacher(folder.path());
    let args = ["generate", "--model", "teacher", "--prompt", "hello", "--chat"];
    assert_refused(&args, folder.path(), &["no chat template", "--chat"]);
}

#[test]
fn a_warm_up_runs_every_length_of_every_batch() {
    let folder = folder();
    teacher(folder.path());
    let table =
        succeeded(&["warm-up", "--model", "teacher", "--lengths", "3,9", "--batches", "1,2"], folder.path());
    for row in [["1", "3"], ["1", "9"], ["2", "3"], ["2", "9"]] {
        let cells = |line: &str| line.split_whitespace().take(2).map(str::to_string).collect::<Vec<_>>();
        assert!(table.lines().any(|line| cells(line) == row), "no row {row:?} in {table}");
    }
    assert_refused(
        &["warm-up", "--model", "teacher", "--lengths", "0"],
        folder.path(),
        &["--lengths", "at least 1"],
    );
}
