//! Which of several attempts to answer with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Attempt;

/// How one answer is chosen from several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The answer of most attempts.
    Majority,
    /// The answer whose attempts have the largest sum of exp(score).
    Weighted,
    /// The answer of the attempt with the largest score.
    Best,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Majority, Self::Weighted, Self::Best];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Majority => "majority",
            Self::Weighted => "weighted",
            Self::Best => "best",
        }
    }

    /// Whether it needs scores.
    pub fn scores(self) -> bool {
        self != Self::Majority
    }
}

/// Numbers for a problem's answers: the same one for answers that are the same, in the order they were first given. What is
/// the same is `same`'s to say; an answer is compared with the first of every class.
///
/// ```
/// use mamba_ssd_eval::reason::classes;
///
/// let answers = [Some("1/2"), None, Some("7"), Some("0.5")];
/// let same = |a: &str, b: &str| a == b || [a, b] == ["0.5", "1/2"] || [a, b] == ["1/2", "0.5"];
/// assert_eq!(classes(&answers, same), [Some(0), None, Some(1), Some(0)]);
/// ```
pub fn classes(answers: &[Option<&str>], same: impl Fn(&str, &str) -> bool) -> Vec<Option<usize>> {
    let mut first: Vec<&str> = Vec::new();
    let mut class_of = |answer| {
        first.iter().position(|known| same(known, answer)).unwrap_or_else(|| {
            first.push(answer);
            first.len() - 1
        })
    };
    answers.iter().map(|answer| answer.map(&mut class_of)).collect()
}

/// The attempt to answer with, of attempts in the order they were made: the first that gives the chosen answer. Nothing where no
/// attempt has an answer, or a score where the rule needs one.
pub fn choose<'a>(rule: Rule, attempts: &[&'a Attempt]) -> Option<&'a Attempt> {
    let score = |attempt: &Attempt| attempt.score.filter(|score| !score.is_nan());
    let votes = attempts.iter().copied().filter_map(|attempt| {
        let weight = match rule {
            Rule::Majority => Some(1.0),
            Rule::Weighted => score(attempt).map(f64::exp),
            Rule::Best => score(attempt),
        };
        attempt.answer.zip(weight).map(|(answer, weight)| (attempt, answer, weight))
    });
    let votes: Vec<(&Attempt, usize, f64)> = votes.collect();
    let largest = |candidates: &mut dyn Iterator<Item = (&'a Attempt, f64)>| {
        let better = |best: Option<(&'a Attempt, f64)>, next: (&'a Attempt, f64)| match best {
            Some(best) if best.1 >= next.1 => Some(best), // a tie is the earlier one's
            _ => Some(next),
        };
        candidates.fold(None, better).map(|(attempt, _)| attempt)
    };
    if rule == Rule::Best {
        return largest(&mut votes.iter().map(|&(attempt, _, score)| (attempt, score)));
    }
    let mut sums: BTreeMap<usize, f64> = BTreeMap::new();
    votes.iter().for_each(|(_, answer, weight)| *sums.entry(*answer).or_default() += weight);
    largest(&mut votes.iter().map(|(attempt, answer, _)| (*attempt, sums[answer])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(answers: &[(Option<usize>, f64)]) -> Vec<Attempt> {
        let attempt = |&(answer, score): &(Option<usize>, f64)| Attempt {
            correct: answer == Some(1),
            answer,
            seconds: 0.0,
            tokens: 0.0,
            score: Some(score),
        };
        answers.iter().map(attempt).collect()
    }

    fn chosen(rule: Rule, answers: &[(Option<usize>, f64)]) -> Option<usize> {
        let attempts = attempts(answers);
        choose(rule, &attempts.iter().collect::<Vec<_>>()).and_then(|attempt| attempt.answer)
    }

    #[test]
    fn most_attempts_win_and_ties_go_to_the_first_seen() {
        let of = |answers: &[usize]| {
            let answers: Vec<_> = answers.iter().map(|&answer| (Some(answer), 0.0)).collect();
            chosen(Rule::Majority, &answers)
        };
        assert_eq!(of(&[3, 5, 5]), Some(5));
        assert_eq!(of(&[5, 3, 3, 5]), Some(5));
        assert_eq!(of(&[3, 5, 5, 3]), Some(3));
        assert_eq!(of(&[]), None);
        assert_eq!(chosen(Rule::Majority, &[(None, 9.0), (None, 9.0), (Some(2), 0.0)]), Some(2));
    }

    #[test]
    fn weights_add_up_and_the_best_stands_alone() {
        let answers = [(Some(1), 0.0), (Some(2), -0.5), (Some(2), -0.5), (Some(3), f64::NAN)];
        assert_eq!(chosen(Rule::Weighted, &answers), Some(2)); // 2 exp(-0.5) > 1
        assert_eq!(chosen(Rule::Best, &answers), Some(1));
        assert_eq!(chosen(Rule::Best, &[(Some(4), -1.0), (Some(5), -1.0)]), Some(4));
        assert_eq!(chosen(Rule::Weighted, &[(Some(1), f64::NAN)]), None);
    }
}
