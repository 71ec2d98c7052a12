//! Every mixer is its matrix: forward, matrix, prefill and step agree, documents do not meet, and the
//! authors' own mixer is met.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{
    Activation, AttentionConfig, DiscreteMamba2Config, JunctionKind, Mamba1Config, Mamba2Config, MatrixMixer,
    Mixer, MixerConfig, MixerState, ParallelConfig, Segments, State,
};
use mamba_ssd_tests::cases::{check, lengths};
use mamba_ssd_tests::device::{device, dtypes, skipped, widest};
use mamba_ssd_tests::evaluate::{tensor, values};
use mamba_ssd_tests::golden::{Golden, json};
use mamba_ssd_tests::limits::{mixer_limit, relative_error};
use mamba_ssd_tests::rng::Rng;
use mamba_ssd_tests::weights::RandomWeights;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// A mixer to be, and a sequence for it.
#[derive(Clone, Debug)]
struct Case {
    config: MixerConfig,
    d_model: usize,
    b: usize,
    t: usize,
    cuts: Vec<usize>,
    seed: u64,
}

impl Case {
    fn mixer(&self, dtype: DType, device: &Device) -> Mixer {
        self.config.init(device).map(&mut RandomWeights::new(self.seed, dtype))
    }

    /// The mixer's input, `[b t d]`.
    fn u(&self, dtype: DType, device: &Device) -> Tensor<3> {
        self.random(1, [self.b, self.t, self.d_model], dtype, device)
    }

    /// Normal numbers that depend on the seed and on `salt`.
    fn random<const D: usize>(
        &self,
        salt: u64,
        shape: [usize; D],
        dtype: DType,
        device: &Device,
    ) -> Tensor<D> {
        let numbers = Rng::new(self.seed.wrapping_add(salt)).normals(shape.iter().product());
        tensor(&numbers, shape, dtype, device)
    }

    fn pieces(&self) -> Vec<usize> {
        lengths(self.t, &self.cuts)
    }

    fn segments(&self, device: &Device) -> Segments {
        Segments::from_lengths(&vec![self.pieces(); self.b], device)
    }
}

fn attention() -> impl Strategy<Value = (MixerConfig, usize)> {
    let heads = prop_oneof![Just((1, 1)), Just((4, 4)), Just((4, 2)), Just((6, 2)), Just((3, 1))];
    let (flags, d_conv) = ((any::<bool>(), any::<bool>()), option::of(2..=5usize));
    (heads, 1..=4usize, 0..=4usize, flags, d_conv, 3..=9usize).prop_map(
        |((heads, kv), half_head, half_rotary, (qkv_bias, out_bias), d_conv, d_model)| {
            let rotary = RotaryConfig::new(2 * half_rotary.min(half_head));
            let config = AttentionConfig::new(d_model, heads, kv, 2 * half_head, rotary);
            let config = config.with_qkv_bias(qkv_bias).with_out_bias(out_bias).with_d_conv(d_conv);
            (MixerConfig::Attention(config), d_model)
        },
    )
}

fn discrete_mamba2() -> impl Strategy<Value = (MixerConfig, usize)> {
    let heads = prop_oneof![Just((1, None)), Just((2, None)), Just((4, Some(2))), Just((6, Some(1)))];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (heads, 1..=2usize, 1..=4usize, 1..=5usize, 2..=5usize, 1..=40usize, flags).prop_map(
        |((heads, qk), expand, p, n, d_conv, chunk, (bias, z_bias, conv_bias, silu))| {
            let d_model = heads * p;
            let config = DiscreteMamba2Config::new(d_model, heads, n)
                .with_n_qk_heads(qk)
                .with_expand(expand)
                .with_d_conv(d_conv)
                .with_bias(bias)
                .with_z_bias(z_bias)
                .with_conv_bias(conv_bias)
                .with_activation(if silu { Activation::Silu } else { Activation::Identity })
                .with_chunk_size(chunk);
            (MixerConfig::DiscreteMamba2(config), d_model)
        },
    )
}

fn mamba2() -> impl Strategy<Value = (MixerConfig, usize)> {
    let heads = prop_oneof![Just((1, 1)), Just((2, 1)), Just((4, 2)), Just((4, 4))];
    let flags = (any::<bool>(), any::<bool>());
    (heads, 1..=2usize, 1..=4usize, 1..=5usize, 2..=5usize, 1..=40usize, flags).prop_map(
        |((heads, groups), expand, p, n, d_conv, chunk, (bias, conv_bias))| {
            let d_model = heads * p;
            let config = Mamba2Config::new(d_model)
                .with_d_state(n)
                .with_d_conv(d_conv)
                .with_expand(expand)
                .with_headdim(p * expand)
                .with_ngroups(groups)
                .with_bias(bias)
                .with_conv_bias(conv_bias)
                .with_chunk_size(chunk);
            (MixerConfig::Mamba2(config), d_model)
        },
    )
}

/// Heads, p over n, groups, and heads of x before they are repeated: those of MambaInLlama, where p = n and
/// the groups are the heads, and others.
fn grouped_mamba2() -> impl Strategy<Value = (MixerConfig, usize)> {
    let heads = prop_oneof![
        Just((6, 1, 6, 2)),
        Just((4, 1, 4, 1)),
        Just((3, 1, 3, 3)),
        Just((4, 1, 2, 2)),
        Just((4, 2, 4, 2)),
        Just((4, 2, 2, 1)),
    ];
    (heads, 1..=2usize, 1..=4usize, 2..=5usize, 1..=40usize, any::<bool>()).prop_map(
        |((heads, wide, groups, x_heads), expand, n, d_conv, chunk, conv_bias)| {
            let (p, d_model) = (wide * n, heads * wide * n);
            let config = Mamba2Config::new(d_model)
                .with_d_state(n)
                .with_d_conv(d_conv)
                .with_expand(expand)
                .with_headdim(p)
                .with_ngroups(groups * expand)
                .with_d_xb(Some(x_heads * p))
                .with_conv_bias(conv_bias)
                .with_chunk_size(chunk);
            (MixerConfig::Mamba2(config), d_model)
        },
    )
}

fn mamba1() -> impl Strategy<Value = (MixerConfig, usize)> {
    let heads = prop_oneof![Just((1, 1)), Just((2, 2)), Just((3, 1)), Just((4, 2)), Just((6, 2))];
    (heads, 1..=4usize, 2..=5usize, option::of(1..=3usize), 3..=9usize).prop_map(
        |((heads, x_heads), n, d_conv, dt_rank, d_model)| {
            let config = Mamba1Config::new(d_model, heads * n, x_heads * n)
                .with_d_state(n)
                .with_d_conv(d_conv)
                .with_dt_rank(dt_rank);
            (MixerConfig::Mamba1(config), d_model)
        },
    )
}

/// SSM heads beside attention heads of another width, or beside none; joined in any way.
fn parallel() -> impl Strategy<Value = (MixerConfig, usize)> {
    let attention = option::of((1..=3usize, 1..=3usize, any::<bool>()));
    let junction = prop_oneof![
        Just(JunctionKind::Adapter),
        Just(JunctionKind::Vanilla),
        Just(JunctionKind::Hymba),
        Just(JunctionKind::Merger)
    ];
    let wide = discrete_mamba2().prop_filter("a deviation needs two channels", |(_, d_model)| *d_model > 1);
    (wide, attention, junction).prop_map(|((config, d_model), attention, junction)| {
        let MixerConfig::DiscreteMamba2(ssm) = config else { unreachable!("a discrete mixer") };
        let attention = attention.map(|(heads, half, bias)| {
            let config = AttentionConfig::new(d_model, heads, heads, 2 * half, RotaryConfig::new(2 * half));
            config.with_qkv_bias(bias).with_out_bias(bias)
        });
        let config = ParallelConfig::new(ssm, junction).with_attention(attention);
        (MixerConfig::Parallel(config), d_model)
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let config =
        prop_oneof![attention(), discrete_mamba2(), mamba1(), mamba2(), grouped_mamba2(), parallel()];
    (config, 1..=2usize, 1..60usize, any::<u64>()).prop_flat_map(|((config, d_model), b, t, seed)| {
        let case = move |cuts| Case { config: config.clone(), d_model, b, t, cuts, seed };
        vec(0..t, 0..4).prop_map(case)
    })
}

fn assert_close<const D: usize>(what: &str, got: Tensor<D>, want: Tensor<D>) {
    assert_eq!(got.dims(), want.dims(), "{what}: shapes differ");
    let limit = mixer_limit(want.dtype());
    let (got, want) = (values(got), values(want));
    let error = relative_error(&got, &want, &want);
    assert!(error <= limit, "{what}: relative error {error:.1e} above {limit:.0e}");
}

fn mix(mixer: &Mixer, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
    let values = mixer.values(u.clone(), segments).swap_dims(1, 2); // b h t p
    let mixed = mixer.mixing_matrix(u.clone(), segments).matmul(values).swap_dims(1, 2);
    mixer.output(mixed, u, segments)
}

#[test]
fn output_of_matrix_times_values_is_forward() {
    check("mixers", 96, cases(), |case: &Case| {
        let (dtype, device) = (widest(), device());
        let (mixer, u) = (case.mixer(dtype, &device), case.u(dtype, &device));
        let segments = case.segments(&device);
        for segments in [None, Some(&segments)] {
            let forward = mixer.forward(u.clone(), segments);
            assert_close("output(M · values)", mix(&mixer, u.clone(), segments), forward);
        }
    });
}

#[test]
fn matrix_is_zero_above_the_diagonal_and_between_documents() {
    check("mixers", 48, cases(), |case: &Case| {
        let (dtype, device) = (widest(), device());
        let segments = case.segments(&device);
        let matrix = case.mixer(dtype, &device).mixing_matrix(case.u(dtype, &device), Some(&segments));
        let document: Vec<usize> =
            case.pieces().iter().enumerate().flat_map(|(i, &length)| vec![i; length]).collect();
        let t = case.t;
        for (k, value) in values(matrix).into_iter().enumerate() {
            let (l, s) = (k / t % t, k % t);
            assert!((s <= l && document[l] == document[s]) || value == 0.0, "M[{l}, {s}] = {value}");
        }
    });
}

#[test]
fn prefill_in_any_pieces_then_steps_equal_forward() {
    check("mixers", 96, cases(), |case: &Case| {
        let (dtype, device) = (widest(), device());
        let (mixer, u) = (case.mixer(dtype, &device), case.u(dtype, &device));
        let mut pieces = case.pieces();
        let stepped = if pieces.len() > 1 { pieces.pop().expect("a last piece") } else { 0 };
        let prefilled = case.t - stepped;

        let mut state = mixer.init_state(case.b, &device);
        let (mut outputs, mut start) = (Vec::new(), 0);
        for length in pieces {
            let (y, next) = mixer.prefill(u.clone().narrow(1, start, length), state);
            outputs.push(y);
            (state, start) = (next, start + length);
        }
        for i in prefilled..case.t {
            let (y, next) = mixer.step(u.clone().narrow(1, i, 1).squeeze_dim(1), state);
            outputs.push(y.unsqueeze_dim(1));
            state = next;
        }
        assert_close("outputs", Tensor::cat(outputs, 1), mixer.forward(u.clone(), None));
        let (_, whole) = mixer.prefill(u, mixer.init_state(case.b, &device));
        assert_same_state(state, whole);
    });
}

/// Heads wider than what the CPU reads of a state at once, and prompts longer than what one task convolves.
#[test]
fn wide_heads_and_long_prompts_read_in_pieces_equal_forward() {
    if skipped(&["wgpu"], "nothing there reads a state in strips, and its products are tuned for minutes") {
        return;
    }
    let configs = [
        (MixerConfig::DiscreteMamba2(DiscreteMamba2Config::new(80, 2, 5).with_z_bias(true)), 80),
        (MixerConfig::Mamba2(Mamba2Config::new(40).with_headdim(40).with_d_state(6)), 40),
    ];
    let (dtype, device) = (widest(), device());
    for (config, d_model) in configs {
        let case = Case { config, d_model, b: 2, t: 70, cuts: vec![], seed: 5 };
        let (mixer, u) = (case.mixer(dtype, &device), case.u(dtype, &device));
        let (mut state, mut pieces) = (mixer.init_state(2, &device), vec![]);
        for (start, length) in [(0, 2), (2, 1), (3, 67)] {
            let (y, next) = mixer.prefill(u.clone().narrow(1, start, length), state);
            pieces.push(y);
            state = next;
        }
        assert_close("outputs", Tensor::cat(pieces, 1), mixer.forward(u.clone(), None));
        let token = |i| u.clone().narrow(1, i, 1).squeeze_dim::<2>(1);
        let steps = |state, i| mixer.step(token(i), state).1;
        assert_same_state(state, (0..case.t).fold(mixer.init_state(2, &device), steps));
    }
}

fn assert_same_state(got: MixerState, want: MixerState) {
    match (got, want) {
        (MixerState::Attention { cache, conv }, MixerState::Attention { cache: want_cache, conv: want }) => {
            assert_close("keys", cache.k, want_cache.k);
            assert_close("values", cache.v, want_cache.v);
            assert_eq!(conv.is_some(), want.is_some(), "a window where there is a convolution");
            conv.into_iter()
                .zip(want)
                .for_each(|(conv, want)| assert_close("convolution window", conv, want));
        }
        (MixerState::Ssm { conv, ssm }, MixerState::Ssm { conv: want_conv, ssm: want_ssm }) => {
            assert_close("convolution window", conv, want_conv);
            assert_close("SSD state", ssm, want_ssm);
        }
        (
            MixerState::Parallel { ssm, attention },
            MixerState::Parallel { ssm: want_ssm, attention: want_attention },
        ) => {
            assert_same_state(*ssm, *want_ssm);
            assert_same_state(*attention, *want_attention);
        }
        (got, want) => panic!("states of different kinds: {got:?}, {want:?}"),
    }
}

#[test]
fn packed_documents_equal_documents_apart_forward_and_backward() {
    check("mixers", 96, cases(), |case: &Case| {
        let (dtype, device) = (widest(), device().autodiff());
        let mixer = case.mixer(dtype, &device);
        let segments = case.segments(&device);
        let packed = |u: Tensor<3>| mixer.forward(u, Some(&segments));
        let apart = |u: Tensor<3>| {
            let mut start = 0;
            let documents = case.pieces().into_iter().map(|length| {
                start += length;
                mixer.forward(u.clone().narrow(1, start - length, length), None)
            });
            Tensor::cat(documents.collect(), 1)
        };
        let (y, gradient) = case.differentiate(packed, dtype, &device);
        let (want, want_gradient) = case.differentiate(apart, dtype, &device);
        assert_close("outputs", y, want);
        assert_close("gradient of u", gradient, want_gradient);
    });
}

impl Case {
    /// A function of u, and the gradient of u for a random cotangent.
    fn differentiate(
        &self,
        run: impl Fn(Tensor<3>) -> Tensor<3>,
        dtype: DType,
        device: &Device,
    ) -> (Tensor<3>, Tensor<3>) {
        let u = self.u(dtype, device).require_grad();
        let y = run(u.clone());
        let grads = (y.clone() * self.random(2, y.dims(), dtype, device)).sum().backward();
        (y.inner(), u.grad(&grads).expect("a gradient of u"))
    }
}

#[test]
fn later_tokens_leave_earlier_outputs_bit_identical() {
    check("mixers", 48, cases(), |case: &Case| {
        let (device, first) = (device(), case.pieces()[0]);
        for dtype in dtypes() {
            let (mixer, u) = (case.mixer(dtype, &device), case.u(dtype, &device));
            let other = case.random(3, [case.b, case.t, case.d_model], dtype, &device);
            let changed = other.slice_assign([0..case.b, 0..first], u.clone().narrow(1, 0, first));
            let head = |u: Tensor<3>| values(mixer.forward(u, None).narrow(1, 0, first));
            assert_eq!(head(u), head(changed), "{:?} in {dtype:?} looks ahead", case.config);
        }
    });
}

/// Decays and step sizes far beyond where their logistic saturates; `x / softplus(A_log)` would
/// overflow here.
#[test]
fn saturated_decays_stay_finite_forward_and_backward() {
    check("mixers", 48, cases(), |case: &Case| {
        let (dtype, device) = (DType::F32, device().autodiff());
        let mixer = saturated(case.mixer(dtype, &device));
        let (y, gradient) = case.differentiate(|u| mixer.forward(u, None), dtype, &device);
        for value in values(y).into_iter().chain(values(gradient)) {
            assert!(value.is_finite(), "{:?} gives {value}", case.config);
        }
    });
}

/// The mixer with its decay projection times 200: `dt_proj` in Mamba-1, else the last columns of `in_proj`.
fn saturated(mixer: Mixer) -> Mixer {
    let heads = mixer.n_heads();
    let raise = |weight: Param<Tensor<2>>| {
        weight.map(|weight| {
            let [d, columns] = weight.dims();
            let decay = [0..d, columns - heads..columns];
            let raised = weight.clone().slice(decay.clone()) * 200.0;
            weight.slice_assign(decay, raised).detach().require_grad()
        })
    };
    match mixer {
        Mixer::Attention(mixer) => Mixer::Attention(mixer),
        Mixer::DiscreteMamba2(mut mixer) => {
            mixer.in_proj.weight = raise(mixer.in_proj.weight);
            Mixer::DiscreteMamba2(mixer)
        }
        Mixer::Mamba1(mut mixer) => {
            mixer.dt_proj.weight = raise(mixer.dt_proj.weight); // it has as many columns as heads
            Mixer::Mamba1(mixer)
        }
        Mixer::Mamba2(mut mixer) => {
            mixer.in_proj.weight = raise(mixer.in_proj.weight);
            Mixer::Mamba2(mixer)
        }
        Mixer::Parallel(mut mixer) => {
            mixer.mixer1.in_proj.weight = raise(mixer.mixer1.in_proj.weight);
            Mixer::Parallel(mixer)
        }
    }
}

/// The mixer of the MOHAWK authors, with their weights.
#[test]
fn discrete_mamba2_meets_the_authors_mixer() {
    let (golden, dtype, device) = (Golden::load("mohawk_mixer"), widest(), device());
    let read = |name: &str| golden.values(&format!("phi.{name}"));
    let phi = &json("mohawk_mixer")["phi"];
    let size = |key: &str| phi[key].as_u64().expect("a size") as usize;
    let config = DiscreteMamba2Config::new(size("d_model"), size("n_v_heads"), size("d_state"))
        .with_d_conv(size("d_conv"))
        .with_chunk_size(size("chunk"));
    let (d, rows, channels) = (config.d_model, config.in_proj_dim(), config.conv_dim());

    let mut mixer = config.init(&device);
    mixer.in_proj.weight = transposed(&read("in_proj.weight"), [rows, d], dtype, &device);
    mixer.out_proj.weight = transposed(&read("out_proj.weight"), [d, d], dtype, &device);
    mixer.conv1d.weight = param(&read("conv1d.weight"), [channels, config.d_conv], dtype, &device);
    mixer.conv1d.bias = Some(param(&read("conv1d.bias"), [channels], dtype, &device));
    mixer.z_bias = Some(param(&read("z_bias"), [d], dtype, &device));
    mixer.d = param(&read("D"), [config.n_heads], dtype, &device);

    let u = tensor(&read("in"), golden.shape("phi.in"), dtype, &device);
    assert_meets("output", mixer.forward(u.clone(), None), &read("out"));
    assert_meets("matrix", mixer.mixing_matrix(u, None), &read("T"));
}

fn param<const D: usize>(
    values: &[f64],
    shape: [usize; D],
    dtype: DType,
    device: &Device,
) -> Param<Tensor<D>> {
    Param::from_tensor(tensor(values, shape, dtype, device))
}

/// A PyTorch weight `[out in]` as burn stores it.
fn transposed(values: &[f64], shape: [usize; 2], dtype: DType, device: &Device) -> Param<Tensor<2>> {
    Param::from_tensor(tensor(values, shape, dtype, device).transpose())
}

fn assert_meets<const D: usize>(what: &str, got: Tensor<D>, want: &[f64]) {
    let (error, limit) = (relative_error(&values(got), want, want), mixer_limit(widest()));
    assert!(error <= limit, "{what}: relative error {error:.1e} above {limit:.0e}");
}

#[test]
fn a_step_leaves_a_state_that_is_held_elsewhere_as_it_was() {
    check("mixers", 24, cases(), |case: &Case| {
        let (dtype, device) = (widest(), device());
        let (mixer, u) = (case.mixer(dtype, &device), case.u(dtype, &device));
        let (_, held) = mixer.prefill(u.clone(), mixer.init_state(case.b, &device));
        let token = u.narrow(1, 0, 1).squeeze_dim::<2>(1);
        let (first, after_first) = mixer.step(token.clone(), held.clone());
        let (again, after_again) = mixer.step(token, held);
        assert_close("outputs", again, first);
        assert_same_state(after_first, after_again);
    });
}

/// A state in half precision: rounded from token to token, and otherwise the same. On GPUs that is another kernel.
#[test]
fn a_state_in_half_precision_keeps_its_dtype_and_follows_the_wide_one() {
    let configs = [
        MixerConfig::DiscreteMamba2(DiscreteMamba2Config::new(16, 2, 16)),
        MixerConfig::Mamba2(Mamba2Config::new(16).with_headdim(8).with_d_state(8)),
        MixerConfig::Mamba1(Mamba1Config::new(16, 16, 8).with_d_state(4)),
    ];
    let device = device();
    for (dtype, config) in dtypes().into_iter().flat_map(|dtype| configs.iter().map(move |c| (dtype, c))) {
        let half = if device.supports_dtype(DType::BF16) { FloatDType::BF16 } else { FloatDType::F16 };
        if !device.supports_dtype(half) {
            continue;
        }
        let case = Case { config: config.clone(), d_model: 16, b: 2, t: 5, cuts: vec![], seed: 3 };
        let (mixer, u) = (case.mixer(dtype, &device), case.u(dtype, &device));
        let wide = State { layers: vec![mixer.init_state(2, &device)] };
        let mut states = [wide.clone(), wide.with_ssm_dtype(half)];
        for i in 0..case.t {
            let token = u.clone().narrow(1, i, 1).squeeze_dim::<2>(1);
            let outputs = states.each_mut().map(|state| {
                let (y, next) = mixer.step(token.clone(), state.layers.remove(0));
                state.layers.push(next);
                values(y)
            });
            let error = relative_error(&outputs[1], &outputs[0], &outputs[0]);
            assert!(error < 3e-2, "{config:?} in {dtype:?}, token {i}: {error:.1e}");
        }
        let [_, narrow] = states;
        let Some(MixerState::Ssm { ssm, .. }) = narrow.layers.first() else {
            panic!("{config:?} has no SSD state");
        };
        assert_eq!(ssm.dtype(), half.into(), "{config:?}");
    }
}
