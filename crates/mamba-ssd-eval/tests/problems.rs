//! The generated problems, checked by code that shares nothing with the generator.

use std::collections::{HashMap, HashSet};

use mamba_ssd_eval::grade::{extract_answer, is_correct};
use mamba_ssd_eval::problems::{N_TEMPLATES, Problem, Split, long_problem, problem};

const SAMPLES: u64 = 20_000;

fn sample(split: Split) -> impl Iterator<Item = Problem> {
    (0..SAMPLES).map(move |index| problem(7, split, index))
}

/// Every maximal run of digits.
fn numbers(text: &str) -> Vec<i64> {
    let runs = text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
    runs.map(|run| run.parse().expect("digits")).collect()
}

/// Reads `a op b = c` and returns the operands and the result after recomputing it.
fn check_step(step: &str) -> ([i64; 2], i64) {
    let words: Vec<&str> = step.split(' ').collect();
    let [left, op, right, "=", result] = words[..] else { panic!("not a step: {step:?}") };
    let [left, right, result] = [left, right, result].map(|word| word.parse::<i64>().expect("a number"));
    let expected = match op {
        "+" => left + right,
        "-" => left - right,
        "*" => left * right,
        "/" if left % right == 0 => left / right,
        _ => panic!("cannot compute {step:?}"),
    };
    assert_eq!(result, expected, "{step:?}");
    ([left, right], result)
}

/// Follows a solution: every operand was given or computed before, every result is right and in bounds.
fn check(problem: &Problem, lengths: std::ops::RangeInclusive<usize>) {
    let (steps, last) = problem.solution.rsplit_once(". The answer is ").expect("an answer");
    let mut known = numbers(&problem.question);
    for step in steps.split(". ") {
        let (operands, result) = check_step(step);
        for operand in operands {
            assert!(known.contains(&operand), "{operand} comes from nowhere: {problem:?}");
        }
        known.push(result);
    }
    assert!(known.iter().all(|value| (0..=999).contains(value)), "{problem:?}");
    assert_eq!(last, format!("{}.", problem.answer));
    assert_eq!(known.last(), Some(&problem.answer));
    assert!(lengths.contains(&steps.split(". ").count()));
}

#[test]
fn every_solution_is_right() {
    for split in [Split::Train, Split::HeldOut] {
        sample(split).for_each(|problem| check(&problem, 2..=4));
        (0..SAMPLES).for_each(|index| check(&long_problem(7, split, index), 4..=8));
    }
}

#[test]
fn long_problems_have_every_length_and_operation_and_splits_of_their_own() {
    let sample = |split| (0..SAMPLES).map(move |index| long_problem(7, split, index));
    let (mut lengths, mut operations) = (HashMap::new(), HashMap::new());
    for problem in sample(Split::Train) {
        assert_eq!(numbers(&problem.question), problem.numbers);
        *lengths.entry(problem.numbers.len() - 1).or_insert(0u64) += 1;
        for operation in ["+", "-", "*", "/"] {
            let times = problem.solution.matches(&format!(" {operation} ")).count();
            *operations.entry(operation).or_insert(0) += times;
        }
    }
    assert_eq!(lengths.len(), 5);
    assert!(lengths.values().all(|count| *count > SAMPLES / 10), "{lengths:?}");
    let steps: usize = operations.values().sum();
    assert!(operations.values().all(|count| 20 * count > steps), "{operations:?} of {steps}");
    let train: HashSet<_> = sample(Split::Train).map(|problem| problem.numbers).collect();
    assert!(sample(Split::HeldOut).all(|problem| !train.contains(&problem.numbers)));
    let questions: HashSet<_> = sample(Split::Train).map(|problem| problem.question).collect();
    assert!(questions.len() as u64 > SAMPLES * 99 / 100, "{} different questions", questions.len());
}

#[test]
fn grading_reads_the_answer_of_every_completion() {
    for problem in sample(Split::HeldOut).take(1000) {
        assert_eq!(extract_answer(&problem.completion()), Some(problem.answer));
        assert!(is_correct(&problem, &problem.text()));
        assert!(!is_correct(&problem, &problem.prompt()));
    }
}

#[test]
fn no_number_tuple_is_in_both_splits() {
    let key = |problem: Problem| (problem.template, problem.numbers);
    let train: HashSet<_> = sample(Split::Train).map(key).collect();
    let other_seed = (0..SAMPLES).map(|index| problem(8, Split::HeldOut, index));
    let shared = sample(Split::HeldOut).chain(other_seed).map(key).filter(|key| train.contains(key)).count();
    assert_eq!(shared, 0);
}

#[test]
fn every_template_occurs_about_equally_often() {
    let mut counts = HashMap::new();
    sample(Split::Train).for_each(|problem| *counts.entry(problem.template).or_insert(0u64) += 1);
    let expected = SAMPLES / N_TEMPLATES as u64;
    assert_eq!(counts.len(), N_TEMPLATES);
    assert!(
        counts.values().all(|count| (expected * 8 / 10..expected * 12 / 10).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn problems_rarely_repeat() {
    let distinct: HashSet<String> = sample(Split::Train).map(|problem| problem.question).collect();
    assert!(distinct.len() as u64 > SAMPLES * 99 / 100, "{} of {SAMPLES} are distinct", distinct.len());
}

#[test]
fn seed_split_and_index_each_change_the_problem() {
    let base = problem(0, Split::Train, 0);
    assert_eq!(base, problem(0, Split::Train, 0));
    for other in [problem(1, Split::Train, 0), problem(0, Split::HeldOut, 0), problem(0, Split::Train, 1)] {
        assert_ne!(base.question, other.question);
    }
}

/// Written by this generator when it was new: a change here changes what every seed means, and the
/// bundled teacher with it.
#[test]
fn the_first_problems_of_seed_0_stay_what_they_are() {
    let train = [
        "Q: Lucy has 49 stamps and Mia has 41. They share them equally among 5 friends. How many stamps does each friend get?\nA: 49 + 41 = 90. 90 / 5 = 18. The answer is 18.\n",
        "Q: Emma saved 26 dollars and buys 3 pears. Each costs 7 dollars. How many dollars does Emma have now?\nA: 3 * 7 = 21. 26 - 21 = 5. The answer is 5.\n",
    ];
    let held_out = [
        "Q: Jack has 31 marbles and Lucy has 3 times as many. Lucy loses 38 of them. How many marbles do they have together?\nA: 31 * 3 = 93. 93 - 38 = 55. 31 + 55 = 86. The answer is 86.\n",
        "Q: Ruth saves 31 dollars a week for 4 weeks. She pays 28 dollars for cups and gets 71 dollars from Lucy. How many dollars does Ruth have now?\nA: 31 * 4 = 124. 124 - 28 = 96. 96 + 71 = 167. The answer is 167.\n",
    ];
    for (split, expected) in [(Split::Train, train), (Split::HeldOut, held_out)] {
        let found: Vec<String> = (0..2).map(|index| problem(0, split, index).text()).collect();
        assert_eq!(found, expected);
    }
}
