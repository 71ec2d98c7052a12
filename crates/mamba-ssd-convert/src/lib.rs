//! Attention to [`DiscreteMamba2`], one layer at a time.
//!
//! ```text
//! x ← V    B ← K    C ← Q / √head_dim    out_proj ← O        (Init::Qkvo)
//! ```
//!
//! SSD without decay, skip, convolution and gate is masked linear attention, so attention's
//! projections have a place in a [`DiscreteMamba2`]. MOHAWK (Bick et al., 2024) does not use it:
//! it starts the mixer afresh, open where it can be, and learns the rest ([`Init::Mohawk`]).
//!
//! A few heads of the teacher, those that retrieve, may stay attention beside the mixer of their layer ([`KeptHeads`]).
//!
//! A [`ConversionPlan`] says which layers change and how; [`attention_to_discrete_mamba2`] changes
//! one; a [`ConversionReport`] tells what became of every parameter. Weights go in and come out:
//! this crate opens no file.
//!
//! [`DiscreteMamba2`]: mamba_ssd::DiscreteMamba2

mod blocks;
mod error;
mod heads;
mod layer;
mod parallel;
mod plan;
mod report;

pub use error::ConvertError;
pub use layer::{OPEN_GATE, attention_to_discrete_mamba2};
pub use parallel::attention_to_parallel;
pub use plan::{ConversionPlan, Init, KeptHeads, LayerPlan, LayerSelection};
pub use report::{Action, ConversionReport, Entry, LayerReport};
