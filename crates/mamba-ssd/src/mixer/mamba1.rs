//! The mixer of Mamba-1, in the form of MambaInLlama and M1: with the heads of grouped-query attention.
//!
//! ```text
//! [z | x | B | C | dt] = in_proj(u)
//! x = silu(conv(repeat(x)))                    B = repeat(B); B and C pass no convolution
//! Δ_t = softplus(W dt_t + 2 bias)              W and bias of dt_proj
//! S_t[c, j] = exp(-Δ_t[c] exp(A_log[c, j])) S_{t-1}[c, j] + Δ_t[c] x_t[c] B_t[g, j]
//! y_t[c] = Σ_j S_t[c, j] C_t[g, j] + D[c] x_t[c]
//! out = out_proj(y · silu(z))
//! ```
//!
//! Every n channels are a head, which reads its own group `g = ⌊c / n⌋` of B and C. x and B have fewer heads
//! than C, and each is repeated `d_inner / d_xb` times in a row, as keys and values are in attention. The bias
//! is added twice, by `dt_proj` and again in front of softplus: published weights were trained so.
//!
//! The decay differs from state entry to state entry, so this is not one SSD but a sum of n: for each j
//! one with a head per channel and p = n = 1, over the same values. They are evaluated one after the
//! other, so that nothing is n times as large as the values.
//!
//! Gu and Dao, "Mamba" (2023), algorithm 2; Wang et al., "The Mamba in the Llama" (2024), section 3, and its
//! code. Mamba-1 itself, whose B and C are shared by all channels, is left out.

use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use super::skip::{join_heads, repeat_heads, split_heads};
use super::step_size::{random_bias, step_size};
use super::{Activation, CausalConv1d, MatrixMixer, MixerState, Mixing};
use crate::norm::wide;
use crate::{Segments, SsdInput, project, scan, silu_gate};

/// Tokens per chunk of the scan. A chunk's decays are a matrix per channel, so it is a short one.
const CHUNK: usize = 16;

/// Shapes of a [`Mamba1`].
#[derive(Config, Debug)]
pub struct Mamba1Config {
    /// Width of the residual stream, d.
    pub d_model: usize,
    /// Inner width: channels of z, C and the repeated x.
    pub d_inner: usize,
    /// Channels of x and of B before they are repeated; divides `d_inner`.
    pub d_xb: usize,
    /// State size and channels of a head, n; divides `d_xb`.
    #[config(default = 16)]
    pub d_state: usize,
    /// Taps of the convolution, k.
    #[config(default = 4)]
    pub d_conv: usize,
    /// Features that step sizes are projected from; ⌈d / 16⌉ when absent.
    pub dt_rank: Option<usize>,
}

impl Mamba1Config {
    /// Features that step sizes are projected from.
    pub fn dt_rank(&self) -> usize {
        self.dt_rank.unwrap_or(self.d_model.div_ceil(16))
    }

    /// Groups of B and C, g: `d_inner / d_state`, each read by n channels.
    pub fn ngroups(&self) -> usize {
        self.d_inner / self.d_state
    }

    /// Rows of the input projection: z, x, B, C and dt.
    pub fn in_proj_dim(&self) -> usize {
        self.in_proj_parts().iter().sum()
    }

    /// Rows of z, x, B, C and dt.
    pub fn in_proj_parts(&self) -> [usize; 5] {
        [self.d_inner, self.d_xb, self.d_xb, self.d_inner, self.dt_rank()]
    }

    /// Number of parameters.
    pub fn n_params(&self) -> usize {
        let linear = self.d_model * (self.in_proj_dim() + self.d_inner);
        let dt = self.d_inner * (self.dt_rank() + 1);
        let conv = self.d_inner * (self.d_conv + 1);
        linear + dt + conv + self.d_inner * (self.d_state + 1)
    }

    /// A mixer with random weights: A = 1 to n, Δ log-uniform in [0.001, 0.1] for dt = 0, D = 1.
    ///
    /// # Panics
    ///
    /// If `d_state` does not divide `d_xb`, or `d_xb` the inner width.
    pub fn init(&self, device: &Device) -> Mamba1 {
        let Self { d_model, d_inner, d_xb, d_state, .. } = *self;
        assert_eq!(d_xb % d_state, 0, "d_state {d_state} does not divide d_xb {d_xb}");
        assert_eq!(d_inner % d_xb, 0, "d_xb {d_xb} does not divide {d_inner}");
        let linear = |input, output| LinearConfig::new(input, output).with_bias(false);
        let bound = (self.dt_rank() as f64).powf(-0.5);
        let uniform = Initializer::Uniform { min: -bound, max: bound };
        let mut dt_proj = linear(self.dt_rank(), d_inner).with_initializer(uniform).init(device);
        dt_proj.bias = Some(Param::from_tensor(random_bias(d_inner, device) / 2.0)); // it is added twice
        let rates = Tensor::arange(1..d_state as i64 + 1, device).float();
        Mamba1 {
            in_proj: linear(d_model, self.in_proj_dim()).init(device),
            conv1d: CausalConv1d::init(d_inner, self.d_conv, true, device),
            dt_proj,
            a_log: Param::from_tensor(rates.log().unsqueeze::<2>().repeat_dim(0, d_inner)),
            d: Initializer::Ones.init([d_inner], device),
            out_proj: linear(d_inner, d_model).init(device),
            config: self.clone(),
        }
    }
}

/// The mixer of Mamba-1.
#[derive(Module, Debug)]
pub struct Mamba1 {
    /// `d → [z | x | B | C | dt]`, without bias.
    pub in_proj: Linear,
    /// Over the repeated x.
    pub conv1d: CausalConv1d,
    /// `dt_rank → d_inner`, with the bias that is added twice.
    pub dt_proj: Linear,
    /// Logarithm of the decay rates, `[d_inner n]`.
    pub a_log: Param<Tensor<2>>,
    /// Skip term, `[d_inner]`.
    pub d: Param<Tensor<1>>,
    /// `d_inner → d`, without bias.
    pub out_proj: Linear,
    #[module(skip)]
    config: Mamba1Config,
}

/// The projections of a sequence. `x` is not yet scaled by the step size.
struct Projected {
    x: Tensor<3>,  // b t d_inner
    dt: Tensor<3>, // b t d_inner, wide
    b: Tensor<4>,  // b t g n
    c: Tensor<4>,  // b t g n
    z: Tensor<3>,  // b t d_inner
    conv: Tensor<3>,
}

impl Mamba1 {
    /// Shapes of this mixer.
    pub fn config(&self) -> &Mamba1Config {
        &self.config
    }

    fn project(&self, u: Tensor<3>, carried: Option<Tensor<3>>, segments: Option<&Segments>) -> Projected {
        let parts = project(&self.in_proj, u).split_with_sizes(self.config.in_proj_parts().to_vec(), 2);
        let [z, x, b, c, dt] = parts.try_into().expect("five parts");
        let repeat = |x| repeat_heads(x, self.config.d_state, self.config.ngroups());
        let (x, conv) = self.conv1d.forward(join_heads(repeat(x)), carried, segments);
        Projected {
            x: Activation::Silu.apply(x),
            dt: self.step_size(dt),
            b: repeat(b),
            c: split_heads(c, self.config.ngroups()),
            z,
            conv,
        }
    }

    /// Δ, in f32 or wider.
    fn step_size(&self, dt: Tensor<3>) -> Tensor<3> {
        let bias = self.dt_proj.bias.as_ref().expect("dt_proj has a bias").val();
        step_size(project(&self.dt_proj, dt), bias)
    }

    /// The n SSDs whose sum the mixer is, one for each state entry, in f32 or wider.
    fn entries(&self, projected: &Projected, segments: Option<&Segments>) -> impl Iterator<Item = SsdInput> {
        let dt = projected.dt.clone();
        let (b, c) = (projected.b.clone(), projected.c.clone());
        let scaled = (projected.x.clone().cast(dt.dtype()) * dt.clone()).unsqueeze_dim::<4>(3); // b t d_inner 1
        let rates = self.a_log.val().cast(dt.dtype()).exp().transpose(); // n d_inner
        let segments = segments.cloned();
        (0..self.config.d_state).map(move |j| {
            let log_a = -(dt.clone() * rates.clone().narrow(0, j, 1).unsqueeze());
            let [b, c] = [&b, &c].map(|projection| projection.clone().narrow(3, j, 1)); // b t g 1
            SsdInput::new(scaled.clone(), log_a, b, c).with_segments(segments.clone())
        })
    }

    /// `y [b t d_inner 1]` and the state after the last token, from a state or none.
    fn scan(
        &self,
        projected: &Projected,
        state: Option<Tensor<4>>,
        segments: Option<&Segments>,
    ) -> (Tensor<4>, Tensor<4>) {
        let (dtype, wide) = (projected.x.dtype(), projected.dt.dtype());
        let skip = projected.x.clone().cast(wide) * self.d.val().cast(wide).unsqueeze();
        let mut y = skip.unsqueeze_dim::<4>(3);
        let mut states = Vec::with_capacity(self.config.d_state);
        for (j, input) in self.entries(projected, segments).enumerate() {
            let state = state.clone().map(|state| state.narrow(3, j, 1));
            let entry = scan(SsdInput { state, ..input }, CHUNK);
            y = y + entry.y;
            states.push(entry.state);
        }
        (y.cast(dtype), Tensor::cat(states, 3))
    }

    /// One token: all state entries at once.
    fn advance(&self, token: &Projected, state: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let ([b, h, _, n], groups) = (state.dims(), self.config.ngroups());
        let (dtype, wide, kept) = (token.x.dtype(), token.dt.dtype(), state.dtype());
        let channels = |x: Tensor<3>| x.cast(wide).reshape([b, groups, n, 1]);
        let (x, dt) = (channels(token.x.clone()), channels(token.dt.clone()));
        let rates = self.a_log.val().cast(wide).exp().reshape([1, groups, n, n]);
        let key = token.b.clone().cast(wide).reshape([b, groups, 1, n]);
        let query = token.c.clone().cast(wide).reshape([b, groups, n, 1]);

        let state = state.cast(wide).reshape([b, groups, n, n]);
        let state = state * (-dt.clone() * rates).exp() + (dt * x.clone()) * key;
        let skip = x * self.d.val().cast(wide).reshape([1, groups, n, 1]);
        let y = state.clone().matmul(query) + skip;
        (y.cast(dtype).reshape([b, 1, h, 1]), state.cast(kept).reshape([b, h, 1, n]))
    }

    fn gate(&self, y: Tensor<4>, z: Tensor<3>) -> Tensor<3> {
        project(&self.out_proj, silu_gate(z, join_heads(y)))
    }
}

/// The heads of the matrix are channels: h = d_inner, p = 1.
impl MatrixMixer for Mamba1 {
    fn forward(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        let projected = self.project(u, None, segments);
        let (y, _) = self.scan(&projected, None, segments);
        self.gate(y, projected.z)
    }

    fn values(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<4> {
        self.project(u, None, segments).x.unsqueeze_dim(3)
    }

    /// Column s carries the step size Δ_s, so that the values are x itself.
    /// The sum over entries of the state; column s carries the step size Δ_s, so that the values are x itself.
    fn mixing(&self, u: Tensor<3>, segments: Option<&Segments>) -> Mixing {
        let projected = self.project(u, None, segments);
        let columns = Some(projected.dt.clone());
        Mixing::ssd(self.entries(&projected, segments), columns, self.d.val())
    }

    fn output(&self, mixed: Tensor<4>, u: Tensor<3>, _segments: Option<&Segments>) -> Tensor<3> {
        let z = project(&self.in_proj, u).narrow(2, 0, self.config.d_inner);
        self.gate(mixed, z)
    }

    /// The state of channel c is `[b c 1 n]`.
    fn init_state(&self, batch: usize, device: &Device) -> MixerState {
        let shape = [batch, self.config.d_inner, 1, self.config.d_state];
        let ssm = Tensor::zeros(shape, (device, wide(self.d.dtype())));
        MixerState::Ssm { conv: self.conv1d.init_state(batch, device), ssm }
    }

    fn prefill(&self, u: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        let (conv, ssm) = state.into_ssm();
        let projected = self.project(u, Some(conv), None);
        let (y, ssm) = self.scan(&projected, Some(ssm), None);
        (self.gate(y, projected.z), MixerState::Ssm { conv: projected.conv, ssm })
    }

    fn step(&self, u: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState) {
        let (conv, ssm) = state.into_ssm();
        let projected = self.project(u.unsqueeze_dim(1), Some(conv), None);
        let (y, ssm) = self.advance(&projected, ssm);
        let state = MixerState::Ssm { conv: projected.conv, ssm };
        (self.gate(y, projected.z).squeeze_dim(1), state)
    }

    fn n_heads(&self) -> usize {
        self.config.d_inner
    }
}
