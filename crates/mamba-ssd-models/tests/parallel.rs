//! MOHAWK's hybrids by heads in files that are built here, tensor by tensor, under the published keys.

mod common;

use std::path::Path;

use burn::tensor::Tensor;
use common::{JUNCTIONS, Tensors, Writer, bits, folder, load, parallel, phi, refused, tensors_of, tokens};
use mamba_ssd::norm::RmsNorm;
use mamba_ssd::{Backbone, DiscreteMamba2, Junction, JunctionKind, Mixer, MixerConfig, Parallel};
use mamba_ssd_models::{Checkpoint, Llama, Model};
use serde_json::{Value, json};

/// Square and other projections, a layer without attention heads, and one head.
const HEADS: [usize; 3] = [4, 0, 1];

fn write_norm(file: &mut Writer, key: &str, norm: &RmsNorm) {
    file.put(format!("{key}.weight"), norm.weight.val());
}

fn write_ssm(file: &mut Writer, key: &str, mixer: &DiscreteMamba2) {
    file.linear(&format!("{key}.in_proj"), &mixer.in_proj);
    file.conv(&format!("{key}.conv1d"), &mixer.conv1d);
    file.put(format!("{key}.z_bias"), mixer.z_bias.as_ref().expect("a bias").val());
    file.put(format!("{key}.D"), mixer.d.val());
    file.linear(&format!("{key}.out_proj"), &mixer.out_proj);
}

fn write_mixer(file: &mut Writer, layer: &str, mixer: &Parallel) {
    write_ssm(file, &format!("{layer}.mixer1"), &mixer.mixer1);
    if let Some(attention) = &mixer.mixer2 {
        file.linear(&format!("{layer}.mixer2.self_attn.q_proj"), &attention.q_proj);
        file.linear(&format!("{layer}.mixer2.self_attn.k_proj"), &attention.k_proj);
        file.linear(&format!("{layer}.mixer2.self_attn.v_proj"), &attention.v_proj);
        file.linear(&format!("{layer}.mixer2.self_attn.o_proj"), &attention.o_proj);
    }
    match &mixer.junction {
        None => {}
        Some(Junction::Adapter(adapter)) => {
            file.linear(&format!("{layer}.adapter.out_proj"), &adapter.out_proj);
        }
        Some(Junction::Hymba(hymba)) => {
            write_norm(file, &format!("{layer}.ssm_output_layernorm"), &hymba.ssm_output_layernorm);
            write_norm(file, &format!("{layer}.att_output_layernorm"), &hymba.att_output_layernorm);
            file.put(format!("{layer}.ssm_gate"), hymba.ssm_gate.val());
            file.put(format!("{layer}.att_gate"), hymba.att_gate.val());
            file.linear(&format!("{layer}.out_proj"), &hymba.out_proj);
        }
        Some(Junction::Merger(merger)) => {
            let norm = &merger.input_layernorm;
            file.put(format!("{layer}.input_layernorm.ssm_weight"), norm.ssm_weight.val());
            file.put(format!("{layer}.input_layernorm.attn_weight"), norm.attn_weight.val());
            write_norm(file, &format!("{layer}.output_layernorm"), &merger.output_layernorm);
            file.linear(&format!("{layer}.out_proj"), &merger.out_proj);
        }
    }
}

/// The tensors of a model as MOHAWK names and arranges them.
fn file(model: &Llama) -> Tensors {
    let mut file = Writer::default();
    file.put("backbone.embedding.weight", model.embedding.weight.val());
    write_norm(&mut file, "backbone.final_layernorm", &model.final_layernorm);
    if let Some(head) = &model.lm_head {
        file.linear("lm_head", head);
    }
    for (index, block) in model.layers.iter().enumerate() {
        let layer = format!("backbone.layers.{index}");
        if let Some(norm) = &block.input_layernorm {
            write_norm(&mut file, &format!("{layer}.input_layernorm"), norm);
        }
        write_norm(&mut file, &format!("{layer}.post_attention_layernorm"), &block.post_attention_layernorm);
        file.linear(&format!("{layer}.mlp.gate_proj"), &block.mlp.gate_proj);
        file.linear(&format!("{layer}.mlp.up_proj"), &block.mlp.up_proj);
        file.linear(&format!("{layer}.mlp.down_proj"), &block.mlp.down_proj);
        let Mixer::Parallel(mixer) = &block.mixer else { panic!("heads side by side") };
        write_mixer(&mut file, &layer, mixer);
    }
    file.0
}

fn config(junction: JunctionKind, heads: &[usize]) -> Value {
    json!({"model_type": "llamba", "vocab_size": 31, "pad_vocab_size_multiple": 1,
        "tie_embeddings": heads.len().is_multiple_of(2), "d_model": 24, "n_layer": heads.len(), "norm_epsilon": 1e-5,
        "mlp_cfg": {"intermediate_size": 40}, "ssm_cfg": {"d_state": 6, "n_v_heads": 4, "chunk_size": 8},
        "block_type": format!("DoubleBlock{junction:?}"),
        "attn_cfg": {"num_attention_heads": heads, "head_dim": 6, "rope_theta": 500.0}})
}

fn llama(model: &Model) -> &Llama {
    let Model::Llama(model) = model else { panic!("a Llama") };
    model
}

fn logits(model: &Model) -> burn::tensor::TensorData {
    model.forward(tokens(2, 9), None).into_data()
}

#[test]
fn a_file_under_the_published_keys_is_the_model_to_the_bit() {
    for junction in JUNCTIONS {
        for heads in [HEADS.as_slice(), &[0, 0], &[1, 1]] {
            let model = parallel(junction, heads);
            let dir = folder(&config(junction, heads), &file(llama(&model)));
            let loaded = load(dir.path()).unwrap_or_else(|error| panic!("{junction:?}: {error}"));
            assert!(bits(&loaded) == bits(&model), "{junction:?} {heads:?}");
            assert_eq!(logits(&loaded), logits(&model), "{junction:?} {heads:?}");
        }
    }
}

#[test]
fn what_is_written_has_the_published_keys_and_a_configuration_that_is_read_back() {
    for junction in JUNCTIONS {
        for heads in [HEADS.as_slice(), &[0, 0]] {
            let model = parallel(junction, heads);
            let dir = tempfile::tempdir().expect("a folder");
            model.save(dir.path(), None).expect("saved");
            let weights = std::fs::read(dir.path().join("model.safetensors")).expect("weights");
            assert!(tensors_of(&weights) == file(llama(&model)), "{junction:?} {heads:?}");
            let text = std::fs::read_to_string(dir.path().join("config.json")).expect("a configuration");
            let written: Value = serde_json::from_str(&text).expect("JSON");
            let expected = config(junction, heads);
            assert_eq!(written["block_type"], expected["block_type"]);
            if heads != [0, 0] {
                assert_eq!(written["attn_cfg"]["num_attention_heads"], json!(heads));
            }
            let again = load(dir.path()).expect("a model");
            assert!(bits(&again) == bits(&model), "{junction:?} {heads:?}");
            assert_eq!(format!("{:?}", again.config()), format!("{:?}", model.config()));
        }
    }
}

/// The published recipes are no `config.json`: one of Llamba's may lie there instead.
#[test]
fn the_keys_tell_how_the_heads_are_joined_where_the_configuration_does_not() {
    for junction in JUNCTIONS {
        let model = parallel(junction, &HEADS);
        let mut config = config(junction, &HEADS);
        let object = config.as_object_mut().expect("an object");
        object.remove("block_type");
        object["attn_cfg"].as_object_mut().expect("an object").remove("num_attention_heads");
        let dir = folder(&config, &file(llama(&model)));
        let checkpoint = Checkpoint::open(dir.path()).expect("a checkpoint");
        let note = checkpoint.note().expect("a note");
        assert!(note.contains(&format!("the tensors decide: DoubleBlock{junction:?}")), "{note}");
        assert!(bits(&load(dir.path()).expect("a model")) == bits(&model), "{junction:?}");
    }
}

/// What is said of a file of four, no and one heads after a change.
fn refused_after(junction: JunctionKind, change: impl FnOnce(&mut Value, &mut Tensors)) -> String {
    let model = parallel(junction, &HEADS);
    let (mut config, mut tensors) = (config(junction, &HEADS), file(llama(&model)));
    change(&mut config, &mut tensors);
    refused(folder(&config, &tensors).path())
}

#[test]
fn every_key_must_be_there_and_no_other() {
    for junction in JUNCTIONS {
        for key in file(llama(&parallel(junction, &HEADS))).into_keys() {
            let message = refused_after(junction, |_, tensors| drop(tensors.remove(&key)));
            assert!(message.contains(&format!("1 missing: {key} [")), "{message}");
        }
        let key = "backbone.layers.1.mixer2.self_attn.q_proj.weight".to_string();
        let message = refused_after(junction, |_, tensors| {
            drop(tensors.insert(key.clone(), (vec![6, 24], vec![0.0; 144])))
        });
        assert!(message.contains(&format!("1 unexpected: {key} [6, 24]")), "{message}");
        let message = refused_after(junction, |config, _| {
            config["attn_cfg"]["num_attention_heads"] = json!([4, 0, 2]);
        });
        assert!(
            message.contains("4 wrong shape: backbone.layers.2.mixer2.self_attn.k_proj.weight is [6, 24], expected [12, 24]"),
            "{message}"
        );
    }
}

#[test]
fn configurations_that_do_not_belong_to_the_weights_are_refused() {
    let refused_with = |change: fn(&mut Value), part: &str| {
        let message = refused_after(JunctionKind::Adapter, |config, _| change(config));
        assert!(message.contains(part), "{part} in {message}");
    };
    refused_with(
        |config| config["block_type"] = json!("DoubleBlockVanilla"),
        "4 unexpected: backbone.layers.0.adapter.out_proj.bias [24]",
    );
    refused_with(
        |config| config["block_type"] = json!("DoubleBlock"),
        "`block_type` is \"DoubleBlock\", expected one of DoubleBlockAdapter, DoubleBlockVanilla, DoubleBlockHymba, DoubleBlockMerger",
    );
    refused_with(
        |config| config["attn_cfg"]["num_attention_heads"] = json!([4, 0]),
        "`attn_cfg.num_attention_heads` counts the heads of 2 layers, `n_layer` is 3",
    );
    refused_with(
        |config| config["attn_layer_idx"] = json!([1]),
        "it has both `block_type` and `attn_layer_idx`, expected one of them",
    );
    let without = |names: &'static [&str]| {
        move |config: &mut Value, _: &mut Tensors| {
            names.iter().for_each(|name| drop(config.as_object_mut().expect("an object").remove(*name)));
        }
    };
    let message = refused_after(JunctionKind::Hymba, without(&["block_type", "attn_cfg"]));
    assert!(message.contains("`attn_cfg` is missing, expected `head_dim`"), "{message}");
    let message = refused_after(JunctionKind::Hymba, |config, tensors| {
        without(&["block_type"])(config, tensors);
        config["attn_cfg"]["head_dim"] = json!(16);
    });
    assert!(message.contains("24 rows of queries, expected heads of 16"), "{message}");
    let message = refused_after(JunctionKind::Merger, |config, tensors| {
        without(&["block_type"])(config, tensors);
        config["n_layer"] = json!(4);
    });
    assert!(message.contains("`n_layer` is 4, but the weights have 3 layers"), "{message}");
}

#[test]
fn layers_of_llamba_alone_are_told_from_layers_of_both() {
    let dir = tempfile::tempdir().expect("a folder");
    common::llama("mmm").save(dir.path(), None).expect("saved");
    std::fs::write(dir.path().join("config.json"), config(JunctionKind::Hymba, &HEADS).to_string())
        .expect("written");
    let message = refused(dir.path());
    let part = "layer 0 holds a discrete Mamba-2 mixer, but the configuration says SSM and attention heads side by side";
    assert!(message.contains(part), "{message}");
}

#[test]
fn hybrids_by_heads_that_no_format_holds_are_not_written() {
    let message = |model: Model| {
        let dir = tempfile::tempdir().expect("a folder");
        let message = model.save(dir.path(), None).expect_err("no format").to_string();
        assert_eq!(std::fs::read_dir::<&Path>(dir.path()).expect("a folder").count(), 0);
        message
    };
    let layer = |junction, heads| llama(&parallel(junction, &[heads])).layers[0].clone();
    let Model::Llama(mut model) = parallel(JunctionKind::Adapter, &HEADS) else { panic!("a Llama") };
    model.layers[1] = layer(JunctionKind::Hymba, 1);
    assert!(message(Model::Llama(model)).contains("differ in more than their attention heads"));
    let Model::Llama(mut model) = common::llama("mm") else { panic!("a Llama") };
    model.layers[1] = layer(JunctionKind::Vanilla, 1);
    assert!(message(Model::Llama(model)).contains("side by side in some of its layers only"));
    let Model::Phi(mut model) = phi("mm") else { panic!("a Phi") };
    model.layers[0].mixer = layer(JunctionKind::Vanilla, 1).mixer;
    assert!(message(Model::Phi(model)).contains("SSM and attention heads side by side"));
    let mut shared = parallel(JunctionKind::Vanilla, &[2]).config().mixers().remove(0);
    if let MixerConfig::Parallel(config) = &mut shared {
        config.attention.as_mut().expect("attention").n_kv_heads = 1;
    }
    let Model::Llama(mut model) = parallel(JunctionKind::Vanilla, &[2]) else { panic!("a Llama") };
    model.layers[0].mixer = shared.init(&burn::tensor::Device::flex());
    assert!(message(Model::Llama(model)).contains("share keys and values"));
}

/// The layer's own norm is not in front of a Merger, which has one with two weights.
#[test]
fn a_merger_s_layer_is_normed_once() {
    let model = parallel(JunctionKind::Merger, &[2]);
    let hidden = model.embed(tokens(1, 6));
    assert_eq!(model.mixer_input(0, hidden.clone()).into_data(), hidden.clone().into_data());
    let scaled = |factor: f64| -> Tensor<3> { model.mixer_output(0, hidden.clone() * factor, None) };
    let (once, larger) = (scaled(100.0), scaled(1000.0)); // far above ε
    assert!(common::difference(once, larger) < 1e-4);
}

#[test]
fn families_are_named_by_how_their_heads_are_joined() {
    let family = |junction| parallel(junction, &[0, 1]).config().family();
    assert_eq!(
        JUNCTIONS.map(family),
        ["Adapter", "Vanilla", "Hymba", "Merger"]
            .map(|name| format!("hybrid of Llama and Llamba by heads ({name})"))
    );
}
