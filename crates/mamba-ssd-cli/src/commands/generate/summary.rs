//! How fast it was: one line for standard error.

use std::time::{Duration, Instant};

use mamba_ssd_models::Usage;

use crate::console::{duration, thousands};
use crate::memory;

/// Times of a run.
#[derive(Debug)]
pub struct Summary {
    started: Instant,
    first: Option<Duration>,
    tokens: usize,
}

impl Summary {
    /// Nothing written yet.
    pub fn new(started: Instant) -> Self {
        Self { started, first: None, tokens: 0 }
    }

    /// Counts a token.
    pub fn token(&mut self) {
        self.first.get_or_insert_with(|| self.started.elapsed());
        self.tokens += 1;
    }

    /// Tokens, their rates, the time to the first, and the most memory that was taken.
    pub fn line(&self, usage: Usage) -> String {
        let first = self.first.map_or("none".into(), |first| match first.as_millis() {
            0..1000 => format!("{:.1} ms", first.as_secs_f64() * 1e3),
            _ => duration(first.as_secs_f64()),
        });
        let memory =
            memory::peak().map_or("not known here".into(), |bytes| format!("{} MB", bytes / 1_000_000));
        format!(
            "prompt {} tokens, {} tokens/s; written {} tokens, {} tokens/s; first token after {first}; peak memory {memory}",
            thousands(usage.prompt_tokens),
            rate(usage.prompt_tokens, usage.prefill),
            thousands(self.tokens),
            rate(usage.decoded_tokens, usage.decode),
        )
    }
}

/// Tokens a second; a dash where none was timed.
fn rate(tokens: usize, time: Duration) -> String {
    if tokens == 0 || time.is_zero() {
        return "-".into();
    }
    format!("{:.1}", tokens as f64 / time.as_secs_f64())
}
