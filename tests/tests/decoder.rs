//! Decoding by a recorded step against stepping by hand.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{
    AttentionConfig, Backbone, Decoder, DiscreteMamba2Config, Mamba2Config, MatrixMixer, Mixer, MixerConfig,
    MixerState, Segments, project,
};
use mamba_ssd_tests::device::{backend, device};
use mamba_ssd_tests::evaluate::values;
use mamba_ssd_tests::limits::relative_error;

const VOCABULARY: usize = 11;
const D: usize = 16;

/// Mixers between an embedding and a head.
#[derive(Module, Debug)]
struct Stack {
    embedding: Embedding,
    mixers: Vec<Mixer>,
    head: Linear,
}

impl Stack {
    fn new(mixers: &[MixerConfig], device: &Device) -> Self {
        Self {
            embedding: EmbeddingConfig::new(VOCABULARY, D).init(device),
            mixers: mixers.iter().map(|mixer| mixer.init(device)).collect(),
            head: LinearConfig::new(D, VOCABULARY).init(device),
        }
    }
}

impl Backbone for Stack {
    fn n_layers(&self) -> usize {
        self.mixers.len()
    }

    fn d_model(&self) -> usize {
        D
    }

    fn vocab_size(&self) -> usize {
        VOCABULARY
    }

    fn mixer(&self, layer: usize) -> &Mixer {
        &self.mixers[layer]
    }

    fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.embedding.forward(tokens)
    }

    fn layer(&self, layer: usize, hidden: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        hidden.clone() + self.mixers[layer].forward(hidden, segments)
    }

    fn mixer_input(&self, _layer: usize, hidden: Tensor<3>) -> Tensor<3> {
        hidden
    }

    fn head(&self, hidden: Tensor<3>) -> Tensor<3> {
        project(&self.head, hidden)
    }

    fn layer_prefill(&self, layer: usize, hidden: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        let (mixed, state) = self.mixers[layer].prefill(hidden.clone(), state);
        (hidden + mixed, state)
    }

    fn layer_step(&self, layer: usize, hidden: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState) {
        let (mixed, state) = self.mixers[layer].step(hidden.clone(), state);
        (hidden + mixed, state)
    }
}

fn ssm() -> [MixerConfig; 2] {
    let grouped = Mamba2Config::new(D).with_headdim(8).with_d_state(8);
    [MixerConfig::DiscreteMamba2(DiscreteMamba2Config::new(D, 4, 8)), MixerConfig::Mamba2(grouped)]
}

fn ints<const N: usize>(tokens: [i64; N], device: &Device) -> Tensor<1, Int> {
    Tensor::from_ints(tokens, device)
}

/// The decoder's logits and last state equal those of steps by hand, token after token.
fn decodes_like_steps(mixers: &[MixerConfig]) -> bool {
    let device = device();
    let model = Stack::new(mixers, &device);
    let prompt = Tensor::<2, Int>::from_ints([[1, 2, 3], [4, 5, 6]], &device);
    let (_, state) = model.prefill(prompt, model.init_state(2, &device));
    let mut by_hand = state.clone();
    let mut decoder = Decoder::new(model.clone(), state.clone(), &device);
    let recorded = decoder.is_recorded();
    for tokens in [[7, 8], [9, 10], [0, 1], [2, 2]] {
        let got = values(decoder.step(ints(tokens, &device)));
        let (want, next) = model.step(ints(tokens, &device), by_hand);
        by_hand = next;
        let want = values(want);
        assert!(relative_error(&got, &want, &want) < 1e-5, "logits after {tokens:?}");
    }
    let (_, after) = model.step(ints([3, 4], &device), decoder.into_state());
    let (_, want) = model.step(ints([3, 4], &device), by_hand);
    for (after, want) in after.layers.into_iter().zip(want.layers) {
        let (after, want) = (flat(after), flat(want));
        assert!(relative_error(&after, &want, &want) < 1e-5, "the state after the last token");
    }
    recorded
}

fn flat(state: MixerState) -> Vec<f64> {
    match state {
        MixerState::Attention { cache, conv } => {
            [values(cache.k), values(cache.v), conv.map(values).unwrap_or_default()].concat()
        }
        MixerState::Ssm { conv, ssm } => [values(conv), values(ssm)].concat(),
        MixerState::Parallel { .. } => panic!("no model here has both"),
    }
}

#[test]
fn a_recorded_step_decodes_like_steps_by_hand() {
    assert_eq!(decodes_like_steps(&ssm()), backend() != "flex", "graphs are recorded on GPUs");
}

#[test]
fn logits_outlive_the_next_step() {
    let device = device();
    let model = Stack::new(&ssm(), &device);
    let mut decoder = Decoder::new(model.clone(), model.init_state(2, &device), &device);
    let first = decoder.step(ints([1, 2], &device));
    let before = values(first.clone());
    let second = values(decoder.step(ints([3, 4], &device)));
    assert_eq!(values(first), before);
    assert_ne!(before, second);
}

#[test]
fn a_hybrid_decodes_without_a_recording() {
    let attention = AttentionConfig::new(D, 2, 2, 8, RotaryConfig::new(8));
    let mixers = [ssm()[0].clone(), MixerConfig::Attention(attention)];
    assert!(!decodes_like_steps(&mixers), "a key-value cache grows");
}

#[test]
#[should_panic(expected = "one token for each row")]
fn a_batch_of_another_size_is_refused() {
    let device = device();
    let model = Stack::new(&ssm(), &device);
    let state = model.init_state(2, &device);
    let _ = Decoder::new(model, state, &device).step(ints([1], &device));
}

#[test]
fn a_state_without_a_native_step_is_decoded_without_a_recording() {
    let wide = DiscreteMamba2Config::new(D, 2, 130); // more than the kernels hold
    assert!(!decodes_like_steps(&[MixerConfig::DiscreteMamba2(wide)]), "it would stand still");
}
