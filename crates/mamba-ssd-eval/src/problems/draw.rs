//! Drawing a problem: a template, numbers that fit it, a cast, and the words.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::templates::{Op, Step, TEMPLATES, Template, Term};
use super::words::Cast;
use super::{Problem, Split};

/// The largest number, result or answer.
pub const MAX_VALUE: i64 = 999;

/// The larger factor of a product, and a quotient, are at most this.
const MAX_FACTOR: i64 = 50;

/// The problem of a seed, split and index.
///
/// ```
/// use mamba_ssd_eval::problems::{Split, problem};
///
/// let first = problem(0, Split::Train, 0);
/// assert_eq!(first, problem(0, Split::Train, 0));
/// assert!(first.solution.ends_with(&format!("The answer is {}.", first.answer)));
/// ```
pub fn problem(seed: u64, split: Split, index: u64) -> Problem {
    let mut rng = generator(seed, split, index);
    let template = rng.random_range(0..TEMPLATES.len());
    let shape = &TEMPLATES[template];
    let (numbers, results) = draw_numbers(shape, &mut rng, |numbers| split.admits_numbers(template, numbers));
    let cast = draw_cast(&mut rng, |cast| split.admits_cast(template, cast));
    let phrasing = shape.phrasings[rng.random_range(0..shape.phrasings.len())];
    let answer = *results.last().expect("a template has steps");
    Problem {
        question: fill(phrasing, &numbers, &cast),
        solution: spell(shape.steps, &numbers, &results, answer),
        answer,
        template,
        numbers,
    }
}

/// A generator that depends on seed, split and index alone.
pub fn generator(seed: u64, split: Split, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&index.to_le_bytes());
    key[16] = split as u8;
    ChaCha8Rng::from_seed(key)
}

/// Draws until the steps can be solved and the split admits the numbers; returns numbers and results.
fn draw_numbers(
    template: &Template,
    rng: &mut ChaCha8Rng,
    admits: impl Fn(&[i64]) -> bool,
) -> (Vec<i64>, Vec<i64>) {
    loop {
        let numbers: Vec<i64> = template.numbers.iter().map(|size| size.draw(rng)).collect();
        if let Some(results) = solve(template.steps, &numbers).filter(|_| admits(&numbers)) {
            return (numbers, results);
        }
    }
}

pub fn draw_cast(rng: &mut ChaCha8Rng, admits: impl Fn(&Cast) -> bool) -> Cast {
    loop {
        let cast = Cast::draw(rng);
        if admits(&cast) {
            return cast;
        }
    }
}

/// The result of every step, or nothing when one is too large, not positive or not exact.
fn solve(steps: &[Step], numbers: &[i64]) -> Option<Vec<i64>> {
    let mut results = Vec::with_capacity(steps.len());
    for step in steps {
        let left = value(step.0, numbers, &results);
        let right = value(step.2, numbers, &results);
        results.push(apply(step.1, left, right)?);
    }
    Some(results)
}

fn value(term: Term, numbers: &[i64], results: &[i64]) -> i64 {
    match term {
        Term::N(index) => numbers[index],
        Term::R(index) => results[index],
    }
}

pub fn apply(op: Op, left: i64, right: i64) -> Option<i64> {
    let result = match op {
        Op::Add => left + right,
        Op::Sub => left - right,
        Op::Mul => (left.min(right) <= 9 && left.max(right) <= MAX_FACTOR).then_some(left * right)?,
        Op::Div => {
            (left % right == 0 && (2..=MAX_FACTOR).contains(&(left / right))).then_some(left / right)?
        }
    };
    (1..=MAX_VALUE).contains(&result).then_some(result)
}

/// `34 + 58 = 92. 92 - 17 = 75. The answer is 75.`
fn spell(steps: &[Step], numbers: &[i64], results: &[i64], answer: i64) -> String {
    let mut text = String::new();
    for (Step(left, op, right), result) in steps.iter().zip(results) {
        let (left, right) = (value(*left, numbers, results), value(*right, numbers, results));
        text += &format!("{left} {} {right} = {result}. ", op.symbol());
    }
    text + &format!("The answer is {answer}.")
}

/// Replaces the slots of a phrasing, `{0}` by a number and the others by the cast.
pub fn fill(phrasing: &str, numbers: &[i64], cast: &Cast) -> String {
    let mut pieces = phrasing.split('{');
    let mut text = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        let (slot, rest) = piece.split_once('}').expect("a slot is closed");
        text += &word(slot, numbers, cast);
        text += rest;
    }
    text
}

fn word(slot: &str, numbers: &[i64], cast: &Cast) -> String {
    match slot {
        "A" => cast.people[0].name.into(),
        "B" => cast.people[1].name.into(),
        "C" => cast.people[2].name.into(),
        "She" => cast.people[0].pronoun.into(),
        "x" => cast.things[0].into(),
        "y" => cast.things[1].into(),
        number => numbers[number.parse::<usize>().expect("a slot of a template")].to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phrasing_names_every_number_and_an_actor() {
        for template in TEMPLATES {
            for phrasing in template.phrasings {
                let slots = (0..template.numbers.len()).map(|index| format!("{{{index}}}"));
                for slot in slots.chain(["{A}".into()]) {
                    assert!(phrasing.contains(&slot), "{phrasing} lacks {slot}");
                }
                assert!(phrasing.ends_with('?'), "{phrasing}");
            }
        }
    }

    #[test]
    fn every_template_takes_two_to_four_steps_and_uses_all_it_is_given() {
        for template in TEMPLATES {
            assert!((2..=4).contains(&template.steps.len()));
            let used: Vec<Term> = template.steps.iter().flat_map(|step| [step.0, step.2]).collect();
            assert!((0..template.numbers.len()).all(|index| used.contains(&Term::N(index))));
            assert!((0..template.steps.len() - 1).all(|index| used.contains(&Term::R(index))));
        }
    }

    #[test]
    fn steps_that_leave_the_bounds_or_divide_with_a_rest_are_refused() {
        assert_eq!(apply(Op::Add, 600, 399), Some(999));
        assert_eq!(apply(Op::Add, 600, 400), None);
        assert_eq!(apply(Op::Sub, 5, 5), None);
        assert_eq!(apply(Op::Mul, 50, 9), Some(450));
        assert_eq!(apply(Op::Mul, 51, 2), None);
        assert_eq!(apply(Op::Mul, 12, 11), None);
        assert_eq!(apply(Op::Div, 48, 6), Some(8));
        assert_eq!(apply(Op::Div, 49, 6), None);
        assert_eq!(apply(Op::Div, 6, 6), None);
    }
}
