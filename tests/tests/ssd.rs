//! Every evaluation of the SSD map against the f64 oracle, on whatever device the features choose.
//!
//! One property, one test; each runs every row of `mamba_ssd::EVALUATIONS`, and `chunk_scan` with a
//! random chunk size besides. `PROPTEST_CASES` sets the number of cases. Seeds of failures are kept
//! in `proptest-regressions/` and run first.

use burn::tensor::{DType, Tensor};
use mamba_ssd::{EVALUATIONS, Evaluation, SsdInput, SsdOutput, SsdStep, chunk_scan, step};
use mamba_ssd_tests::cases::{check, lengths};
use mamba_ssd_tests::device::{backend, dtypes, widest};
use mamba_ssd_tests::evaluate::{differentiate, forward};
use mamba_ssd_tests::limits::{Errors, limit};
use mamba_ssd_tests::oracle::{Input, Shape};
use mamba_ssd_tests::problem::{Decay, Spec};
use mamba_ssd_tests::published::{CASES, Published};
use proptest::collection::vec;
use proptest::prelude::*;

/// A problem, and the choices that some properties need beside it.
#[derive(Clone, Debug)]
struct Case {
    spec: Spec,
    chunk: usize,
    cuts: Vec<usize>,
}

/// One evaluation under test.
struct Row {
    name: &'static str,
    run: Box<dyn Fn(SsdInput) -> SsdOutput>,
}

impl Case {
    /// Every evaluation; the sequential one only for every fourth seed, being slow.
    fn rows(&self) -> Vec<Row> {
        let chunk = self.chunk;
        let named = evaluations()
            .filter(|evaluation| evaluation.name != "recurrent" || self.spec.seed.is_multiple_of(4));
        let named = named.map(|evaluation| Row { name: evaluation.name, run: Box::new(evaluation.run) });
        let any = Row { name: "chunk_scan", run: Box::new(move |input| chunk_scan(input, chunk)) };
        named.chain((backend() != "wgpu").then_some(any)).collect()
    }

    fn pieces(&self) -> Vec<usize> {
        lengths(self.spec.shape.t, &self.cuts)
    }
}

/// The evaluations. On wgpu the chunk scan with one size of chunk: the others are the same operations, and compiling them
/// for every shape takes a software GPU most of the suite's time.
fn evaluations() -> impl Iterator<Item = &'static Evaluation> {
    let repeated = ["chunk_scan_64", "chunk_scan_128"];
    EVALUATIONS.iter().filter(move |evaluation| backend() != "wgpu" || !repeated.contains(&evaluation.name))
}

fn shapes() -> impl Strategy<Value = Shape> {
    let groups =
        prop_oneof![Just((1, 1)), Just((2, 1)), Just((2, 2)), Just((4, 1)), Just((4, 2)), Just((6, 3))];
    let n = prop_oneof![1..=9usize, 10..=40usize]; // below and above the width of a vector
    // On the CPU also heads of more columns than the kernel advances together.
    let p = if backend() == "flex" {
        prop_oneof![3 => 1..=9usize, 1 => 30..=70usize].boxed()
    } else {
        (1..=9usize).boxed()
    };
    (1..=2usize, 1..300usize, groups, p, n).prop_map(|(b, t, (h, g), p, n)| Shape { b, t, h, p, g, n })
}

fn decays() -> impl Strategy<Value = Decay> + Clone {
    (-6.0..2.0).prop_map(Decay::Softplus)
}

fn cases(decay: impl Strategy<Value = Decay> + Clone) -> impl Strategy<Value = Case> {
    shapes().prop_flat_map(move |shape| {
        let rows = vec(vec(0..shape.t, 0..5), shape.b);
        let chunk = prop_oneof![1..=16usize, 1..=shape.t + 10];
        let choices = (proptest::option::of(rows), chunk, vec(0..shape.t, 0..4));
        (choices, any::<bool>(), decay.clone(), any::<u64>()).prop_map(
            move |((rows, chunk, cuts), state, decay, seed)| {
                let documents = rows.map(|rows| rows.iter().map(|cuts| lengths(shape.t, cuts)).collect());
                Case { spec: Spec { shape, documents, state, decay, seed }, chunk, cuts }
            },
        )
    })
}

fn assert_within(row: &Row, dtype: DType, errors: Errors) {
    let limit = limit(row.name, dtype);
    assert!(errors.within(&limit), "{} in {dtype:?}: {errors}, above {limit}", row.name);
}

fn equals_oracle(dtype: DType, count: u32) {
    if !dtypes().contains(&dtype) {
        return;
    }
    check("ssd", count, cases(decays()), |case: &Case| {
        let problem = case.spec.draw(dtype);
        let expected = problem.expected();
        for row in case.rows() {
            assert_within(&row, dtype, Errors::of(&row.run, &problem, &expected, dtype));
        }
    });
}

#[test]
fn outputs_state_and_gradients_equal_the_oracle_in_f64() {
    equals_oracle(DType::F64, 128);
}

#[test]
fn outputs_state_and_gradients_equal_the_oracle_in_f32() {
    equals_oracle(DType::F32, 128);
}

#[test]
fn outputs_state_and_gradients_equal_the_oracle_in_bf16() {
    equals_oracle(DType::BF16, 64);
}

#[test]
fn extreme_decays_stay_finite_and_equal_the_oracle() {
    check("ssd", 48, cases(Just(Decay::Extreme)), |case: &Case| {
        for dtype in dtypes() {
            let problem = case.spec.draw(dtype);
            let expected = problem.expected();
            for row in case.rows() {
                assert_within(&row, dtype, Errors::of(&row.run, &problem, &expected, dtype));
            }
        }
    });
}

#[test]
fn state_carried_over_any_partition_equals_one_call() {
    check("ssd", 48, cases(decays()), |case: &Case| {
        let case = Case { spec: Spec { documents: None, ..case.spec.clone() }, ..case.clone() };
        let (dtype, pieces) = (widest(), case.pieces());
        let problem = case.spec.draw(dtype);
        let expected = problem.expected();
        for row in case.rows() {
            let carried = |input: SsdInput| in_pieces(&row.run, input, &pieces);
            assert_within(&row, dtype, Errors::of(carried, &problem, &expected, dtype));
        }
    });
}

/// One call per piece, each continuing the state of the one before.
fn in_pieces(run: &dyn Fn(SsdInput) -> SsdOutput, input: SsdInput, pieces: &[usize]) -> SsdOutput {
    let (mut outputs, mut start, mut state) = (Vec::new(), 0, input.state.clone());
    for &length in pieces {
        let mut piece = narrow(&input, start, length);
        piece.state = state.take();
        let output = run(piece);
        outputs.push(output.y);
        state = Some(output.state);
        start += length;
    }
    SsdOutput { y: Tensor::cat(outputs, 1), state: state.expect("at least one piece") }
}

fn narrow(input: &SsdInput, start: usize, length: usize) -> SsdInput {
    SsdInput::new(
        input.x.clone().narrow(1, start, length),
        input.log_a.clone().narrow(1, start, length),
        input.b.clone().narrow(1, start, length),
        input.c.clone().narrow(1, start, length),
    )
}

#[test]
fn prefill_then_step_equals_one_call() {
    check("ssd", 48, cases(decays()), |case: &Case| {
        let case = Case { spec: Spec { documents: None, ..case.spec.clone() }, ..case.clone() };
        let dtype = widest();
        let problem = case.spec.draw(dtype);
        let expected = problem.expected();
        let prefill = case.pieces()[0].max(case.spec.shape.t.saturating_sub(20));
        for row in case.rows() {
            let stepped = |input: SsdInput| then_step(&row.run, input, prefill);
            let got = forward(stepped, &problem.input, dtype);
            assert_within(&row, dtype, expected.output_errors(&got));
        }
    });
}

fn then_step(run: &dyn Fn(SsdInput) -> SsdOutput, input: SsdInput, prefill: usize) -> SsdOutput {
    let [b, t, h, p] = input.x.dims();
    let mut first = narrow(&input, 0, prefill);
    first.state = input.state.clone();
    let SsdOutput { y, mut state } = run(first);
    let mut outputs = vec![y];
    for i in prefill..t {
        let token = narrow(&input, i, 1);
        let token = SsdStep {
            x: token.x.squeeze_dim(1),
            log_a: token.log_a.squeeze_dim(1),
            b: token.b.squeeze_dim(1),
            c: token.c.squeeze_dim(1),
        };
        let (y, next) = step(token, state);
        outputs.push(y.reshape([b, 1, h, p]));
        state = next;
    }
    SsdOutput { y: Tensor::cat(outputs, 1), state }
}

#[test]
fn later_tokens_leave_earlier_outputs_bit_identical() {
    check("ssd", 48, cases(decays()), |case: &Case| {
        let first = case.pieces()[0];
        for dtype in dtypes() {
            let before = case.spec.draw(dtype).input;
            let after = with_other_tokens_from(&before, &case.spec, first, dtype);
            let kept = before.shape.x()[1..].iter().product::<usize>() / before.shape.t * first;
            for row in case.rows() {
                let y = forward(&row.run, &before, dtype).y;
                let other = forward(&row.run, &after, dtype).y;
                let size = y.len() / before.shape.b;
                for (y, other) in y.chunks(size).zip(other.chunks(size)) {
                    assert_eq!(y[..kept], other[..kept], "{} in {dtype:?} looks ahead", row.name);
                }
            }
        }
    });
}

/// `input` with fresh numbers for every token from `first` on.
fn with_other_tokens_from(input: &Input, spec: &Spec, first: usize, dtype: DType) -> Input {
    let other = Spec { seed: !spec.seed, ..spec.clone() }.draw(dtype).input;
    let Shape { b, t, .. } = input.shape;
    let splice = |old: &[f64], new: &[f64]| -> Vec<f64> {
        let token = old.len() / (b * t);
        let later = |i: usize| i / token % t >= first;
        old.iter().zip(new).enumerate().map(|(i, (old, new))| if later(i) { *new } else { *old }).collect()
    };
    Input {
        x: splice(&input.x, &other.x),
        log_a: splice(&input.log_a, &other.log_a),
        b: splice(&input.b, &other.b),
        c: splice(&input.c, &other.c),
        ..input.clone()
    }
}

#[test]
fn a_packed_row_equals_its_documents_apart() {
    check("ssd", 48, cases(decays()), |case: &Case| {
        let pieces = case.pieces();
        let documents = Some(vec![pieces.clone(); case.spec.shape.b]);
        let spec = Spec { documents, ..case.spec.clone() };
        let dtype = widest();
        let problem = spec.draw(dtype);
        let expected = problem.expected();
        for row in case.rows() {
            let apart = |input: SsdInput| documents_apart(&row.run, input, &pieces);
            let (packed, packed_gradients) = differentiate(&row.run, &problem, dtype);
            let (output, gradients) = differentiate(apart, &problem, dtype);
            assert_within(&row, dtype, expected.errors(&packed, &packed_gradients));
            assert_within(&row, dtype, expected.errors(&output, &gradients));
        }
    });
}

/// One call per document: only the first continues the incoming state.
fn documents_apart(run: &dyn Fn(SsdInput) -> SsdOutput, input: SsdInput, documents: &[usize]) -> SsdOutput {
    let (mut outputs, mut start, mut state) = (Vec::new(), 0, None);
    for &length in documents {
        let mut document = narrow(&input, start, length);
        document.state = input.state.clone().filter(|_| start == 0);
        let output = run(document);
        outputs.push(output.y);
        state = Some(output.state);
        start += length;
    }
    SsdOutput { y: Tensor::cat(outputs, 1), state: state.expect("at least one document") }
}

#[test]
fn evaluations_meet_published_outputs_and_gradients() {
    let dtype = widest();
    for case in CASES.map(Published::load) {
        for evaluation in evaluations() {
            let (output, gradients) = differentiate(evaluation.run, &case.problem(), dtype);
            let limit = limit(evaluation.name, dtype).worst();
            for (key, error) in case.errors(&output, &gradients) {
                assert!(error <= limit, "{}: {key}: {error:.1e} above {limit:.1e}", evaluation.name);
            }
        }
    }
}
