//! What a run says: curves of every model, where students pass the teacher, and the files and the table that show it.

use std::path::Path;

use anyhow::Result;
use mamba_ssd_eval::grade::equivalent;
use mamba_ssd_eval::reason::{Attempt, Clock, Crossing, Curve, Rule, Series, classes, crossing};
use rayon::prelude::*;
use serde::Serialize;

use super::batch::Trial;
use super::contestant::Spent;
use super::record::Line;
use crate::console::percent;
use crate::files;
use crate::report::reason::page;
use crate::table::Table;

/// Seed of resampling.
const SEED: u64 = 0;
/// Places of curves over seconds.
const PLACES: usize = 60;

/// A run's figures.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The version that made them.
    pub version: &'static str,
    /// Problems that were asked.
    pub problems: usize,
    /// The command's budget.
    pub budget: String,
    /// What attempts have in common.
    pub terms: String,
    /// The device.
    pub device: String,
    /// One for each model, the teacher first.
    pub models: Vec<ModelOutcome>,
    /// Where others pass the first model over seconds.
    pub crossings: Vec<Passing>,
}

/// Where a model passes the first.
#[derive(Debug, Serialize)]
pub struct Passing {
    /// The model.
    pub model: String,
    /// Of which curve.
    pub curve: String,
    /// Where, in seconds for all problems.
    #[serde(flatten)]
    pub crossing: Crossing,
}

/// What one model did.
#[derive(Debug, Serialize)]
pub struct ModelOutcome {
    /// Its name.
    pub name: String,
    /// Attempts that were written at the same time.
    pub rows: usize,
    /// Trials of others.
    pub trials: Vec<Trial>,
    /// What an attempt carries along.
    pub memory: Memory,
    /// What it spent.
    pub spent: Spent,
    /// Into what its seconds went.
    pub times: Times,
    /// Attempts that ended.
    pub attempts: usize,
    /// Of those that ended, the share that gives no answer.
    pub without_answer: f64,
    /// Attempts at the problem with the fewest, before the first that did not end.
    pub fewest: usize,
    /// Over attempts.
    pub over_attempts: Vec<Curve>,
    /// Over seconds.
    pub over_seconds: Vec<Curve>,
    /// Over tokens that the model wrote.
    pub over_tokens: Vec<Curve>,
}

/// Bytes of a row's state.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// Of any length.
    pub state_bytes: usize,
    /// For each token.
    pub bytes_per_token: usize,
    /// Tokens of the longest prompt and attempt.
    pub longest: usize,
}

/// Seconds of computing in this session, by what they went into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// Steps of the batch.
    pub steps: usize,
    /// Reading prompts.
    pub reading: f64,
    /// The model, on GPUs until a step is launched.
    pub stepping: f64,
    /// Choosing tokens, on GPUs with the wait for the step.
    pub choosing: f64,
    /// Attempts that end.
    pub leaving: f64,
    /// Attempts that begin.
    pub joining: f64,
}

/// What is known of a model before its attempts are looked at.
#[derive(Debug)]
pub struct Run {
    /// Its name.
    pub name: String,
    /// Attempts that were written at the same time.
    pub rows: usize,
    /// Trials of others.
    pub trials: Vec<Trial>,
    /// What an attempt carries along.
    pub memory: Memory,
    /// What it spent.
    pub spent: Spent,
    /// Into what its seconds went.
    pub times: Times,
}

/// The figures of all models.
pub fn outcome(runs: Vec<Run>, lines: &[Line], problems: usize, budget: String, device: String) -> Outcome {
    let end = runs.iter().map(|run| run.spent.seconds).fold(0.0, f64::max);
    let places =
        |end: f64| -> Vec<f64> { (1..=PLACES).map(|place| end * place as f64 / PLACES as f64).collect() };
    let seconds = places(end);
    let tokens = places(runs.iter().map(|run| run.spent.tokens).fold(0.0, f64::max));
    let scored = lines.iter().any(|line| line.score.is_some());
    let rules = Rule::ALL.into_iter().filter(|rule| scored || !rule.scores()).map(Some);
    let kinds: Vec<Option<Rule>> = std::iter::once(None).chain(rules).collect();
    let attempts: Vec<_> = (0..runs.len()).map(|model| attempts(lines, model, problems)).collect();
    let first: Vec<_> = (0..runs.len()).map(|model| without_gaps(lines, model, &attempts[model])).collect();
    let over = |clock, places: &[f64], of_model: &Vec<Vec<Attempt>>| -> Vec<Series> {
        kinds.iter().map(|kind| Series::over(clock, of_model, *kind, places)).collect()
    };
    let over_seconds: Vec<Vec<Series>> =
        attempts.iter().map(|of_model| over(Clock::Seconds, &seconds, of_model)).collect();
    let mut crossings = Vec::new();
    for (run, series) in runs.iter().zip(&over_seconds).skip(1) {
        for (kind, (series, first)) in kinds.iter().zip(series.iter().zip(&over_seconds[0])) {
            let crossing = crossing(series, first, SEED);
            crossings.push(Passing { model: run.name.clone(), curve: name(*kind).into(), crossing });
        }
    }
    let of_models = attempts.iter().zip(&first).zip(&over_seconds);
    let models = runs.into_iter().zip(of_models).map(|(run, ((attempts, first), seconds))| {
        let all = || attempts.iter().flatten();
        let curve = |(kind, series): (&Option<Rule>, &Series)| series.curve(name(*kind), SEED);
        let over_attempts =
            kinds.iter().map(|kind| Series::over_attempts(first, *kind, SEED).curve(name(*kind), SEED));
        let silent = all().filter(|attempt| attempt.answer.is_none()).count();
        ModelOutcome {
            attempts: all().count(),
            without_answer: silent as f64 / all().count().max(1) as f64,
            fewest: first.iter().map(Vec::len).min().unwrap_or(0),
            over_attempts: over_attempts.collect(),
            over_seconds: kinds.iter().zip(seconds).map(curve).collect(),
            over_tokens: kinds.iter().zip(&over(Clock::Tokens, &tokens, attempts)).map(curve).collect(),
            name: run.name,
            rows: run.rows,
            trials: run.trials,
            memory: run.memory,
            spent: run.spent,
            times: run.times,
        }
    });
    let models = models.collect();
    Outcome {
        version: env!("CARGO_PKG_VERSION"),
        problems,
        budget,
        terms: String::new(),
        device,
        models,
        crossings,
    }
}

fn name(kind: Option<Rule>) -> &'static str {
    kind.map_or("coverage", Rule::name)
}

/// A model's attempts at each problem, in their order, with answers that are the same in one class.
fn attempts(lines: &[Line], model: usize, problems: usize) -> Vec<Vec<Attempt>> {
    let mut of_problem: Vec<Vec<&Line>> = vec![vec![]; problems];
    lines.iter().filter(|line| line.model == model).for_each(|line| of_problem[line.problem].push(line));
    let graded = |mut lines: Vec<&Line>| {
        lines.sort_by_key(|line| line.attempt);
        let answers: Vec<Option<&str>> = lines.iter().map(|line| line.answer.as_deref()).collect();
        let classes = classes(&answers, |a, b| a == b || equivalent(a, b).is_some());
        let attempt = |(line, answer): (&&Line, Option<usize>)| Attempt {
            correct: line.correct,
            answer,
            seconds: line.seconds,
            tokens: line.written,
            score: line.score,
        };
        lines.iter().zip(classes).map(attempt).collect()
    };
    of_problem.into_par_iter().map(graded).collect()
}

/// Of each problem the attempts in front of the first that has not ended: those that had ended when the budget was spent are shorter
/// than those that had not, and no sample of all.
fn without_gaps(lines: &[Line], model: usize, attempts: &[Vec<Attempt>]) -> Vec<Vec<Attempt>> {
    let mut numbers: Vec<Vec<usize>> = vec![vec![]; attempts.len()];
    lines.iter().filter(|line| line.model == model).for_each(|line| numbers[line.problem].push(line.attempt));
    let of_problem = |(mut numbers, attempts): (Vec<usize>, &Vec<Attempt>)| {
        numbers.sort_unstable();
        let whole = numbers.iter().enumerate().take_while(|(place, number)| place == *number).count();
        attempts[..whole].to_vec()
    };
    numbers.into_iter().zip(attempts).map(of_problem).collect()
}

impl Outcome {
    /// Writes `curves.json`, `curves.csv` and `report.html`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write(&folder.join("curves.json"), serde_json::to_string_pretty(self)?)?;
        files::write(&folder.join("curves.csv"), self.csv())?;
        files::write(&folder.join("report.html"), page(self)?)
    }

    fn csv(&self) -> String {
        let mut csv = String::from("model,over,curve,at,mean,low,high\n");
        for model in &self.models {
            let curves = [&model.over_attempts, &model.over_seconds, &model.over_tokens];
            for (over, curves) in ["attempts", "seconds", "tokens"].into_iter().zip(curves) {
                for curve in curves {
                    for point in &curve.points {
                        let name = model.name.replace([',', '"', '\n'], "_");
                        let numbers = format!("{},{},{},{}", point.at, point.mean, point.low, point.high);
                        csv += &format!("{name},{over},{},{numbers}\n", curve.name);
                    }
                }
            }
        }
        csv
    }

    /// One line for each model, at the end of its budget.
    pub fn table(&self) -> Table {
        let curves = self.models.first().map_or(vec![], |model| {
            model.over_seconds.iter().map(|curve| format!("{} [95 %]", curve.name)).collect()
        });
        let head = ["model", "rows", "seconds", "tokens/s", "attempts", "fewest"].map(String::from);
        let mut table = Table::new(head.into_iter().chain(curves));
        for model in &self.models {
            let rate = model.spent.tokens / model.spent.seconds.max(1e-9);
            let numbers = [
                model.name.clone(),
                model.rows.to_string(),
                format!("{:.2}", model.spent.seconds),
                format!("{rate:.0}"),
                model.attempts.to_string(),
                model.fewest.to_string(),
            ];
            let last = model.over_seconds.iter().map(|curve| {
                curve.points.last().map_or("-".into(), |point| {
                    format!("{} [{:.1}, {:.1}]", percent(point.mean), 100.0 * point.low, 100.0 * point.high)
                })
            });
            table.row(numbers.into_iter().chain(last));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(attempt: usize, answer: &str, seconds: f64) -> Line {
        Line {
            model: 0,
            problem: 0,
            attempt,
            seconds,
            written: 9.0 * seconds,
            tokens: 9,
            finish: "eos".into(),
            correct: answer != "7",
            answer: Some(answer.into()),
            reason: String::new(),
            score: None,
            text: String::new(),
        }
    }

    #[test]
    fn attempts_behind_one_that_did_not_end_count_over_seconds_alone() {
        // Attempt 2 was still being written; the lines stand in the order in which they ended.
        let lines = [line(3, "1/2", 1.0), line(0, "7", 2.0), line(1, "0.5", 3.0), line(4, "\\frac12", 4.0)];
        let all = attempts(&lines, 0, 2);
        let answers: Vec<_> = all[0].iter().map(|attempt| attempt.answer).collect();
        assert_eq!(answers, [Some(0), Some(1), Some(1), Some(1)], "equal answers are one");
        assert!(all[1].is_empty());
        let first = without_gaps(&lines, 0, &all);
        assert_eq!(first[0], all[0][..2]);

        let memory = Memory { state_bytes: 1, bytes_per_token: 1, longest: 1 };
        let spent = Spent { seconds: 4.0, tokens: 40.0 };
        let run =
            || Run { name: "a, b".into(), rows: 2, trials: vec![], memory, spent, times: Times::default() };
        let outcome = outcome(vec![run()], &lines, 1, "4s".into(), "flex".into());
        let model = &outcome.models[0];
        assert_eq!((model.attempts, model.fewest), (4, 2));
        let places: Vec<f64> = model.over_attempts[0].points.iter().map(|point| point.at).collect();
        assert_eq!(places, [1.0, 2.0]);
        let majority = &model.over_seconds[1];
        let at =
            |seconds: f64| majority.points.iter().find(|point| point.at >= seconds).map(|point| point.mean);
        let found = [at(0.5), at(1.0), at(2.0), at(4.0)];
        assert_eq!(found, [0.0, 1.0, 1.0, 1.0].map(Some), "at 2 s a tie, which the first to end wins");
        assert!(
            outcome.csv().lines().skip(1).all(|row| row.starts_with("a_ b,") && row.split(',').count() == 7)
        );
    }
}
