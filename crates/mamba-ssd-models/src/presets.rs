//! Published models by name: their shapes at full size, without any weight.
//!
//! ```
//! use mamba_ssd_models::presets;
//!
//! let config = presets::by_name("llamba-1b").expect("a preset").config();
//! assert_eq!(config.n_params(), 1_405_159_936);
//! let state = config.state_size(); // numbers that decoding one sequence carries
//! assert_eq!((4 * state.constant, state.per_token), (9_568_256, 0)); // bytes in f32
//! ```
//!
//! Shapes are those of the published configurations, or of the file sizes where no configuration was seen (Llamba-1B
//! and 8B, and which layers of MambaInLlama 1B and 3B hold attention: how many is certain).

use mamba_ssd::rope::{Llama3Scaling, RotaryConfig};
use mamba_ssd::{
    AttentionConfig, DiscreteMamba2Config, JunctionKind, Mamba1Config, Mamba2Config, MixerConfig,
    ParallelConfig,
};

use crate::{LlamaConfig, Mamba2LmConfig, ModelConfig, PhiConfig, SpecialTokens};

/// A published model.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// What it is asked for by.
    pub name: &'static str,
    /// Where it is published.
    pub source: &'static str,
    build: fn() -> ModelConfig,
}

impl Preset {
    /// Its shapes.
    pub fn config(&self) -> ModelConfig {
        (self.build)()
    }
}

/// The preset of a name.
pub fn by_name(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// Every preset.
#[rustfmt::skip] // a table
pub const PRESETS: &[Preset] = &[
    Preset { name: "llama-3.2-1b", source: "meta-llama/Llama-3.2-1B", build: || llama(LLAMA_1B) },
    Preset { name: "llama-3.2-3b", source: "meta-llama/Llama-3.2-3B", build: || llama(LLAMA_3B) },
    Preset { name: "llama-3.1-8b", source: "meta-llama/Llama-3.1-8B", build: || llama(LLAMA_8B) },
    Preset { name: "qwen2.5-0.5b", source: "Qwen/Qwen2.5-0.5B", build: || qwen(896, 24, 4864, [14, 2, 64]) },
    Preset { name: "qwen2.5-1.5b", source: "Qwen/Qwen2.5-1.5B", build: || qwen(1536, 28, 8960, [12, 2, 128]) },
    Preset { name: "qwen2.5-3b", source: "Qwen/Qwen2.5-3B", build: || qwen(2048, 36, 11008, [16, 2, 128]) },
    Preset { name: "smollm2-135m", source: "HuggingFaceTB/SmolLM2-135M", build: || ModelConfig::Llama(smollm2()) },
    Preset { name: "smollm2-135m-llamba", source: "SmolLM2-135M with the mixers of Llamba, as `convert` makes it", build: smollm2_llamba },
    Preset { name: "llamba-1b", source: "cartesia-ai/Llamba-1B", build: || llamba(LLAMA_1B, true) },
    Preset { name: "llamba-3b", source: "cartesia-ai/Llamba-3B", build: || llamba(LLAMA_3B, true) },
    Preset { name: "llamba-8b", source: "cartesia-ai/Llamba-8B", build: || llamba(LLAMA_8B, true) },
    Preset { name: "llamba-8b-untied", source: "cartesia-ai/Llamba-8B-untied", build: || llamba(LLAMA_8B, false) },
    Preset { name: "hybrid-llama-1b-arch5", source: "goombalab/mohawk, configs/Llama/1B/hybrid/architecture_5.yaml", build: arch5 },
    Preset { name: "phi-1.5", source: "microsoft/phi-1_5", build: || phi(|_| phi_attention()) },
    Preset { name: "phi-mamba", source: "goombalab/Phi-Mamba", build: || phi(|_| phi_mixer()) },
    Preset { name: "hybrid-phi-mamba", source: "goombalab/Hybrid-Phi-Mamba", build: || phi(|layer| if HYBRID_PHI.contains(&layer) { phi_attention() } else { phi_mixer() }) },
    Preset { name: "mamba-in-llama-1b", source: "JunxiongWang/MambaInLlama1B_Distill_MATH", build: || mamba_in_llama(LLAMA_1B, &[3, 7, 11, 15]) },
    Preset { name: "mamba-in-llama-3b", source: "JunxiongWang/MambaInLlama3B_Distill_MATH, togethercomputer/M1-3B", build: || mamba_in_llama(LLAMA_3B, &[3, 8, 13, 18, 23, 27]) },
    Preset { name: "mamba-in-llama-8b", source: "JunxiongWang/Llama3.1-Mamba-8B-distill", build: || mamba_in_llama(LLAMA_8B, &[1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31]) },
    Preset { name: "mamba2-130m", source: "state-spaces/mamba2-130m", build: || mamba2(768, 24) },
    Preset { name: "mamba2-370m", source: "state-spaces/mamba2-370m", build: || mamba2(1024, 48) },
    Preset { name: "mamba2-780m", source: "state-spaces/mamba2-780m", build: || mamba2(1536, 48) },
    Preset { name: "mamba2-1.3b", source: "state-spaces/mamba2-1.3b", build: || mamba2(2048, 48) },
    Preset { name: "mamba2-2.7b", source: "state-spaces/mamba2-2.7b", build: || mamba2(2560, 64) },
    Preset { name: "mamba2attn-2.7b", source: "state-spaces/mamba2attn-2.7b", build: mamba2_attention },
    Preset { name: "mamba-codestral-7b", source: "mistralai/Mamba-Codestral-7B-v0.1", build: codestral },
];

/// Layers of the hybrid Phi-Mamba that keep their attention.
const HYBRID_PHI: [usize; 4] = [4, 10, 16, 22];

/// The shapes in which the sizes of Llama 3 differ.
#[derive(Clone, Copy)]
struct Size {
    d_model: usize,
    n_layers: usize,
    d_mlp: usize,
    n_heads: usize,
    head_dim: usize,
    /// Of the rotation's low frequencies.
    factor: f64,
    tied: bool,
}

const LLAMA_1B: Size =
    Size { d_model: 2048, n_layers: 16, d_mlp: 8192, n_heads: 32, head_dim: 64, factor: 32.0, tied: true };
const LLAMA_3B: Size =
    Size { d_model: 3072, n_layers: 28, d_mlp: 8192, n_heads: 24, head_dim: 128, factor: 32.0, tied: true };
const LLAMA_8B: Size =
    Size { d_model: 4096, n_layers: 32, d_mlp: 14336, n_heads: 32, head_dim: 128, factor: 8.0, tied: false };

impl Size {
    fn rotary(self) -> RotaryConfig {
        let scaling = Llama3Scaling::new(self.factor, 1.0, 4.0, 8192);
        RotaryConfig::new(self.head_dim).with_theta(500_000.0).with_scaling(Some(scaling))
    }

    fn attention(self) -> AttentionConfig {
        AttentionConfig::new(self.d_model, self.n_heads, 8, self.head_dim, self.rotary())
    }

    fn transformer(self) -> LlamaConfig {
        LlamaConfig {
            tie_embeddings: self.tied,
            max_position: Some(131_072),
            tokens: SpecialTokens { bos: Some(128_000), eos: vec![128_001, 128_008, 128_009] },
            ..LlamaConfig::transformer(128_256, self.n_layers, self.attention(), self.d_mlp)
        }
    }

    /// Llamba's mixer, whose heads are 32 whatever the teacher's are.
    fn mixer(self) -> DiscreteMamba2Config {
        DiscreteMamba2Config::new(self.d_model, 32, 64)
    }
}

fn llama(size: Size) -> ModelConfig {
    ModelConfig::Llama(size.transformer())
}

fn llamba(size: Size, tied: bool) -> ModelConfig {
    let mixers = vec![MixerConfig::DiscreteMamba2(size.mixer()); size.n_layers];
    ModelConfig::Llama(LlamaConfig { mixers, tie_embeddings: tied, max_position: None, ..size.transformer() })
}

/// Five heads in five layers. The recipe rotates by a factor of 8 where the teacher has 32.
fn arch5() -> ModelConfig {
    let size = Size { factor: 8.0, ..LLAMA_1B };
    let ssm = size.mixer().with_bias(true).with_z_bias(false);
    let head = AttentionConfig::new(size.d_model, 1, 1, size.head_dim, size.rotary());
    let layer = |layer| {
        let attention = [0, 4, 8, 9, 10].contains(&layer).then(|| head.clone());
        let config = ParallelConfig::new(ssm.clone(), JunctionKind::Adapter);
        MixerConfig::Parallel(config.with_attention(attention))
    };
    let mixers = (0..size.n_layers).map(layer).collect();
    ModelConfig::Llama(LlamaConfig { mixers, ..size.transformer() })
}

fn mamba_in_llama(size: Size, attention: &[usize]) -> ModelConfig {
    let mamba = Mamba1Config::new(size.d_model, size.d_model, 8 * size.head_dim);
    let layer = |layer| match attention.contains(&layer) {
        true => MixerConfig::Attention(size.attention()),
        false => MixerConfig::Mamba1(mamba.clone()),
    };
    let mixers = (0..size.n_layers).map(layer).collect();
    ModelConfig::Llama(LlamaConfig { mixers, ..size.transformer() })
}

fn qwen(d_model: usize, n_layers: usize, d_mlp: usize, heads: [usize; 3]) -> ModelConfig {
    let [n_heads, n_kv_heads, head_dim] = heads;
    let rotary = RotaryConfig::new(head_dim).with_theta(1e6);
    let attention = AttentionConfig::new(d_model, n_heads, n_kv_heads, head_dim, rotary).with_qkv_bias(true);
    ModelConfig::Llama(LlamaConfig {
        norm_epsilon: 1e-6,
        final_norm_epsilon: 1e-6,
        max_position: Some(32_768),
        tokens: SpecialTokens { bos: None, eos: vec![151_643] },
        ..LlamaConfig::transformer(151_936, n_layers, attention, d_mlp)
    })
}

fn smollm2() -> LlamaConfig {
    let attention = AttentionConfig::new(576, 9, 3, 64, RotaryConfig::new(64).with_theta(100_000.0));
    LlamaConfig {
        max_position: Some(8192),
        tokens: SpecialTokens { bos: Some(0), eos: vec![0] },
        ..LlamaConfig::transformer(49_152, 30, attention, 1536)
    }
}

fn smollm2_llamba() -> ModelConfig {
    let mixers = vec![MixerConfig::DiscreteMamba2(DiscreteMamba2Config::new(576, 9, 64)); 30];
    ModelConfig::Llama(LlamaConfig { mixers, max_position: None, ..smollm2() })
}

fn phi(mixer: impl Fn(usize) -> MixerConfig) -> ModelConfig {
    ModelConfig::Phi(PhiConfig {
        vocab_size: 51_200,
        d_model: 2048,
        d_mlp: 8192,
        mixers: (0..24).map(mixer).collect(),
        norm_epsilon: 1e-5,
        max_position: Some(2048),
        tokens: SpecialTokens { bos: None, eos: vec![50_256] },
    })
}

fn phi_attention() -> MixerConfig {
    let attention = AttentionConfig::new(2048, 32, 32, 64, RotaryConfig::new(32));
    MixerConfig::Attention(attention.with_qkv_bias(true).with_out_bias(true))
}

fn phi_mixer() -> MixerConfig {
    MixerConfig::DiscreteMamba2(DiscreteMamba2Config::new(2048, 32, 64))
}

fn mamba2(d_model: usize, n_layers: usize) -> ModelConfig {
    let mixer = MixerConfig::Mamba2(Mamba2Config::new(d_model));
    ModelConfig::Mamba2(mamba2_of(50_288, d_model, vec![mixer; n_layers]))
}

fn mamba2_attention() -> ModelConfig {
    let attention = AttentionConfig::new(2560, 30, 30, 128, RotaryConfig::new(64)).with_d_conv(Some(4));
    let layer = |layer| match [9, 18, 27, 36, 45, 56].contains(&layer) {
        true => MixerConfig::Attention(attention.clone()),
        false => MixerConfig::Mamba2(Mamba2Config::new(2560)),
    };
    ModelConfig::Mamba2(mamba2_of(50_288, 2560, (0..64).map(layer).collect()))
}

fn codestral() -> ModelConfig {
    let mixer = MixerConfig::Mamba2(Mamba2Config::new(4096).with_ngroups(8));
    let config = mamba2_of(32_768, 4096, vec![mixer; 64]);
    ModelConfig::Mamba2(Mamba2LmConfig { tie_embeddings: false, ..config })
}

fn mamba2_of(vocab_size: usize, d_model: usize, mixers: Vec<MixerConfig>) -> Mamba2LmConfig {
    Mamba2LmConfig {
        vocab_size,
        d_model,
        mixers,
        norm_epsilon: 1e-5,
        tie_embeddings: true,
        tokens: SpecialTokens::default(),
    }
}
