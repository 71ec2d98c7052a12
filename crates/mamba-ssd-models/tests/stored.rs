//! Weights stored in bf16 and in 8-bit integers: every family computes with what they stand for, wherever they were stored.

mod common;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use common::{difference, load, tokens, zoo};
use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{
    AttentionConfig, Backbone, DiscreteMamba2Config, Mamba1Config, Mamba2Config, MixerConfig, WeightFormat,
};
use mamba_ssd_models::{
    Checkpoint, LlamaConfig, Mamba2LmConfig, Model, ModelConfig, PhiConfig, SaveOptions, SpecialTokens,
};

const FORMATS: [WeightFormat; 2] = [WeightFormat::Bf16, WeightFormat::Int8];

/// Depths that 64 divides; those of the zoo are 24, of which int8 makes bf16, and 32.
fn wide() -> Vec<(String, Model)> {
    let attention = || AttentionConfig::new(64, 4, 2, 16, RotaryConfig::new(16));
    let llama = |mixer: MixerConfig| {
        let mixers = vec![mixer, MixerConfig::Attention(attention())];
        ModelConfig::Llama(LlamaConfig { mixers, ..LlamaConfig::transformer(31, 1, attention(), 128) })
    };
    let phi = PhiConfig {
        vocab_size: 31,
        d_model: 64,
        d_mlp: 128,
        mixers: vec![MixerConfig::Attention(attention().with_qkv_bias(true).with_out_bias(true))],
        norm_epsilon: 1e-5,
        max_position: None,
        tokens: SpecialTokens::default(),
    };
    let mixer = MixerConfig::Mamba2(Mamba2Config::new(64).with_d_state(16).with_headdim(32));
    let mamba2 = Mamba2LmConfig {
        vocab_size: 31,
        d_model: 64,
        mixers: vec![mixer; 2],
        norm_epsilon: 1e-5,
        tie_embeddings: true,
        tokens: SpecialTokens::default(),
    };
    let configs = [
        ("discrete", llama(MixerConfig::DiscreteMamba2(DiscreteMamba2Config::new(64, 4, 16)))),
        ("Mamba-2", ModelConfig::Mamba2(mamba2)),
        ("Mamba-1", llama(MixerConfig::Mamba1(Mamba1Config::new(64, 64, 32)))),
        ("Phi", ModelConfig::Phi(phi)),
    ];
    let model = |config: ModelConfig| config.init(&Device::flex()).materialize();
    configs.into_iter().map(|(name, config)| (format!("wide {name}"), model(config))).collect()
}

/// Logits of two rows, by a prefill and two steps.
fn logits(model: &Model) -> Tensor<3> {
    let (first, mut state) = model.prefill(tokens(2, 5), model.init_state(2, &Device::flex()));
    let mut all = vec![first];
    for at in 5..7 {
        let (next, after) = model.step(tokens(2, 7).narrow(1, at, 1).squeeze_dim(1), state);
        state = after;
        all.push(next.unsqueeze_dim(1));
    }
    Tensor::cat(all, 1)
}

#[test]
fn a_stored_model_computes_in_f32_with_what_its_weights_stand_for() {
    for (name, model) in zoo().into_iter().chain(wide()) {
        let whole = logits(&model);
        let size: f32 = whole.clone().abs().max().into_scalar();
        for format in FORMATS {
            let stored = format.store(model.clone());
            let got = logits(&stored);
            assert_eq!(got.dtype(), DType::F32, "{name} {format:?}");
            let states = [&model, &stored].map(|model| model.init_state(3, &Device::flex()));
            let [bytes, per_token] = [
                states.each_ref().map(|state| state.bytes()),
                states.each_ref().map(|state| state.bytes_per_token()),
            ];
            assert_eq!((bytes[0], per_token[0]), (bytes[1], per_token[1]), "{name} {format:?}");

            // Written as the numbers they stand for, and read into f32.
            let dir = tempfile::tempdir().expect("a folder");
            let options = SaveOptions { dtype: Some(DType::F32), ..SaveOptions::default() };
            stored.save_with(dir.path(), &options).expect("saved");
            let error = difference(got.clone(), logits(&load(dir.path()).expect("loaded")));
            assert!(error < 1e-5 * size, "{name} {format:?}: {error} from its numbers, of {size}");
            let rounding = difference(got, whole.clone());
            assert!(rounding > 0.0 && rounding < 0.1 * size, "{name} {format:?}: {rounding} of {size}");
        }
    }
}

#[test]
fn weights_are_the_same_stored_when_read_and_later() {
    for (name, model) in wide() {
        let dir = tempfile::tempdir().expect("a folder");
        model.save(dir.path(), None).expect("saved");
        for format in FORMATS {
            let read = Checkpoint::open(dir.path()).expect("a checkpoint");
            let read = read.load_stored(&Device::flex(), DType::F32, format).expect("loaded");
            let apart = difference(logits(&read), logits(&format.store(model.clone())));
            assert_eq!(apart, 0.0, "{name} {format:?}");
        }
    }
}
