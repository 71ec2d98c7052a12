//! The oracle itself: against published values and against central differences.

use burn::tensor::DType;
use mamba_ssd_tests::limits::relative_error;
use mamba_ssd_tests::oracle::{Input, Shape};
use mamba_ssd_tests::problem::{Decay, Problem, Spec};
use mamba_ssd_tests::published::{CASES, Published};

fn assert_close(what: &str, got: &[f64], want: &[f64], limit: f64) {
    let error = relative_error(got, want, want);
    assert!(error <= limit, "{what}: relative error {error:.1e} above {limit:.0e}");
}

#[test]
fn oracle_meets_published_outputs_and_gradients() {
    for name in CASES {
        let case = Published::load(name);
        let Problem { input, cotangent } = case.problem();
        for (key, error) in case.errors(&input.forward(), &input.backward(&cotangent)) {
            assert!(error < 1e-13, "{key}: relative error {error:.1e}");
        }
    }
}

#[test]
fn oracle_meets_published_packed_documents() {
    let mut case = Published::load("seg");
    let documents: Vec<usize> = BORDERS.windows(2).map(|pair| pair[1] - pair[0]).collect();
    case.input.documents = Some(vec![documents]);
    let output = case.input.forward();
    assert_close("seg.y", &output.y, &case.y(), 1e-13);

    let states = case.read("states");
    for (document, want) in states.chunks(output.state.len()).enumerate() {
        let got = truncated(&case.input, document + 1).forward().state;
        assert_close(&format!("seg.states[{document}]"), &got, want, 1e-13);
    }
}

/// Where the documents of the packed golden begin and end (`seg.cu_seqlens`).
const BORDERS: [usize; 6] = [0, 1, 7, 16, 17, 37];

/// A row of one batch element without all but its first documents.
fn truncated(input: &Input, documents: usize) -> Input {
    let t = BORDERS[documents];
    let keep = |values: &[f64]| values[..values.len() / input.shape.t * t].to_vec();
    Input {
        shape: Shape { t, ..input.shape },
        x: keep(&input.x),
        log_a: keep(&input.log_a),
        b: keep(&input.b),
        c: keep(&input.c),
        documents: input.documents.as_ref().map(|rows| vec![rows[0][..documents].to_vec()]),
        state: input.state.clone(),
    }
}

/// Every partial derivative of every input of a small problem with groups, state and documents.
#[test]
fn reverse_pass_equals_central_differences() {
    let shape = Shape { b: 2, t: 5, h: 4, p: 2, g: 2, n: 3 };
    let documents = Some(vec![vec![2, 3], vec![1, 1, 3]]);
    let spec = Spec { shape, documents, state: true, decay: Decay::Softplus(-1.0), seed: 7 };
    let problem = spec.draw(DType::F64);
    let gradients = problem.input.backward(&problem.cotangent);
    let difference = |field: fn(&mut Input) -> &mut Vec<f64>| -> Vec<f64> {
        let count = field(&mut problem.input.clone()).len();
        let shifted = |i: usize, step: f64| {
            let mut input = problem.input.clone();
            field(&mut input)[i] += step;
            let output = input.forward();
            dot(&output.y, &problem.cotangent.y) + dot(&output.state, &problem.cotangent.state)
        };
        (0..count).map(|i| (shifted(i, 1e-5) - shifted(i, -1e-5)) / 2e-5).collect()
    };
    assert_close("x", &gradients.x, &difference(|input| &mut input.x), 1e-9);
    assert_close("log_a", &gradients.log_a, &difference(|input| &mut input.log_a), 1e-9);
    assert_close("b", &gradients.b, &difference(|input| &mut input.b), 1e-9);
    assert_close("c", &gradients.c, &difference(|input| &mut input.c), 1e-9);
    assert_close(
        "state",
        &gradients.state,
        &difference(|input| input.state.as_mut().expect("a state")),
        1e-9,
    );
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
