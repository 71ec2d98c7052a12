//! How good a language model is.
//!
//! - [`perplexity()`] and [`windows`]: token perplexity of documents under any [`Backbone`](mamba_ssd::Backbone), bits a byte.
//! - [`items`]: multiple choice and greedy continuation by log-likelihood, as lm-evaluation-harness counts them.
//! - [`Recall`]: copying, associative recall and needles at any length.
//! - [`agreement()`]: divergence and likeliest tokens of a student beside its teacher.
//! - [`importance()`]: what a model is without each of its attention layers.
//! - [`standard_error`]: of any of them, by bootstrap.
//! - [`problems`]: seeded arithmetic word problems with worked solutions, in two disjoint splits.
//! - [`reason`]: many attempts at a problem: coverage, votes, and curves of both over attempts and seconds.
//! - [`grade`]: reads the answer out of what a model wrote.
//! - [`answer_accuracy`]: the share of problems solved by whatever writes the answers.
//!
//! This crate knows no model, no file and no tokenizer: tokens, lines and closures come in, numbers go out.

mod accuracy;
mod agreement;
mod bootstrap;
pub mod grade;
mod importance;
pub mod items;
mod perplexity;
pub mod problems;
pub mod reason;
mod recall;
mod score;

pub use accuracy::{AccuracyReport, answer_accuracy};
pub use agreement::{Agreement, agreement};
pub use bootstrap::standard_error;
pub use importance::{BROKEN, LayerImportance, Rank, importance};
pub use perplexity::{Surprise, perplexity, windows};
pub use recall::{RECALLS, Recall};
pub use score::{Score, Scored, score};
