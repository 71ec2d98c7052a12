//! Tiny random models against transformers 5.23.0: logits, every hidden state, every attention matrix.

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
        println!("{family} logits {error:e}");
        assert!(error < 1e-4, "{family}: {error}");
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
            println!("{family} hidden.{index} {error:e}");
            assert!(error < 1e-4, "{family}, hidden.{index}: {error}");
        }
    }
}

#[test]
fn attention_matrices_are_those_of_transformers() {
    for family in ["llama32", "phi15"] {
        let (model, golden) = (golden_model(family), Golden::open(family));
        let states = model.hidden_states(golden.input_ids(), None);
        for layer in 0..model.n_layers() {
            let matrix = model.mixing_matrix(layer, states[layer].clone(), None);
            let error = difference(matrix, golden.float(&format!("attn.{layer}")));
            println!("{family} attn.{layer} {error:e}");
            assert!(error < 1e-4, "{family}, attn.{layer}: {error}");
        }
    }
}
