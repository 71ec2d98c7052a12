//! Damaged files of every kind: an error of one line, no panic, and no more memory than the files are
//! worth. `FUZZ_CASES` is how many are tried, 100,000 by default; `FUZZ_SEED` where to begin.

mod common;

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{DType, Device};
use common::{llama, mamba2, parallel, phi, read, reference};
use mamba_ssd::JunctionKind;
use mamba_ssd_models::{Checkpoint, Model, Reference};
use peak_alloc::PeakAlloc;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// A folder that opens, and the files of it that are damaged in turn.
struct Target {
    name: &'static str,
    dir: tempfile::TempDir,
    open: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Target {
    fn new(name: &'static str, files: Vec<(&str, Vec<u8>)>, open: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let place = |name: &str| dir.path().join(name);
        let files: Vec<(PathBuf, Vec<u8>)> =
            files.into_iter().map(|(name, bytes)| (place(name), bytes)).collect();
        for (path, bytes) in &files {
            std::fs::write(path, bytes).expect("written");
        }
        let open = open.map_or_else(|| dir.path().to_path_buf(), place);
        Self { name, open, files, dir }
    }

    /// Bytes of all files.
    fn size(&self) -> usize {
        self.files.iter().map(|(_, bytes)| bytes.len()).sum()
    }
}

fn saved(model: &Model) -> Vec<(&'static str, Vec<u8>)> {
    let dir = tempfile::tempdir().expect("a folder");
    model.save(dir.path(), None).expect("saved");
    let file = |name| std::fs::read(dir.path().join(name)).expect(name);
    ["config.json", "model.safetensors"].map(|name| (name, file(name))).to_vec()
}

fn targets() -> Vec<Target> {
    let index = br#"{"metadata": {"total_size": 9}, "weight_map": {"backbone.embedding.weight": "model.safetensors"}}"#;
    let mut sharded = saved(&llama("m"));
    sharded.push(("model.safetensors.index.json", index.to_vec()));
    let torch = |file: &str| {
        vec![("config.json", read("state_spaces.config.json")), ("pytorch_model.bin", read(file))]
    };
    vec![
        Target::new("llama", saved(&llama("aa")), None),
        Target::new("llamba", saved(&llama("ma")), None),
        Target::new("heads side by side", saved(&parallel(JunctionKind::Hymba, &[1, 0])), None),
        Target::new("phi", saved(&phi("am")), None),
        Target::new("mamba2", saved(&mamba2(true)), None),
        Target::new("index", sharded, Some("model.safetensors.index.json")),
        Target::new("torch", torch("state_spaces.bin"), None),
        Target::new("older torch", torch("state_spaces.old.bin"), None),
        Target::new("gguf", vec![("tiny.gguf", read("tiny.gguf"))], None),
        Target::new("mlx", vec![("tiny", read("tiny.mlx.safetensors"))], None),
        Target::new("reference", vec![("r", reference("llama32"))], Some("r")),
    ]
}

/// Positions lie in headers three times out of four.
fn position(rng: &mut ChaCha8Rng, length: usize) -> usize {
    let within = if rng.random_bool(0.75) { length.min(4096) } else { length };
    rng.random_range(0..within.max(1))
}

const NUMBERS: [u64; 9] = [0, 1, 7, u32::MAX as u64, 1 << 32, 1 << 40, i64::MAX as u64, 1 << 63, u64::MAX];
const WORDS: [&str; 14] = [
    "-1",
    "0",
    "18446744073709551616",
    "9007199254740993",
    "1e999",
    "NaN",
    "-Infinity",
    "null",
    "[]",
    "{}",
    "\"\"",
    "\"..\"",
    "[[[[[[[[",
    "\\",
];

/// One damage.
fn damage(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    let at = position(rng, bytes.len());
    let slice = |rng: &mut ChaCha8Rng, length: usize| at..(at + rng.random_range(1..=64)).min(length);
    match rng.random_range(0..7) {
        0 => bytes.truncate(at),
        1 => {
            for _ in 0..rng.random_range(1..=8) {
                let at = position(rng, bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = rng.random();
                }
            }
        }
        2 => {
            let number = NUMBERS[rng.random_range(0..NUMBERS.len())].to_le_bytes();
            let width = [1, 4, 8][rng.random_range(0..3)];
            for (byte, new) in bytes.iter_mut().skip(at).zip(number).take(width) {
                *byte = new;
            }
        }
        3 => {
            let copy = bytes.get(slice(rng, bytes.len())).unwrap_or_default().to_vec();
            let at = position(rng, bytes.len());
            bytes.splice(at..at, copy);
        }
        4 => drop(bytes.drain(slice(rng, bytes.len()).start.min(bytes.len())..(at + 8).min(bytes.len()))),
        5 => {
            let word = WORDS[rng.random_range(0..WORDS.len())];
            let digits = bytes.iter().skip(at).take_while(|byte| byte.is_ascii_digit()).count();
            bytes.splice(at.min(bytes.len())..(at + digits).min(bytes.len()), word.bytes());
        }
        _ => {
            let (a, b) = (position(rng, bytes.len()), position(rng, bytes.len()));
            if a < bytes.len() && b < bytes.len() {
                bytes.swap(a, b);
            }
        }
    }
}

/// Everything a user can do with a path. Whether it works, or the error.
fn try_all(target: &Target, device: &Device) -> Result<(), String> {
    if target.name == "reference" {
        return Reference::open(&target.open).map(drop).map_err(|error| error.to_string());
    }
    let checkpoint = Checkpoint::open(&target.open).map_err(|error| error.to_string())?;
    let _ = (checkpoint.tokenizer(), checkpoint.tensors());
    checkpoint.check(device).map_err(|error| error.to_string())?;
    checkpoint.load(device, DType::F32).map(drop).map_err(|error| error.to_string())
}

fn cases() -> u64 {
    std::env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100_000)
}

#[test]
fn damaged_files_are_refused_in_one_line_within_the_memory_they_are_worth() {
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let (device, targets) = (Device::flex(), targets());
    for target in &targets {
        try_all(target, &device).unwrap_or_else(|error| panic!("{} is to begin with: {error}", target.name));
    }
    let (mut accepted, start) = (0, Instant::now());
    for case in seed..seed + cases() {
        let mut rng = ChaCha8Rng::seed_from_u64(case);
        let target = &targets[rng.random_range(0..targets.len())];
        let (path, original) = &target.files[rng.random_range(0..target.files.len())];
        let mut bytes = original.clone();
        for _ in 0..rng.random_range(1..=3) {
            damage(&mut rng, &mut bytes);
        }
        std::fs::write(path, &bytes).expect("written");
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let outcome = try_all(target, &device);
        let used = MEMORY.peak_usage().saturating_sub(before);
        let context = || format!("FUZZ_SEED={case} FUZZ_CASES=1, {}", target.name);
        match outcome {
            Ok(()) => accepted += 1, // a damaged weight is a weight
            Err(error) => assert!(!error.contains('\n') && error.len() < 4000, "{}: {error}", context()),
        }
        let worth = 64 * (target.size() + bytes.len()) + (64 << 20);
        assert!(used < worth, "{}: {used} bytes for files of {}", context(), target.size());
        std::fs::write(path, original).expect("written");
    }
    assert!(targets.iter().all(|target| Path::exists(target.dir.path())));
    eprintln!("{} cases, {accepted} of them accepted, in {:.0} s", cases(), start.elapsed().as_secs_f64());
}

fn refused(target: &Target, part: &str) {
    let error = try_all(target, &Device::flex()).expect_err(part);
    assert!(error.contains(part) && !error.contains('\n'), "{part:?} in {error}");
}

#[test]
fn an_index_that_leads_nowhere_or_outside_is_refused() {
    let with = |map: &str| {
        let mut files = saved(&llama("m"));
        files.push(("model.safetensors.index.json", format!("{{\"weight_map\": {map}}}").into_bytes()));
        Target::new("index", files, Some("model.safetensors.index.json"))
    };
    refused(&with(r#"{"a": "model.safetensors.index.json"}"#), "which holds no tensors"); // itself
    refused(&with(r#"{"a": "../../etc/passwd"}"#), "a file outside the folder");
    refused(&with(r#"{"a": "..\\x"}"#), "a file outside the folder");
    refused(&with(r#"{"a": ".."}"#), "a file outside the folder");
    refused(&with(r#"{"a": 3}"#), "something other than file names");
    refused(&with(r#"{"a": "absent.safetensors"}"#), "cannot read");
    refused(&with(r#"{"a": "config.json"}"#), "which holds no tensors");
    refused(&with(r#"{"a": "model.safetensors"}"#), "`a` is in no shard");
    refused(&with("[]"), "`weight_map` is missing");
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let mut files = saved(&llama("m"));
    let copy = files[1].1.clone();
    files.push(("more.safetensors", copy));
    let map = br#"{"weight_map": {"a": "model.safetensors", "b": "more.safetensors"}}"#;
    files.push(("model.safetensors.index.json", map.to_vec()));
    refused(&Target::new("index", files, Some("model.safetensors.index.json")), "is there twice");
}

#[test]
fn two_files_that_could_both_be_meant_are_named() {
    let gguf = read("tiny.gguf");
    let target = Target::new("gguf", vec![("a.gguf", gguf.clone()), ("b.gguf", gguf)], None);
    refused(&target, "a.gguf and b.gguf could both be meant");
}

/// A layer count and widths that no file could fill are refused before any memory is taken.
#[test]
fn a_configuration_far_beyond_its_weights_is_refused() {
    let with = |from: &str, to: &str| {
        let mut files = saved(&llama("aa"));
        let text = String::from_utf8(files[0].1.clone()).expect("JSON");
        assert!(text.contains(from), "{text}");
        files[0].1 = text.replace(from, to).into_bytes();
        Target::new("llama", files, None)
    };
    refused(
        &with("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 9007199254740993"),
        "expected at most 4096",
    );
    refused(&with("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4000"), "they do not belong together");
    refused(
        &with("\"intermediate_size\": 40", "\"intermediate_size\": 16000000"),
        "they do not belong together",
    );
    refused(&with("\"vocab_size\": 31", "\"vocab_size\": Infinity"), "expected a whole number");
    refused(&with("\"vocab_size\": 31", "\"vocab_size\": NaN"), "expected a whole number");
}

/// Heads that do not divide the width, and axes of nothing, would be met by an assertion of the mixer.
#[test]
fn an_mlx_file_of_sizes_that_fit_no_llamba_is_refused() {
    let with = |heads: usize, width: usize, taps: usize| {
        let shapes = [
            ("embedding.encoder.weight", vec![8, width]),
            ("model.layers.0.layer.D", vec![heads]),
            ("model.layers.0.layer.z_bias", vec![width]),
            ("model.layers.0.layer.conv_weight", vec![width + 2 * heads * 2, taps]),
            ("model.layers.1.layer.in_proj.weight", vec![5, width]),
        ];
        let zeros = vec![0u8; 4096];
        let views = shapes.map(|(key, shape)| {
            let bytes = &zeros[..4 * shape.iter().product::<usize>()];
            (
                key,
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes)
                    .expect("a tensor"),
            )
        });
        let bytes = safetensors::serialize(views, None).expect("bytes");
        Target::new("mlx", vec![("file", bytes)], None)
    };
    refused(&with(4, 6, 4), "do not fit a width of 6");
    refused(&with(0, 8, 4), "are none of a Llamba");
    refused(&with(4, 8, 0), "are none of a Llamba");
}
