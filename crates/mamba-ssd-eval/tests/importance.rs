//! The importance of layers, against the layer taken out by hand.

mod common;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use mamba_ssd::{Mixer, MixerConfig};
use mamba_ssd_eval::{Agreement, Scored, agreement, importance, score};
use mamba_ssd_models::Llama;

use common::{VOCAB, hybrid};

#[test]
fn a_layer_is_silenced_and_a_mixer_is_not() {
    let device = Device::flex();
    let model = hybrid(&device);
    let text = |length: usize| (0..length).map(|at| ((at * at + 3 * at) % VOCAB) as u32).collect::<Vec<_>>();
    let texts = vec![text(50), text(20)];
    let strings = vec![Scored::whole(text(40))];
    let mut layers = 0;
    let (found, whole) = importance(&model, &texts, &strings, || layers += 1);
    assert_eq!((layers, found.len(), found[0].layer), (1, 1, 0), "layer 1 is a Mamba-2");

    let mut silent: Llama = model.clone();
    let Mixer::Attention(attention) = &mut silent.layers[0].mixer else { panic!("layer 0 is attention") };
    attention.o_proj.weight = Param::from_tensor(Tensor::zeros_like(&attention.o_proj.weight.val()));
    let recalled = |model: &Llama| {
        let score = score(model, &strings, |_| ())[0];
        score.right as f64 / score.tokens as f64
    };
    let kl = Agreement::of(&agreement(&model, &silent, &texts, |_| ())).kl();
    assert!(kl > 1e-4 && (found[0].kl - kl).abs() < 1e-9, "{found:?}, expected {kl}");
    assert_eq!((found[0].recall, whole), (recalled(&silent), recalled(&model)));
    assert!(matches!(silent.layers[1].mixer.config(), MixerConfig::DiscreteMamba2(_)));
}
