//! How an engine runs its batch, and what a request will take.

/// How an engine runs its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most rows that are decoded together.
    pub max_rows: usize,
    /// Tokens of a prompt that are prefilled at once.
    pub prefill_chunk: usize,
    /// Bytes that the states of all rows, and of the prompt they are forked from, may hold. A process takes more: caches
    /// have room to grow, and what allocators keep of smaller ones came to almost five times as much where rows were many
    /// and short.
    pub max_state_bytes: Option<usize>,
    /// Positions that a prompt may take; those that the model's attention has learnt
    /// ([`Backbone::max_positions`](mamba_ssd::Backbone::max_positions)) when absent.
    pub max_positions: Option<usize>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { max_rows: 16, prefill_chunk: 512, max_state_bytes: None, max_positions: None }
    }
}

/// What the samples of one request take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forks {
    /// Samples that may run at the same time; 0 where not even one fits.
    pub rows: usize,
    /// Tokens of the longest, its prompt's among them.
    pub tokens: usize,
    /// Bytes that the state of one that long holds.
    pub row_bytes: usize,
}
