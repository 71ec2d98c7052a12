//! What an engine has done, and what its time went into.

use std::time::Duration;

/// What an engine has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens prefilled.
    pub prompt_tokens: usize,
    /// Time spent on them.
    pub prefill: Duration,
    /// Tokens fed after the prompts.
    pub decoded_tokens: usize,
    /// Time spent on them, and on choosing those that follow.
    pub decode: Duration,
    /// Steps of the batch.
    pub steps: usize,
    /// Of the time of decoding, choosing tokens; on GPUs that waits for the step.
    pub choosing: Duration,
    /// Of the time of decoding, taking rows out that ended.
    pub leaving: Duration,
    /// Of the time of prompts, making rows of them.
    pub joining: Duration,
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            prefill: self.prefill + other.prefill,
            decoded_tokens: self.decoded_tokens + other.decoded_tokens,
            decode: self.decode + other.decode,
            steps: self.steps + other.steps,
            choosing: self.choosing + other.choosing,
            leaving: self.leaving + other.leaving,
            joining: self.joining + other.joining,
        }
    }
}
