//! Stage 1 a block of rows at a time against the whole matrices: the same loss and the same gradient of every
//! parameter, for every mixer, with padding and packed documents.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, DType, Device, Distribution, FloatDType, Gradients, Tensor};
use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{
    AttentionConfig, DiscreteMamba2Config, JunctionKind, Mamba1Config, Mamba2Config, MatrixMixer, Mixer,
    MixerConfig, ParallelConfig, Segments,
};
use mamba_ssd_mohawk::loss::{matrix_orientation, matrix_orientation_by_blocks};

const D: usize = 12;
const T: usize = 23;

fn device() -> Device {
    let mut device = Device::flex().autodiff();
    device.configure(FloatDType::F64).expect("f64 on the CPU");
    device
}

/// Mixers with matrices for as many heads as the student's.
fn attention(heads: usize) -> MixerConfig {
    MixerConfig::Attention(AttentionConfig::new(D, heads, heads / 2, 4, RotaryConfig::new(4)))
}

fn students() -> [MixerConfig; 5] {
    let ssm = DiscreteMamba2Config::new(D, 4, 5);
    let head = AttentionConfig::new(D, 1, 1, 4, RotaryConfig::new(4));
    [
        MixerConfig::Parallel(ParallelConfig::new(ssm, JunctionKind::Merger).with_attention(Some(head))),
        MixerConfig::DiscreteMamba2(DiscreteMamba2Config::new(D, 4, 5).with_n_qk_heads(Some(2))),
        MixerConfig::Mamba2(Mamba2Config::new(D).with_expand(2).with_headdim(6).with_d_state(8)),
        MixerConfig::Mamba1(Mamba1Config::new(D, 12, 6).with_d_state(3)),
        attention(4),
    ]
}

#[derive(Default)]
struct Visitor<'a> {
    gradients: Option<&'a Gradients>,
    flat: Vec<f64>,
}

impl ModuleVisitor for Visitor<'_> {
    fn visit_float<const R: usize>(&mut self, param: &Param<Tensor<R>>) {
        let gradient = param.val().grad(self.gradients.expect("gradients"));
        if let Some(gradient) = gradient {
            self.flat.extend(gradient.into_data().iter::<f64>());
        }
    }
}

/// The loss, and the gradients of all parameters that have one.
fn loss_and_gradients(mixer: &Mixer, loss: Tensor<1>) -> (f64, Vec<f64>) {
    let value = loss.clone().into_data().iter::<f64>().next().expect("a scalar");
    let gradients = loss.backward();
    let mut visitor = Visitor { gradients: Some(&gradients), ..Default::default() };
    mixer.visit(&mut visitor);
    (value, visitor.flat)
}

#[test]
fn a_block_of_rows_at_a_time_gives_the_loss_and_gradients_of_whole_matrices() {
    let device = device();
    device.seed(3);
    let documents = [vec![9, 14], vec![T]];
    let padding: Vec<bool> = (0..2 * T).map(|i| i < 40).collect();
    let padding = Tensor::<1, Bool>::from_data(padding.as_slice(), &device).reshape([2, T]);
    for config in students() {
        let student = config.init(&device);
        let heads = student.n_heads();
        let teacher = attention(heads).init(&device).no_grad();
        let u = Tensor::<3>::random([2, T, D], Distribution::Normal(0.0, 1.0), (&device, DType::F64));
        for (packed, rows) in [(false, None), (true, Some(&padding))] {
            let segments = packed.then(|| Segments::from_lengths(&documents, &device));
            let segments = segments.as_ref();
            let target = teacher.mixing(u.clone(), segments);
            let whole = matrix_orientation(student.mixing_matrix(u.clone(), segments), target.whole(), rows);
            let (want, want_gradients) = loss_and_gradients(&student, whole);
            assert!(want_gradients.iter().any(|gradient| gradient.abs() > 1e-3), "{config:?}");
            for block in [1, 7, 22] {
                let mixing = student.mixing(u.clone(), segments);
                let blocks = matrix_orientation_by_blocks(&mixing, &target, rows, block);
                let (got, gradients) = loss_and_gradients(&student, blocks);
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-10 * (1.0 + b.abs());
                assert!(close(got, want), "{got} for {want}, {block} rows of {config:?}");
                assert_eq!(gradients.len(), want_gradients.len());
                for (got, want) in gradients.iter().zip(&want_gradients) {
                    assert!(close(*got, *want), "gradient {got} for {want}, {block} rows of {config:?}");
                }
            }
        }
    }
}
