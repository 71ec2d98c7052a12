//! Grading a completion: reading its answer, and telling whether that is the expected one.
//!
//! Two answers are the same if they are the same
//!
//! - text, once what only shapes it is gone: `$…$`, `\left`, `\!`, `\text{…}`, thousands separators, units, full stops;
//! - number: `1/2`, `\frac12`, `0.5`, `5\times10^{-1}`, and `3\frac12`, `7/2`. Rationals are exact. A decimal stands
//!   for a number without a finite expansion if it is within 1e-9 of it, relatively: `0.333` is not `1/3`;
//! - formula: both have the same value at fixed points, wherever both are finite and at three points at least;
//! - equation or inequality: both sides the same, also swapped, or for equations a constant factor apart;
//! - parts: tuples and intervals in order and in the same brackets; sets, bare lists and unions in any order;
//! - choice, if a single letter from A to J is expected.
//!
//! Where graders differ, this is what happens here:
//!
//! - A percent sign on one side only may count or not: `50\%` is `50`, and `0.5`.
//! - `x = 5` is `5`, but not `y = 5`. Of `1 + 2 = 3` the sides must agree.
//! - `(1,234)` is a pair, `1,234` a number, and `1, 234` a list. A set is the list of its elements, a tuple is not.
//! - Units are dropped, not converted: `5 cm` is `5`, and `5 m`.
//! - Words that change a number are no units: `5 million` is not `5`.
//! - `\pm 1` is `1, -1`. `\log` is decadic, `e` is Euler's number, `i` is a variable like others.
//! - Upper and lower case differ in single letters only.
//!
//! The rules follow those of MATH (Hendrycks et al. 2021, arXiv:2103.03874, `is_equiv`) and of Minerva (Lewkowycz et al.
//! 2022, arXiv:2206.14858), with numbers and formulas compared by value as later graders do. Left out:
//! complex numbers, matrices and numerals with a base other than as text, conversion of units, inequalities as
//! intervals.

mod atom;
mod choice;
mod compare;
mod expression;
mod extract;
mod generated;
mod lex;
mod normalise;
mod number;
mod parse;
mod token;

use std::fmt;

pub use generated::{extract_answer, is_correct};

/// How long an answer may be, in characters.
pub const LONGEST_ANSWER: usize = 1000;

/// How many brackets deep two answers are compared.
const DEPTH: usize = 64;

/// What a completion answers, and whether that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the answer is the expected one.
    pub correct: bool,
    /// The answer as the completion writes it; none if there is none, or it is too long.
    pub answer: Option<String>,
    /// Why it is right or wrong.
    pub reason: Reason,
}

/// Why an answer is right or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The same text, normalised.
    Same,
    /// The same number.
    EqualNumber,
    /// Formulas of the same value.
    EqualExpression,
    /// The same equation or inequality.
    EqualRelation,
    /// The same tuple, interval, set or list.
    EqualParts,
    /// The same letter of a multiple choice.
    SameChoice,
    /// Another answer.
    Different,
    /// No answer found.
    NoAnswer,
    /// An answer of more than [`LONGEST_ANSWER`] characters.
    TooLong,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "the same text",
            Self::EqualNumber => "an equal number",
            Self::EqualExpression => "an equal expression",
            Self::EqualRelation => "the same relation",
            Self::EqualParts => "equal parts",
            Self::SameChoice => "the same choice",
            Self::Different => "a different answer",
            Self::NoAnswer => "no answer",
            Self::TooLong => "too long an answer",
        })
    }
}

/// Grades a completion against the expected answer. Takes time linear in the length of the completion.
///
/// ```
/// use mamba_ssd_eval::grade::{Reason, grade};
///
/// let verdict = grade("Half of it is left, so \\boxed{\\frac12}.", "0.5");
/// assert!(verdict.correct);
/// assert_eq!(verdict.answer.as_deref(), Some("\\frac12"));
/// assert_eq!(verdict.reason, Reason::EqualNumber);
/// assert!(!grade("The answer is 0.333.", "\\frac{1}{3}").correct);
/// ```
pub fn grade(completion: &str, expected: &str) -> Verdict {
    let Some(answer) = answer(completion, expected) else {
        return Verdict { correct: false, answer: None, reason: Reason::NoAnswer };
    };
    if is_too_long(answer) {
        return Verdict { correct: false, answer: None, reason: Reason::TooLong };
    }
    let equal = match choice::alone(expected) {
        Some(letter) => letter.eq_ignore_ascii_case(answer).then_some(Reason::SameChoice),
        None => equivalent(answer, expected),
    };
    let reason = equal.unwrap_or(Reason::Different);
    Verdict { correct: equal.is_some(), answer: Some(answer.to_owned()), reason }
}

/// The answer part of a completion.
///
/// It is what the last `\boxed{…}` or `\fbox{…}` with balanced braces holds, else what stands behind the last `####`,
/// else behind the last "the answer is" or "answer:" up to the end of the sentence, else the last number. If a choice
/// is expected, a single letter from A to J, it is the last letter that is marked as one: `\boxed{B}`, "the answer is
/// B", `(B)`, `B.`.
///
/// ```
/// use mamba_ssd_eval::grade::answer;
///
/// assert_eq!(answer("4 + 4 = 8\n#### 1,234", "1234"), Some("1,234"));
/// assert_eq!(answer("Not (A), as it is even. So (C).", "B"), Some("C"));
/// assert_eq!(answer("It depends.", "1"), None);
/// ```
pub fn answer<'a>(completion: &'a str, expected: &str) -> Option<&'a str> {
    if choice::alone(expected).is_some() {
        choice::last(completion).or_else(|| extract::marked(completion))
    } else {
        extract::marked(completion).or_else(|| extract::last_number(completion))
    }
}

/// The answer that a reference solution marks, by the rules of [`answer`]: in a box as in MATH, behind `####` as in
/// GSM8K, or stated.
///
/// ```
/// use mamba_ssd_eval::grade::reference;
///
/// assert_eq!(reference("48 + 24 = 72\n#### 72").as_deref(), Some("72"));
/// assert_eq!(reference("Hence $x = \\boxed{\\frac{1}{2}}$.").as_deref(), Some("\\frac{1}{2}"));
/// assert_eq!(reference("72"), None);
/// ```
pub fn reference(solution: &str) -> Option<String> {
    extract::marked(solution).map(str::to_owned)
}

/// How two answers are the same, if they are. Above [`LONGEST_ANSWER`] characters only equal texts are.
///
/// ```
/// use mamba_ssd_eval::grade::{Reason, equivalent};
///
/// assert_eq!(equivalent("(x+1)^2", "x^2 + 2x + 1"), Some(Reason::EqualExpression));
/// assert_eq!(equivalent("[0, \\frac12)", "[0, 0.5)"), Some(Reason::EqualParts));
/// assert_eq!(equivalent("[0, 1)", "[0, 1]"), None);
/// ```
pub fn equivalent(a: &str, b: &str) -> Option<Reason> {
    let (a, b) = (a.trim(), b.trim());
    if is_too_long(a) || is_too_long(b) {
        return (a == b).then_some(Reason::Same);
    }
    let same_choice = choice::alone(a).is_some() && choice::alone(a) == choice::alone(b);
    match compare::same(&normalise::normalise(a), &normalise::normalise(b), DEPTH) {
        Some(Reason::Same) => Some(Reason::Same),
        _ if same_choice => Some(Reason::SameChoice),
        reason => reason,
    }
}

fn is_too_long(answer: &str) -> bool {
    answer.chars().nth(LONGEST_ANSWER).is_some()
}
