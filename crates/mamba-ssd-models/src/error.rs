//! What can go wrong between a model and its files. Every message is one line.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// A file that cannot be read or written, or does not hold what it should.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file or folder cannot be read or written.
    #[error("{}: cannot {action}: {source}", one_line(path.display()))]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder holds no weights that can be read.
    #[error("{}: no weights: {}", one_line(path.display()), one_line(hint))]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// What was expected, and what to do.
        hint: String,
    },
    /// A configuration is malformed or of a family that is not covered.
    #[error("{}: {}", one_line(path.display()), one_line(reason))]
    Config {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },
    /// A file of weights is malformed.
    #[error("{}: {}", one_line(path.display()), one_line(reason))]
    Weights {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },
    /// The weights are not those of the configuration.
    #[error("{}: the weights are not those of the {family} that the configuration describes: {}", one_line(path.display()), one_line(mismatch))]
    Mismatch {
        /// The file or folder of the weights.
        path: PathBuf,
        /// The family that was recognised.
        family: &'static str,
        /// Every difference.
        mismatch: Mismatch,
    },
    /// A tokenizer is malformed, or cannot treat a text.
    #[error("{}: {}", one_line(path.display()), one_line(reason))]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer said.
        reason: String,
    },
    /// A file holds no state of this model.
    #[error("{}: {}", one_line(path.display()), one_line(reason))]
    State {
        /// The file.
        path: PathBuf,
        /// What was found, what was expected, and what to do.
        reason: String,
    },
    /// A model that no checkpoint format can express.
    #[error("this model cannot be written: {0}")]
    Unwritable(String),
}

/// A text without line breaks and other control characters: names in damaged files may hold any.
fn one_line(text: impl fmt::Display) -> String {
    let escaped = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.to_string().chars().map(escaped).collect()
}

/// The differences between the tensors of a file and those of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Tensors of the model that the file lacks, with their shapes.
    pub missing: Vec<(String, Vec<usize>)>,
    /// Tensors of the file that the model lacks, with their shapes.
    pub unexpected: Vec<(String, Vec<usize>)>,
    /// Tensors of both, with the shapes found and expected.
    pub wrong_shape: Vec<(String, Vec<usize>, Vec<usize>)>,
}

/// How many tensors of a kind a message names.
const NAMED: usize = 8;

impl Mismatch {
    /// Whether file and model agree.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.wrong_shape.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |(key, shape): &(String, Vec<usize>)| format!("{key} {shape:?}");
        let wrong = |(key, found, expected): &(String, Vec<usize>, Vec<usize>)| {
            format!("{key} is {found:?}, expected {expected:?}")
        };
        let parts = [
            listed("missing", &self.missing, plain),
            listed("unexpected", &self.unexpected, plain),
            listed("wrong shape", &self.wrong_shape, wrong),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(&parts.join("; "))
    }
}

fn listed<T>(title: &str, items: &[T], describe: impl Fn(&T) -> String) -> Option<String> {
    let named: Vec<String> = items.iter().take(NAMED).map(describe).collect();
    let more = match items.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!items.is_empty()).then(|| format!("{} {title}: {}{more}", items.len(), named.join(", ")))
}
