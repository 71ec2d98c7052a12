//! Coverage and accuracy over attempts, seconds and tokens, with intervals over problems.

use rand::seq::index::sample;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Attempt, Rule, SUBSETS, choose, pass_at_k};

/// Resamples of the problems.
const RESAMPLES: usize = 1000;

/// A quantity of every problem at some places: attempts, seconds or tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The places, ascending.
    pub at: Vec<f64>,
    /// Of every problem one number for each place.
    pub problems: Vec<Vec<f64>>,
}

/// The mean over problems at a place.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The place.
    pub at: f64,
    /// The mean.
    pub mean: f64,
    /// Where 95 % of the means of problems drawn with replacement lie.
    pub low: f64,
    /// And their upper end.
    pub high: f64,
}

/// A mean over problems at some places.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// `coverage`, or the name of a rule.
    pub name: String,
    /// In the order of the places.
    pub points: Vec<Point>,
}

/// What tells how far a model has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Seconds of computing.
    Seconds,
    /// Tokens that were written.
    Tokens,
}

impl Clock {
    fn of(self, attempt: &Attempt) -> f64 {
        match self {
            Self::Seconds => attempt.seconds,
            Self::Tokens => attempt.tokens,
        }
    }
}

impl Series {
    /// Coverage, without a rule, or the accuracy of a rule's answers, after 1, 2, 4 and so on attempts at each problem, and after as
    /// many as all problems have. `attempts` are those at each problem in the order they were made.
    pub fn over_attempts(attempts: &[Vec<Attempt>], rule: Option<Rule>, seed: u64) -> Self {
        let least = attempts.iter().map(Vec::len).min().unwrap_or(0);
        let mut counts: Vec<usize> =
            (0..).map(|power| 1 << power).take_while(|&count| count < least).collect();
        counts.extend((least > 0).then_some(least));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let of_problem = |attempts: &Vec<Attempt>| {
            counts.iter().map(|&k| expected(attempts, rule, k, &mut rng)).collect::<Vec<_>>()
        };
        let problems = attempts.iter().map(of_problem).collect();
        Self { at: counts.iter().map(|&k| k as f64).collect(), problems }
    }

    /// The same of what had ended by each of `places` of a clock, ascending.
    pub fn over(clock: Clock, attempts: &[Vec<Attempt>], rule: Option<Rule>, places: &[f64]) -> Self {
        let of_problem = |attempts: &Vec<Attempt>| {
            let at = |&end: &f64| value(&ended(attempts, clock, end), rule);
            places.iter().map(at).collect()
        };
        Self { at: places.to_vec(), problems: attempts.iter().map(of_problem).collect() }
    }

    /// The means, with their intervals.
    pub fn curve(&self, name: &str, seed: u64) -> Curve {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let draws = draws(self.problems.len(), &mut rng);
        let point = |(place, &at): (usize, &f64)| {
            let mut means: Vec<f64> = draws.iter().map(|draw| self.mean(place, draw)).collect();
            means.sort_by(f64::total_cmp);
            let all: Vec<usize> = (0..self.problems.len()).collect();
            let [low, high] = [0.025, 0.975].map(|share| percentile(&means, share));
            Point { at, mean: self.mean(place, &all), low, high }
        };
        let points =
            if self.problems.is_empty() { vec![] } else { self.at.iter().enumerate().map(point).collect() };
        Curve { name: name.to_string(), points }
    }

    fn mean(&self, place: usize, problems: &[usize]) -> f64 {
        problems.iter().map(|&problem| self.problems[problem][place]).sum::<f64>() / problems.len() as f64
    }
}

/// Those that had ended, in the order they did.
fn ended(attempts: &[Attempt], clock: Clock, by: f64) -> Vec<&Attempt> {
    let mut ended: Vec<&Attempt> = attempts.iter().filter(|attempt| clock.of(attempt) <= by).collect();
    ended.sort_by(|a, b| clock.of(a).total_cmp(&clock.of(b)));
    ended
}

/// 1 if an attempt is right, or the chosen one is.
fn value(attempts: &[&Attempt], rule: Option<Rule>) -> f64 {
    let right = match rule {
        None => attempts.iter().any(|attempt| attempt.correct),
        Some(rule) => choose(rule, attempts).is_some_and(|attempt| attempt.correct),
    };
    f64::from(right)
}

/// What k of the attempts are worth, whichever they are.
fn expected(attempts: &[Attempt], rule: Option<Rule>, k: usize, rng: &mut ChaCha8Rng) -> f64 {
    let n = attempts.len();
    if rule.is_none() {
        return pass_at_k(n, attempts.iter().filter(|attempt| attempt.correct).count(), k);
    }
    if k == n {
        return value(&attempts.iter().collect::<Vec<_>>(), rule);
    }
    let drawn = |rng: &mut ChaCha8Rng| {
        let mut drawn = sample(rng, n, k).into_vec();
        drawn.sort_unstable();
        value(&drawn.into_iter().map(|index| &attempts[index]).collect::<Vec<_>>(), rule)
    };
    (0..SUBSETS).map(|_| drawn(rng)).sum::<f64>() / SUBSETS as f64
}

/// Problems drawn with replacement, as many as there are, many times.
fn draws(problems: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
    let draw = |_| (0..problems).map(|_| rng.random_range(0..problems)).collect();
    if problems == 0 { vec![] } else { (0..RESAMPLES).map(draw).collect() }
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((share * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Where one series passes another for good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crossing {
    /// The first place from which on its mean is above the other's; nothing where there is none.
    pub at: Option<f64>,
    /// Of problems drawn with replacement the share in which there is one.
    pub share: f64,
    /// Where 95 % of those lie.
    pub low: Option<f64>,
    /// And their upper end.
    pub high: Option<f64>,
}

/// Where `ahead` passes `behind` for good, both of the same problems at the same places.
///
/// # Panics
///
/// If they are not.
pub fn crossing(ahead: &Series, behind: &Series, seed: u64) -> Crossing {
    assert_eq!(
        (&ahead.at, ahead.problems.len()),
        (&behind.at, behind.problems.len()),
        "other problems or places"
    );
    let places = ahead.at.len();
    let first = |problems: &[usize]| {
        let above = |place: &usize| ahead.mean(*place, problems) > behind.mean(*place, problems);
        (0..places).rev().take_while(above).last().map(|place| ahead.at[place])
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let draws = draws(ahead.problems.len(), &mut rng);
    let mut found: Vec<f64> = draws.iter().filter_map(|draw| first(draw)).collect();
    found.sort_by(f64::total_cmp);
    let end = |share| (!found.is_empty()).then(|| percentile(&found, share));
    let all: Vec<usize> = (0..ahead.problems.len()).collect();
    let at = if all.is_empty() { None } else { first(&all) };
    Crossing { at, share: found.len() as f64 / draws.len().max(1) as f64, low: end(0.025), high: end(0.975) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Right answers are 0; an attempt ends a second after the one before.
    fn problem(answers: &[usize]) -> Vec<Attempt> {
        let attempt = |(index, &answer): (usize, &usize)| Attempt {
            correct: answer == 0,
            answer: Some(answer),
            seconds: (index + 1) as f64,
            tokens: 10.0 * (index + 1) as f64,
            score: None,
        };
        answers.iter().enumerate().map(attempt).collect()
    }

    #[test]
    fn coverage_over_attempts_is_pass_at_k_and_a_majority_of_all_is_the_vote() {
        let attempts = [problem(&[1, 0, 1, 1, 0]), problem(&[0, 0, 0, 2, 2])];
        let coverage = Series::over_attempts(&attempts, None, 0);
        assert_eq!(coverage.at, [1.0, 2.0, 4.0, 5.0]);
        assert_eq!(coverage.problems[0], [1, 2, 4, 5].map(|k| pass_at_k(5, 2, k)));
        let majority = Series::over_attempts(&attempts, Some(Rule::Majority), 0);
        assert_eq!((majority.problems[0][3], majority.problems[1][3]), (0.0, 1.0));
        assert!((majority.problems[0][0] - 0.4).abs() < 0.2, "one of five: {:?}", majority.problems[0]);
        assert_eq!(majority, Series::over_attempts(&attempts, Some(Rule::Majority), 0), "the seed decides");
    }

    #[test]
    fn over_seconds_and_tokens_what_has_ended_counts() {
        let attempts = [problem(&[1, 1, 0, 0, 0])];
        let seconds = [0.5, 2.0, 3.0, 5.0];
        assert_eq!(Series::over(Clock::Seconds, &attempts, None, &seconds).problems, [[0.0, 0.0, 1.0, 1.0]]);
        let majority = Series::over(Clock::Seconds, &attempts, Some(Rule::Majority), &seconds);
        assert_eq!(majority.problems, [[0.0, 0.0, 0.0, 1.0]]);
        let tokens = [5.0, 29.0, 30.0];
        assert_eq!(Series::over(Clock::Tokens, &attempts, None, &tokens).problems, [[0.0, 0.0, 1.0]]);
    }

    #[test]
    fn intervals_hold_the_mean_and_shrink_with_problems() {
        let series = |count: usize| Series {
            at: vec![1.0],
            problems: (0..count).map(|index| vec![f64::from(u8::from(index % 4 == 0))]).collect(),
        };
        let [few, many] = [20, 2000].map(|count| series(count).curve("coverage", 1).points[0]);
        for point in [few, many] {
            assert!(point.low <= point.mean && point.mean <= point.high && point.mean == 0.25, "{point:?}");
        }
        let expected = 2.0 * 1.96 * (0.25f64 * 0.75 / 2000.0).sqrt();
        assert!(((many.high - many.low) / expected - 1.0).abs() < 0.15, "{many:?}");
        assert!(few.high - few.low > 5.0 * (many.high - many.low));
        assert!(Series { at: vec![1.0], problems: vec![] }.curve("none", 1).points.is_empty());
    }

    #[test]
    fn a_crossing_is_for_good_and_may_not_be_there() {
        let series = |numbers: [f64; 4]| Series {
            at: vec![1.0, 2.0, 3.0, 4.0],
            problems: (0..50).map(|_| numbers.to_vec()).collect(),
        };
        let behind = series([0.3, 0.4, 0.5, 0.5]);
        let passes = crossing(&series([0.4, 0.3, 0.6, 0.7]), &behind, 0);
        assert_eq!(passes, Crossing { at: Some(3.0), share: 1.0, low: Some(3.0), high: Some(3.0) });
        let never = crossing(&behind, &behind, 0);
        assert_eq!(never, Crossing { at: None, share: 0.0, low: None, high: None });
    }
}
