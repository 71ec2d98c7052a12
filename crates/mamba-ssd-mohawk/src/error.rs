//! What can go wrong, each as one line: what was found, what was expected, what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Errors of recipes, data, training and checkpoints.
#[derive(Debug, thiserror::Error)]
pub enum MohawkError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A recipe that is no valid TOML, has an unknown field, or asks for something impossible.
    #[error("recipe: {0}")]
    Recipe(String),
    /// A data file without usable text.
    #[error("data: {0}")]
    Data(String),
    /// Teacher, student, tokenizer and recipe do not fit together.
    #[error("preflight: {0}")]
    Preflight(String),
    /// A loss or a gradient that is no number. The weights before this step are untouched.
    #[error(
        "{what} is {value} in stage {stage}, step {step}: nothing was overwritten; \
         lower the stage's lr or resume from the last checkpoint with a smaller one"
    )]
    NotFinite {
        /// The loss or the gradient, with its layer or parameter path.
        what: String,
        /// NaN or an infinity.
        value: f64,
        /// Stage, counted from 1.
        stage: usize,
        /// Step in the stage, counted from 1.
        step: usize,
    },
    /// The texts of a step were not written.
    #[error("stage {stage}, step {step}: no texts to learn from ({reason}): nothing was overwritten")]
    Rollout {
        /// Stage, counted from 1.
        stage: usize,
        /// Step in the stage, counted from 1.
        step: usize,
        /// What the author said.
        reason: String,
    },
    /// A teacher cache that is damaged or of something else.
    #[error("teacher cache {}: {reason}", path.display())]
    Cache {
        /// The folder or file.
        path: PathBuf,
        /// What was found, and what to do.
        reason: String,
    },
    /// One of several devices that train together is gone.
    #[error(
        "device {0} stopped in the middle of a step: nothing was overwritten; resume from the last checkpoint"
    )]
    Replica(usize),
    /// A checkpoint that is damaged or belongs to another run.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint file.
        path: PathBuf,
        /// What was found, what was expected.
        reason: String,
    },
}

impl MohawkError {
    /// Wraps an [`io::Error`] with the path it happened on.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// A checkpoint error.
    pub(crate) fn checkpoint(path: &Path, reason: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.to_path_buf(), reason: reason.into() }
    }
}
