//! How good a language model is: perplexity of texts, and problems whose answers can be checked.
//!
//! - [`perplexity()`]: token perplexity of documents under any [`Backbone`](mamba_ssd::Backbone).
//! - [`problems`]: seeded arithmetic word problems with worked solutions, in two disjoint splits.
//! - [`grade`]: reads the answer out of what a model wrote.
//! - [`answer_accuracy`]: the share of problems solved by whatever writes the answers.
//!
//! This crate knows no model, no file and no tokenizer: tokens and closures come in, numbers go out.

mod accuracy;
pub mod grade;
mod perplexity;
pub mod problems;

pub use accuracy::{AccuracyReport, answer_accuracy};
pub use perplexity::perplexity;
