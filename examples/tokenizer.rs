//! Trains the tokenizer of the bundled teacher on generated problems.
//!
//! ```text
//! cargo run --release -p mamba-ssd-examples --example tokenizer -- --out DIR
//! ```
//!
//! Byte-pair encoding over bytes, so that any text can be encoded. Digits stay tokens of their own: a
//! small model computes digit by digit. Id 0 ends a document. The same arguments give the same file.
#![allow(clippy::print_stdout, reason = "a program")]

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Parser;
use mamba_ssd_eval::problems::{Split, problem};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

/// Ends every document.
const EOS: &str = "<|endoftext|>";

#[derive(Parser)]
#[command(about = "Trains the tokenizer of the bundled teacher")]
struct Args {
    /// Folder that tokenizer.json is written to.
    #[arg(long)]
    out: PathBuf,
    /// Entries, of which 257 are the end of a document and the bytes.
    #[arg(long, default_value_t = 512)]
    vocab: usize,
    /// Problems to learn from.
    #[arg(long, default_value_t = 20_000)]
    problems: u64,
    /// Seed of the problems.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let texts = || (0..args.problems).map(|index| problem(args.seed, Split::Train, index).text());
    let tokenizer = train(texts(), args.vocab).map_err(|error| anyhow!(error))?;
    std::fs::create_dir_all(&args.out)?;
    let path = args.out.join("tokenizer.json");
    tokenizer.save(&path, true).map_err(|error| anyhow!(error))?;
    let tokens = count(&tokenizer, texts()).map_err(|error| anyhow!(error))?;
    let mean = tokens as f64 / args.problems as f64;
    println!("{}: {} entries, {mean:.1} tokens a problem", path.display(), tokenizer.get_vocab_size(true));
    Ok(())
}

fn train(texts: impl Iterator<Item = String> + Send, vocab: usize) -> tokenizers::Result<Tokenizer> {
    let mut tokenizer = Tokenizer::new(BPE::default());
    let bytes = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![Digits::new(true).into(), bytes.into()])));
    tokenizer.with_decoder(Some(bytes));
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab)
        .special_tokens(vec![AddedToken::from(EOS, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts)?;
    Ok(tokenizer)
}

/// Tokens of all texts, each with the token that ends it.
fn count(tokenizer: &Tokenizer, texts: impl Iterator<Item = String>) -> tokenizers::Result<usize> {
    texts.map(|text| Ok(tokenizer.encode(text, false)?.len() + 1)).sum()
}
