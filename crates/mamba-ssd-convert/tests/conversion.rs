//! What a converted mixer computes, against the attention it came from.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Device, Distribution, Tensor, Tolerance};
use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{
    Attention, AttentionConfig, DiscreteMamba2, DiscreteMamba2Config, Junction, JunctionKind, MatrixMixer,
};
use mamba_ssd_convert::{
    Action, ConversionPlan, ConvertError, Init, KeptHeads, LayerPlan, LayerReport,
    attention_to_discrete_mamba2, attention_to_parallel,
};

const D: usize = 24;

fn attention(heads: usize, kv_heads: usize, head_dim: usize, biases: bool) -> Attention {
    let device = Device::flex();
    device.seed(7);
    AttentionConfig::new(D, heads, kv_heads, head_dim, RotaryConfig::new(head_dim))
        .with_qkv_bias(biases)
        .with_out_bias(biases)
        .init(&device)
}

fn plan(init: Init) -> LayerPlan {
    LayerPlan { layer: 0, n_layers: 4, init, query_scale: 1.0, seed: 5 }
}

fn convert(
    attention: &Attention,
    config: &DiscreteMamba2Config,
    init: Init,
) -> (DiscreteMamba2, LayerReport) {
    attention_to_discrete_mamba2(attention, config, plan(init)).expect("shapes that convert")
}

fn random(shape: [usize; 3]) -> Tensor<3> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// Decay 1: rows of A_log zero, its bias so low that σ(-A_log) rounds to 1.
fn without_decay(mut mixer: DiscreteMamba2) -> DiscreteMamba2 {
    let heads = mixer.config().n_heads;
    let Linear { weight, bias } = mixer.in_proj;
    let (weight, bias) = (weight.val(), bias.expect("bias: true").val());
    let [d, rows] = weight.dims();
    let kept = rows - heads;
    let weight = Tensor::cat(vec![weight.narrow(1, 0, kept), Tensor::zeros([d, heads], &Device::flex())], 1);
    let bias = Tensor::cat(vec![bias.narrow(0, 0, kept), Tensor::full([heads], -60.0, &Device::flex())], 0);
    mixer.in_proj = Linear { weight: Param::from_tensor(weight), bias: Some(Param::from_tensor(bias)) };
    mixer
}

/// `o_proj(tril(q kᵀ / √head_dim) v)` with the projections as they are, unrotated.
fn masked_linear_attention(attention: &Attention, u: Tensor<3>) -> Tensor<3> {
    let config = attention.config();
    let [b, t, _] = u.dims();
    let heads = |linear: &Linear, heads: usize| {
        let split = linear.forward(u.clone()).reshape([b, t, heads, 1, config.head_dim]);
        let shape = [b, t, config.n_heads, config.head_dim];
        split.repeat_dim(3, config.n_heads / heads).reshape(shape).swap_dims(1, 2) // b h t p
    };
    let q = heads(&attention.q_proj, config.n_heads);
    let k = heads(&attention.k_proj, config.n_kv_heads);
    let v = heads(&attention.v_proj, config.n_kv_heads);
    let scores = q.matmul(k.transpose()) / (config.head_dim as f64).sqrt();
    let mixed = scores.tril(0).matmul(v).swap_dims(1, 2);
    attention.o_proj.forward(mixed.reshape([b, t, config.n_heads * config.head_dim]))
}

/// Measured largest difference 1.1e-6 (values up to 4.9).
fn assert_is_masked_linear_attention(attention: &Attention, config: DiscreteMamba2Config) {
    let (mixer, _) = convert(attention, &config.with_bias(true), Init::Qkvo);
    let u = random([2, 37, D]);
    let expected = masked_linear_attention(attention, u.clone()).into_data();
    let found = without_decay(mixer).forward(u, None).into_data();
    found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
}

#[test]
fn without_decay_the_mixer_is_masked_linear_attention() {
    assert_is_masked_linear_attention(&attention(4, 4, 6, false), DiscreteMamba2Config::new(D, 4, 6));
}

#[test]
fn scaled_queries_scale_the_matrix() {
    let (attention, config) = (attention(4, 2, 6, true), DiscreteMamba2Config::new(D, 4, 6).with_bias(true));
    let u = random([2, 37, D]);
    let matrix = |query_scale| {
        let plan = LayerPlan { query_scale, ..plan(Init::Qkvo) };
        let (mixer, _) =
            attention_to_discrete_mamba2(&attention, &config, plan).expect("shapes that convert");
        mixer.mixing_matrix(u.clone(), None)
    };
    let expected = (matrix(1.0) * 0.25).into_data();
    matrix(0.25).into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
}

#[test]
fn grouped_queries_are_expanded_by_head() {
    assert_is_masked_linear_attention(&attention(4, 2, 6, false), DiscreteMamba2Config::new(D, 4, 6));
    assert_is_masked_linear_attention(&attention(6, 1, 4, false), DiscreteMamba2Config::new(D, 6, 4));
}

#[test]
fn biases_live_on_in_the_convolution_or_the_projection() {
    let attention = attention(4, 2, 6, true);
    let config = DiscreteMamba2Config::new(D, 4, 6);
    assert_is_masked_linear_attention(&attention, config.clone());
    assert_is_masked_linear_attention(&attention, config.with_conv_bias(false));
}

#[test]
fn a_gate_without_its_own_bias_opens_through_the_projection() {
    assert_is_masked_linear_attention(
        &attention(4, 4, 6, false),
        DiscreteMamba2Config::new(D, 4, 6).with_z_bias(false),
    );
}

#[test]
fn a_larger_state_changes_nothing() {
    assert_is_masked_linear_attention(&attention(4, 2, 6, true), DiscreteMamba2Config::new(D, 4, 10));
}

#[test]
fn a_head_can_be_split_into_several() {
    let attention = attention(4, 2, 6, true);
    assert_is_masked_linear_attention(&attention, DiscreteMamba2Config::new(D, 12, 6));
    assert_is_masked_linear_attention(
        &attention,
        DiscreteMamba2Config::new(D, 12, 6).with_n_qk_heads(Some(4)),
    );
}

#[test]
fn a_wide_attention_needs_a_wide_mixer() {
    assert_is_masked_linear_attention(
        &attention(4, 2, 12, false),
        DiscreteMamba2Config::new(D, 4, 12).with_expand(2),
    );
}

#[test]
fn the_default_start_opens_the_gate_and_passes_the_current_token() {
    let config = DiscreteMamba2Config::new(D, 4, 6);
    let (mixer, _) = convert(&attention(4, 4, 6, false), &config, Init::Mohawk);
    let u = random([1, 9, D]);
    let x = mixer.in_proj.forward(u.clone()).narrow(2, 0, D).reshape([1, 9, 4, 6]);
    mixer
        .values(u.clone(), None)
        .into_data()
        .assert_approx_eq::<f32>(&x.into_data(), Tolerance::absolute(1e-6));

    let mixed = random([9, 4, 6]).unsqueeze_dim::<4>(0);
    let expected = mixer.out_proj.forward(mixed.clone().reshape([1, 9, D]));
    mixer
        .output(mixed, u, None)
        .into_data()
        .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-6));
    assert_eq!(mixer.d.val().into_data(), Tensor::<1>::ones([4], &Device::flex()).into_data());
}

#[test]
fn the_output_projection_shrinks_with_depth() {
    let (mixer, _) = convert(&attention(4, 4, 6, false), &DiscreteMamba2Config::new(D, 4, 6), Init::Mohawk);
    let largest: f32 = mixer.out_proj.weight.val().abs().max().into_scalar();
    let bound = 1.0 / (D as f32 * 4.0).sqrt();
    assert!(largest <= bound && largest > 0.9 * bound, "{largest} in ±{bound}");
}

#[test]
fn a_seed_and_a_layer_decide_the_weights() {
    let (attention, config) = (attention(4, 4, 6, false), DiscreteMamba2Config::new(D, 4, 6));
    let weight = |plan: LayerPlan| {
        let (mixer, _) =
            attention_to_discrete_mamba2(&attention, &config, plan).expect("shapes that convert");
        mixer.in_proj.weight.val().into_data()
    };
    let first = weight(plan(Init::Mohawk));
    assert_eq!(first, weight(plan(Init::Mohawk)));
    assert_ne!(first, weight(LayerPlan { layer: 1, ..plan(Init::Mohawk) }));
    assert_ne!(first, weight(LayerPlan { seed: 6, ..plan(Init::Mohawk) }));
}

#[test]
fn reports_account_for_every_parameter_of_the_student() {
    for init in [Init::Mohawk, Init::Qkvo] {
        for biases in [false, true] {
            let (attention, config) =
                (attention(4, 2, 6, true), DiscreteMamba2Config::new(D, 4, 8).with_bias(biases));
            let (_, report) = convert(&attention, &config, init);
            let student =
                [Action::Copied, Action::Repeated, Action::Initialised].map(|action| report.count(action));
            assert_eq!(student.iter().sum::<usize>(), config.n_params(), "{init:?}, bias {biases}");
        }
    }
}

#[test]
fn reports_name_what_is_lost() {
    let (_, report) = convert(&attention(4, 2, 6, true), &DiscreteMamba2Config::new(D, 4, 6), Init::Qkvo);
    let dropped: Vec<_> = report.entries.iter().filter(|entry| entry.action == Action::Dropped).collect();
    assert_eq!(
        dropped.iter().map(|entry| entry.tensor.as_str()).collect::<Vec<_>>(),
        ["o_proj bias", "rotary embedding"]
    );
    assert_eq!(report.count(Action::Dropped), D);
    assert_eq!(report.count(Action::Repeated), 2 * D * D + 3 * D); // x, B and the convolution's bias
}

#[test]
fn a_convolution_of_the_attention_is_reported_as_lost() {
    let config = AttentionConfig::new(D, 4, 4, 6, RotaryConfig::new(6)).with_d_conv(Some(4));
    let attention = config.init(&Device::flex());
    for (init, lost) in [(Init::Qkvo, 3 * D * 5), (Init::Mohawk, config.n_params())] {
        let (_, report) = convert(&attention, &DiscreteMamba2Config::new(D, 4, 6), init);
        let mut dropped = report.entries.iter().filter(|entry| entry.action == Action::Dropped);
        assert!(dropped.any(|entry| entry.tensor == "conv1d" && entry.params == 3 * D * 5), "{init:?}");
        assert_eq!(report.count(Action::Dropped), lost, "{init:?}");
    }
}

#[test]
fn head_counts_that_do_not_map_are_refused() {
    // The shapes of Llama-3.2-3B (24 heads) and Llamba-3B (32), scaled down by 8.
    let attention = attention(3, 1, 8, false);
    let config = DiscreteMamba2Config::new(D, 4, 8);
    let refused =
        attention_to_discrete_mamba2(&attention, &config, plan(Init::Qkvo)).expect_err("3 heads into 4");
    assert_eq!(refused, ConvertError::Heads { teacher: 3, head_dim: 8, student: 4, groups: 4 });
    assert!(refused.to_string().contains("choose n_heads = 3, or init = mohawk"));
    convert(&attention, &config, Init::Mohawk);
}

#[test]
fn shapes_that_cannot_hold_the_projections_are_refused() {
    let attention = attention(4, 4, 6, false);
    let refused =
        |config| attention_to_discrete_mamba2(&attention, &config, plan(Init::Qkvo)).expect_err("a misfit");
    let config = DiscreteMamba2Config::new(D, 4, 6);
    assert_eq!(
        refused(DiscreteMamba2Config::new(D, 4, 5)),
        ConvertError::StateSize { d_state: 5, head_dim: 6 }
    );
    assert_eq!(refused(config.clone().with_expand(2)), ConvertError::InnerWidth { teacher: 24, student: 48 });
    assert_eq!(
        refused(DiscreteMamba2Config::new(12, 4, 6)),
        ConvertError::Width { teacher: 24, student: 12 }
    );
    assert_eq!(refused(DiscreteMamba2Config::new(D, 5, 6)), ConvertError::HeadDim { heads: 5, d_inner: 24 });
    assert_eq!(refused(config.with_n_qk_heads(Some(3))), ConvertError::Groups { groups: 3, heads: 4 });
}

#[test]
fn plans_take_the_attention_s_shapes_unless_told_otherwise() {
    let wide = AttentionConfig::new(D, 4, 2, 12, RotaryConfig::new(12));
    let config = ConversionPlan::default().mixer_config(&wide);
    assert_eq!((config.n_heads, config.d_state, config.d_inner(), config.chunk_size), (4, 12, 48, 128));
    let plan =
        ConversionPlan { d_state: Some(64), n_heads: Some(8), chunk_size: Some(32), ..Default::default() };
    let config = plan.mixer_config(&wide);
    assert_eq!((config.n_heads, config.d_state, config.chunk_size), (8, 64, 32));
}

const JUNCTIONS: [JunctionKind; 4] =
    [JunctionKind::Adapter, JunctionKind::Vanilla, JunctionKind::Hymba, JunctionKind::Merger];

fn kept(junction: JunctionKind, heads: &[usize]) -> KeptHeads {
    KeptHeads { junction, heads: heads.iter().map(|&head| (0, head)).collect() }
}

/// The attention with the output projection of every other head silenced.
fn only(mut attention: Attention, heads: &[usize]) -> Attention {
    let head_dim = attention.config().head_dim;
    let weight = attention.o_proj.weight.val();
    let rows = (0..attention.config().n_heads).map(|head| {
        let rows = weight.clone().narrow(0, head * head_dim, head_dim);
        if heads.contains(&head) { rows } else { rows.zeros_like() }
    });
    attention.o_proj.weight = Param::from_tensor(Tensor::cat(rows.collect(), 0));
    attention
}

#[test]
fn kept_heads_are_the_teacher_s_and_the_mixer_is_as_it_would_be_alone() {
    let config = DiscreteMamba2Config::new(D, 4, 6);
    for (kv_heads, biases) in [(4, false), (2, true), (1, false)] {
        let teacher = attention(4, kv_heads, 6, biases);
        for heads in [[2].as_slice(), &[3, 0], &[0, 1, 2, 3]] {
            let kept = kept(JunctionKind::Vanilla, heads);
            let (mixer, _) = attention_to_parallel(&teacher, &config, &kept, None, plan(Init::Mohawk))
                .expect("shapes that convert");
            let own = mixer.mixer2.as_ref().expect("attention heads");
            assert_eq!(
                (own.config().n_heads, own.config().n_kv_heads, own.q_proj.weight.dims()),
                (heads.len(), heads.len(), [D, 6 * heads.len()])
            );
            let u = random([2, 9, D]);
            let expected = only(teacher.clone(), heads).forward(u.clone(), None).into_data();
            own.forward(u.clone(), None)
                .into_data()
                .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
            let (alone, _) = convert(&teacher, &config, Init::Mohawk);
            let [alone, beside] =
                [&alone, &mixer.mixer1].map(|mixer| mixer.forward(u.clone(), None).into_data());
            assert_eq!(alone, beside);
        }
    }
}

#[test]
fn a_junction_starts_as_the_plan_s_seed_has_it_and_a_merger_takes_the_norm_over() {
    let (teacher, config) = (attention(4, 2, 6, false), DiscreteMamba2Config::new(D, 4, 6));
    let norm = Tensor::random([D], Distribution::Uniform(0.5, 2.0), &Device::flex());
    let junction = |junction, heads: &[usize], plan| {
        let kept = kept(junction, heads);
        let converted = attention_to_parallel(&teacher, &config, &kept, Some(norm.clone()), plan);
        converted.expect("shapes that convert").0.junction
    };
    let weight = |plan| match junction(JunctionKind::Adapter, &[1], plan) {
        Some(Junction::Adapter(adapter)) => adapter.out_proj.weight.val().into_data(),
        other => panic!("an adapter, not {other:?}"),
    };
    assert_eq!(weight(plan(Init::Qkvo)), weight(plan(Init::Qkvo)));
    assert_ne!(weight(plan(Init::Qkvo)), weight(LayerPlan { seed: 6, ..plan(Init::Qkvo) }));
    assert!(junction(JunctionKind::Adapter, &[], plan(Init::Qkvo)).is_none(), "nothing to adapt");
    let Some(Junction::Merger(merger)) = junction(JunctionKind::Merger, &[], plan(Init::Qkvo)) else {
        panic!("a merger")
    };
    for weight in [merger.input_layernorm.ssm_weight, merger.input_layernorm.attn_weight] {
        assert_eq!(weight.val().into_data(), norm.to_data());
    }
}

#[test]
fn reports_account_for_kept_heads() {
    let (teacher, config) = (attention(4, 2, 6, true), DiscreteMamba2Config::new(D, 4, 8));
    for (init, junction) in
        [Init::Mohawk, Init::Qkvo].into_iter().flat_map(|init| JUNCTIONS.map(|kind| (init, kind)))
    {
        for heads in [[].as_slice(), &[3], &[0, 3], &[0, 1]] {
            let kept = kept(junction, heads);
            let (mixer, report) = attention_to_parallel(
                &teacher,
                &config,
                &kept,
                Some(Tensor::ones([D], &Device::flex())),
                plan(init),
            )
            .expect("shapes that convert");
            let student =
                [Action::Copied, Action::Repeated, Action::Initialised].map(|action| report.count(action));
            assert_eq!(
                student.iter().sum::<usize>(),
                mixer.config().n_params(),
                "{init:?} {junction:?} {heads:?}"
            );
            if init == Init::Mohawk {
                let used = mixer.mixer2.as_ref().map_or(0, |mixer| mixer.config().n_params());
                let shared = if heads == [0, 1] { 2 * 6 * (D + 1) } else { 0 }; // two heads read the same keys
                let teacher = teacher.config().n_params();
                assert_eq!(report.count(Action::Dropped) + used - shared, teacher, "{junction:?} {heads:?}");
            }
        }
    }
}

#[test]
fn heads_that_cannot_be_kept_are_refused() {
    let config = DiscreteMamba2Config::new(D, 4, 6);
    let refused = |teacher: &Attention, heads: &[usize]| {
        attention_to_parallel(teacher, &config, &kept(JunctionKind::Adapter, heads), None, plan(Init::Mohawk))
            .expect_err("no such head")
    };
    let missing = refused(&attention(4, 2, 6, false), &[1, 4]);
    assert_eq!(missing, ConvertError::NoSuchHead { layer: 0, head: 4, n_heads: 4 });
    assert!(missing.to_string().contains("has heads 0 to 3"));
    let convolved = AttentionConfig::new(D, 4, 4, 6, RotaryConfig::new(6)).with_d_conv(Some(4));
    let refused = refused(&convolved.init(&Device::flex()), &[1]);
    assert_eq!(refused, ConvertError::HeadsWithConvolution { layer: 0 });
}
