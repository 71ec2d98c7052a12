//! A small tokenizer, and files that are none.

use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use mamba_ssd_models::{Checkpoint, Tokenizer};

const WORDS: &str = r#"{"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 0, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "vocab": {"<|endoftext|>": 0, "state": 1, "space": 2, "unknown": 3}, "unk_token": "unknown"}}"#;

#[test]
fn text_becomes_tokens_and_text_again() {
    let tokenizer = Tokenizer::from_bytes(WORDS.as_bytes()).expect("a tokenizer");
    assert_eq!(tokenizer.encode("state space odd").expect("tokens"), [1, 2, 3]);
    assert_eq!(tokenizer.encode_with_special("space").expect("tokens"), [2]);
    assert_eq!(tokenizer.decode(&[1, 2, 0]).expect("text"), "state space");
    assert_eq!(
        (tokenizer.vocab_size(), tokenizer.eos_ids().first().copied(), tokenizer.token_id("space")),
        (4, Some(0), Some(2))
    );
}

#[test]
fn files_that_are_no_tokenizer_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("tokenizer.json");
    let refused = || Tokenizer::from_file(&path).expect_err("no tokenizer").to_string();
    assert!(refused().contains("tokenizer.json: cannot read"));
    std::fs::write(&path, "{}").expect("written");
    assert!(refused().contains("tokenizer.json: not a tokenizer.json"));
}

/// Digits stand alone, merges join the rest, and control tokens are no text.
#[test]
fn a_gguf_file_holds_its_tokenizer_and_its_chat_template() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny.gguf");
    let checkpoint = Checkpoint::open(&path).expect("a file");
    let tokenizer = checkpoint.tokenizer().expect("a tokenizer");
    let tokens = tokenizer.encode("hello 12<|end|>").expect("tokens");
    assert_eq!(tokens, [259, 111, 32, 49, 50, 256]);
    assert_eq!(tokenizer.decode(&tokens).expect("text"), "hello 12");
    assert_eq!(tokenizer.encode("é😀").expect("tokens").len(), 6);
    assert!(checkpoint.chat_template().expect("a template").contains("[assistant]"));
}

/// A GGUF file with a SentencePiece vocabulary: `<unk>`, `<s>`, `</s>`, the bytes, then `▁`, `a`, `b`, `ab`, `▁ab`.
fn sentencepiece(path: &Path, extra: &[(&str, Value)]) {
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let fixed = ["<unk>", "<s>", "</s>"].map(str::to_string).into_iter().chain(bytes);
    let tokens: Vec<String> = fixed.chain(["▁", "a", "b", "ab", "▁ab"].map(str::to_string)).collect();
    let list = |of: &dyn Fn(usize) -> Value| Value::Array((0..tokens.len()).map(of).collect());
    let kind = |id| {
        Value::I32(match id {
            0 => 2,
            1 | 2 => 3,
            3..259 => 6,
            _ => 1,
        })
    };
    let metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(1)),
        ("llama.embedding_length", Value::U32(8)),
        ("llama.feed_forward_length", Value::U32(8)),
        ("llama.attention.head_count", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", Value::String("llama".into())),
        ("tokenizer.ggml.tokens", list(&|id| Value::String(tokens[id].clone()))),
        ("tokenizer.ggml.scores", list(&|id| Value::F32(if id < 259 { 0.0 } else { 259.0 - id as f32 }))),
        ("tokenizer.ggml.token_type", list(&kind)),
    ];
    let metadata: Vec<(&str, &Value)> =
        metadata.iter().chain(extra).map(|(name, value)| (*name, value)).collect();
    let matrix =
        candle_core::Tensor::zeros((tokens.len(), 8), candle_core::DType::F32, &candle_core::Device::Cpu);
    let matrix = QTensor::quantize(&matrix.expect("zeros"), GgmlDType::F32).expect("numbers");
    let mut file = std::fs::File::create(path).expect("a file");
    gguf_file::write(&mut file, &metadata, &[("token_embd.weight", &matrix)]).expect("written");
}

/// Ids by hand: 259 ▁, 260 a, 261 b, 262 ab, 263 ▁ab. In `▁abb`, ab comes first, then ▁ab.
#[test]
fn a_sentencepiece_vocabulary_inside_gguf_is_a_tokenizer() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("model.gguf");
    sentencepiece(&path, &[]);
    let tokenizer = Checkpoint::open(&path).and_then(|model| model.tokenizer()).expect("a tokenizer");
    assert_eq!(tokenizer.encode_with_special("abb").expect("tokens"), [1, 263, 261]);
    assert_eq!(tokenizer.encode("a</s>é").expect("tokens"), [259, 260, 2, 259, 3 + 0xC3, 3 + 0xA9]);
    assert_eq!(tokenizer.decode(&[1, 263, 261, 259, 3 + 0xC3, 3 + 0xA9]).expect("a text"), "abb é");

    let plain = [
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(false)),
    ];
    sentencepiece(&path, &plain);
    let tokenizer = Checkpoint::open(&path).and_then(|model| model.tokenizer()).expect("a tokenizer");
    assert_eq!(tokenizer.encode_with_special("abb").expect("tokens"), [262, 261]);

    sentencepiece(&path, &[("tokenizer.ggml.add_eos_token", Value::Bool(true))]);
    let checkpoint = Checkpoint::open(&path).expect("a checkpoint");
    let reason = checkpoint.tokenizer_refusal().expect("a reason");
    assert!(reason.contains("`tokenizer.ggml.add_eos_token` is true, only false is covered"), "{reason}");
}
