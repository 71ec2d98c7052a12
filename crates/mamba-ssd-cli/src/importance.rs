//! Which attention layers of a model to keep: measured on texts and on random strings.

use anyhow::{Result, ensure};
use mamba_ssd::Backbone;
use mamba_ssd_eval::{LayerImportance, Rank, Recall, Scored, importance};

use crate::language_model::LanguageModel;
use crate::progress::counting;

/// How much is read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Texts.
    pub documents: usize,
    /// Tokens of a text, and of a string with its copy.
    pub length: usize,
    /// Strings to copy.
    pub strings: u64,
}

impl Default for Reading {
    fn default() -> Self {
        Self { documents: 2, length: 512, strings: 4 }
    }
}

/// Every attention layer, the most important first, and the share of the strings that the whole model copies.
///
/// # Errors
/// When there is no attention layer, or too few tokens to draw strings from.
pub fn measure(
    model: &LanguageModel,
    texts: &[Vec<u32>],
    reading: Reading,
    rank: Rank,
) -> Result<(Vec<LayerImportance>, f64)> {
    let size = model.tokenizer.vocab_size() as u32;
    let words = size / 10..size / 10 * 9; // special tokens stand at either end
    let length = reading.length.min(words.len());
    let texts: Vec<Vec<u32>> = texts
        .iter()
        .filter(|text| !text.is_empty())
        .take(reading.documents)
        .map(|text| text[..text.len().min(length)].to_vec())
        .collect();
    ensure!(!texts.is_empty(), "no text to measure the importance of layers on");
    ensure!(
        length >= 8,
        "strings of {length} tokens are too short to copy, expected at least 8, and a vocabulary of more words"
    );
    let string = |index| Recall::Copying.text(length, &words, model.eos[0], 0, index);
    let strings: Vec<Scored> = (0..reading.strings).map(string).collect();
    let layers = (0..model.model.n_layers()).filter(|&layer| model.model.mixer(layer).is_attention()).count();
    ensure!(layers > 0, "{} has no attention layer", model.name);
    let bar = counting("layers", layers);
    let (found, whole) = importance(&model.model, &texts, &strings, || bar.inc(1));
    bar.finish_and_clear();
    Ok((rank.order(found), whole))
}

/// The layers of the first `keep`, in order.
pub fn kept(ranked: &[LayerImportance], keep: usize) -> Vec<usize> {
    let mut layers: Vec<usize> = ranked.iter().take(keep).map(|found| found.layer).collect();
    layers.sort_unstable();
    layers
}
