//! MambaInLlama, M1 and mamba2attn in files that are built here, tensor by tensor.

mod common;

use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use common::{
    Tensors, Writer, bits, difference, folder, llama, mamba_in_llama, mamba2, mamba2_attention, tensors_of,
    tokens,
};
use mamba_ssd::{Attention, Backbone, Mamba2, Mixer, MixerConfig};
use mamba_ssd_models::{Llama, Mamba2Lm, Model, ModelConfig};
use serde_json::{Value, json};

/// Which names of MambaInLlama.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dialect {
    /// Those of its training code.
    Split,
    /// Those of its inference code and of M1.
    Fused,
}

fn write_mamba2(file: &mut Writer, key: &str, mixer: &Mamba2) {
    file.linear(&format!("{key}.in_proj"), &mixer.in_proj);
    file.conv(&format!("{key}.conv1d"), &mixer.conv1d);
    file.put(format!("{key}.dt_bias"), mixer.dt_bias.val());
    file.put(format!("{key}.A_log"), mixer.a_log.val());
    file.put(format!("{key}.D"), mixer.d.val());
    file.put(format!("{key}.norm.weight"), mixer.norm.weight.val());
    file.linear(&format!("{key}.out_proj"), &mixer.out_proj);
}

fn write_mixer(file: &mut Writer, layer: &str, mixer: &Mixer, dialect: Dialect) {
    match (mixer, dialect) {
        (Mixer::Attention(attention), Dialect::Fused) => {
            file.put(format!("{layer}.mha.in_proj.weight"), fused(attention));
            file.linear(&format!("{layer}.mha.out_proj"), &attention.o_proj);
        }
        (Mixer::Attention(attention), Dialect::Split) => {
            file.linear(&format!("{layer}.self_attn.q_proj"), &attention.q_proj);
            file.linear(&format!("{layer}.self_attn.k_proj"), &attention.k_proj);
            file.linear(&format!("{layer}.self_attn.v_proj"), &attention.v_proj);
            file.linear(&format!("{layer}.self_attn.o_proj"), &attention.o_proj);
        }
        (Mixer::Mamba1(mixer), dialect) => {
            let rows = mixer.in_proj.weight.val().transpose();
            match dialect {
                Dialect::Fused => file.put(format!("{layer}.mamba.in_proj.weight"), rows),
                Dialect::Split => {
                    for (name, first, count) in MAMBA1_ROWS {
                        file.put(
                            format!("{layer}.mamba.{name}.weight"),
                            rows.clone().narrow(0, first, count),
                        );
                    }
                }
            }
            file.conv(&format!("{layer}.mamba.conv1d"), &mixer.conv1d);
            file.linear(&format!("{layer}.mamba.dt_proj"), &mixer.dt_proj);
            file.put(format!("{layer}.mamba.A_log"), mixer.a_log.val());
            file.put(format!("{layer}.mamba.D"), mixer.d.val());
            file.linear(&format!("{layer}.mamba.out_proj"), &mixer.out_proj);
        }
        (Mixer::Mamba2(mixer), _) => write_mamba2(file, &format!("{layer}.mamba"), mixer),
        (Mixer::DiscreteMamba2(_) | Mixer::Parallel(_), _) => panic!("no mixer of MambaInLlama"),
    }
}

/// Rows of the fused input projection of a width of 32 with 16 channels of x and B: z, x, B, C, dt.
const MAMBA1_ROWS: [(&str, usize, usize); 5] = [
    ("in_proj_z", 0, 32),
    ("in_proj_x", 32, 16),
    ("B_proj", 48, 16),
    ("C_proj", 64, 32),
    ("dt_proj_down", 96, 2),
];

/// The rows of q, k and v.
fn fused(attention: &Attention) -> Tensor<2> {
    let rows = |linear: &Linear| linear.weight.val().transpose();
    Tensor::cat(vec![rows(&attention.q_proj), rows(&attention.k_proj), rows(&attention.v_proj)], 0)
}

fn mamba_in_llama_file(model: &Llama, dialect: Dialect) -> Tensors {
    let mut file = Writer::default();
    file.put("model.embed_tokens.weight", model.embedding.weight.val());
    file.put("model.norm.weight", model.final_layernorm.weight.val());
    if let Some(head) = &model.lm_head {
        file.linear("lm_head", head);
    }
    for (index, block) in model.layers.iter().enumerate() {
        let layer = format!("model.layers.{index}");
        let norm = block.input_layernorm.as_ref().expect("a norm").weight.val();
        file.put(format!("{layer}.input_layernorm.weight"), norm);
        let norm = block.post_attention_layernorm.weight.val();
        file.put(format!("{layer}.post_attention_layernorm.weight"), norm);
        file.linear(&format!("{layer}.mlp.gate_proj"), &block.mlp.gate_proj);
        file.linear(&format!("{layer}.mlp.up_proj"), &block.mlp.up_proj);
        file.linear(&format!("{layer}.mlp.down_proj"), &block.mlp.down_proj);
        write_mixer(&mut file, &layer, &block.mixer, dialect);
    }
    file.0
}

/// What transformers writes of the Llama that the hybrid was.
fn llama_config(tied: bool, layers: usize) -> Value {
    json!({"model_type": "llama", "vocab_size": 31, "hidden_size": 32, "num_hidden_layers": layers, "intermediate_size": 40,
        "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16}, "tie_word_embeddings": tied})
}

/// What MambaInLlama writes beside it; `layers` as [`mamba_in_llama`] takes them.
fn mamba_config(layers: &str) -> Value {
    let attention: Vec<usize> =
        layers.char_indices().filter(|&(_, layer)| layer == 'a').map(|(index, _)| index).collect();
    let (ssm, d_inner) = match layers.contains('1') {
        true => (json!({"expand": 1}), Value::Null),
        false => (json!({"expand": 1, "ngroups": 4, "d_state": 8}), json!(32)),
    };
    json!({"d_model": 32, "ssm_cfg": ssm, "rms_norm_eps": 1e-5, "vocab_size": null, "d_inner": d_inner, "d_xb": 16,
        "intermediate_size": 40, "hidden_act": "silu", "n_layer": layers.len(), "attn_layers": attention})
}

fn hybrid_folder(model: &Model, mamba: &Value, dialect: Dialect) -> tempfile::TempDir {
    let Model::Llama(model) = model else { panic!("a Llama") };
    let config = llama_config(model.lm_head.is_none(), model.layers.len());
    let dir = folder(&config, &mamba_in_llama_file(model, dialect));
    std::fs::write(dir.path().join("mamba_config.json"), mamba.to_string()).expect("written");
    dir
}

fn load(dir: &tempfile::TempDir) -> Model {
    Model::load(dir.path(), &Device::flex()).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(dir: &tempfile::TempDir) -> String {
    let error = Model::load(dir.path(), &Device::flex()).expect_err("not what it should be");
    let message = error.to_string();
    assert!(!message.contains('\n'), "one line: {message}");
    message
}

#[test]
fn either_dialect_of_mamba_in_llama_is_the_same_model() {
    for layers in ["1a1a", "a11", "2a2", "11", "2"] {
        let model = mamba_in_llama(layers);
        for dialect in [Dialect::Split, Dialect::Fused] {
            let loaded = load(&hybrid_folder(&model, &mamba_config(layers), dialect));
            assert!(bits(&loaded) == bits(&model), "{layers}, {dialect:?}");
            let logits = |model: &Model| model.forward(tokens(2, 9), None).into_data();
            assert_eq!(logits(&loaded), logits(&model), "{layers}, {dialect:?}");
        }
    }
}

#[test]
fn a_loaded_hybrid_decodes_as_it_reads() {
    for layers in ["1a1", "a2a2"] {
        let model = load(&hybrid_folder(&mamba_in_llama(layers), &mamba_config(layers), Dialect::Split));
        let expected = model.forward(tokens(2, 12), None);
        let state = model.init_state(2, &Device::flex());
        let (logits, mut state) = model.prefill(tokens(2, 12).narrow(1, 0, 7), state);
        let mut error = difference(logits, expected.clone().narrow(1, 0, 7));
        for position in 7..12 {
            let token = tokens(2, 12).narrow(1, position, 1).squeeze_dim(1);
            let (logits, next) = model.step(token, state);
            error = error.max(difference(logits, expected.clone().narrow(1, position, 1).squeeze_dim(1)));
            state = next;
        }
        assert!(error < 1e-5, "{layers}: {error}");
    }
}

#[test]
fn a_hybrid_is_written_as_m1_is_published() {
    for (layers, family) in [
        ("1a1", "MambaInLlama hybrid with Mamba-1"),
        ("2a2", "MambaInLlama hybrid with Mamba-2"),
        ("11", "MambaInLlama with Mamba-1"),
        ("22", "MambaInLlama with Mamba-2"),
    ] {
        let model = mamba_in_llama(layers);
        assert_eq!(model.config().family(), family);
        let dir = tempfile::tempdir().expect("a folder");
        model.save(dir.path(), None).expect("saved");
        let written = tensors_of(&std::fs::read(dir.path().join("model.safetensors")).expect("weights"));
        let Model::Llama(inner) = &model else { panic!("a Llama") };
        assert!(written == mamba_in_llama_file(inner, Dialect::Fused), "{layers}");
        let read = |name: &str| -> Value {
            serde_json::from_slice(&std::fs::read(dir.path().join(name)).expect(name)).expect("JSON")
        };
        let (config, mamba) = (read("config.json"), read("mamba_config.json"));
        assert_eq!(
            (&config["model_type"], &config["num_hidden_layers"]),
            (&json!("llama"), &json!(layers.len()))
        );
        assert!(config["num_attention_heads"].as_u64().is_some(), "transformers wants heads");
        assert_eq!(mamba["attn_layers"], mamba_config(layers)["attn_layers"]);
        assert_eq!((&mamba["d_inner"], &mamba["d_xb"]), (&json!(32), &json!(16)));
        assert_eq!(mamba["ssm_cfg"]["d_state"].is_null(), layers.contains('1'));
        let again = load(&dir);
        assert!(bits(&again) == bits(&model), "{layers}");
        assert_eq!(format!("{:?}", again.config().mixers()), format!("{:?}", model.config().mixers()));
    }
}

#[test]
fn another_model_saved_over_a_hybrid_leaves_nothing_of_it() {
    let dir = tempfile::tempdir().expect("a folder");
    mamba_in_llama("1a").save(dir.path(), None).expect("saved");
    let model = llama("aa");
    model.save(dir.path(), None).expect("saved");
    assert!(bits(&load(&dir)) == bits(&model));
}

#[test]
fn the_frequency_scaling_can_be_switched_off() {
    let original = mamba_in_llama("1a");
    let scaling = |mamba: &Value| {
        let model = load(&hybrid_folder(&original, mamba, Dialect::Fused));
        let mixers = model.config().mixers();
        let MixerConfig::Attention(attention) = &mixers[1] else { panic!("attention") };
        (attention.rotary.scaling.clone(), model)
    };
    let mut mamba = mamba_config("1a");
    let (scaled, with) = scaling(&mamba);
    assert_eq!(scaled.expect("scaling").factor, 8.0);
    mamba["rope_scaling"] = json!(false);
    let (scaled, without) = scaling(&mamba);
    assert_eq!(scaled, None);
    assert!(difference(with.forward(tokens(1, 30), None), without.forward(tokens(1, 30), None)) > 1e-4);
    let dir = tempfile::tempdir().expect("a folder");
    without.save(dir.path(), None).expect("saved");
    let again = load(&dir).forward(tokens(1, 30), None).into_data();
    assert_eq!(again, without.forward(tokens(1, 30), None).into_data());
}

#[test]
fn damaged_parts_are_named() {
    let Model::Llama(model) = mamba_in_llama("1a") else { panic!("a Llama") };
    let refused_after = |change: &dyn Fn(&mut Tensors)| {
        let mut file = mamba_in_llama_file(&model, Dialect::Split);
        change(&mut file);
        let dir = folder(&llama_config(true, 2), &file);
        std::fs::write(dir.path().join("mamba_config.json"), mamba_config("1a").to_string())
            .expect("written");
        refused(&dir)
    };
    for name in ["mamba.B_proj", "mamba.in_proj_z"] {
        let key = format!("model.layers.0.{name}.weight");
        let message = refused_after(&|file| drop(file.remove(&key)));
        assert!(message.contains(&format!("`{key}` is missing")), "{message}");
    }
    let message = refused_after(&|file| {
        let [z, x] = ["z", "x"].map(|name| format!("model.layers.0.mamba.in_proj_{name}.weight"));
        let (tall, short) = (file.remove(&z).expect("z"), file.remove(&x).expect("x"));
        file.extend([(z, short), (x, tall)]);
    });
    assert!(
        message.contains("`model.layers.0.mamba.in_proj_z.weight` is [16, 32], expected 32 rows"),
        "{message}"
    );
    let message = refused_after(&|file| drop(file.remove("model.layers.0.mamba.dt_proj.bias")));
    assert!(message.contains("1 missing: model.layers.0.mamba.dt_proj.bias [32]"), "{message}");
    let message = refused_after(&|file| {
        file.insert("model.layers.1.mha.in_proj.weight".into(), (vec![64, 32], vec![0.0; 64 * 32]));
    });
    assert!(message.contains("`model.layers.1.mha.in_proj.weight` is there twice"), "{message}");
}

#[test]
fn configurations_that_do_not_belong_to_the_weights_are_refused() {
    let refused_with = |layers: &str, change: &dyn Fn(&mut Value), part: &str| {
        for dialect in [Dialect::Split, Dialect::Fused] {
            let mut mamba = mamba_config(layers);
            change(&mut mamba);
            let message = refused(&hybrid_folder(&mamba_in_llama(layers), &mamba, dialect));
            assert!(message.contains(part), "{part} in {message}");
        }
    };
    refused_with(
        "1a1",
        &|mamba| mamba["attn_layers"] = json!([2]),
        "layer 1 holds attention, but the configuration says a Mamba-1 mixer",
    );
    refused_with(
        "1a1",
        &|mamba| mamba["attn_layers"] = json!([0, 1]),
        "layer 0 holds a Mamba-1 mixer, but the configuration says attention",
    );
    refused_with(
        "1a1",
        &|mamba| mamba["ssm_cfg"] = mamba_config("2")["ssm_cfg"].clone(),
        "layer 0 holds a Mamba-1 mixer, but the configuration says a Mamba-2 mixer",
    );
    refused_with(
        "2a2",
        &|mamba| mamba["ssm_cfg"] = json!({"expand": 1}),
        "layer 0 holds a Mamba-2 mixer, but the configuration says a Mamba-1 mixer",
    );
    for (field, value, part) in [
        ("d_model", json!(64), "mamba_config.json: `d_model` is 64, but config.json says 32"),
        ("n_layer", json!(9), "`n_layer` is 9, but config.json says 3"),
        ("rms_norm_eps", json!(1e-6), "`rms_norm_eps` is 0.000001, but config.json says 0.00001"),
        ("hidden_act", json!("gelu"), "`hidden_act` is \"gelu\", only \"silu\" is covered"),
        ("attn_layers", json!([3]), "`attn_layers` names layer 3, but there are only 3 (0 to 2)"),
        ("d_xb", Value::Null, "`d_xb` is missing"),
        ("d_xb", json!(24), "`d_xb` is 24, expected a multiple of 8 that divides the inner width 32"),
        ("d_inner", json!(40), "4 groups of 8 do not add up to the inner width 40"),
        ("ssm_cfg", json!({"ngroups": 6, "d_state": 8}), "6 groups of 8 do not add up to the inner width 32"),
    ] {
        refused_with("2a2", &|mamba| mamba[field] = value.clone(), part);
    }
    refused_with(
        "2a2",
        &|mamba| (mamba["d_inner"], mamba["ssm_cfg"]["ngroups"]) = (json!(48), json!(6)),
        "`d_inner` is 48, expected a multiple of the width 32",
    );

    let dir = hybrid_folder(&mamba_in_llama("1a1"), &json!({}), Dialect::Fused);
    std::fs::remove_file(dir.path().join("mamba_config.json")).expect("removed");
    assert!(refused(&dir).contains("layer 0 holds a Mamba-1 mixer, but the configuration says attention"));
    let other = llama("mm").config().with_mamba_config("{}").expect_err("no Llama");
    assert_eq!(other, "it belongs to a Llama, but the config.json beside it is that of a Llamba");
    let mut biased = llama_config(true, 2);
    biased["attention_bias"] = json!(true);
    let biased = ModelConfig::from_json(&biased.to_string()).expect("a Llama");
    let message = biased.with_mamba_config(&mamba_config("1a").to_string()).expect_err("biases");
    assert_eq!(message, "MambaInLlama has no biases in attention and MLP");
}

#[test]
fn hybrids_that_mamba_in_llama_does_not_know_are_not_written() {
    let unwritable = |layers: &str, change: &dyn Fn(&mut Vec<MixerConfig>)| {
        let ModelConfig::Llama(mut config) = mamba_in_llama(layers).config() else { panic!("a Llama") };
        change(&mut config.mixers);
        let dir = tempfile::tempdir().expect("a folder");
        let model = ModelConfig::Llama(config).init(&Device::flex());
        let message = model.save(dir.path(), None).expect_err("no format").to_string();
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
        message
    };
    assert!(unwritable("12", &|_| ()).contains("of Mamba-1 or of Mamba-2, not of both"));
    let wide = |mixers: &mut Vec<MixerConfig>| {
        if let MixerConfig::Mamba2(config) = &mut mixers[0] {
            config.chunk_size = 8;
        }
    };
    assert!(unwritable("22", &wide).contains("its layers of a Mamba-2 mixer differ in shape"));
    let plain = |mixers: &mut Vec<MixerConfig>| {
        if let MixerConfig::Mamba2(config) = &mut mixers[0] {
            config.d_xb = None;
        }
    };
    assert!(unwritable("2a", &plain).contains("MambaInLlama's Mamba-2 has `d_xb`"));
    let states = |mixers: &mut Vec<MixerConfig>| {
        if let MixerConfig::Mamba1(config) = &mut mixers[0] {
            config.d_state = 8;
        }
    };
    assert!(unwritable("1a", &states).contains("its Mamba-1 has states of 8, MambaInLlama's of 16"));
}

fn mamba2_attention_file(model: &Mamba2Lm) -> Tensors {
    let mut file = Writer::default();
    file.put("backbone.embedding.weight", model.embedding.weight.val());
    file.put("backbone.norm_f.weight", model.final_layernorm.weight.val());
    for (index, block) in model.layers.iter().enumerate() {
        let layer = format!("backbone.layers.{index}");
        file.put(format!("{layer}.norm.weight"), block.norm.weight.val());
        match &block.mixer {
            Mixer::Attention(attention) => {
                file.put(format!("{layer}.mixer.in_proj.weight"), fused(attention));
                let conv = attention.conv1d.as_ref().expect("a convolution");
                file.conv(&format!("{layer}.mixer.conv1d"), conv);
                file.linear(&format!("{layer}.mixer.out_proj"), &attention.o_proj);
            }
            Mixer::Mamba2(mixer) => write_mamba2(&mut file, &format!("{layer}.mixer"), mixer),
            _ => panic!("no mixer of mamba2attn"),
        }
    }
    file.0
}

/// As state-spaces writes it.
fn mamba2_attention_config() -> Value {
    json!({"d_model": 24, "d_intermediate": 0, "n_layer": 3, "vocab_size": 31, "pad_vocab_size_multiple": 1,
        "ssm_cfg": {"layer": "Mamba2", "d_state": 8, "headdim": 12, "ngroups": 2, "chunk_size": 8}, "attn_layer_idx": [1],
        "attn_cfg": {"causal": true, "d_conv": 4, "head_dim": 6, "num_heads": 4, "num_heads_kv": 2, "out_proj_bias": false,
            "qkv_proj_bias": false, "rotary_emb_dim": 4}, "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true,
        "tie_embeddings": true})
}

#[test]
fn mamba2attn_as_state_spaces_publishes_it() {
    let model = mamba2_attention("2a2");
    let Model::Mamba2(inner) = &model else { panic!("a Mamba-2") };
    let file = mamba2_attention_file(inner);
    assert_eq!(file["backbone.layers.1.mixer.in_proj.weight"].0, [48, 24]); // 4 + 2 + 2 heads of 6
    let loaded = load(&folder(&mamba2_attention_config(), &file));
    assert!(bits(&loaded) == bits(&model));
    let logits = |model: &Model| model.forward(tokens(2, 9), None).into_data();
    assert_eq!(logits(&loaded), logits(&model));
    assert_eq!(loaded.config().family(), "hybrid of Mamba-2 and attention");
    assert_eq!(mamba2(true).config().family(), "Mamba-2");
    assert!(tensors_of(&loaded.to_safetensors().expect("bytes")) == file);

    let written: Value = serde_json::from_str(&loaded.config_json().expect("JSON")).expect("JSON");
    let mut expected = mamba2_attention_config();
    expected["attn_cfg"]["rotary_emb_base"] = json!(10000.0);
    for (name, value) in
        [("bias", json!(false)), ("conv_bias", json!(true)), ("d_conv", json!(4)), ("expand", json!(2))]
    {
        expected["ssm_cfg"][name] = value;
    }
    assert_eq!(written, expected);
}

/// mamba_ssm's attention has biases unless it is told otherwise; rows of q, k and v have their own.
#[test]
fn biases_of_mamba2attn_lie_under_each_other() {
    let Model::Mamba2(inner) = mamba2_attention("2a") else { panic!("a Mamba-2") };
    let mut config = inner.config();
    let MixerConfig::Attention(attention) = &mut config.mixers[1] else { panic!("attention") };
    (attention.qkv_bias, attention.out_bias) = (true, true);
    let model = ModelConfig::Mamba2(config).init(&Device::flex());
    let dir = tempfile::tempdir().expect("a folder");
    model.save(dir.path(), None).expect("saved");
    let written = tensors_of(&std::fs::read(dir.path().join("model.safetensors")).expect("weights"));
    let Model::Mamba2(inner) = &model else { panic!("a Mamba-2") };
    let Mixer::Attention(attention) = &inner.layers[1].mixer else { panic!("attention") };
    let bias = |linear: &Linear| linear.bias.as_ref().expect("a bias").val();
    let expected = [&attention.q_proj, &attention.k_proj, &attention.v_proj].map(bias).to_vec();
    let expected: Vec<f32> = Tensor::cat(expected, 0).into_data().try_to_vec().expect("f32");
    assert_eq!(written["backbone.layers.1.mixer.in_proj.bias"], (vec![48], expected));
    assert!(bits(&load(&dir)) == bits(&model));
}

#[test]
fn mamba2attn_that_is_not_what_it_should_be_is_refused() {
    let Model::Mamba2(model) = mamba2_attention("2a2") else { panic!("a Mamba-2") };
    let refused_with = |change: &dyn Fn(&mut Value), part: &str| {
        let mut config = mamba2_attention_config();
        change(&mut config);
        let message = refused(&folder(&config, &mamba2_attention_file(&model)));
        assert!(message.contains(part), "{part} in {message}");
    };
    refused_with(&|config| config["d_intermediate"] = json!(64), "`d_intermediate` is 64, only 0 is covered");
    refused_with(&|config| config["attn_cfg"] = json!({}), "`attn_cfg.causal` is false");
    refused_with(&|config| config["attn_cfg"]["rotary_emb_dim"] = json!(7), "`attn_cfg.rotary_emb_dim` is 7");
    refused_with(&|config| config["attn_layer_idx"] = json!([5]), "`attn_layer_idx` names layer 5");
    refused_with(
        &|config| config["attn_layer_idx"] = json!([2]),
        "layer 1 holds attention with a convolution, but the configuration says a Mamba-2 mixer",
    );
    refused_with(
        &|config| config["attn_layer_idx"] = json!([0, 1]),
        "layer 0 holds a Mamba-2 mixer, but the configuration says attention with a convolution",
    );
    refused_with(
        &|config| config["attn_cfg"]["num_heads_kv"] = json!(4),
        "backbone.layers.1.mixer.in_proj.weight is [48, 24], expected [72, 24]",
    );
    let mut file = mamba2_attention_file(&model);
    file.remove("backbone.layers.1.mixer.in_proj.weight");
    let message = refused(&folder(&mamba2_attention_config(), &file));
    assert!(message.contains("1 missing: backbone.layers.1.mixer.in_proj.weight [48, 24]"), "{message}");
}
