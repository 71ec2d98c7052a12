//! How many rows fit into memory, known before any is made.

use mamba_ssd::State;

use super::RequestError;

/// Bytes that states may take, and what one takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    bytes: Option<usize>,
    constant: usize,
    per_token: usize,
}

impl Budget {
    /// Measured on the state of one row without tokens.
    pub fn new(row: &State, bytes: Option<usize>) -> Self {
        Self { bytes, constant: row.bytes(), per_token: row.bytes_per_token() }
    }

    /// Bytes of a row of `tokens`.
    pub fn row(&self, tokens: usize) -> usize {
        self.per_token.saturating_mul(tokens).saturating_add(self.constant)
    }

    /// Whether a sample of `tokens` fits, beside the prompt that it is forked from.
    pub fn check(&self, tokens: usize) -> Result<(), RequestError> {
        let needed = self.row(tokens).saturating_mul(2);
        match self.bytes {
            Some(budget) if needed > budget => Err(RequestError::Memory { tokens, needed, budget }),
            _ => Ok(()),
        }
    }

    /// Rows that fit where the longest has `tokens`: caches of a batch are as long as its longest row.
    pub fn rows(&self, tokens: usize) -> usize {
        self.bytes.map_or(usize::MAX, |bytes| (bytes / self.row(tokens).max(1)).saturating_sub(1))
    }
}
