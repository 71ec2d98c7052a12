//! The mixer of Mamba-2.
//!
//! ```text
//! [z | x B C | dt] = in_proj(u)
//! x, B, C = silu(conv(x B C))                 B and C per group
//! Δ_t = softplus(dt_t + dt_bias)              a_t = exp(-Δ_t exp(A_log))
//! S_t = a_t S_{t-1} + Δ_t x_t ⊗ B_t
//! y_t = S_t C_t + D x_t
//! out = out_proj(norm(y · silu(z)))
//! ```
//!
//! Dao and Gu (2024), section 7. The gated norm is per group. Left out: `norm_before_gate`, limits on
//! the step size, and the gated-MLP columns that no published model uses.
//!
//! With `d_xb`, x and B leave projection and convolution with fewer heads than C, and each of them is then
//! repeated in a row, as keys and values are in grouped-query attention. That is the mixer of MambaInLlama
//! (Wang et al., "The Mamba in the Llama", 2024, section 3), where p = n and g = h.

use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use super::skip::{join_heads, repeat_heads, scan_with_skip, split_heads};
use super::step_size::{random_bias, step_size};
use super::{Activation, CausalConv1d, MatrixMixer, MixerState, Mixing};
#[cfg(any(feature = "flex", feature = "cube"))]
use crate::kernels::{ConvStep, StateStep, StepForm, TokenStep};
use crate::linear::project_padded;
use crate::norm::{GatedRmsNorm, NormConfig, wide};
use crate::{Segments, SsdInput, SsdStep, project, step};

/// Shapes of a [`Mamba2`].
#[derive(Config, Debug)]
pub struct Mamba2Config {
    /// Width of the residual stream, d.
    pub d_model: usize,
    /// State size, n.
    #[config(default = 128)]
    pub d_state: usize,
    /// Taps of the convolution, k.
    #[config(default = 4)]
    pub d_conv: usize,
    /// Inner width over `d_model`.
    #[config(default = 2)]
    pub expand: usize,
    /// Head dimension, p.
    #[config(default = 64)]
    pub headdim: usize,
    /// Groups of B and C, g.
    #[config(default = 1)]
    pub ngroups: usize,
    /// Channels of x and of B before their heads are repeated, a multiple of p and of n; x has h heads
    /// and B has g when absent.
    pub d_xb: Option<usize>,
    /// Whether the two projections have biases.
    #[config(default = false)]
    pub bias: bool,
    /// Whether the convolution has a bias.
    #[config(default = true)]
    pub conv_bias: bool,
    /// ε of the gated norm.
    #[config(default = 1e-5)]
    pub norm_epsilon: f64,
    /// Tokens per chunk of the scan.
    #[config(default = 256)]
    pub chunk_size: usize,
}

impl Mamba2Config {
    /// Inner width, `expand · d_model`.
    pub fn d_inner(&self) -> usize {
        self.expand * self.d_model
    }

    /// Heads, h.
    pub fn n_heads(&self) -> usize {
        self.d_inner() / self.headdim
    }

    /// Channels of the convolution: x, B and C.
    pub fn conv_dim(&self) -> usize {
        self.conv_parts().iter().sum()
    }

    /// Channels of x, B and C.
    fn conv_parts(&self) -> [usize; 3] {
        let c = self.ngroups * self.d_state;
        [self.d_xb.unwrap_or(self.d_inner()), self.d_xb.unwrap_or(c), c]
    }

    /// Rows of the input projection: z, x, B, C and dt.
    pub fn in_proj_dim(&self) -> usize {
        self.d_inner() + self.conv_dim() + self.n_heads()
    }

    /// Number of parameters.
    pub fn n_params(&self) -> usize {
        let biases = if self.bias { self.in_proj_dim() + self.d_model } else { 0 };
        let conv = self.conv_dim() * (self.d_conv + usize::from(self.conv_bias));
        let linear = self.d_model * (self.in_proj_dim() + self.d_inner());
        linear + conv + 3 * self.n_heads() + self.d_inner() + biases
    }

    /// A mixer with random weights: A uniform in [1, 16], Δ log-uniform in [0.001, 0.1], D = 1.
    ///
    /// # Panics
    ///
    /// If the head dimension does not divide the inner width, or the groups the heads; with `d_xb`, if x or
    /// B has no whole heads, or they do not divide those of the scan.
    pub fn init(&self, device: &Device) -> Mamba2 {
        assert_eq!(
            self.d_inner() % self.headdim,
            0,
            "headdim {} does not divide {}",
            self.headdim,
            self.d_inner()
        );
        assert_eq!(
            self.n_heads() % self.ngroups,
            0,
            "{} groups do not divide {} heads",
            self.ngroups,
            self.n_heads()
        );
        assert_repeats("x", self.conv_parts()[0], self.headdim, self.n_heads());
        assert_repeats("B", self.conv_parts()[1], self.d_state, self.ngroups);
        let linear = |input, output| LinearConfig::new(input, output).with_bias(self.bias).init(device);
        let norm = NormConfig::new(self.d_inner()).with_epsilon(self.norm_epsilon);
        let rates = Initializer::Uniform { min: 1.0, max: 16.0 }.init::<1, _>([self.n_heads()], device);
        Mamba2 {
            in_proj: linear(self.d_model, self.in_proj_dim()),
            conv1d: CausalConv1d::init(self.conv_dim(), self.d_conv, self.conv_bias, device),
            dt_bias: Param::from_tensor(random_bias(self.n_heads(), device)),
            a_log: Param::from_tensor(rates.val().log().detach()),
            d: Initializer::Ones.init([self.n_heads()], device),
            norm: norm.init_gated(self.ngroups, device),
            out_proj: linear(self.d_inner(), self.d_model),
            config: self.clone(),
        }
    }
}

/// Panics unless heads of `width` channels can be repeated until they are `heads`.
fn assert_repeats(name: &str, channels: usize, width: usize, heads: usize) {
    assert!(
        channels.is_multiple_of(width) && heads.is_multiple_of(channels / width),
        "{channels} channels of {name} are no heads of {width} whose number divides {heads}"
    );
}

/// The mixer of Mamba-2.
#[derive(Module, Debug)]
pub struct Mamba2 {
    /// `d → [z | x | B | C | dt]`.
    pub in_proj: Linear,
    /// Over x, B and C.
    pub conv1d: CausalConv1d,
    /// Added to dt before softplus, `[h]`.
    pub dt_bias: Param<Tensor<1>>,
    /// Logarithm of the decay rate, `[h]`.
    pub a_log: Param<Tensor<1>>,
    /// Skip term, `[h]`.
    pub d: Param<Tensor<1>>,
    /// Over `y · silu(z)`.
    pub norm: GatedRmsNorm,
    /// `d_inner → d`.
    pub out_proj: Linear,
    #[module(skip)]
    config: Mamba2Config,
}

/// The projections of a sequence, after the convolution. `x` is not yet scaled by the step size.
struct Projected {
    x: Tensor<4>,
    dt: Tensor<3>,
    b: Tensor<4>,
    c: Tensor<4>,
    z: Tensor<3>,
    conv: Tensor<3>,
}

impl Mamba2 {
    /// Shapes of this mixer.
    pub fn config(&self) -> &Mamba2Config {
        &self.config
    }

    fn project(&self, u: Tensor<3>, carried: Option<Tensor<3>>, segments: Option<&Segments>) -> Projected {
        self.split(project_padded(&self.in_proj, u), carried, segments)
    }

    /// The parts of the input projection's rows, `[b t w]`.
    fn split(
        &self,
        projected: Tensor<3>,
        carried: Option<Tensor<3>>,
        segments: Option<&Segments>,
    ) -> Projected {
        let (inner, conv_dim) = (self.config.d_inner(), self.config.conv_dim());
        let (heads, groups) = (self.config.n_heads(), self.config.ngroups);
        let z = projected.clone().narrow(2, 0, inner);
        let dt = projected.clone().narrow(2, inner + conv_dim, heads);
        let (xbc, conv) = self.conv1d.forward(projected.narrow(2, inner, conv_dim), carried, segments);
        let parts = Activation::Silu.apply(xbc).split_with_sizes(self.config.conv_parts().to_vec(), 2);
        let [x, b, c] = parts.try_into().expect("three parts");
        Projected {
            x: repeat_heads(x, self.config.headdim, heads),
            dt: step_size(dt, self.dt_bias.val()),
            b: repeat_heads(b, self.config.d_state, groups),
            c: split_heads(c, groups),
            z,
            conv,
        }
    }

    /// One token for the native step.
    #[cfg(any(feature = "flex", feature = "cube"))]
    fn token(&self, projected: Tensor<2>, window: Tensor<3>, state: Tensor<4>) -> TokenStep {
        let config = &self.config;
        TokenStep {
            projected,
            window,
            state,
            weight: self.conv1d.weight.val(),
            bias: self.conv1d.bias.as_ref().map(|bias| bias.val()),
            d: self.d.val(),
            vectors: vec![self.dt_bias.val(), self.a_log.val()],
            conv: ConvStep { first: config.d_inner(), bias: self.conv1d.bias.is_some(), silu: true },
            step: StateStep {
                groups: config.ngroups,
                decay: config.d_inner() + config.conv_dim(),
                gate: 0,
                form: StepForm::StepSize,
            },
        }
    }

    /// One token natively, if the device can and no head of x and B is to be repeated.
    #[cfg(any(feature = "flex", feature = "cube"))]
    fn native_step(
        &self,
        projected: Tensor<2>,
        window: Tensor<3>,
        state: Tensor<4>,
    ) -> Result<(Tensor<2>, Tensor<3>, Tensor<4>), Box<TokenStep>> {
        let token = self.token(projected, window, state);
        if self.repeats_heads() { Err(Box::new(token)) } else { token.run() }
    }

    /// Whether heads of x and B are repeated, which no native operation does.
    #[cfg(any(feature = "flex", feature = "cube"))]
    fn repeats_heads(&self) -> bool {
        self.config.d_xb.is_some()
    }

    fn ssd_input(&self, projected: &Projected, segments: Option<&Segments>) -> SsdInput {
        let (dt, x) = (projected.dt.clone(), projected.x.clone());
        let rate = self.a_log.val().cast(dt.dtype()).exp().unsqueeze();
        let scaled = x.clone() * dt.clone().cast(x.dtype()).unsqueeze_dim::<4>(3);
        SsdInput::new(scaled, -(dt * rate), projected.b.clone(), projected.c.clone())
            .with_segments(segments.cloned())
    }

    fn scan(&self, projected: &Projected, input: SsdInput) -> (Tensor<4>, Tensor<4>) {
        scan_with_skip(input, projected.x.clone(), self.d.val(), self.config.chunk_size)
    }

    fn gate(&self, y: Tensor<3>, z: Tensor<3>) -> Tensor<3> {
        project(&self.out_proj, self.norm.forward(y, z))
    }
}

impl MatrixMixer for Mamba2 {
    fn forward(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        let projected = self.project(u, None, segments);
        let (y, _) = self.scan(&projected, self.ssd_input(&projected, segments));
        self.gate(join_heads(y), projected.z)
    }

    fn values(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<4> {
        self.project(u, None, segments).x
    }

    /// Column s carries the step size Δ_s, so that the values are x itself.
    fn mixing(&self, u: Tensor<3>, segments: Option<&Segments>) -> Mixing {
        let projected = self.project(u, None, segments);
        let input = self.ssd_input(&projected, segments);
        Mixing::ssd([input].into_iter(), Some(projected.dt), self.d.val())
    }

    fn output(&self, mixed: Tensor<4>, u: Tensor<3>, _segments: Option<&Segments>) -> Tensor<3> {
        let z = project_padded(&self.in_proj, u).narrow(2, 0, self.config.d_inner());
        self.gate(join_heads(mixed), z)
    }

    fn init_state(&self, batch: usize, device: &Device) -> MixerState {
        let config = &self.config;
        let shape = [batch, config.n_heads(), config.headdim, config.d_state];
        let ssm = Tensor::zeros(shape, (device, wide(self.d.dtype())));
        MixerState::Ssm { conv: self.conv1d.init_state(batch, device), ssm }
    }

    fn prefill(&self, u: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        let (conv, ssm) = state.into_ssm();
        let projected = project_padded(&self.in_proj, u);
        #[cfg(feature = "flex")]
        let (projected, conv, ssm) = {
            let [b, t, w] = projected.dims();
            let token = self.token(projected.clone().reshape([b * t, w]), conv, ssm);
            let through = if self.repeats_heads() { Err(Box::new(token)) } else { token.run_through([b, t]) };
            match through {
                Ok((y, conv, ssm)) => {
                    let out = self.gate(y, projected.narrow(2, 0, self.config.d_inner()));
                    return (out, MixerState::Ssm { conv, ssm });
                }
                Err(token) => (projected, token.window, token.state),
            }
        };
        let projected = self.split(projected, Some(conv), None);
        let input = self.ssd_input(&projected, None).with_state(ssm);
        let (y, ssm) = self.scan(&projected, input);
        let state = MixerState::Ssm { conv: projected.conv, ssm };
        (self.gate(join_heads(y), projected.z), state)
    }

    fn step(&self, u: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState) {
        let (conv, ssm) = state.into_ssm();
        let projected = project_padded(&self.in_proj, u);
        #[cfg(any(feature = "flex", feature = "cube"))]
        let (projected, conv, ssm) = match self.native_step(projected.clone(), conv, ssm) {
            Ok((y, conv, ssm)) => {
                let z = projected.narrow(1, 0, self.config.d_inner()).unsqueeze_dim::<3>(1);
                let out = self.gate(y.unsqueeze_dim(1), z).squeeze_dim(1);
                return (out, MixerState::Ssm { conv, ssm });
            }
            Err(token) => (token.projected, token.window, token.state),
        };
        let projected = self.split(projected.unsqueeze_dim::<3>(1), Some(conv), None);
        let token = SsdStep::first_of(self.ssd_input(&projected, None));
        let [b, h, p] = token.x.dims();
        let skip = projected.x.squeeze_dim::<3>(1) * self.d.val().reshape([1, h, 1]);
        let (y, ssm) = step(token, ssm);
        let y = (y + skip).reshape([b, 1, h * p]);
        let state = MixerState::Ssm { conv: projected.conv, ssm };
        (self.gate(y, projected.z).squeeze_dim(1), state)
    }

    fn n_heads(&self) -> usize {
        self.config.n_heads()
    }
}
