//! Arithmetic word problems with worked solutions and an answer that can be checked.
//!
//! ```text
//! Q: Mia has 34 shells. She finds 58 more and gives 17 to Tom. How many shells does Mia have?
//! A: 34 + 58 = 92. 92 - 17 = 75. The answer is 75.
//! ```
//!
//! [`problem`] is random access: the problem of a (seed, split, index) never depends on another. Every
//! number, intermediate result and answer lies in `1..=999`; products and divisions have one factor of
//! one digit and one of at most 50. A problem takes two to four steps, each spelt out; [`long_problem`]s take four to eight.
//!
//! The splits share their templates and nothing else: an eighth of the number tuples of every template,
//! chosen by a hash of (template, numbers), and a sixteenth of its (person, object) pairs never occur in
//! [`Split::Train`], whatever the seed. [`Split::HeldOut`] draws its numbers from that eighth alone.

mod draw;
mod long;
mod split;
mod templates;
mod words;

use serde::{Deserialize, Serialize};

pub use draw::problem;
pub use long::long_problem;
pub use split::Split;

/// A word problem and how to solve it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is asked, on one line.
    pub question: String,
    /// The steps, then `The answer is N.`
    pub solution: String,
    /// The answer.
    pub answer: i64,
    /// Which template of the generator was used; [`N_TEMPLATES`] for long problems.
    pub template: usize,
    /// The numbers of the question, in the template's order.
    pub numbers: Vec<i64>,
}

impl Problem {
    /// What a model is given: `Q: {question}`, a line break and `A:`.
    pub fn prompt(&self) -> String {
        format!("Q: {}\nA:", self.question)
    }

    /// What a model continues the prompt with: a space, the solution and a line break.
    pub fn completion(&self) -> String {
        format!(" {}\n", self.solution)
    }

    /// Prompt and completion: a training document.
    pub fn text(&self) -> String {
        self.prompt() + &self.completion()
    }
}

/// How many templates there are; [`Problem::template`] is below this.
pub const N_TEMPLATES: usize = templates::TEMPLATES.len();
