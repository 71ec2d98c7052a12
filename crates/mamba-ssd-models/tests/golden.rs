//! Tiny random models against transformers 5.23.0: logits, every hidden state, every attention matrix.
//! Limits are 10 times the largest difference measured (f32, flex).

mod common;

use burn::tensor::Tensor;
use common::{GOLDENS, Golden, difference, golden_model};
use mamba_ssd::Backbone;
use mamba_ssd_models::Model;

fn final_norm(model: &Model, hidden: Tensor<3>) -> Tensor<3> {
    match model {
        Model::Llama(model) => model.final_layernorm.forward(hidden),
        Model::Phi(model) => model.final_layernorm.forward(hidden),
        Model::Mamba2(model) => model.final_layernorm.forward(hidden),
    }
}

#[test]
fn logits_are_those_of_transformers() {
    for family in GOLDENS {
        let (model, golden) = (golden_model(family), Golden::open(family));
        let error = difference(model.forward(golden.input_ids(), None), golden.float("logits"));
        assert!(error < 2e-5, "{family}: {error}"); // measured 2.1e-6
    }
}

/// transformers' Llama and Phi list the input of every layer and the output behind the final norm; its
/// Mamba-2 the output of every layer and that.
#[test]
fn hidden_states_are_those_of_transformers() {
    for family in GOLDENS {
        let (model, golden) = (golden_model(family), Golden::open(family));
        let mut states = model.hidden_states(golden.input_ids(), None);
        states.push(final_norm(&model, states[model.n_layers()].clone()));
        let left_out = if family.starts_with("mamba2") { 0 } else { model.n_layers() };
        states.remove(left_out);
        for (index, state) in states.into_iter().enumerate() {
            let error = difference(state, golden.float(&format!("hidden.{index}")));
            assert!(error < 2e-5, "{family}, hidden.{index}: {error}"); // measured 2.0e-6
        }
    }
}

#[test]
fn attention_matrices_are_those_of_transformers() {
    for family in ["llama32", "phi15"] {
        let (model, golden) = (golden_model(family), Golden::open(family));
        let states = model.hidden_states(golden.input_ids(), None);
        for (layer, hidden) in states.into_iter().enumerate().take(model.n_layers()) {
            let matrix = model.mixing_matrix(layer, hidden, None);
            let error = difference(matrix, golden.float(&format!("attn.{layer}")));
            assert!(error < 5e-7, "{family}, attn.{layer}: {error}"); // measured 4.5e-8
        }
    }
}
