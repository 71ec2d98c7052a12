//! Measures every evaluation in every dtype on fixed problems, and prints the table of
//! docs/numerics.md. Arguments such as `scan:F32` choose rows.
#![allow(clippy::print_stdout)]

use burn::tensor::DType;
use mamba_ssd::{EVALUATIONS, SsdInput, SsdOutput, chunk_scan};
use mamba_ssd_tests::device::{backend, dtypes};
use mamba_ssd_tests::limits::{Errors, LIMITS};
use mamba_ssd_tests::oracle::Shape;
use mamba_ssd_tests::problem::{Decay, Expected, Problem, Spec};

/// Chunk sizes behind the row `chunk_scan`: one token, odd, and longer than any sequence here.
const CHUNKS: [usize; 4] = [1, 7, 33, 400];

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let wanted =
        |name: &str, dtype: DType| chosen.is_empty() || chosen.contains(&format!("{name}:{dtype:?}"));
    println!("Relative L2 error, measured / limit\n");
    println!("| backend | evaluation | dtype | y | final state | worst gradient |");
    println!("|---|---|---|---|---|---|");
    for dtype in dtypes() {
        let problems: Vec<_> =
            specs().iter().map(|spec| spec.draw(dtype)).map(|p| (p.expected(), p)).collect();
        for evaluation in EVALUATIONS.iter().filter(|evaluation| wanted(evaluation.name, dtype)) {
            row(evaluation.name, dtype, worst(&problems, dtype, evaluation.run));
        }
        if !wanted("chunk_scan", dtype) {
            continue;
        }
        let any = CHUNKS.map(|chunk| worst(&problems, dtype, move |input| chunk_scan(input, chunk)));
        row("chunk_scan", dtype, any.into_iter().fold(Errors::default(), Errors::max));
    }
}

/// Lengths from one token to 299, one group to one a head, every kind of decay, with and without
/// incoming state and documents.
fn specs() -> Vec<Spec> {
    let shapes = [
        (2, 1, 4, 8, 1, 16),
        (1, 3, 4, 8, 2, 16),
        (2, 37, 4, 8, 2, 40),
        (2, 130, 4, 4, 4, 8),
        (1, 299, 2, 8, 1, 8),
    ];
    let decays = [Decay::Softplus(-4.0), Decay::Softplus(0.0), Decay::Extreme];
    let mut specs = Vec::new();
    for (b, t, h, p, g, n) in shapes {
        for decay in decays {
            for variant in 0..4u64 {
                let documents = (variant >= 2).then(|| vec![documents(t); b]);
                let shape = Shape { b, t, h, p, g, n };
                specs.push(Spec { shape, documents, state: variant % 2 == 0, decay, seed: variant });
            }
        }
    }
    specs
}

/// Up to three documents of different lengths.
fn documents(t: usize) -> Vec<usize> {
    [t - t / 3 - t / 5, t / 5, t / 3].into_iter().filter(|&length| length > 0).collect()
}

fn worst(problems: &[(Expected, Problem)], dtype: DType, run: impl Fn(SsdInput) -> SsdOutput) -> Errors {
    let errors = problems.iter().map(|(expected, problem)| Errors::of(&run, problem, expected, dtype));
    errors.fold(Errors::default(), Errors::max)
}

fn row(name: &str, dtype: DType, measured: Errors) {
    let limit = limit_of(name, dtype);
    let cell = |measured: f64, limit: Option<f64>| match limit {
        Some(limit) => format!("{measured:.1e} / {limit:.1e}"),
        None => format!("{measured:.1e} / none yet"),
    };
    let y = cell(measured.y, limit.map(|limit| limit.y));
    let state = cell(measured.state, limit.map(|limit| limit.state));
    let gradient = cell(measured.gradient, limit.map(|limit| limit.gradient));
    println!("| {} | {name} | {dtype:?} | {y} | {state} | {gradient} |", backend());
}

fn limit_of(name: &str, dtype: DType) -> Option<Errors> {
    let row = LIMITS.iter().find(|row| (row.0, row.1, row.2) == (backend(), name, dtype));
    row.map(|row| row.3)
}
