//! States in files.

mod common;

use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Int, Tensor};
use common::{attention, llama, mamba_in_llama, phi, tokens, zoo};
use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{Backbone, MixerConfig, State};
use mamba_ssd_models::{LlamaConfig, Model, ModelConfig};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// Two rows of different lengths.
fn ragged(model: &Model) -> State {
    let rows = [3, 8].map(|length| model.prefill(tokens(1, length), model.init_state(1, &Device::flex())).1);
    State::concat(rows.to_vec())
}

fn next(model: &Model, state: State) -> Vec<u32> {
    let token = Tensor::<1, Int>::from_data([5, 9], &Device::flex());
    let logits: Vec<f32> = model.step(token, state).0.into_data().try_into_vec().expect("f32");
    logits.into_iter().map(f32::to_bits).collect()
}

fn refused(model: &Model, path: &Path) -> String {
    let message = model.load_state(path).expect_err("refused").to_string();
    assert!(!message.contains('\n') && message.contains(&path.display().to_string()), "{message}");
    message
}

#[test]
fn a_restored_state_goes_on_bit_for_bit() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.safetensors");
    for (name, model) in zoo() {
        let state = ragged(&model);
        model.save_state(&path, &state).expect("written");
        let restored = model.load_state(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((restored.batch(), restored.bytes()), (2, state.bytes()), "{name}");
        assert_eq!(next(&model, restored), next(&model, state), "{name}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing temporary is left");
    }
}

#[test]
fn the_state_of_another_model_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.safetensors");
    let model = llama("mam");
    model.save_state(&path, &ragged(&model)).expect("written");
    assert_eq!(model.fingerprint(), model.clone().fingerprint());
    let shape = |fingerprint: String| fingerprint[..16].to_string();
    assert_eq!(shape(model.fingerprint()), shape(llama("mam").fingerprint()), "drawn anew, the same shape");
    let turned = |theta| {
        let mut config = LlamaConfig::transformer(31, 1, attention(24), 40);
        let mut turned = attention(24);
        turned.rotary = RotaryConfig::new(6).with_theta(theta);
        config.mixers = vec![MixerConfig::Attention(turned)];
        ModelConfig::Llama(config).init(&Device::flex()).fingerprint()
    };
    assert_ne!(shape(turned(500.0)), shape(turned(501.0)), "the same shapes, another rotation");
    for other in [llama("amm"), llama("amma"), phi("mam"), mamba_in_llama("1a1")] {
        let message = refused(&other, &path);
        for part in
            ["another model", "hybrid of Llama and Llamba of 3 layers", &other.fingerprint(), "load it with"]
        {
            assert!(message.contains(part), "{part:?} in {message}");
        }
    }
}

#[test]
fn the_state_of_other_weights_is_refused() {
    struct Nudge(bool);
    impl ModuleMapper for Nudge {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match std::mem::take(&mut self.0) {
                true => param.map(|weight| weight * 1.0001),
                false => param,
            }
        }
    }
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.safetensors");
    let model = llama("mam");
    model.save_state(&path, &ragged(&model)).expect("written");
    let trained = model.map(&mut Nudge(true));
    let message = refused(&trained, &path);
    assert!(message.contains("a model of this shape with other weights"), "{message}");
}

#[test]
fn what_is_no_state_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = llama("mam");
    let written = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    };
    assert!(refused(&model, &dir.path().join("absent")).contains("cannot read"));
    assert!(refused(&model, &written("text", b"no")).contains("no safetensors file"));
    let weights = written("weights", &model.to_safetensors().expect("bytes"));
    assert!(refused(&model, &weights).contains("something else"));
}

/// A saved state with some of its tensors or metadata changed.
#[test]
fn a_damaged_state_is_refused_by_the_tensor_that_is_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.safetensors");
    let model = llama("mam");
    model.save_state(&path, &ragged(&model)).expect("written");
    let sound = std::fs::read(&path).expect("bytes");
    let (_, header) = SafeTensors::read_metadata(&sound).expect("a header");
    let metadata = header.metadata().clone().expect("metadata");
    let file = SafeTensors::deserialize(&sound).expect("a file");
    let damaged = |leave_out: &str, padding: &str| {
        let views = file.iter().filter(|(key, _)| *key != leave_out);
        let mut metadata = metadata.clone();
        metadata.insert("layers.1.padding".into(), padding.into());
        let bytes = safetensors::serialize(views, Some(metadata)).expect("bytes");
        std::fs::write(&path, bytes).expect("written");
    };
    damaged("", "5,0");
    model.load_state(&path).expect("as it was");
    damaged("layers.2.ssm", "5,0");
    assert!(refused(&model, &path).contains("`layers.2.ssm` is missing"));
    for padding in ["5", "9,0", "-1,0", "", "5,0,0"] {
        damaged("", padding);
        assert!(refused(&model, &path).contains("`layers.1.padding`"), "{padding}");
    }
    for length in [0, 7, 8, 100, sound.len() - 1] {
        std::fs::write(&path, &sound[..length]).expect("written");
        refused(&model, &path);
    }
}

/// Rows without columns take no bytes in a file, so that it may speak of any number of them.
#[test]
fn a_state_of_endless_rows_is_refused_before_memory_is_taken() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.safetensors");
    let model = llama("aa");
    model.save_state(&path, &model.init_state(1, &Device::flex())).expect("written");
    let sound = std::fs::read(&path).expect("bytes");
    let (_, header) = SafeTensors::read_metadata(&sound).expect("a header");
    let endless = || TensorView::new(Dtype::F32, vec![1 << 40, 2, 0, 6], &[]).expect("no bytes");
    let keys = ["layers.0.k", "layers.0.v", "layers.1.k", "layers.1.v"];
    let bytes =
        safetensors::serialize(keys.map(|key| (key, endless())), header.metadata().clone()).expect("bytes");
    std::fs::write(&path, bytes).expect("written");
    assert!(refused(&model, &path).contains("`layers.0.padding`"));
}

/// A bit of the header turned: refused on one line, or read as a state where only a name of the metadata changed.
#[test]
fn no_bit_of_a_header_brings_the_program_down() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.safetensors");
    let model = llama("mam");
    model.save_state(&path, &ragged(&model)).expect("written");
    let sound = std::fs::read(&path).expect("bytes");
    let (length, _) = SafeTensors::read_metadata(&sound).expect("a header");
    let mut refusals = 0;
    for at in 0..8 + length {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (at % 7);
        std::fs::write(&path, &damaged).expect("written");
        match model.load_state(&path) {
            Ok(state) => assert_eq!(state.layers.len(), 3),
            Err(_) => {
                refused(&model, &path);
                refusals += 1;
            }
        }
    }
    assert!(refusals > length / 2, "{refusals} of {length}");
}
