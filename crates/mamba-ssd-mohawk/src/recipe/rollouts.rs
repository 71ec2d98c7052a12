//! Steps whose texts the student writes.

use serde::{Deserialize, Serialize};

/// On-policy distillation: in some steps of a stage the student writes the texts, behind prompts of the data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutRecipe {
    /// Share of the steps, above 0 and at most 1, evenly spread; the others take the data as it is.
    pub share: f64,
    /// Most tokens of a text, below the stage's `seq_len`.
    pub max_tokens: usize,
    /// Temperature that tokens are drawn at.
    pub temperature: f64,
}

impl Default for RolloutRecipe {
    fn default() -> Self {
        Self { share: 1.0, max_tokens: 256, temperature: 1.0 }
    }
}

impl RolloutRecipe {
    /// Whether the student writes the texts of a step of the stage, counted from 0.
    pub(super) fn is_at(&self, step: usize) -> bool {
        let before = |step: usize| (step as f64 * self.share).floor();
        before(step + 1) > before(step)
    }

    /// What is impossible about it in a stage of rows of `seq_len` tokens, in one line.
    pub(super) fn validate(&self, seq_len: usize) -> Result<(), String> {
        let Self { share, max_tokens, temperature } = *self;
        if !(share > 0.0 && share <= 1.0) {
            return Err(format!("rollouts: share = {share}, expected a number above 0 and at most 1"));
        }
        if max_tokens == 0 || max_tokens >= seq_len {
            return Err(format!(
                "rollouts: max_tokens = {max_tokens}, expected at least 1 and less than seq_len = {seq_len}"
            ));
        }
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(format!("rollouts: temperature = {temperature}, expected a number above 0"));
        }
        Ok(())
    }
}
