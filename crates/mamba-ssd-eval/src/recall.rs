//! Synthetic recall: what a model can find again in what it has read, without any training for it.
//!
//! Tokens are drawn at random from a range of the vocabulary, so that nothing but the context helps.
//!
//! - *Copying* (Jelassi et al. 2024, "Repeat After Me"): a string twice; scored is the second one, but its first token.
//! - *Multi-query associative recall* (Arora et al. 2023, "Zoology"): keys with their values, then all keys again in
//!   another order; scored are the values after them.
//! - *Needle*: one key with its value in a string, then the key again at the end; scored is the value.

use std::ops::Range;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::score::Scored;

/// A kind of recall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recall {
    /// A string twice.
    Copying,
    /// Keys and values, then the keys again.
    Associative,
    /// One pair in a string.
    Needle,
}

/// All kinds.
pub const RECALLS: [Recall; 3] = [Recall::Copying, Recall::Associative, Recall::Needle];

impl Recall {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Associative => "associative",
            Self::Needle => "needle",
        }
    }

    /// The `index`-th text of about `length` tokens, `eos` in front, its tokens from `words`. The same seed and index give
    /// the same text.
    ///
    /// # Panics
    ///
    /// If there are fewer words than the text has tokens, or fewer than eight tokens.
    pub fn text(self, length: usize, words: &Range<u32>, eos: u32, seed: u64, index: u64) -> Scored {
        assert!(length >= 8, "a text of {length} tokens holds nothing to recall");
        assert!(words.len() >= length, "{} words are too few for {length} different tokens", words.len());
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        let mut drawn = Vec::with_capacity(length); // all different
        let mut taken = std::collections::HashSet::new();
        while drawn.len() < length {
            let word = rng.random_range(words.clone());
            if taken.insert(word) {
                drawn.push(word);
            }
        }
        let mut tokens = vec![eos];
        let places = match self {
            Self::Copying => {
                let half = length / 2;
                tokens.extend(&drawn[..half]);
                tokens.extend(&drawn[..half]);
                (half + 2..2 * half + 1).collect()
            }
            Self::Associative => {
                let mut pairs: Vec<[u32; 2]> = drawn.as_chunks::<2>().0[..length / 4].to_vec();
                tokens.extend(pairs.iter().flatten());
                pairs.shuffle(&mut rng);
                let first = tokens.len();
                tokens.extend(pairs.iter().flatten());
                (0..pairs.len()).map(|pair| first + 2 * pair + 1).collect()
            }
            Self::Needle => {
                let at = rng.random_range(0..length - 3);
                let (key, value) = (drawn[at], drawn[at + 1]);
                tokens.extend(&drawn[..length - 2]);
                tokens.extend([key, value]);
                vec![tokens.len() - 1]
            }
        };
        Scored { tokens, places }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the text tells about a scored token: what followed the last earlier occurrence of the token in front of it.
    fn told(text: &Scored, place: usize) -> Option<u32> {
        let before = text.tokens[place - 1];
        (0..place - 1).rev().find(|&at| text.tokens[at] == before).map(|at| text.tokens[at + 1])
    }

    #[test]
    fn every_scored_token_stood_in_the_context() {
        for kind in RECALLS {
            for (length, index) in [(8, 0), (9, 1), (64, 2), (301, 3)] {
                let text = kind.text(length, &(100..5000), 0, 1, index);
                assert!(text.tokens.len() <= length + 1 && text.tokens.len() + 4 > length, "{kind:?}");
                assert!(!text.places.is_empty());
                for &place in &text.places {
                    assert_eq!(told(&text, place), Some(text.tokens[place]), "{kind:?}, {length}, {place}");
                }
                assert_eq!(text, kind.text(length, &(100..5000), 0, 1, index));
                assert_ne!(text, kind.text(length, &(100..5000), 0, 2, index));
            }
        }
    }
}
