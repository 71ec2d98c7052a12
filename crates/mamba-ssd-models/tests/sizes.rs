//! Parameter counts of the published models, from their configurations, and of small ones.

mod common;

use common::{GOLDENS, golden_model, read_text, zoo};
use mamba_ssd_models::ModelConfig;

fn count(json: &str) -> usize {
    ModelConfig::from_json(json).unwrap_or_else(|error| panic!("{error}: {json}")).n_params()
}

fn llamba(d_model: usize, n_layer: usize, mlp: usize, tied: bool) -> String {
    format!(
        r#"{{"model_type": "llamba", "vocab_size": 128256, "tie_embeddings": {tied}, "pad_vocab_size_multiple": 8, "lm_head_bias": false,
        "d_model": {d_model}, "n_layer": {n_layer}, "resid_dropout": 0.0, "norm_epsilon": 1e-5,
        "mlp_cfg": {{"intermediate_size": {mlp}, "bias": false, "act_fn": "silu"}},
        "ssm_cfg": {{"d_state": 64, "n_v_heads": 32, "n_qk_heads": 32, "expand": 1, "chunk_size": 128, "activation": "identity", "bias": false}}}}"#
    )
}

/// Published sizes: bytes of the f32 files / 4.
#[test]
fn llamba_has_as_many_parameters_as_published() {
    assert_eq!(count(&llamba(2048, 16, 8192, true)), 1_405_159_936);
    assert_eq!(count(&llamba(3072, 28, 8192, true)), 3_656_994_688);
    assert_eq!(count(&llamba(4096, 32, 14336, true)), 8_315_868_160);
    assert_eq!(count(&llamba(4096, 32, 14336, false)), 8_841_204_736);
}

/// The published config of Phi-Mamba.
const PHI_MAMBA: &str = r#"{
    "LanguageModel": {"input": {"vocab_size": 51200, "pad_vocab_size_multiple": 8}},
    "MixerModel": {"input": {"d_model": 2048, "n_layer": 24, "lm_head_prenorm": "layer"}},
    "Block1": {"n_layers": 24, "BlockType": "modules.phi_block", "block_input": {"resid_dropout": 0.0},
        "CoreType": "modules.mixers.discrete_mamba2",
        "core_input": {"d_state": 64, "n_v_heads": 32, "n_qk_heads": 32, "d_conv": 4, "conv_bias": true, "expand": 1,
            "chunk_size": 128, "activation": "identity", "bias": false}}}"#;

/// Layers 4, 10, 16 and 22 keep their attention, whose input may be empty: the published code takes
/// Phi's defaults.
fn hybrid_phi_mamba() -> String {
    let ssm = r#""CoreType": "modules.mixers.discrete_mamba2", "core_input": {"d_state": 64, "n_v_heads": 32, "n_qk_heads": 32}"#;
    let attention = r#""CoreType": "modules.mixers.phi_attention", "core_input": {}"#;
    let runs = [
        (4, ssm),
        (1, attention),
        (5, ssm),
        (1, attention),
        (5, ssm),
        (1, attention),
        (5, ssm),
        (1, attention),
        (1, ssm),
    ];
    let block = |(index, (n, core)): (usize, &(usize, &str))| {
        format!(r#""Block{}": {{"n_layers": {n}, {core}}}"#, index + 7)
    };
    let blocks: Vec<String> = runs.iter().enumerate().map(block).collect();
    format!(
        r#"{{"LanguageModel": {{"input": {{"vocab_size": 51200}}}}, "MixerModel": {{"input": {{"d_model": 2048, "n_layer": 24}}}}, {}}}"#,
        blocks.join(", ")
    )
}

#[test]
fn phi_mamba_has_as_many_parameters_as_published() {
    assert_eq!(count(PHI_MAMBA), 1_521_097_472);
    assert_eq!(count(&hybrid_phi_mamba()), 1_503_959_680);
}

/// `Block7` .. `Block15`: sorted by name, 10 to 15 would come before 7.
#[test]
fn blocks_come_in_the_order_of_the_file() {
    let config = ModelConfig::from_json(&hybrid_phi_mamba()).expect("a config");
    let is_attention = |mixer: &mamba_ssd::MixerConfig| matches!(mixer, mamba_ssd::MixerConfig::Attention(_));
    let layers: Vec<usize> = (0..24).filter(|&layer| is_attention(&config.mixers()[layer])).collect();
    assert_eq!(layers, [4, 10, 16, 22]);
}

#[test]
fn transformers_have_as_many_parameters_as_published() {
    let llama = |d: usize, n: usize, mlp: usize, heads: usize, head_dim: usize, tied: bool| {
        count(&format!(
            r#"{{"model_type": "llama", "vocab_size": 128256, "hidden_size": {d}, "num_hidden_layers": {n}, "intermediate_size": {mlp},
            "num_attention_heads": {heads}, "num_key_value_heads": 8, "head_dim": {head_dim}, "tie_word_embeddings": {tied}}}"#
        ))
    };
    assert_eq!(llama(2048, 16, 8192, 32, 64, true), 1_235_814_400);
    assert_eq!(llama(3072, 28, 8192, 24, 128, true), 3_212_749_824);
    assert_eq!(llama(4096, 32, 14336, 32, 128, false), 8_030_261_248);
    let phi = r#"{"model_type": "phi", "vocab_size": 51200, "hidden_size": 2048, "num_hidden_layers": 24, "intermediate_size": 8192,
        "num_attention_heads": 32, "num_key_value_heads": null}"#;
    assert_eq!(count(phi), 1_418_270_720);
}

#[test]
fn mamba2_has_as_many_parameters_as_published() {
    let state_spaces = |d: usize, n: usize| {
        count(&format!(
            r#"{{"d_model": {d}, "d_intermediate": 0, "n_layer": {n}, "vocab_size": 50277, "ssm_cfg": {{"layer": "Mamba2"}}, "attn_layer_idx": [],
            "attn_cfg": {{}}, "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 16, "tie_embeddings": true}}"#
        ))
    };
    assert_eq!(state_spaces(768, 24), 128_989_632);
    assert_eq!(state_spaces(2560, 64), 2_702_599_680);
    let codestral = r#"{"model_type": "mamba2", "hidden_size": 4096, "num_heads": 128, "head_dim": 64, "state_size": 128, "n_groups": 8,
        "num_hidden_layers": 64, "expand": 2, "vocab_size": 32768, "tie_word_embeddings": false, "time_step_limit": [0.0, Infinity]}"#;
    assert_eq!(count(codestral), 7_285_403_648);
}

/// mamba2attn-2.7b, by its shapes. Attention: in_proj 11520 · 2560, its convolution 11520 · 5, out_proj
/// 2560 · 3840, a norm of 2560: 39,381,760 in 6 layers. Mamba-2: in_proj 10576 · 2560, convolution 5376 · 5,
/// 3 · 80, a norm of 5120, out_proj 2560 · 5120, a norm of 2560: 40,216,560 in 58. Embedding 50288 · 2560, a
/// norm of 2560.
#[test]
fn mamba2attn_has_as_many_parameters_as_its_shapes() {
    let json = r#"{"d_model": 2560, "d_intermediate": 0, "n_layer": 64, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"},
        "attn_layer_idx": [9, 18, 27, 36, 45, 56], "attn_cfg": {"causal": true, "d_conv": 4, "head_dim": 128, "num_heads": 30,
        "out_proj_bias": false, "qkv_proj_bias": false, "rotary_emb_dim": 64}, "rms_norm": true, "residual_in_fp32": true,
        "fused_add_norm": true, "pad_vocab_size_multiple": 16, "tie_embeddings": true}"#;
    assert_eq!(count(json), 6 * 39_381_760 + 58 * 40_216_560 + 50_288 * 2560 + 2560); // 2,697,590,880
}

fn mamba_in_llama(llama: &str, mamba: &str) -> usize {
    let config = ModelConfig::from_json(llama).and_then(|config| config.with_mamba_config(mamba));
    config.unwrap_or_else(|error| panic!("{error}: {llama} {mamba}")).n_params()
}

/// Published sizes: bytes of the bf16 files / 2 and of the f32 file / 4. Which layers hold attention does
/// not matter to them, how many does.
#[test]
fn mamba_in_llama_has_as_many_parameters_as_published() {
    let count = |d: usize,
                 n: usize,
                 mlp: usize,
                 heads: usize,
                 d_xb: usize,
                 ssm: &str,
                 attention: &[usize]| {
        let llama = format!(
            r#"{{"model_type": "llama", "vocab_size": 128256, "hidden_size": {d}, "num_hidden_layers": {n}, "intermediate_size": {mlp},
            "num_attention_heads": {heads}, "num_key_value_heads": 8, "tie_word_embeddings": {}, "rms_norm_eps": 1e-05}}"#,
            d < 4096
        );
        let mamba = format!(
            r#"{{"d_model": {d}, "ssm_cfg": {ssm}, "rms_norm_eps": 1e-05, "vocab_size": null, "d_inner": null, "d_xb": {d_xb},
            "intermediate_size": {mlp}, "hidden_act": "silu", "n_layer": {n}, "attn_layers": {attention:?}}}"#
        );
        mamba_in_llama(&llama, &mamba)
    };
    let mamba1 = r#"{"expand": 1}"#;
    assert_eq!(count(2048, 16, 8192, 32, 512, mamba1, &[3, 7, 11, 15]), 1_293_002_752);
    assert_eq!(count(3072, 28, 8192, 24, 1024, mamba1, &[3, 8, 13, 18, 23, 27]), 3_447_874_560);
    assert_eq!(count(3072, 28, 8192, 24, 1024, mamba1, &[6, 13, 20, 27]), 3_469_249_536);
    let odd: Vec<usize> = (1..32).step_by(2).collect();
    assert_eq!(count(4096, 32, 14336, 32, 1024, mamba1, &odd), 8_333_758_464);

    // Mamba2InLlama_0_75 by its shapes: a mixer has in_proj [10272, 4096], a convolution of 6144 channels,
    // three numbers for each of 32 heads, a norm of 4096 and out_proj [4096, 4096]; each attention 41,943,040.
    let mixer = 10272 * 4096 + 6144 * 5 + 3 * 32 + 4096 + 4096 * 4096;
    let mamba2 = r#"{"expand": 1, "ngroups": 32, "d_state": 128}"#;
    let kept: Vec<usize> = (3..32).step_by(4).collect();
    let transformer = 8_030_261_248;
    assert_eq!(count(4096, 32, 14336, 32, 1024, mamba2, &kept), transformer + 24 * mixer - 24 * 41_943_040);
}

#[test]
fn counts_are_those_of_the_modules() {
    let goldens = GOLDENS.iter().map(|family| (family.to_string(), golden_model(family)));
    for (name, model) in goldens.chain(zoo()) {
        assert_eq!(model.config().n_params(), model.n_params(), "{name}");
    }
    assert_eq!(count(&read_text("llama32.config.json")), golden_model("llama32").n_params());
}
