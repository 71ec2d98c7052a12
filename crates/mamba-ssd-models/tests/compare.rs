//! A model against what another implementation computed with its weights.

mod common;

use std::path::PathBuf;

use burn::tensor::Device;
use common::{golden_model, llama, reference};
use mamba_ssd_models::{Deviation, Model, ModelError, Reference};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

fn open(bytes: Vec<u8>) -> Result<Reference, ModelError> {
    let dir = tempfile::tempdir().expect("a folder");
    let path: PathBuf = dir.path().join("reference.safetensors");
    std::fs::write(&path, bytes).expect("written");
    Reference::open(&path)
}

fn compare(family: &str, model: &Model) -> Vec<Deviation> {
    let reference = open(reference(family)).expect("a reference");
    reference.compare(model, &Device::flex()).expect("tensors of the model")
}

#[test]
fn the_model_of_the_weights_agrees_in_every_tensor() {
    for (family, count) in [("llama32", 5), ("phi15", 5)] {
        let deviations = compare(family, &golden_model(family));
        assert_eq!(deviations.len(), count, "{family}: logits, and hidden state and matrix of two layers");
        for Deviation { name, relative, largest, .. } in deviations {
            assert!(relative < 1e-5 && largest < 1e-4, "{family}, {name}: {relative}");
        }
    }
}

/// The second layer's key projection is spoilt: everything before stays right, and the first tensor to
/// depart is that layer's matrix.
#[test]
fn the_first_tensor_to_depart_is_that_of_the_spoilt_layer() {
    let Model::Llama(mut model) = golden_model("llama32") else { panic!("a Llama") };
    let mamba_ssd::Mixer::Attention(attention) = &mut model.layers[1].mixer else { panic!("attention") };
    attention.k_proj.weight = attention.k_proj.weight.clone().map(|weight| weight * 1.5);
    let deviations = compare("llama32", &Model::Llama(model));
    let departs = |deviation: &&Deviation| deviation.relative > 1e-3;
    let first = deviations.iter().find(departs).expect("something departs");
    assert_eq!((first.name.as_str(), first.layer), ("attentions.1", Some(1)));
    assert!(deviations.last().is_some_and(|last| last.name == "logits" && last.relative > 1e-3));
}

#[test]
fn references_of_another_model_are_refused() {
    let message = open(reference("llama32")).expect("a reference").compare(&llama("a"), &Device::flex());
    let message = message.expect_err("another vocabulary").to_string();
    assert!(message.contains("holds token") && message.contains("the model knows 0 to 30"), "{message}");

    let bytes = reference("llama32");
    let tensors = SafeTensors::deserialize(&bytes).expect("a file");
    let with = |key: &str, shape: Vec<usize>| {
        let zeros = vec![0; 4 * shape.iter().product::<usize>()];
        let extra = TensorView::new(Dtype::F32, shape, &zeros).expect("a tensor");
        let views = tensors.tensors().into_iter().chain([(key.to_string(), extra)]);
        open(safetensors::serialize(views, None).expect("bytes"))
    };
    let message = with("hidden", vec![1]).expect_err("no such tensor").to_string();
    assert!(message.contains("holds `hidden`, expected input_ids and any of logits"), "{message}");
    let model = golden_model("llama32");
    let refused = |key: &str, shape| {
        with(key, shape).expect("a reference").compare(&model, &Device::flex()).expect_err(key).to_string()
    };
    assert!(refused("hidden_states.9", vec![1]).contains("`hidden_states.9`, but the model has 2 layers"));
    assert!(refused("attentions.2", vec![1]).contains("`attentions.2`, but the model has 2 layers"));
    assert!(
        refused("hidden_states.2", vec![1, 2, 3])
            .contains("`hidden_states.2` is [1, 2, 3], the model's is [")
    );
}
