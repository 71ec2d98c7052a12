//! Squared distances between the rows of SSD's and of attention's matrices against f64 loops, forward and backward, in
//! every dtype: ragged lengths, packed documents, shared heads on both sides, decays of any strength. In tensor
//! operations, and where there are kernels for tensor cores by these, on CUDA as they are and elsewhere with their products
//! computed in shared memory.

use burn::tensor::{DType, Tensor};
use mamba_ssd::{Mixing, Segments, SsdInput};
use mamba_ssd_tests::device::{device, state_dtype};
use mamba_ssd_tests::evaluate::{tensor, values};
use mamba_ssd_tests::limits::relative_error;
use mamba_ssd_tests::problem::round;
use mamba_ssd_tests::rng::Rng;

/// Of the squares and of the gradients of the decays, B, C and D: ten times what was measured. In bf16 three times: the kernels
/// keep entries of the matrices in f32 and round what is multiplied and written; tensor operations round the matrices.
fn limits(dtype: DType, by_kernels: bool) -> [f64; 5] {
    match dtype {
        DType::F64 => [2e-13; 5],
        DType::F32 => [2e-5; 5],
        _ if by_kernels => [2e-5, 2e-5, 1e-2, 1e-2, 5e-3],
        _ => [3e-2; 5],
    }
}

/// Sizes, lengths of the documents in every row if any, and the steepest logarithm of a decay.
#[derive(Clone, Debug)]
struct Case {
    b: usize,
    t: usize,
    h: usize,
    g: usize,
    n: usize,
    kv: usize,
    e: usize,
    documents: Option<Vec<Vec<usize>>>,
    steepest: f64,
}

/// What a case is computed from, in f64, every tensor in the order of its axes.
struct Inputs {
    log_a: Vec<f64>,
    b: Vec<f64>,
    c: Vec<f64>,
    d: Vec<f64>,
    q: Vec<f64>,
    k: Vec<f64>,
    /// The gradients of the squares, `[b h t]`.
    slopes: Vec<f64>,
}

/// The squares `[b h t]`, then the gradients of `log_a`, b, c and d.
type Results = [Vec<f64>; 5];

impl Case {
    const fn new([b, t, h, g, n, kv, e]: [usize; 7], steepest: f64) -> Self {
        Self { b, t, h, g, n, kv, e, documents: None, steepest }
    }

    fn packed(self, documents: Vec<Vec<usize>>) -> Self {
        Self { documents: Some(documents), ..self }
    }

    /// The first token of a token's document.
    fn first(&self, batch: usize, token: usize) -> usize {
        let Some(documents) = &self.documents else { return 0 };
        let borders = documents[batch].iter().scan(0, |start, length| {
            *start += length;
            Some(*start)
        });
        borders.take_while(|&border| border <= token).last().unwrap_or(0)
    }

    fn inputs(&self, seed: u64, dtype: DType) -> Inputs {
        let mut rng = Rng::new(seed);
        let Self { b, t, h, g, n, kv, e, .. } = *self;
        let mut normals = |count, scale: f64| -> Vec<f64> {
            rng.normals(count).into_iter().map(|number| number * scale).collect()
        };
        let wide = state_dtype(dtype);
        // Both matrices of about the same size.
        let small = 0.3 / (n as f64).sqrt();
        let steepest = self.steepest;
        let decays = normals(b * t * h, 1.0).into_iter().map(|x| -steepest * x.abs().min(3.0) / 3.0);
        Inputs {
            log_a: round(decays.collect(), wide),
            b: round(normals(b * t * g * n, 1.0), dtype),
            c: round(normals(b * t * g * n, small), dtype),
            d: round(normals(h, 0.5), dtype),
            q: round(normals(b * t * h * e, 2.0), dtype),
            k: round(normals(b * t * kv * e, 1.0), dtype),
            slopes: round(normals(b * h * t, 1.0), wide),
        }
    }

    /// By loops.
    fn expected(&self, inputs: &Inputs) -> Results {
        let Self { b, t, h, g, n, kv, e, .. } = *self;
        let mut squares = vec![0.0; b * h * t];
        let mut dlog_a = vec![0.0; inputs.log_a.len()];
        let [mut db, mut dc] = [(); 2].map(|()| vec![0.0; inputs.b.len()]);
        let mut dd = vec![0.0; h];
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let scale = (e as f64).powf(-0.5);
        for (batch, head, l) in (0..b * h * t).map(|i| (i / (h * t), i / t % h, i % t)) {
            let of_group = |token: usize| ((batch * t + token) * g + head / (h / g)) * n;
            let decay = |token: usize| (batch * t + token) * h + head;
            let seen = self.first(batch, l)..l + 1;
            let query = &inputs.q[((batch * t + l) * h + head) * e..][..e];
            let scores: Vec<f64> = seen
                .clone()
                .map(|s| scale * dot(query, &inputs.k[((batch * t + s) * kv + head / (h / kv)) * e..][..e]))
                .collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - top).exp()).sum();
            let row = (batch * h + head) * t + l;
            let mut between = 0.0f64; // the logarithms behind s, up to l
            let mut behind = 0.0; // what the columns in front of a token add to its decay's gradient
            let mut terms = vec![0.0; scores.len()];
            for (s, score) in seen.clone().zip(&scores).rev() {
                let product = dot(&inputs.c[of_group(l)..][..n], &inputs.b[of_group(s)..][..n]);
                let matrix = product * between.exp();
                let skip = if s == l { inputs.d[head] } else { 0.0 };
                let difference = matrix + skip - (score - top).exp() / sum;
                squares[row] += difference * difference;
                let slope = 2.0 * inputs.slopes[row] * difference;
                for i in 0..n {
                    dc[of_group(l) + i] += slope * between.exp() * inputs.b[of_group(s) + i];
                    db[of_group(s) + i] += slope * between.exp() * inputs.c[of_group(l) + i];
                }
                terms[s - seen.start] = slope * matrix;
                between += inputs.log_a[decay(s)];
                if s == l {
                    dd[head] += slope;
                }
            }
            for r in seen.clone() {
                dlog_a[decay(r)] += behind;
                behind += terms[r - seen.start];
            }
        }
        [squares, dlog_a, db, dc, dd]
    }

    /// On the device, and whether by one operation.
    fn measured(&self, inputs: &Inputs, dtype: DType) -> (Results, bool) {
        let device = device().autodiff();
        let Self { b, t, h, g, n, kv, e, .. } = *self;
        let wide = state_dtype(dtype);
        let log_a = tensor(&inputs.log_a, [b, t, h], wide, &device).require_grad();
        let [bs, cs] =
            [&inputs.b, &inputs.c].map(|values| tensor(values, [b, t, g, n], dtype, &device).require_grad());
        let d: Tensor<1> = tensor(&inputs.d, [h], dtype, &device).require_grad();
        let q = tensor(&inputs.q, [b, t, h, e], dtype, &device);
        let k = tensor(&inputs.k, [b, t, kv, e], dtype, &device);
        let segments = self.documents.as_ref().map(|lengths| Segments::from_lengths(lengths, &device));
        let x = Tensor::zeros([b, t, h, 1], (&device, dtype));
        // B and C as they come out of a projection: parts of longer rows.
        let rows = Tensor::cat(vec![bs.clone(), cs.clone()], 3);
        let [b_part, c_part] = [0, n].map(|start| rows.clone().narrow(3, start, n));
        let input = SsdInput::new(x, log_a.clone(), b_part, c_part).with_segments(segments.clone());
        let student = Mixing::ssd([input].into_iter(), None, d.clone());
        let teacher = Mixing::attention(q, k, segments.as_ref());
        let native = student.row_distances(&teacher);
        let once = native.is_some();
        let squares = native.unwrap_or_else(|| in_tensor_operations(&student, &teacher, wide));
        let slopes = tensor(&inputs.slopes, [b, h, t], wide, &device);
        let grads = (squares.clone() * slopes).sum().backward();
        let [db, dc] = [&bs, &cs].map(|input| values(input.grad(&grads).expect("a gradient")));
        let dlog_a = values(log_a.grad(&grads).expect("a gradient"));
        let dd = values(d.grad(&grads).expect("a gradient"));
        ([values(squares), dlog_a, db, dc, dd], once)
    }

    /// Whether it was one operation.
    fn assert_equals_loops(&self, dtype: DType) -> bool {
        let inputs = self.inputs(7, dtype);
        let ((got, once), want) = (self.measured(&inputs, dtype), self.expected(&inputs));
        let whats = ["squares", "dlog_a", "db", "dc", "dd"];
        for (i, limit) in limits(dtype, once).into_iter().enumerate() {
            let error = relative_error(&got[i], &want[i], &want[i]);
            let what = whats[i];
            assert!(
                error <= limit,
                "{what} of {self:?} in {dtype:?}: relative error {error:.1e} above {limit:.0e}"
            );
        }
        once
    }
}

fn in_tensor_operations(student: &Mixing, teacher: &Mixing, wide: DType) -> Tensor<3> {
    let [b, h, t] = student.dims();
    let difference = student.whole().cast(wide) - teacher.whole().cast(wide);
    difference.square().sum_dim(3).reshape([b, h, t])
}

mod native {
    use super::*;
    use mamba_ssd_tests::device::{backend, dtypes, skipped};

    const IN_TENSOR_OPERATIONS: &str = "it is tensor operations there, which the suite of mixers runs";

    /// In f32 CUDA has no kernels, and burn's products are tuned there for minutes.
    #[test]
    fn squares_of_rows_and_their_gradients_equal_plain_loops() {
        if skipped(&["wgpu"], IN_TENSOR_OPERATIONS) {
            return;
        }
        for dtype in dtypes().into_iter().filter(|&dtype| backend() != "cuda" || dtype == DType::BF16) {
            for case in [
                Case::new([2, 150, 4, 4, 64, 2, 64], 0.2),
                Case::new([1, 64, 2, 1, 16, 2, 64], 0.05),
                Case::new([1, 1, 2, 2, 8, 1, 8], 0.2),
                Case::new([1, 200, 2, 2, 64, 1, 128], 3.0),
                Case::new([1, 1000, 2, 2, 16, 1, 16], 0.02),
                Case::new([2, 150, 4, 2, 16, 4, 16], 0.2).packed(vec![vec![1, 80, 69], vec![63, 65, 22]]),
            ] {
                let once = case.assert_equals_loops(dtype);
                assert_eq!(once, backend() == "cuda" && dtype == DType::BF16, "one operation: {case:?}");
            }
        }
    }

    /// Two runs of one call give the same bits: no sum depends on the order in which cubes run.
    #[test]
    fn distances_repeat_themselves_to_the_bit() {
        if skipped(&["wgpu"], IN_TENSOR_OPERATIONS) {
            return;
        }
        let dtype = dtypes().pop().expect("a dtype");
        let case = Case::new([2, 150, 4, 4, 64, 2, 64], 0.2);
        let inputs = case.inputs(3, dtype);
        assert!(case.measured(&inputs, dtype) == case.measured(&inputs, dtype), "two runs differ");
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod emulated {
    use super::*;
    use mamba_ssd::emulate_tensor_cores;
    use mamba_ssd_tests::device::skipped;

    #[test]
    fn the_kernels_of_tensor_cores_equal_plain_loops_with_their_products_in_shared_memory() {
        if skipped(&["flex"], "it has kernels of its own") {
            return;
        }
        // One kernel of each for all: compiling is what takes time on a software device.
        for case in [
            Case::new([2, 70, 4, 2, 12, 2, 16], 0.2),
            Case::new([1, 800, 1, 1, 12, 1, 16], 0.02),
            Case::new([1, 37, 2, 2, 12, 2, 16], 20.0),
            Case::new([1, 100, 2, 2, 12, 1, 16], 0.05).packed(vec![vec![1, 33, 40, 26]]),
        ] {
            let once = emulate_tensor_cores(2, || case.assert_equals_loops(DType::F32));
            assert!(once, "one operation: {case:?}");
        }
    }
}
