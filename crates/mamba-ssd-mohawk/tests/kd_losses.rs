//! The divergences against TRL 1.16's `generalized_jsd_loss` in f64: values and gradients.
//!
//! `data/kd_losses_f64.*` were written by TRL's own function on random logits `[2 7 50]`; a label
//! of -100 masks its token. TRL's `batchmean` divides by the unmasked tokens where there are
//! labels and by the rows where there are none: our `TokenMean` and `BatchMean`.

use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use mamba_ssd_mohawk::loss::{
    Divergence, Reduction, cross_entropy_hard, cross_entropy_soft, divergence_loss,
};
use safetensors::SafeTensors;
use serde::Deserialize;

const JSON: &str = include_str!("data/kd_losses_f64.json");
const TENSORS: &[u8] = include_bytes!("data/kd_losses_f64.safetensors");
const LIMIT: f64 = 1e-10;

#[derive(Deserialize)]
struct Case {
    key: String,
    beta: f64,
    temperature: f64,
    reduction: String,
    masked: bool,
    loss: f64,
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn tensor(file: &SafeTensors<'_>, name: &str) -> Tensor<3> {
    let view = file.tensor(name).expect("a tensor of the golden file");
    let values: Vec<f64> = view
        .data()
        .chunks_exact(8)
        .map(|bytes| f64::from_le_bytes(bytes.try_into().expect("eight bytes")))
        .collect();
    let shape: [usize; 3] = view.shape().try_into().expect("three axes");
    Tensor::from_data(TensorData::new(values, shape), (&device(), DType::F64))
}

fn mask(file: &SafeTensors<'_>) -> Tensor<2, Bool> {
    let view = file.tensor("labels").expect("labels");
    let unmasked: Vec<bool> = view
        .data()
        .chunks_exact(8)
        .map(|bytes| i64::from_le_bytes(bytes.try_into().expect("eight bytes")) != -100)
        .collect();
    let shape: [usize; 2] = view.shape().try_into().expect("two axes");
    Tensor::from_data(TensorData::new(unmasked, shape), &device())
}

fn divergence(beta: f64) -> Divergence {
    match beta {
        0.0 => Divergence::ForwardKl,
        1.0 => Divergence::ReverseKl,
        beta => Divergence::JensenShannon(beta),
    }
}

fn reduction(case: &Case) -> Reduction {
    match (case.reduction.as_str(), case.masked) {
        ("sum", _) => Reduction::Sum,
        ("batchmean", true) => Reduction::TokenMean,
        ("batchmean", false) => Reduction::BatchMean,
        (other, _) => panic!("unknown reduction {other}"),
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

fn worst(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn divergences_equal_trl_in_value_and_gradient() {
    let file = SafeTensors::deserialize(TENSORS).expect("golden tensors");
    let cases: Vec<Case> = serde_json::from_str(JSON).expect("golden cases");
    assert_eq!(cases.len(), 32);
    for case in cases {
        let student = tensor(&file, "student").require_grad();
        let mask = case.masked.then(|| mask(&file));
        let loss = divergence_loss(
            divergence(case.beta),
            student.clone(),
            tensor(&file, "teacher"),
            case.temperature,
            mask.as_ref(),
            reduction(&case),
        );
        let grads = loss.backward();
        let error = (values(loss)[0] - case.loss).abs();
        assert!(error < LIMIT, "{}: loss off by {error}", case.key);
        let grad = values(student.grad(&grads).expect("a gradient"));
        let error = worst(&grad, &values(tensor(&file, &format!("{}.grad", case.key))));
        assert!(error < LIMIT, "{}: gradient off by {error}", case.key);
    }
}

#[test]
fn soft_cross_entropy_is_forward_kl_plus_the_teachers_entropy() {
    let file = SafeTensors::deserialize(TENSORS).expect("golden tensors");
    let mask = mask(&file);
    let gradient_and_loss = |cross_entropy: bool| {
        let student = tensor(&file, "student").require_grad();
        let teacher = tensor(&file, "teacher");
        let loss = if cross_entropy {
            cross_entropy_soft(student.clone(), teacher, 1.0, Some(&mask))
        } else {
            let mean = Reduction::TokenMean;
            divergence_loss(Divergence::ForwardKl, student.clone(), teacher, 1.0, Some(&mask), mean)
        };
        let grads = loss.backward();
        let grad = student.grad(&grads).expect("a gradient");
        (values(loss)[0], values(grad))
    };
    let (cross_entropy, grad) = gradient_and_loss(true);
    let (kl, kl_grad) = gradient_and_loss(false);
    assert!(cross_entropy > kl);
    assert!(worst(&grad, &kl_grad) < LIMIT);
}

#[test]
fn the_students_temperature_leaves_the_teacher_alone() {
    // Two tokens of the vocabulary: softmax(0, ln 3) = (1/4, 3/4); student (0, 2 ln 3) at τ = 2.
    let ln3 = 3f64.ln();
    let logits = |values: [f64; 2]| -> Tensor<3> {
        Tensor::from_data(TensorData::from([[values]]), (&device(), DType::F64))
    };
    let loss = cross_entropy_soft(logits([0.0, 2.0 * ln3]), logits([0.0, ln3]), 2.0, None);
    let entropy = -(0.25f64 * 0.25f64.ln() + 0.75 * 0.75f64.ln());
    assert!((values(loss)[0] - entropy).abs() < 1e-12);
}

#[test]
fn hard_labels_take_the_log_probability_of_the_target() {
    let ln3 = 3f64.ln();
    let data = TensorData::from([[[0.0, ln3], [0.0, ln3], [5.0, 5.0]]]);
    let logits: Tensor<3> = Tensor::from_data(data, (&device(), DType::F64));
    let targets = Tensor::from_data([[0, 1, 0]], &device());
    let mask: Tensor<2, Bool> = Tensor::from_data([[true, true, false]], &device());
    let loss = cross_entropy_hard(logits, targets, Some(&mask), Reduction::TokenMean);
    let expected = -(0.25f64.ln() + 0.75f64.ln()) / 2.0;
    assert!((values(loss)[0] - expected).abs() < 1e-12);
}
