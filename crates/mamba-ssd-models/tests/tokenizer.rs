//! A small tokenizer, and files that are none.

use std::path::Path;

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
