//! The share of problems that a model solves.

use serde::{Deserialize, Serialize};

use crate::grade::is_correct;
use crate::problems::Problem;

/// What a model made of some problems.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccuracyReport {
    /// Problems with the right answer.
    pub correct: usize,
    /// Problems asked.
    pub total: usize,
    /// What the model wrote, in the order of the problems.
    pub completions: Vec<String>,
}

impl AccuracyReport {
    /// Correct over total; 0 without problems.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.total.max(1) as f64
    }
}

/// Lets `generate` continue the prompts of all problems, at most `batch` at a time, and grades what it
/// returns, one completion a prompt. Prompts of similar length come together.
///
/// ```
/// use mamba_ssd_eval::answer_accuracy;
/// use mamba_ssd_eval::problems::{Split, problem};
///
/// let problems: Vec<_> = (0..10).map(|index| problem(0, Split::HeldOut, index)).collect();
/// let always_seven = |prompts: &[String]| Ok::<_, ()>(vec!["The answer is 7.".into(); prompts.len()]);
/// let report = answer_accuracy(&problems, 4, always_seven).unwrap();
/// assert_eq!(report.total, 10);
/// ```
///
/// # Errors
///
/// The first error of `generate`.
///
/// # Panics
///
/// If `batch` is 0, or `generate` returns another number of completions than it was given prompts.
pub fn answer_accuracy<E>(
    problems: &[Problem],
    batch: usize,
    mut generate: impl FnMut(&[String]) -> Result<Vec<String>, E>,
) -> Result<AccuracyReport, E> {
    let mut order: Vec<usize> = (0..problems.len()).collect();
    order.sort_by_key(|&index| problems[index].question.len());
    let mut completions = vec![String::new(); problems.len()];
    for indices in order.chunks(batch) {
        let prompts: Vec<String> = indices.iter().map(|&index| problems[index].prompt()).collect();
        let written = generate(&prompts)?;
        assert_eq!(written.len(), prompts.len(), "completions of {} prompts", prompts.len());
        for (&index, completion) in indices.iter().zip(written) {
            completions[index] = completion;
        }
    }
    let graded = problems.iter().zip(&completions);
    let correct = graded.filter(|(problem, completion)| is_correct(problem, completion)).count();
    Ok(AccuracyReport { correct, total: problems.len(), completions })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problems::{Split, problem};

    #[test]
    fn completions_come_back_in_the_order_of_the_problems() {
        let problems: Vec<Problem> = (0..50).map(|index| problem(3, Split::HeldOut, index)).collect();
        let solve = |prompts: &[String]| {
            assert!(prompts.len() <= 8);
            let find = |prompt: &String| problems.iter().find(|problem| problem.prompt() == *prompt);
            prompts.iter().map(|prompt| find(prompt).map(Problem::completion).ok_or(())).collect()
        };
        let report = answer_accuracy(&problems, 8, solve).expect("every prompt is known");
        assert_eq!((report.correct, report.total), (50, 50));
        let expected: Vec<String> = problems.iter().map(Problem::completion).collect();
        assert_eq!(report.completions, expected);
        assert_eq!(report.accuracy(), 1.0);
    }

    #[test]
    fn an_error_ends_the_examination() {
        let problems = [problem(3, Split::HeldOut, 0)];
        assert_eq!(answer_accuracy(&problems, 8, |_| Err("out of memory")), Err("out of memory"));
    }
}
