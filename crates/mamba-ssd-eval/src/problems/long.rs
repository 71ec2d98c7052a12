//! Problems of four to eight steps: one count, and what happens to it, event by event.
//!
//! ```text
//! Q: Mia has 12 shells. She finds 30 more. Tom gives Mia 8 shells. She puts them into 5 equal bags and keeps one bag. ...
//! A: 12 + 30 = 42. 42 + 8 = 50. 50 / 5 = 10. ... The answer is ...
//! ```
//!
//! A step is as hard as those of the short problems, and a mistake in any of them is one in the answer: what a model
//! that is right nineteen times of twenty in a step gets right in three of four problems.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::draw::{MAX_VALUE, apply, draw_cast, fill, generator};
use super::templates::Op;
use super::{N_TEMPLATES, Problem, Split};

/// Fewest and most steps.
const STEPS: [usize; 2] = [4, 8];

/// Of every operation the ways of putting it; `{0}` is the number.
const EVENTS: [(Op, &[&str]); 4] = [
    (
        Op::Add,
        &[
            "{She} finds {0} more {x}.",
            "{B} gives {A} {0} {x}.",
            "{She} buys another {0} {x}.",
            "{C} brings {A} {0} more.",
        ],
    ),
    (
        Op::Sub,
        &[
            "{She} gives {0} {x} to {B}.",
            "{She} loses {0} of them.",
            "{A} sells {0} {x}.",
            "{C} takes {0} of the {x}.",
        ],
    ),
    (
        Op::Mul,
        &["Then {A} gets so many that there are {0} times as many {x}.", "{B} makes them {0} times as many."],
    ),
    (
        Op::Div,
        &[
            "{She} puts them into {0} equal bags and keeps one bag.",
            "{A} shares them equally among {0} people and keeps one share.",
        ],
    ),
];

/// The long problem of a seed, split and index; its template is [`N_TEMPLATES`], its numbers those of the question in their order.
///
/// ```
/// use mamba_ssd_eval::problems::{Split, long_problem};
///
/// let problem = long_problem(0, Split::Train, 0);
/// assert!((4..=8).contains(&problem.solution.matches(" = ").count()));
/// ```
pub fn long_problem(seed: u64, split: Split, index: u64) -> Problem {
    let mut rng = generator(!seed, split, index); // other draws than those of the short problems
    let (numbers, events) = loop {
        let (numbers, events) = draw_events(&mut rng);
        if split.admits_numbers(N_TEMPLATES, &numbers) {
            break (numbers, events);
        }
    };
    let cast = draw_cast(&mut rng, |cast| split.admits_cast(N_TEMPLATES, cast));
    let mut question = fill("{A} has {0} {x}.", &numbers[..1], &cast);
    let (mut count, mut solution) = (numbers[0], String::new());
    for (event, &number) in events.iter().zip(&numbers[1..]) {
        let (op, phrasings) = &EVENTS[*event];
        let phrasing = phrasings[rng.random_range(0..phrasings.len())];
        question = question + " " + &fill(phrasing, &[number], &cast);
        let result = apply(*op, count, number).expect("drawn so");
        solution += &format!("{count} {} {number} = {result}. ", op.symbol());
        count = result;
    }
    question += &fill(" How many {x} does {A} have now?", &[], &cast);
    let solution = solution + &format!("The answer is {count}.");
    Problem { question, solution, answer: count, template: N_TEMPLATES, numbers }
}

/// The first count and the number of every event, and the events by their place in [`EVENTS`].
fn draw_events(rng: &mut ChaCha8Rng) -> (Vec<i64>, Vec<usize>) {
    let steps = rng.random_range(STEPS[0]..=STEPS[1]);
    let mut count = rng.random_range(5..=99);
    let (mut numbers, mut events) = (vec![count], vec![]);
    while events.len() < steps {
        let event = rng.random_range(0..EVENTS.len());
        let number = match EVENTS[event].0 {
            Op::Add => rng.random_range(2..=(MAX_VALUE / 5)),
            Op::Sub => rng.random_range(2..=count.max(3)),
            Op::Mul | Op::Div => rng.random_range(2..=9),
        };
        // Products and quotients seldom fit: what does not is drawn again, so that all four come up.
        if let Some(result) = apply(EVENTS[event].0, count, number) {
            numbers.push(number);
            events.push(event);
            count = result;
        }
    }
    (numbers, events)
}
