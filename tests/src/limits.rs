//! How far each evaluation may be from the oracle: ten times what was measured.
//!
//! `cargo run -p mamba-ssd-tests --bin numerics` measures, and prints measured errors beside these
//! limits: the table of docs/numerics.md.

use std::fmt::{Display, Formatter};

use burn::tensor::DType;
use mamba_ssd::{SsdInput, SsdOutput};

use crate::device::backend;
use crate::evaluate::differentiate;
use crate::oracle::{Gradients, Output};
use crate::problem::{Expected, Problem};

/// Errors of one evaluation, relative L2 against the oracle.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors {
    /// Of the outputs.
    pub y: f64,
    /// Of the final state.
    pub state: f64,
    /// The worst of the gradients of x, log_a, B, C and the incoming state.
    pub gradient: f64,
}

/// Limits by backend, evaluation and dtype: ten times the measured error, or ten units of rounding of
/// the dtype that states are kept in where less was measured. `chunk_scan` without a number stands for
/// any chunk size, and its limits are those of the three sizes with a row of their own where it met more.
#[rustfmt::skip] // a table
pub const LIMITS: &[(&str, &str, DType, Errors)] = &[
    ("flex", "matrix", DType::F64, Errors { y: 5.3e-15, state: 3.7e-15, gradient: 1.4e-14 }),
    ("flex", "chunk_scan_16", DType::F64, Errors { y: 5.3e-15, state: 3.5e-15, gradient: 1.4e-14 }),
    ("flex", "chunk_scan_64", DType::F64, Errors { y: 5.3e-15, state: 3.3e-15, gradient: 1.4e-14 }),
    ("flex", "chunk_scan_128", DType::F64, Errors { y: 5.3e-15, state: 3.3e-15, gradient: 1.4e-14 }),
    ("flex", "recurrent", DType::F64, Errors { y: 4.5e-15, state: 1.1e-15, gradient: 1.1e-14 }),
    ("flex", "scan", DType::F64, Errors { y: 4.1e-15, state: 3.8e-15, gradient: 1.2e-14 }),
    ("flex", "chunk_scan", DType::F64, Errors { y: 5.3e-15, state: 3.8e-15, gradient: 1.4e-14 }),
    ("flex", "matrix", DType::F32, Errors { y: 2.1e-6, state: 1.0e-6, gradient: 3.3e-6 }),
    ("flex", "chunk_scan_16", DType::F32, Errors { y: 2.1e-6, state: 1.1e-6, gradient: 3.3e-6 }),
    ("flex", "chunk_scan_64", DType::F32, Errors { y: 2.1e-6, state: 1.1e-6, gradient: 3.3e-6 }),
    ("flex", "chunk_scan_128", DType::F32, Errors { y: 2.1e-6, state: 1.1e-6, gradient: 3.3e-6 }),
    ("flex", "recurrent", DType::F32, Errors { y: 2.4e-6, state: 1.5e-6, gradient: 4.4e-6 }),
    ("flex", "scan", DType::F32, Errors { y: 2.1e-6, state: 1.5e-6, gradient: 2.9e-6 }),
    ("flex", "chunk_scan", DType::F32, Errors { y: 2.1e-6, state: 1.1e-6, gradient: 3.3e-6 }),
    ("flex", "matrix", DType::BF16, Errors { y: 2.1e-2, state: 8.9e-7, gradient: 2.4e-2 }),
    ("flex", "chunk_scan_16", DType::BF16, Errors { y: 2.1e-2, state: 9.0e-7, gradient: 2.4e-2 }),
    ("flex", "chunk_scan_64", DType::BF16, Errors { y: 2.1e-2, state: 9.0e-7, gradient: 2.4e-2 }),
    ("flex", "chunk_scan_128", DType::BF16, Errors { y: 2.1e-2, state: 8.9e-7, gradient: 2.4e-2 }),
    ("flex", "recurrent", DType::BF16, Errors { y: 2.1e-2, state: 1.2e-6, gradient: 2.4e-2 }),
    ("flex", "scan", DType::BF16, Errors { y: 2.1e-2, state: 1.2e-6, gradient: 2.4e-2 }),
    ("flex", "chunk_scan", DType::BF16, Errors { y: 2.1e-2, state: 8.9e-7, gradient: 2.4e-2 }),
    ("wgpu", "matrix", DType::F32, Errors { y: 1.7e-6, state: 1.3e-6, gradient: 3.4e-6 }),
    ("wgpu", "chunk_scan_16", DType::F32, Errors { y: 1.7e-6, state: 1.6e-6, gradient: 2.8e-6 }),
    ("wgpu", "chunk_scan_64", DType::F32, Errors { y: 1.7e-6, state: 1.7e-6, gradient: 2.4e-6 }),
    ("wgpu", "chunk_scan_128", DType::F32, Errors { y: 1.7e-6, state: 1.7e-6, gradient: 2.4e-6 }),
    ("wgpu", "recurrent", DType::F32, Errors { y: 4.8e-6, state: 5.2e-6, gradient: 7.8e-6 }),
    ("wgpu", "scan", DType::F32, Errors { y: 4.8e-6, state: 5.2e-6, gradient: 5.0e-6 }),
    ("wgpu", "chunk_scan", DType::F32, Errors { y: 1.8e-6, state: 1.8e-6, gradient: 4.4e-6 }),
];

/// The limit of one row on the backend under test.
///
/// # Panics
///
/// If the evaluation has none: measure it, and add it.
pub fn limit(evaluation: &str, dtype: DType) -> Errors {
    let backend = backend();
    let row = LIMITS.iter().find(|row| (row.0, row.1, row.2) == (backend, evaluation, dtype));
    row.unwrap_or_else(|| panic!("no limit for {evaluation} on {backend} in {dtype:?}: add one to limits.rs"))
        .3
}

/// The limit of properties of whole mixers and their parts, relative L2.
pub fn mixer_limit(dtype: DType) -> f64 {
    if dtype == DType::F64 { 1e-12 } else { 1e-5 }
}

/// Part of the magnitude below which cancellation, not the evaluation, makes a result inexact.
/// One token of one head has one number for each row of its state: one draw in a hundred cancels to a hundredth.
const CANCELLED: f64 = 2e-2;

/// `‖got − want‖ / ‖want‖`, or over a fiftieth of `‖magnitude‖` where the terms of `want` cancel to
/// less than that. An exact zero must be met exactly, and what is not a number is infinitely wrong.
pub fn relative_error(got: &[f64], want: &[f64], magnitude: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "results of different sizes");
    let difference: Vec<f64> = got.iter().zip(want).map(|(got, want)| got - want).collect();
    match norm(&difference) {
        0.0 => 0.0,
        difference if difference.is_nan() => f64::INFINITY,
        difference => difference / norm(want).max(CANCELLED * norm(magnitude)),
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

impl Display for Errors {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "y {:.1e}, state {:.1e}, gradient {:.1e}", self.y, self.state, self.gradient)
    }
}

impl Expected {
    /// Errors of outputs and final state.
    pub fn output_errors(&self, got: &Output) -> Errors {
        let (want, magnitude) = (&self.output, &self.output_magnitude);
        Errors {
            y: relative_error(&got.y, &want.y, &magnitude.y),
            state: relative_error(&got.state, &want.state, &magnitude.state),
            gradient: 0.0,
        }
    }

    /// Errors of everything. An empty gradient of the state is that of an absent state.
    pub fn errors(&self, got: &Output, gradients: &Gradients) -> Errors {
        let (want, magnitude) = (&self.gradients, &self.gradients_magnitude);
        let mut worst = relative_error(&gradients.x, &want.x, &magnitude.x)
            .max(relative_error(&gradients.log_a, &want.log_a, &magnitude.log_a))
            .max(relative_error(&gradients.b, &want.b, &magnitude.b))
            .max(relative_error(&gradients.c, &want.c, &magnitude.c));
        if !gradients.state.is_empty() {
            worst = worst.max(relative_error(&gradients.state, &want.state, &magnitude.state));
        }
        Errors { gradient: worst, ..self.output_errors(got) }
    }
}

impl Errors {
    /// Runs an evaluation forward and backward, and compares.
    pub fn of(
        run: impl Fn(SsdInput) -> SsdOutput,
        problem: &Problem,
        expected: &Expected,
        dtype: DType,
    ) -> Self {
        let (output, gradients) = differentiate(run, problem, dtype);
        expected.errors(&output, &gradients)
    }

    /// The larger of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            y: self.y.max(other.y),
            state: self.state.max(other.state),
            gradient: self.gradient.max(other.gradient),
        }
    }

    /// The largest.
    pub fn worst(&self) -> f64 {
        self.y.max(self.state).max(self.gradient)
    }

    /// Whether every error is a number and within `limit`.
    pub fn within(&self, limit: &Self) -> bool {
        self.y <= limit.y && self.state <= limit.state && self.gradient <= limit.gradient
    }
}
