//! The mixer of Phi-Mamba and Llamba with everything between its projections in one native operation, against the
//! same mixer run document by document through prefill, operation by operation: outputs and every gradient.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Tensor};
use mamba_ssd::{DiscreteMamba2, DiscreteMamba2Config, MatrixMixer, Segments};
use mamba_ssd_tests::device::{device, dtypes};
use mamba_ssd_tests::evaluate::{tensor, values};
use mamba_ssd_tests::limits::relative_error;
use mamba_ssd_tests::problem::round;
use mamba_ssd_tests::rng::Rng;
use mamba_ssd_tests::weights::RandomWeights;

/// Both sides round, and sum in another order on GPUs. On Flex, which runs one operation after another on both sides,
/// documents together and apart differ by 4e-16, 2.9e-7 and 5.4e-3 in f64, f32 and bf16.
fn limit(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 2e-5,
        _ => 3e-2,
    }
}

struct Case {
    config: DiscreteMamba2Config,
    documents: [Vec<usize>; 2],
}

fn cases() -> Vec<Case> {
    let with_groups = DiscreteMamba2Config::new(24, 3, 8).with_n_qk_heads(Some(1)).with_bias(true);
    let bare = DiscreteMamba2Config::new(10, 2, 6).with_conv_bias(false).with_z_bias(false);
    vec![
        Case { config: DiscreteMamba2Config::new(64, 4, 16), documents: [vec![70], vec![70]] },
        Case { config: with_groups, documents: [vec![1, 2, 38], vec![33, 8]] },
        Case { config: bare, documents: [vec![3], vec![1, 2]] },
    ]
}

/// Makes parameters leaves of graphs to come.
struct Leaves;

impl ModuleMapper for Leaves {
    fn map_float<const R: usize>(&mut self, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        param.map(|tensor| tensor.detach().require_grad())
    }
}

#[derive(Default)]
struct Collect<'a> {
    gradients: Option<&'a Gradients>,
    found: Vec<Vec<f64>>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const R: usize>(&mut self, param: &Param<Tensor<R>>) {
        let gradient = param.val().grad(self.gradients.expect("gradients"));
        self.found.push(values(gradient.expect("a gradient of every parameter")));
    }
}

/// Outputs, and the gradients of the input and of every parameter.
fn run(
    mixer: &DiscreteMamba2,
    u: Tensor<3>,
    cotangent: Tensor<3>,
    forward: impl Fn(Tensor<3>) -> Tensor<3>,
) -> Vec<Vec<f64>> {
    let u = u.require_grad();
    let y = forward(u.clone());
    let gradients = (y.clone() * cotangent).sum().backward();
    let mut collect = Collect { gradients: Some(&gradients), ..Default::default() };
    mixer.visit(&mut collect);
    let of_u = values(u.grad(&gradients).expect("a gradient of the input"));
    [values(y), of_u].into_iter().chain(collect.found).collect()
}

/// Every document of every row by itself.
fn by_documents(
    mixer: &DiscreteMamba2,
    u: &Tensor<3>,
    documents: &[Vec<usize>; 2],
    device: &Device,
) -> Tensor<3> {
    let rows = documents.iter().enumerate().map(|(row, lengths)| {
        let mut start = 0;
        let outputs = lengths.iter().map(|&length| {
            let part = u.clone().narrow(0, row, 1).narrow(1, start, length);
            start += length;
            mixer.prefill(part, mixer.init_state(1, device)).0
        });
        Tensor::cat(outputs.collect(), 1)
    });
    Tensor::cat(rows.collect(), 0)
}

#[test]
fn the_fused_mixer_and_its_gradients_equal_the_operations_one_by_one() {
    for dtype in dtypes().into_iter().filter(|dtype| *dtype != DType::BF16) {
        check(dtype, cases());
    }
}

/// Not the last case: its sizes are none of Hopper's product, and burn takes minutes to tune each of its own.
#[test]
fn the_fused_mixer_equals_the_operations_in_half_precision() {
    let cases = cases().into_iter().take(2).collect();
    if dtypes().contains(&DType::BF16) {
        check(DType::BF16, cases);
    }
}

fn check(dtype: DType, cases: Vec<Case>) {
    let device = device().autodiff();
    for (i, Case { config, documents }) in cases.into_iter().enumerate() {
        let random = config.init(&device).map(&mut RandomWeights::new(i as u64, dtype));
        let mixer = random.map(&mut Leaves);
        let t: usize = documents[0].iter().sum();
        let shape = [2, t, config.d_model];
        let normals = |seed| round(Rng::new(seed).normals(shape.iter().product()), dtype);
        let [u, cotangent] = [1, 2].map(|seed| tensor(&normals(seed), shape, dtype, &device));
        let segments = Segments::from_lengths(&documents, &device);
        let fused = run(&mixer, u.clone(), cotangent.clone(), |u| mixer.forward(u, Some(&segments)));
        let apart = run(&mixer, u, cotangent, |u| by_documents(&mixer, &u, &documents, &device));
        assert_eq!(fused.len(), apart.len());
        for (part, (got, want)) in fused.iter().zip(&apart).enumerate() {
            let error = relative_error(got, want, want);
            let limit = limit(dtype);
            assert!(error <= limit, "case {i}, array {part}, {dtype:?}: off by {error:.1e} > {limit:.0e}");
        }
    }
}
