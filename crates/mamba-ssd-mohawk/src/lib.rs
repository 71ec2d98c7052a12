//! MOHAWK: match the mixing matrices, then the hidden states, then the predictions.
//!
//! A Transformer becomes a Mamba-2 in three stages (Bick et al., arXiv 2408.10189):
//!
//! | stage | compares | with | loss |
//! |---|---|---|---|
//! | 1 matrices | the mixing matrix of every layer | the attention matrix | Frobenius norm |
//! | 2 hidden | the output of every block | the teacher's | L2 norm per token |
//! | 3 logits | the predictions | the teacher's | cross entropy, KL, JSD |
//!
//! This crate knows no model. It sees [`mamba_ssd::Backbone`], so any model that implements it can
//! be distilled, and it tells an [`Observer`] what happens instead of printing.
//!
//! ```
//! use mamba_ssd::Backbone;
//! use mamba_ssd_mohawk::data::{Dataset, Text};
//! use mamba_ssd_mohawk::{Distillation, MohawkError, Recipe, preflight};
//!
//! /// `student` is `teacher` with other mixers, both on one `device.autodiff()`.
//! fn distil<T: Backbone, S: Backbone>(
//!     teacher: T,
//!     student: S,
//!     texts: &[Text],
//!     encode: impl Fn(&str) -> Vec<u32>,
//!     eos: u32,
//! ) -> Result<S, MohawkError> {
//!     let recipe = Recipe::preset("demo")?;
//!     let data = Dataset::from_texts(texts, encode, eos)?;
//!     preflight(&recipe, &data, &teacher, &student, None)?;
//!     let run = Distillation::new(&recipe, &data, teacher, student);
//!     Ok(run.run(&mut ())?.student)
//! }
//! ```
//!
//! Stages of logits may take texts that the student writes ([`Author`]) in place of the data.
//!
//! Left out: a second teacher.

mod backward;
mod checkpoint;
pub mod data;
mod error;
mod files;
mod gradients;
pub mod loss;
mod metrics;
mod observer;
mod optim;
mod parameters;
mod predictions;
mod preflight;
pub mod recipe;
mod replica;
mod rollouts;
mod schedule;
pub mod stage;
mod teacher_cache;
mod train;

pub use checkpoint::{CHECKPOINT, Progress};
pub use error::MohawkError;
pub use metrics::read_metrics;
pub use observer::{Observer, StageInfo, StageReport, StepReport};
pub use optim::AdamWConfig;
pub use preflight::{ParameterPlan, Preflight, StagePlan, preflight};
pub use recipe::{DataRecipe, Recipe};
pub use rollouts::{Assignment, Author};
pub use schedule::Wsd;
pub use teacher_cache::{CacheRecipe, Kept};
pub use train::{Distillation, METRICS, Outcome};
