//! The losses over a vocabulary that a device computes natively, against f64 loops, forward and backward, in every
//! dtype: the four divergences at two temperatures, and the next token.

use burn::tensor::{DType, Int, Tensor, TensorData};
use mamba_ssd::{Divergence, next_token_loss};
use mamba_ssd_tests::device::{device, dtypes};
use mamba_ssd_tests::evaluate::{tensor, values};
use mamba_ssd_tests::limits::relative_error;
use mamba_ssd_tests::problem::round;
use mamba_ssd_tests::rng::Rng;

/// Rows and vocabularies: more than a cube's width, odd, and of one word.
const SHAPES: [(usize, usize); 4] = [(3, 1000), (2, 4096), (5, 37), (2, 1)];

/// Three to fifteen times what Flex measures: losses 6.5e-15, 7.7e-7 and 7.3e-7, gradients 1.5e-14, 3.5e-6 and 2.4e-3 in
/// f64, f32 and bf16. Losses are in f32 from half precision too; gradients are rounded.
fn limits(dtype: DType) -> [f64; 2] {
    match dtype {
        DType::F64 => [1e-13, 1e-13],
        DType::F32 => [1e-5, 1e-5],
        _ => [1e-5, 2.5e-2],
    }
}

fn assert_close(what: &str, dtype: DType, got: [&[f64]; 2], want: [&[f64]; 2]) {
    for ((part, limit), (got, want)) in
        ["loss", "gradient"].into_iter().zip(limits(dtype)).zip(got.into_iter().zip(want))
    {
        // Of one word there is nothing to learn: everything is 0 and only rounding is left.
        let size = want.iter().map(|x| x * x).sum::<f64>().sqrt();
        let off = if size > 1e-9 {
            relative_error(got, want, want)
        } else {
            got.iter().fold(0.0, |worst: f64, x| worst.max(x.abs()))
        };
        assert!(off <= limit, "{part} of {what} in {dtype:?}: off by {off:.1e}, above {limit:.0e}");
    }
}

fn logits(seed: u64, count: usize, dtype: DType) -> Vec<f64> {
    round(Rng::new(seed).normals(count).into_iter().map(|x| 3.0 * x).collect(), dtype)
}

fn log_softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let scaled: Vec<f64> = logits.iter().map(|x| x / temperature).collect();
    let top = scaled.iter().copied().fold(f64::MIN, f64::max);
    let sum = top + scaled.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
    scaled.iter().map(|x| x - sum).collect()
}

/// The loss of a row, from log probabilities of student and teacher.
fn divergence(kind: Divergence, q: &[f64], p: &[f64]) -> f64 {
    let kl = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a.exp() * (a - b)).sum::<f64>();
    match kind {
        Divergence::CrossEntropy => -q.iter().zip(p).map(|(q, p)| p.exp() * q).sum::<f64>(),
        Divergence::ForwardKl => kl(p, q),
        Divergence::ReverseKl => kl(q, p),
        Divergence::JensenShannon(beta) => {
            let m: Vec<f64> =
                q.iter().zip(p).map(|(q, p)| (beta * p.exp() + (1.0 - beta) * q.exp()).ln()).collect();
            beta * kl(p, &m) + (1.0 - beta) * kl(q, &m)
        }
    }
}

/// The gradient of a row's loss for the student's logits, by the chain rule through the Jacobian of the softmax:
/// the derivative for log q first, then its mean under q taken off.
fn gradient(kind: Divergence, q: &[f64], p: &[f64], temperature: f64) -> Vec<f64> {
    let terms = q.iter().zip(p).map(|(q, p)| match kind {
        Divergence::CrossEntropy | Divergence::ForwardKl => -p.exp(),
        Divergence::ReverseKl => q.exp() * (q - p + 1.0),
        Divergence::JensenShannon(beta) => {
            let m = beta * p.exp() + (1.0 - beta) * q.exp();
            (1.0 - beta) * q.exp() * (q - m.ln())
        }
    });
    let for_log_q: Vec<f64> = terms.collect();
    let total: f64 = for_log_q.iter().sum();
    for_log_q.iter().zip(q).map(|(d, q)| (d - q.exp() * total) / temperature).collect()
}

#[test]
fn the_divergences_and_their_gradients_equal_plain_loops() {
    let device = device().autodiff();
    let kinds = [
        Divergence::CrossEntropy,
        Divergence::ForwardKl,
        Divergence::ReverseKl,
        Divergence::JensenShannon(0.3),
    ];
    for dtype in dtypes() {
        for (rows, v) in SHAPES {
            for (kind, temperature) in kinds.into_iter().flat_map(|kind| [(kind, 1.0), (kind, 2.5)]) {
                let (student, teacher) = (logits(1, rows * v, dtype), logits(2, rows * v, dtype));
                let weights = Rng::new(3).normals(rows);
                let on_device = |x: &[f64]| tensor(x, [1, rows, v], dtype, &device);
                let input = on_device(&student).require_grad();
                let losses = kind.per_token(input.clone(), on_device(&teacher), temperature);
                let weight = tensor(&weights, [1, rows], losses.dtype(), &device);
                let grads = (losses.clone() * weight).sum().backward();
                let got = values(input.grad(&grads).expect("a gradient"));

                let (mut want, mut want_gradient) = (vec![], vec![]);
                let rows = student.chunks(v).zip(teacher.chunks(v)).zip(&weights);
                for ((student, teacher), weight) in rows {
                    let q = log_softmax(student, temperature);
                    let softer = if kind == Divergence::CrossEntropy { 1.0 } else { temperature };
                    let p = log_softmax(teacher, softer);
                    want.push(divergence(kind, &q, &p));
                    want_gradient.extend(gradient(kind, &q, &p, temperature).iter().map(|d| d * weight));
                }
                let what = format!("{kind:?} at {temperature} over {v}");
                assert_close(&what, dtype, [&values(losses), &got], [&want, &want_gradient]);
            }
        }
    }
}

#[test]
fn the_loss_of_the_next_token_and_its_gradient_equal_plain_loops() {
    let device = device().autodiff();
    for dtype in dtypes() {
        for (rows, v) in SHAPES {
            let student = logits(1, rows * v, dtype);
            let targets: Vec<i64> = (0..rows).map(|row| ((row + 1) * 7919 % v) as i64).collect();
            let weights = Rng::new(3).normals(rows);
            let input = tensor(&student, [1, rows, v], dtype, &device).require_grad();
            let ids = Tensor::<2, Int>::from_data(TensorData::new(targets.clone(), [1, rows]), &device);
            let losses = next_token_loss(input.clone(), ids);
            let weight = tensor(&weights, [1, rows], losses.dtype(), &device);
            let grads = (losses.clone() * weight).sum().backward();
            let got = values(input.grad(&grads).expect("a gradient"));

            let (mut want, mut want_gradient) = (vec![], vec![]);
            for ((row, &target), weight) in student.chunks(v).zip(&targets).zip(&weights) {
                let q = log_softmax(row, 1.0);
                want.push(-q[target as usize]);
                let one = |i: usize| f64::from(u8::from(i == target as usize));
                want_gradient.extend(q.iter().enumerate().map(|(i, q)| weight * (q.exp() - one(i))));
            }
            let what = format!("the next token of {v}");
            assert_close(&what, dtype, [&values(losses), &got], [&want, &want_gradient]);
        }
    }
}
