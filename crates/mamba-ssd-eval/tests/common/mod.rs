//! A small language model with random weights.

use burn::tensor::Device;
use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{AttentionConfig, DiscreteMamba2Config, MixerConfig};
use mamba_ssd_models::{Llama, LlamaConfig};

pub const VOCAB: usize = 37;

/// One layer of attention and one of a discrete Mamba-2.
pub fn hybrid(device: &Device) -> Llama {
    let attention = AttentionConfig::new(16, 2, 2, 8, RotaryConfig::new(8));
    let mut config = LlamaConfig::transformer(VOCAB, 2, attention, 32);
    config.mixers[1] = MixerConfig::DiscreteMamba2(DiscreteMamba2Config::new(16, 2, 8));
    config.init(device)
}
