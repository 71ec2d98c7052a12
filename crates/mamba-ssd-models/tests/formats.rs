//! The same model in every form that it is published in: containers, key names, arrangements.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor};
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use common::{Golden, Tensors, difference, folder, golden_model, llama, read, read_text, tensors_of, tokens};
use mamba_ssd::{Backbone, MixerConfig};
use mamba_ssd_models::{Checkpoint, Model};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

fn golden_tensors(family: &str) -> Tensors {
    tensors_of(&read(&format!("{family}.weights.safetensors")))
}

fn load(path: &Path) -> Model {
    Model::load(path, &Device::flex()).unwrap_or_else(|error| panic!("{error}"))
}

/// Whether a file gives the model of a golden file, to the last bit.
fn assert_is_golden(model: &Model, family: &str) {
    let ids = Golden::open(family).input_ids();
    let (found, expected) = (model.forward(ids.clone(), None), golden_model(family).forward(ids, None));
    assert_eq!(found.into_data(), expected.into_data(), "{family}");
}

/// Rows of `parts` under each other.
fn stacked(parts: [&(Vec<usize>, Vec<f32>); 3]) -> (Vec<usize>, Vec<f32>) {
    let mut shape = parts[0].0.clone();
    shape[0] *= 3;
    (shape, parts.iter().flat_map(|(_, values)| values.clone()).collect())
}

/// Phi with q, k and v of every layer in one matrix, arranged by `fuse` and named `fused`.
fn fused_phi(fused: &str, fuse: impl Fn([&(Vec<usize>, Vec<f32>); 3]) -> (Vec<usize>, Vec<f32>)) -> Tensors {
    let mut tensors = golden_tensors("phi15");
    for layer in 0..2 {
        for suffix in ["weight", "bias"] {
            let key = |name: &str| format!("model.layers.{layer}.self_attn.{name}.{suffix}");
            let parts = ["q_proj", "k_proj", "v_proj"].map(|name| tensors.remove(&key(name)).expect(name));
            tensors.insert(key(fused), fuse(parts.each_ref()));
        }
    }
    tensors
}

fn renamed(tensors: Tensors, rename: impl Fn(&str) -> String) -> Tensors {
    tensors.into_iter().map(|(key, tensor)| (rename(&key), tensor)).collect()
}

fn replaced(key: &str, pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(key.to_string(), |key, (from, to)| key.replace(from, to))
}

const OLDER_PHI: &str = r#"{"n_embd": 64, "n_head": 4, "n_layer": 2, "rotary_dim": 8, "n_inner": null, "n_positions": 2048,
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05, "vocab_size": 100, "tie_word_embeddings": false}"#;

#[test]
fn phi_of_every_generation_is_the_same_model() {
    let older = |model_type: &str| {
        let mut config: Value = serde_json::from_str(OLDER_PHI).expect("JSON");
        config["model_type"] = json!(model_type);
        config
    };
    let msft = renamed(fused_phi("Wqkv", stacked), |key| {
        replaced(
            key,
            &[
                ("model.embed_tokens.", "transformer.embd.wte."),
                ("model.layers.", "transformer.h."),
                (".input_layernorm.", ".ln."),
                (".self_attn.dense.", ".mixer.out_proj."),
                (".self_attn.", ".mixer."),
                ("lm_head.", "lm_head.linear."),
                ("model.final_layernorm.", "lm_head.ln."),
            ],
        )
    });
    let dir = folder(&older("phi-msft"), &msft);
    assert_is_golden(&load(dir.path()), "phi15");

    let mut mixformer = renamed(msft, |key| {
        replaced(
            key,
            &[
                ("transformer.embd.wte.", "layers.0.wte."),
                ("transformer.h.1.", "layers.2."),
                ("transformer.h.0.", "layers.1."),
                ("lm_head.", "layers.3."),
            ],
        )
    });
    mixformer.insert("layers.1.mixer.rotary_emb.inv_freq".into(), (vec![4], vec![1.0; 4]));
    let dir = folder(&older("mixformer-sequential"), &mixformer);
    assert_is_golden(&load(dir.path()), "phi15");
}

/// Rows `[heads 3 16]`, from q, k and v of `[heads 16]` each.
fn head_by_head(parts: [&(Vec<usize>, Vec<f32>); 3]) -> (Vec<usize>, Vec<f32>) {
    let (rows, row) = (parts[0].0[0], parts[0].1.len() / parts[0].0[0]);
    let mut values = Vec::new();
    for head in 0..rows / 16 {
        for part in parts {
            values.extend_from_slice(&part.1[head * 16 * row..(head + 1) * 16 * row]);
        }
    }
    (stacked(parts).0, values)
}

#[test]
fn phi_in_development_is_the_same_model() {
    let config: Value = serde_json::from_str(&read_text("phi15.config.json")).expect("JSON");
    let tensors = renamed(fused_phi("query_key_value", head_by_head), |key| {
        replaced(
            key,
            &[(".self_attn.dense.", ".self_attn.o_proj."), ("model.final_layernorm.", "model.norm.")],
        )
    });
    let dir = folder(&config, &tensors);
    assert_is_golden(&load(dir.path()), "phi15");
}

/// Llama's golden model with biases is Qwen2; without a reference of its own it is checked against
/// Llama where the biases are zero, and against a shift of the values where they are not.
#[test]
fn qwen2_is_llama_with_biases_on_queries_keys_and_values() {
    let mut config: Value = serde_json::from_str(&read_text("llama32.config.json")).expect("JSON");
    config["model_type"] = json!("qwen2");
    let mut tensors = golden_tensors("llama32");
    for layer in 0..2 {
        for name in ["q_proj", "k_proj", "v_proj"] {
            let key = |suffix: &str| format!("model.layers.{layer}.self_attn.{name}.{suffix}");
            let rows = tensors[&key("weight")].0[0];
            tensors.insert(key("bias"), (vec![rows], vec![0.0; rows]));
        }
    }
    let dir = folder(&config, &tensors);
    let model = load(dir.path());
    assert_eq!(model.config().family(), "Qwen2");
    assert_is_golden(&model, "llama32");

    let again = tempfile::tempdir().expect("a folder");
    model.save(again.path(), None).expect("saved");
    let written: Value =
        serde_json::from_slice(&std::fs::read(again.path().join("config.json")).expect("a config"))
            .expect("JSON");
    assert_eq!(written["model_type"], "qwen2");
    assert_is_golden(&load(again.path()), "llama32");
    let written = tensors_of(&std::fs::read(again.path().join("model.safetensors")).expect("weights"));
    assert!(written.contains_key("model.layers.1.self_attn.k_proj.bias"));
    assert!(!written.contains_key("model.layers.1.self_attn.o_proj.bias"));
}

#[test]
fn codestral_as_mistral_publishes_it_is_mamba2_with_a_prefix() {
    let tensors = renamed(golden_tensors("mamba2_g8"), |key| {
        let key = key.replace("backbone.embeddings.", "backbone.embedding.");
        format!("model.{key}")
    });
    let transformers: Value = serde_json::from_str(&read_text("mamba2_g8.config.json")).expect("JSON");
    let dir = folder(&transformers, &tensors);
    assert_is_golden(&load(dir.path()), "mamba2_g8");

    // Sizes that params.json leaves out are those of the published model, not of this tiny one.
    std::fs::remove_file(dir.path().join("config.json")).expect("removed");
    let params = json!({"dim": 4096, "n_layers": 64, "vocab_size": 32768, "n_groups": 8, "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true,
        "pad_vocab_size_multiple": 1, "tie_embeddings": false, "model_type": "mamba"});
    std::fs::write(dir.path().join("params.json"), params.to_string()).expect("written");
    std::fs::rename(dir.path().join("model.safetensors"), dir.path().join("consolidated.safetensors"))
        .expect("renamed");
    let checkpoint = Checkpoint::open(dir.path()).expect("the door knows it");
    let mamba_ssd_models::ModelConfig::Mamba2(config) = checkpoint.config() else { panic!("a Mamba-2") };
    let MixerConfig::Mamba2(mixer) = &config.mixers[0] else { panic!("a Mamba-2 mixer") };
    assert_eq!((mixer.ngroups, mixer.d_state, mixer.headdim), (8, 128, 64));
    assert_eq!(config.n_params(), 7_285_403_648); // 14.571 GB of bf16 are published
    let message =
        checkpoint.load(&Device::flex(), DType::F32).expect_err("weights of a tiny model").to_string();
    assert!(message.contains("describes 7285403648 parameters; they do not belong together"), "{message}");
}

/// Llama's rows of q and k as llama.cpp stores them: halves of a head become pairs.
fn interleaved((shape, values): &(Vec<usize>, Vec<f32>), head_dim: usize) -> (Vec<usize>, Vec<f32>) {
    let row = values.len() / shape[0];
    let mut moved = Vec::new();
    for head in 0..shape[0] / head_dim {
        for pair in 0..head_dim / 2 {
            for half in 0..2 {
                let from = head * head_dim + half * head_dim / 2 + pair;
                moved.extend_from_slice(&values[from * row..(from + 1) * row]);
            }
        }
    }
    (shape.clone(), moved)
}

const GGUF_NAMES: [(&str, &str); 12] = [
    ("model.layers.", "blk."),
    (".input_layernorm.", ".attn_norm."),
    (".self_attn.q_proj.", ".attn_q."),
    (".self_attn.k_proj.", ".attn_k."),
    (".self_attn.v_proj.", ".attn_v."),
    (".self_attn.o_proj.", ".attn_output."),
    (".post_attention_layernorm.", ".ffn_norm."),
    (".mlp.gate_proj.", ".ffn_gate."),
    (".mlp.up_proj.", ".ffn_up."),
    (".mlp.down_proj.", ".ffn_down."),
    ("model.embed_tokens.", "token_embd."),
    ("model.norm.", "output_norm."),
];

/// The golden Llama as a GGUF file, written by candle.
fn write_gguf(path: &Path, architecture: &str, dtype: GgmlDType) {
    let config: Value = serde_json::from_str(&read_text("llama32.config.json")).expect("JSON");
    let size = |name: &str| config[name].as_u64().expect(name) as u32;
    let head_dim =
        config["head_dim"].as_u64().map_or(size("hidden_size") / size("num_attention_heads"), |d| d as u32);
    let device = candle_core::Device::Cpu;
    let mut tensors = Vec::new();
    for (key, tensor) in golden_tensors("llama32").into_iter().filter(|(key, _)| key != "lm_head.weight") {
        let rotated = key.contains("q_proj") || key.contains("k_proj");
        let (shape, values) = match architecture {
            "llama" if rotated => interleaved(&tensor, head_dim as usize),
            _ => tensor,
        };
        let matrix = shape.len() == 2;
        let tensor = candle_core::Tensor::from_vec(values, shape, &device).expect("a tensor");
        let quantised =
            QTensor::quantize(&tensor, if matrix { dtype } else { GgmlDType::F32 }).expect("blocks");
        tensors.push((replaced(&key, &GGUF_NAMES), quantised));
    }
    if architecture == "qwen2" {
        for layer in 0..2 {
            for (name, heads) in
                [("q", "num_attention_heads"), ("k", "num_key_value_heads"), ("v", "num_key_value_heads")]
            {
                let zeros = candle_core::Tensor::zeros(
                    (size(heads) * head_dim) as usize,
                    candle_core::DType::F32,
                    &device,
                );
                let zeros = QTensor::quantize(&zeros.expect("zeros"), GgmlDType::F32).expect("zeros");
                tensors.push((format!("blk.{layer}.attn_{name}.bias"), zeros));
            }
        }
    }
    let factors: Vec<f32> = rope_factors(&config, head_dim as usize);
    let count = factors.len();
    let factors = candle_core::Tensor::from_vec(factors, count, &device).expect("factors");
    tensors.push(("rope_freqs.weight".into(), QTensor::quantize(&factors, GgmlDType::F32).expect("factors")));

    let scaling = &config["rope_parameters"];
    let (whole, real) = (gguf_file::Value::U32, |value: &Value| {
        gguf_file::Value::F32(value.as_f64().expect("a number") as f32)
    });
    let metadata = [
        ("general.architecture".to_string(), gguf_file::Value::String(architecture.into())),
        (format!("{architecture}.block_count"), whole(size("num_hidden_layers"))),
        (format!("{architecture}.embedding_length"), whole(size("hidden_size"))),
        (format!("{architecture}.feed_forward_length"), whole(size("intermediate_size"))),
        (format!("{architecture}.attention.head_count"), whole(size("num_attention_heads"))),
        (format!("{architecture}.attention.head_count_kv"), whole(size("num_key_value_heads"))),
        (format!("{architecture}.attention.key_length"), whole(head_dim)),
        (format!("{architecture}.attention.layer_norm_rms_epsilon"), real(&config["rms_norm_eps"])),
        (format!("{architecture}.rope.freq_base"), real(&scaling["rope_theta"])),
        ("tokenizer.ggml.eos_token_id".to_string(), whole(2)),
    ];
    let metadata: Vec<(&str, &gguf_file::Value)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(key, tensor)| (key.as_str(), tensor)).collect();
    let mut file = std::fs::File::create(path).expect("a file");
    gguf_file::write(&mut file, &metadata, &tensors).expect("written");
}

/// What llama.cpp's converter stores of Llama 3's scaling.
fn rope_factors(config: &Value, head_dim: usize) -> Vec<f32> {
    let number = |name: &str| config["rope_parameters"][name].as_f64().expect(name);
    let original = number("original_max_position_embeddings");
    let (low, high, factor) = (number("low_freq_factor"), number("high_freq_factor"), number("factor"));
    (0..head_dim / 2)
        .map(|i| {
            let wavelength =
                std::f64::consts::TAU * number("rope_theta").powf(2.0 * i as f64 / head_dim as f64);
            let smooth = (original / wavelength - low) / (high - low);
            let factor = match wavelength {
                w if w < original / high => 1.0,
                w if w > original / low => factor,
                _ => 1.0 / ((1.0 - smooth) / factor + smooth),
            };
            factor as f32
        })
        .collect()
}

#[test]
fn a_gguf_file_of_llama_or_qwen2_is_the_same_model() {
    for architecture in ["llama", "qwen2"] {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("model.bin"); // recognised by what it holds
        write_gguf(&path, architecture, GgmlDType::F32);
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            (checkpoint.format(), checkpoint.config().tokens().eos.as_slice()),
            ("GGUF", [2].as_slice())
        );
        let model = checkpoint.load(&Device::flex(), DType::F32).unwrap_or_else(|error| panic!("{error}"));
        let ids = Golden::open("llama32").input_ids();
        let error = difference(model.forward(ids.clone(), None), golden_model("llama32").forward(ids, None));
        assert!(error < 1e-5, "{architecture}: {error}"); // ε and θ are f32 in the file
        assert_is_same_config(&model);
        let found = load(dir.path()); // the only file of a folder
        assert_eq!(found.config_json().expect("JSON"), model.config_json().expect("JSON"));
    }
}

fn assert_is_same_config(model: &Model) {
    let mixers = |model: &Model| format!("{:?}", model.config().mixers()[0]);
    let golden = mixers(&golden_model("llama32"));
    let scaling = |text: &str| {
        text.split_once("scaling").map(|(_, rest)| rest.split('}').next().unwrap_or("").to_string())
    };
    assert_eq!(scaling(&mixers(model)), scaling(&golden), "Llama 3's scaling is found in the factors");
}

#[test]
fn a_quantised_gguf_file_is_nearly_the_same_model() {
    for (dtype, limit) in
        [(GgmlDType::F16, 1e-3), (GgmlDType::BF16, 1e-2), (GgmlDType::Q8_0, 1e-2), (GgmlDType::Q4_1, 0.2)]
    {
        let dir = tempfile::tempdir().expect("a folder");
        write_gguf(&dir.path().join("model.gguf"), "llama", dtype);
        let ids = Golden::open("llama32").input_ids();
        let (found, expected) =
            (load(dir.path()).forward(ids.clone(), None), golden_model("llama32").forward(ids, None));
        let norm = |x: Tensor<3>| x.square().sum().sqrt().into_scalar::<f32>();
        let error = norm(found - expected.clone()) / norm(expected);
        assert!(error > 0.0 && error < limit, "{dtype:?}: {error}");
    }
}

/// A matrix in groups of `group` columns of `bits` bits, and the numbers that these stand for.
fn affine(
    values: &[f32],
    columns: usize,
    group: usize,
    bits: u32,
) -> (Vec<u32>, Vec<f32>, Vec<f32>, Vec<f32>) {
    let (mut words, mut scales, mut biases, mut exact) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut codes = Vec::new();
    for row in values.chunks(columns) {
        for part in row.chunks(group) {
            let low = part.iter().copied().fold(f32::INFINITY, f32::min);
            let high = part.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let scale = (high - low) / ((1 << bits) - 1) as f32;
            scales.push(scale);
            biases.push(low);
            for value in part {
                let code = ((value - low) / scale).round() as u32;
                codes.push(code);
                exact.push(scale * code as f32 + low);
            }
        }
    }
    for chunk in codes.chunks(32 / bits as usize) {
        words.push(chunk.iter().enumerate().fold(0, |word, (i, code)| word | code << (bits as usize * i)));
    }
    (words, scales, biases, exact)
}

/// Llamba's matrices, and what MLX calls them in a layer's two entries.
const MLX_MATRICES: [(&str, usize, &str); 5] = [
    ("mixer.in_proj", 0, "layer.in_proj"),
    ("mixer.out_proj", 0, "layer.out_proj"),
    ("mlp.gate_proj", 1, "layer.in_proj"),
    ("mlp.up_proj", 1, "layer.gate_proj"),
    ("mlp.down_proj", 1, "layer.out_proj"),
];
const MLX_VECTORS: [(&str, usize, &str); 6] = [
    ("input_layernorm.weight", 0, "norm.weight"),
    ("post_attention_layernorm.weight", 1, "norm.weight"),
    ("mixer.z_bias", 0, "layer.z_bias"),
    ("mixer.conv1d.weight", 0, "layer.conv_weight"),
    ("mixer.conv1d.bias", 0, "layer.conv_bias"),
    ("mixer.D", 0, "layer.D"),
];

#[test]
fn llamba_for_mlx_is_the_model_of_its_dequantised_matrices() {
    for bits in [4u32, 8] {
        let original = llama("mm");
        let mut exact = tensors_of(&original.to_safetensors().expect("bytes"));
        let mut file: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
        let floats =
            |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let mut quantise = |key: &str, name: &str, exact: &mut Tensors, keep: bool| {
            let (shape, values) = exact[key].clone();
            let (words, scales, biases, dequantised) = affine(&values, shape[1], 8, bits);
            let words: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let columns = shape[1] * bits as usize / 32;
            file.insert(format!("{name}.weight"), (Dtype::U32, vec![shape[0], columns], words));
            for (part, numbers) in [("scales", scales), ("biases", biases)] {
                file.insert(
                    format!("{name}.{part}"),
                    (Dtype::F32, vec![shape[0], shape[1] / 8], floats(&numbers)),
                );
            }
            if keep {
                exact.insert(key.to_string(), (shape, dequantised));
            } else {
                exact.insert("lm_head.weight".to_string(), (shape, dequantised));
            }
        };
        for layer in 0..2 {
            for (key, entry, name) in MLX_MATRICES {
                let name = format!("model.layers.{}.{name}", 2 * layer + entry);
                quantise(&format!("backbone.layers.{layer}.{key}.weight"), &name, &mut exact, true);
            }
        }
        quantise("backbone.embedding.weight", "head.linear", &mut exact, false);
        let mut plain = |key: String, name: String| {
            let (mut shape, values) = exact[&key].clone();
            shape.retain(|&axis| axis != 1); // a convolution without its middle axis
            file.insert(name, (Dtype::F32, shape, floats(&values)));
        };
        for layer in 0..2 {
            for (key, entry, name) in MLX_VECTORS {
                plain(
                    format!("backbone.layers.{layer}.{key}"),
                    format!("model.layers.{}.{name}", 2 * layer + entry),
                );
            }
        }
        plain("backbone.embedding.weight".into(), "embedding.encoder.weight".into());
        plain("backbone.final_layernorm.weight".into(), "model.norm.weight".into());

        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("weights");
        let views = file.iter().map(|(key, (dtype, shape, data))| {
            (key, TensorView::new(*dtype, shape.clone(), data).expect("a tensor"))
        });
        let metadata = [("quantization_kwargs.bits".to_string(), bits.to_string())];
        std::fs::write(&path, safetensors::serialize(views, Some(metadata.into())).expect("bytes"))
            .expect("written");
        let found = load(&path);

        let mut config: Value = serde_json::from_str(&original.config_json().expect("JSON")).expect("JSON");
        (config["tie_embeddings"], config["norm_epsilon"]) = (json!(false), json!(1e-5));
        config.as_object_mut().expect("an object").remove("block_norm_epsilon");
        let expected = load(folder(&config, &exact).path());
        let difference = difference(found.forward(tokens(2, 9), None), expected.forward(tokens(2, 9), None));
        assert!(difference < 1e-5, "{bits} bits: {difference}"); // scale · code + bias, fused or not
    }
}

/// A file of torch.save has f16 beside f32, and one storage for embedding and head.
#[test]
fn a_file_of_torch_is_the_model_of_its_tensors() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("config.json"), read("state_spaces.config.json")).expect("written");
    let place = |from: &str, to: &str| std::fs::write(dir.path().join(to), read(from)).expect("written");
    place("state_spaces.safetensors", "model.safetensors");
    let expected = load(dir.path()).forward(tokens(2, 9), None).into_data();
    std::fs::remove_file(dir.path().join("model.safetensors")).expect("removed");
    for file in ["state_spaces.bin", "state_spaces.old.bin"] {
        place(file, "pytorch_model.bin");
        let checkpoint = Checkpoint::open(dir.path()).unwrap_or_else(|error| panic!("{error}"));
        let dtypes = |part: &str| {
            let infos = checkpoint.tensors().into_iter().filter(|info| info.key.contains(part));
            infos.map(|info| info.dtype).collect::<Vec<_>>()
        };
        assert_eq!(dtypes("mixer.D"), ["F32", "F32"]);
        assert_eq!(dtypes("in_proj"), ["F16", "F16"]);
        assert_eq!(load(dir.path()).forward(tokens(2, 9), None).into_data(), expected, "{file}");
    }
}
