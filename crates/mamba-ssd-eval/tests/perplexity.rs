//! Perplexity of packed documents against the definition, document by document.

mod common;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use mamba_ssd::Backbone;
use mamba_ssd_eval::perplexity;
use mamba_ssd_models::Llama;

use common::{VOCAB, hybrid};

/// Documents of several lengths whose tokens follow no pattern.
fn documents() -> Vec<Vec<u32>> {
    let lengths = [1, 2, 90, 300, 7, 250, 40, 33];
    let token = |at: usize, length: usize| ((at * at + 7 * at + length) % VOCAB) as u32;
    lengths.iter().map(|&length| (0..length).map(|at| token(at, length)).collect()).collect()
}

/// Sum of −log p over all tokens but the first of one document run alone.
fn surprise(model: &Llama, document: &[u32], device: &Device) -> f64 {
    let tokens: Vec<i64> = document.iter().map(|&token| i64::from(token)).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, document.len()]), device);
    let log_p = log_softmax(model.forward(tokens, None), 2).into_data();
    let log_p: Vec<f64> = log_p.iter::<f64>().collect();
    (1..document.len()).map(|at| -log_p[(at - 1) * VOCAB + document[at] as usize]).sum()
}

#[test]
fn packed_documents_score_as_documents_run_alone() {
    let device = Device::flex();
    let model = hybrid(&device);
    let documents = documents();
    let total: f64 = documents.iter().map(|document| surprise(&model, document, &device)).sum();
    let predicted: usize = documents.iter().map(|document| document.len() - 1).sum();
    let expected = (total / predicted as f64).exp();
    let found = perplexity(&model, &documents);
    assert!((found / expected - 1.0).abs() < 1e-5, "{found} instead of {expected}");
    assert!((VOCAB as f64 * 0.5..VOCAB as f64 * 3.0).contains(&found), "{found} under random weights");
}

#[test]
#[should_panic(expected = "nothing to predict")]
fn documents_of_one_token_have_no_perplexity() {
    perplexity(&hybrid(&Device::flex()), &[vec![3], vec![4]]);
}
