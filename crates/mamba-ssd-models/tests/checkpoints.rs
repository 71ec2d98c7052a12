//! Models written and read back, and files that are not what they should be.

mod common;

use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use common::{
    GOLDENS, attention, bits, difference, golden_model, llama, load, mamba2, phi, read, read_text, refused,
    tokens, zoo,
};
use mamba_ssd::{Backbone, Mamba1Config, Mamba2Config, Mixer, MixerConfig};
use mamba_ssd_models::{Checkpoint, Llama, Model, SaveOptions};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

#[test]
fn what_is_saved_is_loaded_bit_for_bit() {
    for (name, model) in
        zoo().into_iter().chain(GOLDENS.map(|family| (family.to_string(), golden_model(family))))
    {
        let dir = tempfile::tempdir().expect("a folder");
        model.save(dir.path(), Some(b"{}")).unwrap_or_else(|error| panic!("{name}: {error}"));
        let loaded = load(dir.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(bits(&loaded), bits(&model), "{name}");
        let logits = |model: &Model| model.forward(tokens(2, 11), None).into_data();
        assert_eq!(logits(&loaded), logits(&model), "{name}");
        assert_eq!(loaded.config_json().expect("JSON"), model.config_json().expect("JSON"), "{name}");
        assert_eq!(loaded.eos(), model.eos(), "{name}");
        assert_eq!(std::fs::read(dir.path().join("tokenizer.json")).expect("a tokenizer"), b"{}");
        let files = 3 + usize::from(model.config().to_mamba_config().expect("JSON").is_some());
        assert_eq!(
            std::fs::read_dir(dir.path()).expect("a folder").count(),
            files,
            "no temporary file is left"
        );
    }
}

#[test]
fn bytes_are_the_file() {
    let model = llama("mam");
    let (config, weights) = (model.config_json().expect("JSON"), model.to_safetensors().expect("bytes"));
    let loaded = Model::from_bytes(&config, &weights, &Device::flex()).expect("a model");
    assert_eq!(bits(&loaded), bits(&model));
}

#[test]
fn written_golden_files_hold_the_tensors_of_the_original() {
    for family in GOLDENS {
        let (original, written) = (
            read(&format!("{family}.weights.safetensors")),
            golden_model(family).to_safetensors().expect("bytes"),
        );
        let (original, written) = (
            SafeTensors::deserialize(&original).expect("a file"),
            SafeTensors::deserialize(&written).expect("a file"),
        );
        for key in original.names().into_iter().filter(|&key| family != "llama32" || key != "lm_head.weight")
        {
            assert_eq!(written.tensor(key).expect(key), original.tensor(key).expect(key), "{family}, {key}");
        }
        let duplicate = usize::from(family == "llama32"); // the tied head is not written
        assert_eq!(written.len(), original.len() - duplicate, "{family}");
    }
}

#[test]
fn bf16_files_are_loaded_as_f32_or_as_they_are() {
    let (model, dir) = (llama("mam"), tempfile::tempdir().expect("a folder"));
    model
        .save_with(dir.path(), &SaveOptions { dtype: Some(DType::BF16), ..Default::default() })
        .expect("saved");
    let weights = std::fs::read(dir.path().join("model.safetensors")).expect("weights");
    let tensors = SafeTensors::deserialize(&weights).expect("a file");
    assert!(tensors.iter().all(|(_, tensor)| tensor.dtype() == Dtype::BF16));
    let loaded = load(dir.path()).expect("a model");
    let Model::Llama(Llama { embedding, .. }) = &loaded else { panic!("a Llama") };
    assert_eq!(embedding.weight.val().dtype(), DType::F32);
    let error = difference(loaded.forward(tokens(1, 9), None), model.forward(tokens(1, 9), None));
    assert!(error > 0.0 && error < 0.05, "{error}");
    let raw = Model::load_as(dir.path(), &Device::flex(), DType::BF16).expect("a model");
    let Model::Llama(Llama { embedding, .. }) = &raw else { panic!("a Llama") };
    assert_eq!(embedding.weight.val().dtype(), DType::BF16);
}

#[test]
fn weights_loaded_for_training_are_trainable() {
    let (model, dir) = (llama("am"), tempfile::tempdir().expect("a folder"));
    model.save(dir.path(), None).expect("saved");
    let Model::Llama(loaded) = Model::load(dir.path(), &Device::flex().autodiff()).expect("a model") else {
        panic!("a Llama")
    };
    let gradients = loaded.forward(tokens(1, 9), None).mean().backward();
    for layer in &loaded.layers {
        let gradient = layer.mlp.up_proj.weight.val().grad(&gradients).expect("a gradient");
        assert!(gradient.abs().max().into_scalar::<f32>() > 0.0);
    }
}

#[test]
fn keys_are_those_of_the_published_checkpoints() {
    let keys = |model: &Model| {
        let bytes = model.to_safetensors().expect("bytes");
        let tensors = SafeTensors::deserialize(&bytes).expect("a file");
        let mut keys: Vec<String> =
            tensors.iter().map(|(key, view)| format!("{key} {:?}", view.shape())).collect();
        keys.sort();
        keys
    };
    let llamba = keys(&llama("mm"));
    assert_eq!(llamba.len(), 2 * 11 + 2); // 178 = 16 · 11 + 2 tensors in Llamba-1B
    for key in [
        "backbone.embedding.weight [31, 24]",
        "backbone.final_layernorm.weight [24]",
        "backbone.layers.1.input_layernorm.weight [24]",
        "backbone.layers.1.post_attention_layernorm.weight [24]",
        "backbone.layers.1.mixer.in_proj.weight [100, 24]", // 2E + 2GN + H
        "backbone.layers.1.mixer.z_bias [24]",
        "backbone.layers.1.mixer.conv1d.weight [72, 1, 4]",
        "backbone.layers.1.mixer.conv1d.bias [72]",
        "backbone.layers.1.mixer.D [4]",
        "backbone.layers.1.mixer.out_proj.weight [24, 24]",
        "backbone.layers.1.mlp.gate_proj.weight [40, 24]",
        "backbone.layers.1.mlp.down_proj.weight [24, 40]",
    ] {
        assert!(llamba.contains(&key.to_string()), "{key} in {llamba:#?}");
    }
    let hybrid = keys(&phi("mam"));
    for key in [
        "backbone.layers.1.mixer.self_attn.q_proj.weight [24, 24]",
        "backbone.layers.1.mixer.self_attn.dense.bias [24]",
        "backbone.layers.0.mlp.fc1.weight [48, 24]",
        "backbone.final_layernorm.bias [24]",
        "lm_head.bias [31]",
    ] {
        assert!(hybrid.contains(&key.to_string()), "{key} in {hybrid:#?}");
    }
    assert!(
        keys(&llama("mam")).contains(&"backbone.layers.1.mixer.self_attn.k_proj.weight [12, 24]".to_string())
    );
    assert!(keys(&mamba2(false)).contains(&"backbone.layers.1.mixer.A_log [4]".to_string()));
}

/// A square matrix loaded as it lies would raise no shape error.
#[test]
fn linear_weights_are_transposed() {
    let dir = tempfile::tempdir().expect("a folder");
    llama("mm").save(dir.path(), None).expect("saved");
    let path = dir.path().join("model.safetensors");
    let square: Vec<f32> = (0..24 * 24).map(|i| i as f32).collect();
    edit(&path, |tensors| {
        tensors
            .iter_mut()
            .find(|(key, ..)| key.ends_with("0.mixer.out_proj.weight"))
            .expect("a square matrix")
            .2 = bytes(&square);
    });
    let Model::Llama(model) = load(dir.path()).expect("a model") else { panic!("a Llama") };
    let Mixer::DiscreteMamba2(mixer) = &model.layers[0].mixer else { panic!("a mixer") };
    let expected: Tensor<2> = Tensor::from_data(TensorData::new(square, [24, 24]), &Device::flex());
    assert_eq!(mixer.out_proj.weight.val().into_data(), expected.transpose().into_data());
}

type Tensors = Vec<(String, Vec<usize>, Vec<u8>)>;

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Rewrites an f32 file.
fn edit(path: &Path, change: impl FnOnce(&mut Tensors)) {
    let file = std::fs::read(path).expect("weights");
    let tensors = SafeTensors::deserialize(&file).expect("a file");
    let mut tensors: Tensors = tensors
        .iter()
        .map(|(key, view)| (key.to_string(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(key, shape, data)| (key, TensorView::new(Dtype::F32, shape.clone(), data).expect("a tensor")));
    std::fs::write(path, safetensors::serialize(views, None).expect("bytes")).expect("written");
}

fn edit_config(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("a config")).expect("JSON");
    change(&mut config);
    std::fs::write(path, config.to_string()).expect("written");
}

fn saved(model: &Model) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    model.save(dir.path(), None).expect("saved");
    dir
}

#[test]
fn every_difference_is_listed() {
    let dir = saved(&llama("mm"));
    edit(&dir.path().join("model.safetensors"), |tensors| {
        tensors.retain(|(key, ..)| !key.ends_with("0.mixer.D"));
        tensors.push(("backbone.layers.9.mixer.D".into(), vec![4], bytes(&[0.0; 4])));
        tensors.iter_mut().find(|(key, ..)| key.ends_with("1.mixer.D")).expect("D").1 = vec![2, 2];
    });
    let message = refused(dir.path());
    for part in [
        "1 missing: backbone.layers.0.mixer.D [4]",
        "1 unexpected: backbone.layers.9.mixer.D [4]",
        "1 wrong shape: backbone.layers.1.mixer.D is [2, 2], expected [4]",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[test]
fn damaged_files_are_refused() {
    let dir = saved(&phi("mm"));
    let path = dir.path().join("model.safetensors");
    let whole = std::fs::read(&path).expect("weights");
    for (length, part) in [
        (whole.len() - 5, "the file is truncated"),
        (300, "truncated"),
        (3, "no weights: expected a safetensors"),
    ] {
        std::fs::write(&path, &whole[..length]).expect("written");
        assert!(refused(dir.path()).contains(part), "{part}");
    }
    std::fs::write(&path, "<html>Not Found</html>, which someone saved").expect("written");
    assert!(refused(dir.path()).contains("no weights: expected a safetensors"));
    std::fs::write(&path, b"\0\0\0\0\0\0\0\x01{").expect("written");
    assert!(refused(dir.path()).contains("this is no safetensors file"));
    std::fs::write(&path, [8u8, 0, 0, 0, 0, 0, 0, 0].into_iter().chain(*b"not json").collect::<Vec<u8>>())
        .expect("written");
    assert!(refused(dir.path()).contains("no weights: expected a safetensors"));
    std::fs::write(&path, [8u8, 0, 0, 0, 0, 0, 0, 0].into_iter().chain(*b"{ot json").collect::<Vec<u8>>())
        .expect("written");
    assert!(refused(dir.path()).contains("malformed header"));
    std::fs::remove_file(&path).expect("removed");
    assert!(refused(dir.path()).contains("expected model.safetensors, pytorch_model.bin"));
    std::fs::write(dir.path().join("pytorch_model.bin"), "").expect("written");
    assert!(refused(dir.path()).contains("no weights: expected a safetensors, PyTorch or GGUF file"));
    std::fs::write(dir.path().join("pytorch_model.bin"), b"PK\x03\x04 and nothing that belongs to it")
        .expect("written");
    assert!(refused(dir.path()).contains("not a state dict that can be read"));
    assert!(refused(&dir.path().join("nowhere")).contains("cannot read"));
}

#[test]
fn quantised_weights_are_refused() {
    let dir = saved(&llama("mm"));
    let path = dir.path().join("model.safetensors");
    let data = [0u8; 4];
    let view = TensorView::new(Dtype::I8, vec![4], &data).expect("a tensor");
    let file = std::fs::read(&path).expect("weights");
    let tensors = SafeTensors::deserialize(&file).expect("a file");
    let views = tensors
        .tensors()
        .into_iter()
        .map(|(key, tensor)| if key.ends_with("0.mixer.D") { (key, view.clone()) } else { (key, tensor) });
    let bytes = safetensors::serialize(views, None).expect("bytes");
    std::fs::write(&path, bytes).expect("written");
    assert!(
        refused(dir.path()).contains("`backbone.layers.0.mixer.D` is I8, expected F64, F32, F16 or BF16")
    );
}

#[test]
fn a_head_beside_a_tied_embedding_must_be_the_embedding() {
    let dir = saved(&llama("mm"));
    let path = dir.path().join("model.safetensors");
    edit(&path, |tensors| {
        let embedding = tensors
            .iter()
            .find(|(key, ..)| key == "backbone.embedding.weight")
            .expect("an embedding")
            .clone();
        tensors.push(("lm_head.weight".into(), embedding.1, embedding.2));
    });
    load(dir.path()).expect("a duplicate is tolerated");
    edit(&path, |tensors| {
        tensors.iter_mut().find(|(key, ..)| key == "lm_head.weight").expect("a head").2[0] ^= 1
    });
    assert!(refused(dir.path()).contains("config.json ties them"));
}

#[test]
fn other_writers_keys_are_understood() {
    let dir = saved(&llama("mam")); // untied
    edit(&dir.path().join("model.safetensors"), |tensors| {
        tensors.iter_mut().find(|(key, ..)| key == "lm_head.weight").expect("a head").0 =
            "backbone.lm_head.weight".into();
        tensors.push((
            "backbone.layers.1.mixer.self_attn.rotary_emb.inv_freq".into(),
            vec![3],
            bytes(&[1.0; 3]),
        ));
    });
    load(dir.path()).expect("Fast-LLM's head and old frequencies");
    let model = mamba2(true);
    let dir = saved(&model);
    edit(&dir.path().join("model.safetensors"), |tensors| {
        tensors.iter_mut().find(|(key, ..)| key == "backbone.embeddings.weight").expect("an embedding").0 =
            "backbone.embedding.weight".into();
    });
    edit_config(dir.path(), |config| {
        *config = json!({"d_model": 24, "n_layer": 2, "vocab_size": 31, "pad_vocab_size_multiple": 1, "tie_embeddings": true,
            "ssm_cfg": {"layer": "Mamba2", "d_state": 8, "headdim": 12, "ngroups": 2, "chunk_size": 8}});
    });
    let loaded = load(dir.path()).expect("state-spaces' own format");
    assert_eq!(bits(&loaded), bits(&model));
}

#[test]
fn a_layer_that_is_another_mixer_than_the_config_says_is_refused() {
    let dir = saved(&llama("mam"));
    edit_config(dir.path(), |config| config["attn_layer_idx"] = json!([2]));
    assert!(
        refused(dir.path())
            .contains("layer 1 holds attention, but the configuration says a discrete Mamba-2 mixer")
    );
    edit_config(dir.path(), |config| config["attn_layer_idx"] = json!([3]));
    assert!(refused(dir.path()).contains("`attn_layer_idx` names layer 3, but there are only 3 (0 to 2)"));
}

/// The published hybrid's configuration is not known to be right about its layers; its keys are.
#[test]
fn the_keys_of_a_hybrid_phi_decide_what_its_layers_are() {
    let model = phi("mam");
    let dir = saved(&model);
    let config = dir.path().join("config.json");
    std::fs::write(&config, phi("mma").config_json().expect("JSON")).expect("written");
    assert_eq!(bits(&load(dir.path()).expect("a model")), bits(&model));
    let note = Checkpoint::open(dir.path()).expect("a model").note().map(str::to_string);
    assert!(note.is_some_and(|note| note.contains("layers [1, 2] hold another mixer")));
    std::fs::write(&config, phi("aaa").config_json().expect("JSON")).expect("written");
    assert!(refused(dir.path()).contains("missing")); // transformers' names, which are another format
}

#[test]
fn configs_of_other_families_are_refused() {
    let dir = saved(&llama("mm"));
    let refused_with = |change: &dyn Fn(&mut Value), part: &str| {
        model_config(dir.path());
        edit_config(dir.path(), change);
        let message = refused(dir.path());
        assert!(message.contains("config.json") && message.contains(part), "{part} in {message}");
    };
    refused_with(
        &|config| config["model_type"] = json!("gpt2"),
        "`model_type` is \"gpt2\", expected one of llama, llamba, qwen2, phi",
    );
    refused_with(&|config| *config = json!({}), "`model_type` is missing");
    refused_with(&|config| *config = json!([1]), "expected a JSON object");
    refused_with(&|config| config["model_type"] = json!("llama"), "`hidden_size` is missing");
    refused_with(
        &|config| config["d_model"] = json!("wide"),
        "`d_model` is \"wide\", expected a whole number",
    );
    refused_with(
        &|config| config["ssm_cfg"]["n_v_heads"] = json!(5),
        "5 heads and 4 query-key heads do not divide",
    );
    refused_with(
        &|config| config["mlp_cfg"]["act_fn"] = json!("relu"),
        "`mlp_cfg.act_fn` is \"relu\", only \"silu\" is covered",
    );
    let phi_text = read_text("phi15.config.json").replace("gelu_new", "gelu");
    refused_with(
        &|config| *config = serde_json::from_str(&phi_text).expect("JSON"),
        "`hidden_act` is \"gelu\"",
    );
    let llama_text = read_text("llama32.config.json").replace("\"llama3\"", "\"yarn\"");
    refused_with(
        &|config| *config = serde_json::from_str(&llama_text).expect("JSON"),
        "`rope_parameters.rope_type` is \"yarn\"",
    );
}

fn model_config(dir: &Path) {
    std::fs::write(dir.join("config.json"), llama("mm").config_json().expect("JSON")).expect("written");
}

#[test]
fn weights_of_another_family_are_refused() {
    let dir = saved(&llama("aa"));
    std::fs::write(dir.path().join("config.json"), phi("aa").config_json().expect("JSON")).expect("written");
    let message = refused(dir.path());
    assert!(message.contains("missing: ") && message.contains("unexpected: "), "{message}");
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    let message = llama("mm").save(&file, None).expect_err("a file is no folder").to_string();
    assert!(message.contains("cannot write") && message.contains("file"), "{message}");
}

#[test]
fn a_model_without_a_format_is_not_written() {
    let unknown = [
        (MixerConfig::Mamba1(Mamba1Config::new(24, 32, 16)), "a Mamba-1 mixer"),
        (MixerConfig::Mamba2(Mamba2Config::new(24).with_headdim(12)), "a Mamba-2 mixer"),
        (MixerConfig::Attention(attention(24).with_d_conv(Some(4))), "attention with a convolution"),
    ];
    for (mixer, name) in unknown {
        let Model::Llama(mut model) = llama("mm") else { panic!("a Llama") };
        model.layers[1].mixer = mixer.init(&Device::flex());
        let dir = tempfile::tempdir().expect("a folder");
        let message =
            Model::Llama(model).save(dir.path(), None).expect_err("a mixer unknown to Llamba").to_string();
        assert!(message.contains(name), "{message}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
    }
}

#[test]
fn old_files_stay_when_the_new_cannot_be_written() {
    let dir = saved(&llama("mm"));
    std::fs::create_dir(dir.path().join("tokenizer.json")).expect("a folder in the way");
    let before = bits(&load(dir.path()).expect("a model"));
    llama("mm").save(dir.path(), Some(b"{}")).expect_err("a folder cannot be replaced by a file");
    assert_eq!(bits(&load(dir.path()).expect("a model")), before);
    let left = std::fs::read_dir(dir.path())
        .expect("a folder")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    assert_eq!(left.filter(|name| name.ends_with(".tmp")).count(), 0);
}
