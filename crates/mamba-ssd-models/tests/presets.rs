//! Published models by name: totals and states against published numbers and arithmetic, and their configurations
//! against files.

use std::collections::BTreeSet;

use mamba_ssd::StateSize;
use mamba_ssd_models::{ModelConfig, presets};

fn preset(name: &str) -> ModelConfig {
    presets::by_name(name).unwrap_or_else(|| panic!("{name}")).config()
}

/// Bytes of the published files over those of a number.
#[test]
fn presets_have_as_many_parameters_as_published() {
    let totals = [
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.2-3b", 3_212_749_824),
        ("llama-3.1-8b", 8_030_261_248),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-3b", 3_085_938_688),
        ("smollm2-135m", 134_515_008),
        ("smollm2-135m-llamba", 134_515_008 + 30 * (1_673_289 - 884_736)), // mixer for attention
        ("llamba-1b", 1_405_159_936),
        ("llamba-3b", 3_656_994_688),
        ("llamba-8b", 8_315_868_160),
        ("llamba-8b-untied", 8_841_204_736),
        ("hybrid-llama-1b-arch5", hybrid_by_heads()),
        ("phi-1.5", 1_418_270_720),
        ("phi-mamba", 1_521_097_472),
        ("hybrid-phi-mamba", 1_503_959_680),
        ("mamba-in-llama-1b", 1_293_002_752),
        ("mamba-in-llama-3b", 3_447_874_560),
        ("mamba-in-llama-8b", 8_333_758_464),
        ("mamba2-130m", 128_989_632),
        ("mamba2-370m", 368_346_624),
        ("mamba2-780m", 780_161_280),
        ("mamba2-1.3b", 1_343_757_312),
        ("mamba2-2.7b", 2_702_599_680),
        ("mamba2attn-2.7b", 2_697_590_880),
        ("mamba-codestral-7b", 7_285_403_648),
    ];
    for (name, total) in totals {
        assert_eq!(preset(name).n_params(), total, "{name}");
    }
    let names: BTreeSet<&str> = presets::PRESETS.iter().map(|preset| preset.name).collect();
    assert_eq!(names, totals.map(|(name, _)| name).into_iter().collect(), "every preset once, and its total");
    assert!(presets::by_name("llamba-2b").is_none());
}

/// By its shapes, as no file is published: SSM heads with biases in 16 layers, a head of 64 and an adapter in five.
fn hybrid_by_heads() -> usize {
    let (d, mlp) = (2048, 3 * 2048 * 8192);
    let ssm = 8224 * d + 8224 + 6144 * 5 + 32 + d * d + d;
    let head = 4 * d * 64 + d * d + d;
    128_256 * d + 16 * (ssm + 2 * d + mlp) + 5 * head + d
}

/// Windows of three rows of x, B and C, and a state of n numbers a channel; two numbers a feature of every head of keys.
#[test]
fn states_are_as_large_as_their_shapes() {
    let of = |name| preset(name).state_size();
    let llamba = |layers: usize, d: usize| layers * (3 * (d + 2 * 32 * 64) + d * 64);
    assert_eq!(of("llamba-1b"), StateSize { constant: llamba(16, 2048), per_token: 0 });
    assert_eq!(of("llamba-3b"), StateSize { constant: llamba(28, 3072), per_token: 0 });
    assert_eq!(of("llama-3.2-1b"), StateSize { constant: 0, per_token: 16 * 2 * 8 * 64 });
    let hybrid = StateSize { constant: llamba(16, 2048), per_token: 5 * 2 * 64 };
    assert_eq!(of("hybrid-llama-1b-arch5"), hybrid);
    let mamba2 = 24 * (3 * (1536 + 2 * 128) + 1536 * 128);
    assert_eq!(of("mamba2-130m"), StateSize { constant: mamba2, per_token: 0 });
}

/// What is written of a preset is read back as it, so that a student of that shape can be saved.
#[test]
fn presets_are_read_back_from_what_is_written_of_them() {
    for preset in presets::PRESETS {
        let config = preset.config();
        let written = config.to_json().unwrap_or_else(|error| panic!("{}: {error}", preset.name));
        let read = ModelConfig::from_json(&written).and_then(|read| match config.to_mamba_config()? {
            Some(mamba) => read.with_mamba_config(&mamba),
            None => Ok(read),
        });
        let read = read.unwrap_or_else(|error| panic!("{}: {error}", preset.name));
        assert_eq!(format!("{:?}", read.mixers()), format!("{:?}", config.mixers()), "{}", preset.name);
        assert_eq!((read.n_params(), read.family()), (config.n_params(), config.family()), "{}", preset.name);
    }
}

#[test]
fn families_of_presets_are_named() {
    for (name, family) in [
        ("llama-3.2-1b", "Llama"),
        ("qwen2.5-1.5b", "Qwen2"),
        ("llamba-3b", "Llamba"),
        ("hybrid-llama-1b-arch5", "hybrid of Llama and Llamba by heads (Adapter)"),
        ("hybrid-phi-mamba", "hybrid of Phi and Phi-Mamba"),
        ("mamba-in-llama-1b", "MambaInLlama hybrid with Mamba-1"),
        ("mamba2attn-2.7b", "hybrid of Mamba-2 and attention"),
        ("mamba-codestral-7b", "Mamba-2"),
    ] {
        assert_eq!(preset(name).family(), family, "{name}");
    }
}
