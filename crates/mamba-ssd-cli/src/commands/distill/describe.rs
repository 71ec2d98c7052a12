//! What stages and figures are called.

use mamba_ssd_convert::{Action, ConversionReport};
use mamba_ssd_mohawk::stage::StageKind;

use crate::console::{percent, thousands};
use crate::summary::Quality;

/// The stage's name, as in a recipe.
pub fn kind(kind: StageKind) -> &'static str {
    match kind {
        StageKind::Matrices => "matrices",
        StageKind::Hidden => "hidden",
        StageKind::Logits => "logits",
    }
}

/// What the stage compares, and in which unit: the axis of its loss curve.
pub fn measure(kind: StageKind) -> &'static str {
    match kind {
        StageKind::Matrices => "difference of matrices (Frobenius)",
        StageKind::Hidden => "difference of hidden states (L2)",
        StageKind::Logits => "divergence of logits (nats)",
    }
}

/// Perplexity, and accuracy where there are problems.
pub fn quality(quality: &Quality) -> String {
    let accuracy = quality.accuracy.map(|share| format!(", {} correct", percent(share)));
    format!("perplexity {:.3}{}", quality.ppl, accuracy.unwrap_or_default())
}

/// An answer on one line of a terminal.
pub fn shortened(answer: &str) -> String {
    const LONGEST: usize = 120;
    let line = answer.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

/// What the conversion did, in one line; `mamba-ssd convert --dry-run` shows all of it.
pub fn conversion(report: &ConversionReport) -> String {
    let count = |action| thousands(report.count(action));
    format!(
        "{} of {} mixers change: {} parameters copied, {} repeated, {} initialised, {} of the teacher's dropped",
        report.layers.len(),
        report.n_layers,
        count(Action::Copied),
        count(Action::Repeated),
        count(Action::Initialised),
        count(Action::Dropped)
    )
}
