//! What is asked of an engine, and what it answers.

use std::fmt;

use thiserror::Error;

use crate::Sampling;

/// A prompt, and how to continue it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens of a sample.
    pub max_new_tokens: usize,
    /// Any of these ends a sample, and is not part of it.
    pub eos: Vec<u32>,
    /// Any of these ends a sample, whose text ends in front of it. They need a tokenizer.
    pub stop_strings: Vec<String>,
    /// Continuations of the prompt, from one prefill.
    pub samples: usize,
    /// Seed of the draws. Requests of one seed and stream draw the same numbers.
    pub seed: u64,
    /// Random stream of the first sample; sample i has stream `first_stream + i`.
    pub first_stream: u64,
    /// Whether to compute the log-probability of every chosen token.
    pub log_probabilities: bool,
}

impl Request {
    /// One greedy sample of at most 128 tokens.
    pub fn new(prompt: Vec<u32>) -> Self {
        Self {
            prompt,
            sampling: Sampling::default(),
            max_new_tokens: 128,
            eos: Vec::new(),
            stop_strings: Vec::new(),
            samples: 1,
            seed: 0,
            first_stream: 0,
            log_probabilities: false,
        }
    }
}

/// Why a request was not taken. Others are not affected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is nothing to continue.
    #[error("the prompt has no token, expected at least one; begin it with the token that begins a text")]
    Empty,
    /// A token that the model does not know.
    #[error(
        "token {token} at position {position} of the prompt, expected one below {vocabulary}; \
         take the tokenizer that the model was trained with"
    )]
    Vocabulary {
        /// What was found.
        token: u32,
        /// Where.
        position: usize,
        /// Tokens that the model knows.
        vocabulary: usize,
    },
    /// A prompt longer than attention has learnt positions for.
    #[error(
        "the prompt has {found} tokens{}, the model's attention at most {positions} positions; shorten it",
        behind(*before)
    )]
    TooLong {
        /// Tokens of the prompt.
        found: usize,
        /// Tokens in the state that it goes on from.
        before: usize,
        /// Positions of the model.
        positions: usize,
    },
    /// A sample that no memory is left for.
    #[error(
        "a sample of up to {tokens} tokens carries {needed} bytes beside its prompt's, the budget is {budget}; \
         ask for fewer new tokens, or give it more memory"
    )]
    Memory {
        /// Of the prompt and what follows.
        tokens: usize,
        /// Bytes of two states that long.
        needed: usize,
        /// Bytes for all states.
        budget: usize,
    },
    /// A state to go on from that is of several rows, or of another model.
    #[error(
        "a state of {rows} rows to go on from, expected one row of this model; select a row of a state of its own"
    )]
    State {
        /// Rows that were found.
        rows: usize,
    },
    /// A text that was read and is not the prompt, or was read by another kind of model.
    #[error(
        "a text of {read} tokens was read for a prompt of {prompt}, or by another model; read this prompt with this model"
    )]
    Text {
        /// Tokens that were read.
        read: usize,
        /// Tokens of the prompt.
        prompt: usize,
    },
    /// Numbers that no token can be chosen with.
    #[error("{0}")]
    Sampling(String),
    /// Stop strings for an engine that knows no text.
    #[error("stop strings without a tokenizer; give the engine one, or stop at tokens")]
    StopStrings,
}

/// Whether a model of so many tokens and positions can read a prompt behind others.
pub(crate) fn check_prompt(
    prompt: &[u32],
    before: usize,
    vocabulary: usize,
    positions: usize,
) -> Result<(), RequestError> {
    let found = prompt.len();
    if found == 0 {
        return Err(RequestError::Empty);
    }
    if let Some(position) = prompt.iter().position(|&token| token as usize >= vocabulary) {
        return Err(RequestError::Vocabulary { token: prompt[position], position, vocabulary });
    }
    if before.saturating_add(found) > positions {
        return Err(RequestError::TooLong { found, before, positions });
    }
    Ok(())
}

fn behind(before: usize) -> String {
    if before > 0 { format!(" behind {before} others") } else { String::new() }
}

/// Which sample of which request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleId {
    /// The request, counted from 0 in the order they were submitted.
    pub request: usize,
    /// The sample of it, counted from 0.
    pub sample: usize,
}

/// Why a sample ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// By an end-of-text token.
    Eos(u32),
    /// By a stop string.
    StopString(String),
    /// It has as many tokens as were asked for.
    Length,
    /// It has reached the last position of the model's attention.
    Positions,
    /// By [`Engine::cancel`](super::Engine::cancel).
    Cancelled,
    /// It went wrong, and ended alone: what was found, on one line.
    Failed(String),
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eos(_) => f.write_str("eos"),
            Self::StopString(_) => f.write_str("stop"),
            Self::Length => f.write_str("length"),
            Self::Positions => f.write_str("positions"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Failed(_) => f.write_str("failed"),
        }
    }
}

/// A sample that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Which.
    pub id: SampleId,
    /// New tokens, without one that ended it.
    pub tokens: Vec<u32>,
    /// The model's log-probability of each, before penalties and temperature; none unless asked for.
    pub log_probabilities: Vec<f32>,
    /// The text of the tokens, up to a stop string; empty without a tokenizer.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A sample has a new token.
    Token {
        /// Which sample.
        id: SampleId,
        /// The token.
        token: u32,
        /// The text that it completes: whole characters, often none. Empty without a tokenizer.
        text: String,
    },
    /// A sample has ended. Its text may be longer than the pieces by what was held back.
    Finished(Completion),
}
