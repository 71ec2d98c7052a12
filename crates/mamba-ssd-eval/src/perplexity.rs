//! Perplexity: `exp(mean over predicted tokens of −log p(token | earlier tokens of its document))`.
//!
//! A document's first token is never predicted; its last is, so close the documents with an end token to score that
//! too. Documents longer than a window are read in windows that begin `stride` tokens apart, and a token is predicted in
//! the first window that holds it: in windows that overlap every token but the document's first is predicted once, and
//! after the first window with at least `window − stride` tokens in front of it. Of windows that do not overlap, the
//! first tokens are not predicted.

use mamba_ssd::Backbone;

use crate::score::{Score, Scored, score};

/// Longer documents are cut into pieces of this length, each scored on its own.
const WINDOW: usize = 2048;

/// The perplexity of `documents`, given as tokens, in windows of 2,048 that do not overlap.
///
/// # Panics
///
/// If no document has two tokens.
pub fn perplexity<M: Backbone>(model: &M, documents: &[Vec<u32>]) -> f64 {
    let texts: Vec<Scored> =
        documents.iter().flat_map(|document| windows(document, WINDOW, WINDOW)).collect();
    let scores = score(model, &texts, |_| ());
    let Surprise { nats, tokens } = Surprise::of(&scores);
    assert!(tokens > 0, "no document has two tokens, there is nothing to predict");
    (nats / tokens as f64).exp()
}

/// A document in windows of at most `window` tokens that begin `stride` apart.
///
/// # Panics
///
/// If `stride` is 0 or more than `window`.
pub fn windows(document: &[u32], window: usize, stride: usize) -> Vec<Scored> {
    assert!((1..=window).contains(&stride), "a stride of {stride} in windows of {window}");
    let mut windows = Vec::new();
    let mut read = 0; // tokens that an earlier window held
    while read < document.len() {
        let start = if read == 0 { 0 } else { read - (window - stride) };
        let end = (start + window).min(document.len());
        windows.push(Scored::range(document[start..end].to_vec(), (read - start).max(1)..end - start));
        read = end;
    }
    windows
}

/// Nats over tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Surprise {
    /// −Σ log p.
    pub nats: f64,
    /// Predicted tokens.
    pub tokens: usize,
}

impl Surprise {
    /// The sum of scores.
    pub fn of(scores: &[Score]) -> Self {
        let add = |sum: Self, score: &Score| Self {
            nats: sum.nats + score.nats,
            tokens: sum.tokens + score.tokens,
        };
        scores.iter().fold(Self::default(), add)
    }

    /// Perplexity over `units`: tokens, words, or any other.
    pub fn perplexity(&self, units: usize) -> f64 {
        (self.nats / units as f64).exp()
    }

    /// Bits over bytes of text, which models of different vocabularies can be compared by.
    pub fn bits_per_byte(&self, bytes: usize) -> f64 {
        self.nats / std::f64::consts::LN_2 / bytes as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_side_by_side_predict_all_but_their_first_tokens() {
        let document: Vec<u32> = (0..10).collect();
        let ranges = |window, stride| -> Vec<(u32, Vec<usize>)> {
            let windows = windows(&document, window, stride);
            windows.into_iter().map(|text| (text.tokens[0], text.places)).collect()
        };
        assert_eq!(ranges(4, 4), [(0, vec![1, 2, 3]), (4, vec![1, 2, 3]), (8, vec![1])]);
        assert_eq!(ranges(20, 20), [(0, (1..10).collect())]);
    }

    #[test]
    fn sliding_windows_predict_every_token_once() {
        let document: Vec<u32> = (0..23).collect();
        for (window, stride) in [(8, 1), (8, 3), (8, 7), (23, 5)] {
            let windows = windows(&document, window, stride);
            let predicted: Vec<u32> =
                windows.iter().flat_map(|text| text.places.iter().map(|&place| text.tokens[place])).collect();
            assert_eq!(predicted, (1..23).collect::<Vec<_>>(), "{window}, {stride}");
            assert!(windows.iter().all(|text| text.tokens.len() <= window));
            assert!(windows[1..].iter().all(|text| text.places[0] == window - stride));
        }
    }

    #[test]
    fn bits_are_counted_over_bytes() {
        let surprise = Surprise { nats: 8.0 * std::f64::consts::LN_2, tokens: 4 };
        assert_eq!(surprise.bits_per_byte(16), 0.5);
        assert!((surprise.perplexity(4) - 4.0).abs() < 1e-12);
    }
}
