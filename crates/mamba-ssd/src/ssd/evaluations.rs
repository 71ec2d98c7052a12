//! The table of evaluations.

use super::{SsdInput, SsdOutput, chunk_scan, matrix, recurrent, scan};

/// One way to evaluate the map. All agree with the f64 recurrence within the limits of
/// `docs/numerics.md`, forward and backward.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation {
    /// Its name in reports and benchmarks.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(SsdInput) -> SsdOutput,
    /// How work grows with the length t.
    pub work: &'static str,
}

/// Every evaluation of the map. A new kernel is a new row.
pub const EVALUATIONS: &[Evaluation] = &[
    Evaluation { name: "matrix", run: matrix, work: "t²" },
    Evaluation { name: "chunk_scan_16", run: |input| chunk_scan(input, 16), work: "t" },
    Evaluation { name: "chunk_scan_64", run: |input| chunk_scan(input, 64), work: "t" },
    Evaluation { name: "chunk_scan_128", run: |input| chunk_scan(input, 128), work: "t" },
    Evaluation { name: "recurrent", run: recurrent, work: "t, sequential" },
    // The device's native kernel; where there is none, chunk_scan.
    Evaluation { name: "scan", run: |input| scan(input, 64), work: "t" },
];
