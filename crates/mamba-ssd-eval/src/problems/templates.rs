//! The table of templates: words, sizes of the numbers, and the steps to the answer.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use Op::{Add, Div, Mul, Sub};
use Size::{Count, Digit, Factor, Large};
use Term::{N, R};

/// A kind of problem.
pub struct Template {
    /// Ways of putting it. Slots: `{A}` `{B}` `{C}` people, `{She}` the pronoun of `A`, `{x}` `{y}`
    /// things, `{0}` the first number.
    pub phrasings: &'static [&'static str],
    /// How large its numbers are.
    pub numbers: &'static [Size],
    /// The steps of the solution; the result of the last is the answer.
    pub steps: &'static [Step],
}

/// Left operand, operation, right operand.
pub struct Step(pub Term, pub Op, pub Term);

/// An operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// A number of the question.
    N(usize),
    /// The result of an earlier step.
    R(usize),
}

/// An operation.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
}

impl Op {
    pub fn symbol(self) -> char {
        match self {
            Add => '+',
            Sub => '-',
            Mul => '*',
            Div => '/',
        }
    }
}

/// How large a number is drawn.
pub enum Size {
    /// 2 to 9.
    Digit,
    /// 2 to 40: what a single digit multiplies.
    Factor,
    /// Mostly two digits, at times one or three.
    Count,
    /// Three digits more often than two.
    Large,
}

impl Size {
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> i64 {
        let percent = rng.random_range(0..100);
        match (self, percent) {
            (Digit, _) | (Count, 0..15) => rng.random_range(2..=9),
            (Factor, _) => rng.random_range(2..=40),
            (Count, 15..75) | (Large, 0..30) => rng.random_range(10..=99),
            (Count, _) => rng.random_range(100..=499),
            (Large, _) => rng.random_range(100..=999),
        }
    }
}

/// Every kind of problem. Their order is part of what a seed means.
pub const TEMPLATES: &[Template] = &[
    Template {
        phrasings: &[
            "{A} has {0} {x}. {She} finds {1} more and gives {2} to {B}. How many {x} does {A} have now?",
            "{A} had {0} {x}. {She} got {1} more from {B} and lost {2}. How many {x} are left?",
        ],
        numbers: &[Count, Count, Count],
        steps: &[Step(N(0), Add, N(1)), Step(R(0), Sub, N(2))],
    },
    Template {
        phrasings: &[
            "{A} buys {0} boxes with {1} {x} in each box. {She} gives {2} {x} to {B}. How many {x} are left?",
            "{A} has {0} bags of {1} {x}. {She} sells {2} {x}. How many {x} does {A} have now?",
        ],
        numbers: &[Digit, Factor, Count],
        steps: &[Step(N(0), Mul, N(1)), Step(R(0), Sub, N(2))],
    },
    Template {
        phrasings: &[
            "{A} has {0} {x} and {B} has {1}. They share them equally among {2} friends. How many {x} does each friend get?",
            "{A} picks {0} {x} and {B} picks {1}. They put them into {2} equal bags. How many {x} are in each bag?",
        ],
        numbers: &[Count, Count, Digit],
        steps: &[Step(N(0), Add, N(1)), Step(R(0), Div, N(2))],
    },
    Template {
        phrasings: &[
            "In a shop {x} cost {0} dollars each and {y} cost {1} dollars each. {A} buys {2} {x} and {3} {y}. How many dollars does {A} pay?",
            "{A} sells {x} for {0} dollars each and {y} for {1} dollars each. {B} buys {2} {x} and {3} {y}. How many dollars does {B} pay?",
        ],
        numbers: &[Factor, Factor, Digit, Digit],
        steps: &[Step(N(2), Mul, N(0)), Step(N(3), Mul, N(1)), Step(R(0), Add, R(1))],
    },
    Template {
        phrasings: &[
            "{A} has {0} dollars. {She} buys {1} {x} for {2} dollars each. How many dollars are left?",
            "{A} saved {0} dollars and buys {1} {x}. Each costs {2} dollars. How many dollars does {A} have now?",
        ],
        numbers: &[Large, Digit, Factor],
        steps: &[Step(N(1), Mul, N(2)), Step(N(0), Sub, R(0))],
    },
    Template {
        phrasings: &[
            "{A} has {0} {x}. {B} has {1} more than {A}. How many {x} do they have together?",
            "{A} picks {0} {x} and {B} picks {1} more than {A}. How many {x} do they pick together?",
        ],
        numbers: &[Count, Count],
        steps: &[Step(N(0), Add, N(1)), Step(N(0), Add, R(0))],
    },
    Template {
        phrasings: &[
            "{A} has {0} {x} and {B} has {1} times as many. {B} loses {2} of them. How many {x} do they have together?",
            "{A} picks {0} {x}. {B} picks {1} times as many and gives {2} to {C}. How many {x} are left in all?",
        ],
        numbers: &[Factor, Digit, Count],
        steps: &[Step(N(0), Mul, N(1)), Step(R(0), Sub, N(2)), Step(N(0), Add, R(1))],
    },
    Template {
        phrasings: &[
            "{A} reads a book of {0} pages. {She} reads {1} pages on Monday, {2} on Tuesday and {3} on Friday. How many pages are left?",
            "{A} walks {0} miles in all. {She} walks {1} miles on Monday, {2} on Tuesday and {3} on Friday. How many miles are left?",
        ],
        numbers: &[Large, Count, Count, Count],
        steps: &[Step(N(1), Add, N(2)), Step(R(0), Add, N(3)), Step(N(0), Sub, R(1))],
    },
    Template {
        phrasings: &[
            "{A} has {0} bags of {1} {x}. {She} puts all the {x} into boxes of {2} and sells {3} boxes. How many boxes are left?",
            "{A} picks {1} {x} a day for {0} days. {She} puts them into boxes of {2} and gives {3} boxes to {B}. How many boxes are left?",
        ],
        numbers: &[Digit, Factor, Digit, Digit],
        steps: &[Step(N(0), Mul, N(1)), Step(R(0), Div, N(2)), Step(R(1), Sub, N(3))],
    },
    Template {
        phrasings: &[
            "{A} drives a bus with {0} people. At a stop {1} get off and {2} get on. Then {3} get off. How many people are left?",
            "{A} runs a shop with {0} {x}. {She} sells {1}, buys {2} more and sells {3}. How many {x} are left?",
        ],
        numbers: &[Count, Count, Count, Count],
        steps: &[Step(N(0), Sub, N(1)), Step(R(0), Add, N(2)), Step(R(1), Sub, N(3))],
    },
    Template {
        phrasings: &[
            "{A} saves {0} dollars a week for {1} weeks. {She} pays {2} dollars for {x} and gets {3} dollars from {B}. How many dollars does {A} have now?",
            "{A} finds {0} {x} a day for {1} days. {She} loses {2} and then buys {3} more. How many {x} does {A} have now?",
        ],
        numbers: &[Factor, Digit, Count, Count],
        steps: &[Step(N(0), Mul, N(1)), Step(R(0), Sub, N(2)), Step(R(1), Add, N(3))],
    },
    Template {
        phrasings: &[
            "{A} has {0} boxes of {1} {x} and {2} bags of {3} {x}. {She} gives {4} {x} to {B}. How many {x} are left?",
            "{A} buys {0} bags of {1} {x}. {B} buys {2} boxes of {3} {x}. They lose {4} {x}. How many {x} do they have together?",
        ],
        numbers: &[Digit, Factor, Digit, Factor, Count],
        steps: &[Step(N(0), Mul, N(1)), Step(N(2), Mul, N(3)), Step(R(0), Add, R(1)), Step(R(2), Sub, N(4))],
    },
    Template {
        phrasings: &[
            "{A} puts {0} {x} into {1} equal bags and sells {2} bags. How many {x} are left?",
            "{A} has {0} {x} in {1} equal boxes. {She} gives {2} boxes to {B}. How many {x} does {A} have now?",
        ],
        numbers: &[Count, Digit, Digit],
        steps: &[Step(N(0), Div, N(1)), Step(N(1), Sub, N(2)), Step(R(0), Mul, R(1))],
    },
    Template {
        phrasings: &[
            "{A} has {0} {x}, {B} has {1} and {C} has {2}. They lose {3} and put the others into {4} equal bags. How many {x} are in each bag?",
            "{A} picks {0} {x}, {B} picks {1} and {C} picks {2}. They sell {3} and share the others among {4} friends. How many {x} does each friend get?",
        ],
        numbers: &[Count, Count, Count, Count, Digit],
        steps: &[Step(N(0), Add, N(1)), Step(R(0), Add, N(2)), Step(R(1), Sub, N(3)), Step(R(2), Div, N(4))],
    },
];
