//! The mixers of MambaInLlama, M1, mamba2attn and MOHAWK's double blocks meet their formulas, written as loops: over a whole
//! sequence, and over a piece followed by single tokens.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{DType, Tensor};
use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{
    Attention, AttentionConfig, DiscreteMamba2, DiscreteMamba2Config, Junction, JunctionKind, Mamba1,
    Mamba1Config, Mamba2, Mamba2Config, MatrixMixer, MixerState, Parallel, ParallelConfig, project,
};
use mamba_ssd_tests::blocks::{Affine, Block, Discrete, Joint};
use mamba_ssd_tests::device::{device, dtypes, widest};
use mamba_ssd_tests::evaluate::{tensor, values};
use mamba_ssd_tests::formulas::{self, Rows};
use mamba_ssd_tests::limits::{mixer_limit, relative_error};
use mamba_ssd_tests::rng::Rng;
use mamba_ssd_tests::weights::{RandomWeights, conv, linear_rows, rows};

/// Rows and tokens: longer than the convolution and shorter, one row and several.
const SIZES: [[usize; 2]; 5] = [[1, 19], [3, 11], [3, 3], [1, 2], [2, 1]];

/// Random weights, in every dtype that [`mixer_limit`] has a limit for.
fn drawn<M: Module>(mixer: M, seed: u64) -> impl Iterator<Item = M> {
    let exact = dtypes().into_iter().filter(|&dtype| dtype != DType::BF16);
    exact.map(move |dtype| mixer.clone().map(&mut RandomWeights::new(seed, dtype)))
}

fn assert_meets<M: MatrixMixer>(mixer: &M, in_proj: &Linear, formula: impl Fn(&[Vec<f64>]) -> Rows) {
    let [d_model, _] = in_proj.weight.dims();
    let dtype = in_proj.weight.dtype();
    for [b, t] in SIZES {
        let u = tensor(&Rng::new(t as u64).normals(b * t * d_model), [b, t, d_model], dtype, &device());
        let tokens = rows(u.clone().reshape([b * t, d_model]));
        let want: Vec<f64> = tokens.chunks(t).flat_map(&formula).flatten().collect();
        for (what, got) in [("forward", mixer.forward(u.clone(), None)), ("decoding", decode(mixer, u))] {
            let (error, limit) = (relative_error(&values(got), &want, &want), mixer_limit(dtype));
            assert!(error <= limit, "{what} of {b} x {t} in {dtype:?}: relative error {error:.1e}");
        }
    }
}

/// The first third by prefill, the rest token by token.
fn decode<M: MatrixMixer>(mixer: &M, u: Tensor<3>) -> Tensor<3> {
    let [b, t, _] = u.dims();
    let first = t.div_ceil(3);
    let (y, mut state) = mixer.prefill(u.clone().narrow(1, 0, first), mixer.init_state(b, &u.device()));
    let mut outputs = vec![y];
    for i in first..t {
        let (y, next) = mixer.step(u.clone().narrow(1, i, 1).squeeze_dim(1), state);
        outputs.push(y.unsqueeze_dim(1));
        state = next;
    }
    Tensor::cat(outputs, 1)
}

fn mamba1(mixer: &Mamba1) -> formulas::Mamba1 {
    formulas::Mamba1 {
        in_proj: linear_rows(&mixer.in_proj),
        conv1d: conv(&mixer.conv1d),
        dt_weight: linear_rows(&mixer.dt_proj),
        dt_bias: values(mixer.dt_proj.bias.as_ref().expect("a bias").val()),
        a_log: rows(mixer.a_log.val()),
        d: values(mixer.d.val()),
        out_proj: linear_rows(&mixer.out_proj),
        d_xb: mixer.config().d_xb,
    }
}

fn mamba2(mixer: &Mamba2) -> formulas::Mamba2 {
    formulas::Mamba2 {
        in_proj: linear_rows(&mixer.in_proj),
        conv1d: conv(&mixer.conv1d),
        dt_bias: values(mixer.dt_bias.val()),
        a_log: values(mixer.a_log.val()),
        d: values(mixer.d.val()),
        norm: values(mixer.norm.weight.val()),
        out_proj: linear_rows(&mixer.out_proj),
        d_xb: mixer.config().d_xb.expect("repeated heads"),
        epsilon: mixer.config().norm_epsilon,
    }
}

fn attention(mixer: &Attention) -> formulas::Attention {
    let config = mixer.config();
    formulas::Attention {
        in_proj: [&mixer.q_proj, &mixer.k_proj, &mixer.v_proj].into_iter().flat_map(linear_rows).collect(),
        conv1d: conv(mixer.conv1d.as_ref().expect("a convolution")),
        out_proj: linear_rows(&mixer.o_proj),
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        rotary: config.rotary.dim,
    }
}

/// A linear layer with or without bias.
fn affine(linear: &Linear) -> Affine {
    let weight = linear_rows(linear);
    let bias = linear.bias.as_ref().map_or(vec![0.0; weight.len()], |bias| values(bias.val()));
    Affine { weight, bias }
}

fn discrete(mixer: &DiscreteMamba2) -> Discrete {
    let config = mixer.config();
    Discrete {
        in_proj: affine(&mixer.in_proj),
        conv1d: conv(&mixer.conv1d),
        z_bias: mixer.z_bias.as_ref().map_or(vec![0.0; config.d_inner()], |bias| values(bias.val())),
        d: values(mixer.d.val()),
        out_proj: affine(&mixer.out_proj),
        groups: config.groups(),
        n: config.d_state,
    }
}

/// Attention without a convolution as one whose convolution passes the current token and adds the biases.
fn plain_attention(mixer: &Attention) -> formulas::Attention {
    let projections = [&mixer.q_proj, &mixer.k_proj, &mixer.v_proj].map(affine);
    let bias: Vec<f64> = projections.iter().flat_map(|projection| projection.bias.clone()).collect();
    formulas::Attention {
        in_proj: projections.into_iter().flat_map(|projection| projection.weight).collect(),
        conv1d: formulas::Conv { weight: vec![vec![1.0]; bias.len()], bias },
        out_proj: linear_rows(&mixer.o_proj),
        n_heads: mixer.config().n_heads,
        n_kv_heads: mixer.config().n_kv_heads,
        rotary: mixer.config().rotary.dim,
    }
}

fn block(mixer: &Parallel) -> Block {
    let joint = match &mixer.junction {
        None => Joint::Vanilla,
        Some(Junction::Adapter(adapter)) => Joint::Adapter(affine(&adapter.out_proj)),
        Some(Junction::Hymba(hymba)) => Joint::Hymba {
            ssm: [values(hymba.ssm_output_layernorm.weight.val()), values(hymba.ssm_gate.val())],
            attention: [values(hymba.att_output_layernorm.weight.val()), values(hymba.att_gate.val())],
            out_proj: affine(&hymba.out_proj),
        },
        Some(Junction::Merger(merger)) => Joint::Merger {
            inputs: [&merger.input_layernorm.ssm_weight, &merger.input_layernorm.attn_weight]
                .map(|weight| values(weight.val())),
            output: values(merger.output_layernorm.weight.val()),
            out_proj: affine(&merger.out_proj),
        },
    };
    let attention = mixer.mixer2.as_ref().map(plain_attention);
    Block { ssm: discrete(&mixer.mixer1), attention, joint }
}

const JUNCTIONS: [JunctionKind; 4] =
    [JunctionKind::Adapter, JunctionKind::Vanilla, JunctionKind::Hymba, JunctionKind::Merger];

/// Attention heads wider than those of the SSM, which share groups and whose gate has a bias of its own, or whose
/// projections have biases.
fn parallel_configs() -> impl Iterator<Item = ParallelConfig> {
    let ssm = DiscreteMamba2Config::new(12, 4, 5).with_n_qk_heads(Some(2)).with_chunk_size(4);
    let biased = DiscreteMamba2Config::new(8, 2, 3).with_bias(true).with_z_bias(false);
    [ssm, biased].into_iter().flat_map(|ssm| {
        let heads = AttentionConfig::new(ssm.d_model, 3, 3, 6, RotaryConfig::new(6)).with_qkv_bias(ssm.bias);
        JUNCTIONS.into_iter().flat_map(move |junction| {
            let config = ParallelConfig::new(ssm.clone(), junction);
            [config.clone(), config.with_attention(Some(heads.clone()))]
        })
    })
}

#[test]
fn parallel_heads_meet_the_formulas_of_mohawk_s_double_blocks() {
    for config in parallel_configs() {
        for mixer in drawn(config.init(&device()), 6) {
            assert_eq!(mixer.config().junction, config.junction);
            let formula = block(&mixer);
            assert_meets(&mixer, &mixer.mixer1.in_proj, |u| formula.forward(u));
        }
    }
}

#[test]
fn mamba1_meets_the_formula_of_mamba_in_llama() {
    let grouped = Mamba1Config::new(7, 24, 8).with_d_state(4).with_dt_rank(Some(3)); // 6 heads of C, 2 of x and B
    let one_group = Mamba1Config::new(5, 9, 3).with_d_state(3).with_d_conv(3);
    let plain = Mamba1Config::new(20, 32, 32);
    for config in [grouped, one_group, plain] {
        for mixer in drawn(config.init(&device()), 1) {
            let formula = mamba1(&mixer);
            assert_meets(&mixer, &mixer.in_proj, |u| formula.forward(u));
        }
    }
}

#[test]
fn grouped_mamba2_meets_the_formula_of_mamba_in_llama() {
    let config = |d_model, d_state, expand, d_xb| {
        let config = Mamba2Config::new(d_model).with_d_state(d_state).with_headdim(d_state);
        let config = config.with_expand(expand).with_d_xb(Some(d_xb)).with_chunk_size(4);
        let heads = config.n_heads();
        config.with_ngroups(heads)
    };
    // 6 heads of C, 2 of x and B; then 4 and 1; then as many.
    for config in [config(24, 4, 1, 8), config(6, 3, 2, 3), config(15, 5, 1, 15)] {
        for mixer in drawn(config.init(&device()), 2) {
            let formula = mamba2(&mixer);
            assert_meets(&mixer, &mixer.in_proj, |u| formula.forward(u));
        }
    }
}

#[test]
fn attention_with_a_convolution_meets_the_formula_of_mamba2attn() {
    let config = |n_heads, n_kv_heads, rotary, taps| {
        AttentionConfig::new(7, n_heads, n_kv_heads, 6, RotaryConfig::new(rotary)).with_d_conv(Some(taps))
    };
    for config in [config(3, 3, 4, 4), config(6, 2, 6, 4), config(2, 1, 2, 3)] {
        for mixer in drawn(config.init(&device()), 3) {
            let formula = attention(&mixer);
            assert_meets(&mixer, &mixer.q_proj, |u| formula.forward(u));
        }
    }
}

/// What mamba_ssm's prefill keeps instead are rows after the convolution.
#[test]
fn attention_carries_rows_from_before_its_convolution() {
    let (dtype, device) = (widest(), device());
    let config = AttentionConfig::new(5, 2, 1, 4, RotaryConfig::new(4)).with_d_conv(Some(4));
    let mixer = config.init(&device).map(&mut RandomWeights::new(4, dtype));
    let u = tensor(&Rng::new(5).normals(6 * 5), [1, 6, 5], dtype, &device);
    let (_, state) = mixer.prefill(u.clone(), mixer.init_state(1, &device));
    let MixerState::Attention { conv: Some(window), .. } = state else { panic!("a window") };
    let last = u.narrow(1, 3, 3);
    let raw = [&mixer.q_proj, &mixer.k_proj, &mixer.v_proj].map(|linear| project(linear, last.clone()));
    assert_eq!(values(window), values(Tensor::cat(raw.to_vec(), 2)));
}

/// Rows of `in_proj` and channels of `conv1d` of the published 1B, 3B and 8B models, and of mamba2attn-2.7b.
#[test]
fn shapes_are_those_of_the_checkpoints() {
    let mamba1 = |d, d_xb| Mamba1Config::new(d, d, d_xb).in_proj_dim();
    assert_eq!([mamba1(2048, 512), mamba1(3072, 1024), mamba1(4096, 1024)], [5248, 8384, 10496]);
    let mamba2 = |d| {
        let config = Mamba2Config::new(d).with_expand(1).with_headdim(128).with_ngroups(d / 128);
        let config = config.with_d_xb(Some(1024));
        [config.in_proj_dim(), config.conv_dim()]
    };
    assert_eq!([mamba2(3072), mamba2(4096)], [[8216, 5120], [10272, 6144]]);
    let attention = AttentionConfig::new(2560, 30, 30, 128, RotaryConfig::new(64)).with_d_conv(Some(4));
    assert_eq!(attention.conv_dim(), 11520);
}

#[test]
fn parameters_are_counted_without_allocating_any() {
    let device = device();
    let mamba1 = Mamba1Config::new(7, 24, 8).with_d_state(4);
    assert_eq!(mamba1.n_params(), mamba1.init(&device).num_params());
    let mamba2 = Mamba2Config::new(12).with_d_state(4).with_headdim(4).with_ngroups(6).with_d_xb(Some(8));
    assert_eq!(mamba2.n_params(), mamba2.init(&device).num_params());
    let attention = AttentionConfig::new(7, 4, 2, 6, RotaryConfig::new(6)).with_d_conv(Some(4));
    assert_eq!(attention.n_params(), attention.init(&device).num_params());
    for config in parallel_configs() {
        assert_eq!(config.n_params(), config.init(&device).num_params(), "{config}");
    }
}

/// The SSM's state keeps its size, the key-value cache grows; without attention heads nothing does.
#[test]
fn parallel_heads_carry_both_states_and_their_sizes_are_known() {
    let (dtype, device) = (widest(), device());
    for config in parallel_configs() {
        let mixer = config.init(&device).map(&mut RandomWeights::new(7, dtype));
        let u = tensor(
            &Rng::new(8).normals(2 * 5 * config.ssm.d_model),
            [2, 5, config.ssm.d_model],
            dtype,
            &device,
        );
        let (_, state) = mixer.prefill(u, mixer.init_state(2, &device));
        let size = mamba_ssd::MixerConfig::Parallel(config.clone()).state_size();
        assert_eq!(state.bytes(), 2 * (size.constant + 5 * size.per_token) * dtype.size());
        assert_eq!((state.batch(), state.is_constant()), (2, config.attention.is_none()));
        assert_eq!(size.per_token, config.attention.map_or(0, |heads| 2 * heads.n_heads * heads.head_dim));
    }
}
