//! The SSD map and its evaluations.
//!
//! ```text
//! S_t = a_t · S_{t-1} + x_t ⊗ B_t        a_t = exp(log_a_t)
//! y_t = S_t C_t
//! ```
//!
//! Source: Dao and Gu, "Transformers are SSMs" (2024), sections 3 to 6. The skip term `D x`, gates
//! and norms belong to the mixers.

mod chunk_scan;
mod evaluations;
mod input;
mod matrix;
mod recurrent;
mod scan;
mod segsum;

pub use chunk_scan::chunk_scan;
pub use evaluations::{EVALUATIONS, Evaluation};
pub use input::{SsdInput, SsdOutput};
pub use matrix::{materialize, matrix};
pub use recurrent::{SsdStep, recurrent, step};
pub use scan::scan;
pub use segsum::segsum;

pub(crate) use input::{Prepared, groups_to_heads, heads_first};
