//! The mixer of Phi-Mamba and Llamba: Mamba-2 with a decay per token and head, and no step size.
//!
//! ```text
//! [x B C | z | A_log] = in_proj(u)
//! x, B, C = conv(x B C)                        B and C per head
//! a_t = σ(-A_log_t)                            log a_t = -softplus(A_log_t)
//! S_t = a_t S_{t-1} + x_t ⊗ B_t
//! y_t = S_t C_t + D x_t
//! out = out_proj(y · silu(z + z_bias))
//! ```
//!
//! Bick et al., "Transformers to SSMs" (MOHAWK, 2024), section 4.1 and its code. The published
//! kernels divide `x` by `softplus(A_log)` to cancel a step size; here nothing is divided, so small
//! step sizes cannot overflow.

use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Device, Tensor};

use super::skip::{join_heads, scan_with_skip, split_heads};
use super::{Activation, CausalConv1d, MatrixMixer, MixerState, Mixing};
#[cfg(any(feature = "flex", feature = "cube"))]
use crate::kernels::{ConvStep, StateStep, StepForm, TokenStep};
#[cfg(feature = "cube")]
use crate::kernels::{Discrete, DiscreteMixer};
use crate::linear::project_padded;
use crate::norm::wide;
use crate::{Segments, SsdInput, SsdStep, project, silu_gate, step};

/// Shapes of a [`DiscreteMamba2`].
#[derive(Config, Debug)]
pub struct DiscreteMamba2Config {
    /// Width of the residual stream, d.
    pub d_model: usize,
    /// Heads of x, h (`n_v_heads`).
    pub n_heads: usize,
    /// State size, n.
    pub d_state: usize,
    /// Heads of B and C, g (`n_qk_heads`); as many as `n_heads` when absent.
    pub n_qk_heads: Option<usize>,
    /// Inner width over `d_model`.
    #[config(default = 1)]
    pub expand: usize,
    /// Taps of the convolution, k.
    #[config(default = 4)]
    pub d_conv: usize,
    /// Whether the convolution has a bias.
    #[config(default = true)]
    pub conv_bias: bool,
    /// What follows the convolution.
    #[config(default = "Activation::Identity")]
    pub activation: Activation,
    /// Whether the two projections have biases.
    #[config(default = false)]
    pub bias: bool,
    /// Whether the gate has a bias of its own.
    #[config(default = true)]
    pub z_bias: bool,
    /// Tokens per chunk of the scan.
    #[config(default = 128)]
    pub chunk_size: usize,
}

impl DiscreteMamba2Config {
    /// Inner width, `expand · d_model`.
    pub fn d_inner(&self) -> usize {
        self.expand * self.d_model
    }

    /// Head dimension, p.
    pub fn headdim(&self) -> usize {
        self.d_inner() / self.n_heads
    }

    /// Heads of B and C, g.
    pub fn groups(&self) -> usize {
        self.n_qk_heads.unwrap_or(self.n_heads)
    }

    /// Channels of the convolution: x, B and C.
    pub fn conv_dim(&self) -> usize {
        self.d_inner() + 2 * self.groups() * self.d_state
    }

    /// Rows of the input projection: x, B, C, z and A_log.
    pub fn in_proj_dim(&self) -> usize {
        self.conv_dim() + self.d_inner() + self.n_heads
    }

    /// Number of parameters.
    pub fn n_params(&self) -> usize {
        let biases = if self.bias { self.in_proj_dim() + self.d_model } else { 0 };
        let conv = self.conv_dim() * (self.d_conv + usize::from(self.conv_bias));
        let gate = if self.z_bias { self.d_inner() } else { 0 };
        self.d_model * (self.in_proj_dim() + self.d_inner()) + conv + gate + self.n_heads + biases
    }

    /// A mixer with PyTorch's default random weights, D = 1 and no gate bias.
    ///
    /// # Panics
    ///
    /// If the heads do not divide the inner width, or the groups the heads.
    pub fn init(&self, device: &Device) -> DiscreteMamba2 {
        assert_eq!(
            self.d_inner() % self.n_heads,
            0,
            "{} heads do not divide {}",
            self.n_heads,
            self.d_inner()
        );
        assert_eq!(
            self.n_heads % self.groups(),
            0,
            "{} groups do not divide {} heads",
            self.groups(),
            self.n_heads
        );
        let linear = |input, output| LinearConfig::new(input, output).with_bias(self.bias).init(device);
        DiscreteMamba2 {
            in_proj: linear(self.d_model, self.in_proj_dim()),
            conv1d: CausalConv1d::init(self.conv_dim(), self.d_conv, self.conv_bias, device),
            z_bias: self.z_bias.then(|| Initializer::Zeros.init([self.d_inner()], device)),
            d: Initializer::Ones.init([self.n_heads], device),
            out_proj: linear(self.d_inner(), self.d_model),
            config: self.clone(),
        }
    }
}

/// The mixer of Phi-Mamba and Llamba.
#[derive(Module, Debug)]
pub struct DiscreteMamba2 {
    /// `d → [x | B | C | z | A_log]`.
    pub in_proj: Linear,
    /// Over x, B and C.
    pub conv1d: CausalConv1d,
    /// Added to z, `[d_inner]`.
    pub z_bias: Option<Param<Tensor<1>>>,
    /// Skip term, `[h]`.
    pub d: Param<Tensor<1>>,
    /// `d_inner → d`.
    pub out_proj: Linear,
    #[module(skip)]
    config: DiscreteMamba2Config,
}

/// The projections of a sequence, after the convolution.
struct Projected {
    input: SsdInput,
    z: Tensor<3>,
    conv: Tensor<3>,
}

impl DiscreteMamba2 {
    /// Shapes of this mixer.
    pub fn config(&self) -> &DiscreteMamba2Config {
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
        let (conv_dim, inner) = (self.config.conv_dim(), self.config.d_inner());
        let (heads, groups) = (self.config.n_heads, self.config.groups());
        let bc = groups * self.config.d_state;
        let z = projected.clone().narrow(2, conv_dim, inner);
        let a = projected.clone().narrow(2, conv_dim + inner, heads);
        let (xbc, conv) = self.conv1d.forward(projected.narrow(2, 0, conv_dim), carried, segments);
        let xbc = self.config.activation.apply(xbc);

        let x = split_heads(xbc.clone().narrow(2, 0, inner), heads);
        let b = split_heads(xbc.clone().narrow(2, inner, bc), groups);
        let c = split_heads(xbc.narrow(2, inner + bc, bc), groups);
        let input = SsdInput::new(x, log_decay(a), b, c).with_segments(segments.cloned());
        Projected { input, z, conv }
    }

    /// One token for the native step.
    #[cfg(any(feature = "flex", feature = "cube"))]
    fn token(&self, projected: Tensor<2>, window: Tensor<3>, state: Tensor<4>) -> TokenStep {
        let config = &self.config;
        let z_bias = self.z_bias.as_ref().map(|bias| bias.val());
        TokenStep {
            projected,
            window,
            state,
            weight: self.conv1d.weight.val(),
            bias: self.conv1d.bias.as_ref().map(|bias| bias.val()),
            d: self.d.val(),
            conv: ConvStep {
                first: 0,
                bias: self.conv1d.bias.is_some(),
                silu: config.activation == Activation::Silu,
            },
            step: StateStep {
                groups: config.groups(),
                decay: config.conv_dim() + config.d_inner(),
                gate: config.conv_dim(),
                form: StepForm::Discrete { z_bias: z_bias.is_some() },
            },
            vectors: z_bias.into_iter().collect(),
        }
    }

    fn gate<const D: usize>(&self, y: Tensor<D>, z: Tensor<D>) -> Tensor<D> {
        let z = match &self.z_bias {
            Some(bias) => z + bias.val().unsqueeze(),
            None => z,
        };
        project(&self.out_proj, silu_gate(z, y))
    }

    fn scan(&self, input: SsdInput) -> (Tensor<4>, Tensor<4>) {
        let x = input.x.clone();
        scan_with_skip(input, x, self.d.val(), self.config.chunk_size)
    }
}

/// `log a = -softplus(A_log)`, in f32 or wider.
fn log_decay<const D: usize>(a_log: Tensor<D>) -> Tensor<D> {
    let wide = wide(a_log.dtype());
    log_sigmoid(-a_log.cast(wide))
}

#[cfg(feature = "cube")]
impl DiscreteMamba2 {
    /// The whole mixer around one native operation, where the device has it for this mixer.
    fn native_forward(&self, u: &Tensor<3>, segments: Option<&Segments>) -> Option<Tensor<3>> {
        let config = &self.config;
        let form = Discrete {
            heads: config.n_heads,
            p: config.headdim(),
            groups: config.groups(),
            n: config.d_state,
            z_bias: self.z_bias.is_some(),
        };
        let mixer = DiscreteMixer {
            weight: self.conv1d.weight.val(),
            bias: self.conv1d.bias.as_ref().map(|bias| bias.val()),
            z_bias: self.z_bias.as_ref().map(|bias| bias.val()),
            d: self.d.val(),
            starts: segments.map(Segments::starts),
            in_proj: &self.in_proj,
        };
        let fits = config.activation == Activation::Identity && mixer.is_of(u.dtype());
        (fits && form.fits(&u.device(), u.dtype())).then(|| project(&self.out_proj, mixer.run(u, form)))
    }
}

impl MatrixMixer for DiscreteMamba2 {
    fn forward(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        #[cfg(feature = "cube")]
        if let Some(y) = self.native_forward(&u, segments) {
            return y;
        }
        let projected = self.project(u, None, segments);
        let (y, _) = self.scan(projected.input);
        self.gate(join_heads(y), projected.z)
    }

    fn values(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<4> {
        self.project(u, None, segments).input.x
    }

    fn mixing(&self, u: Tensor<3>, segments: Option<&Segments>) -> Mixing {
        let input = self.project(u, None, segments).input;
        Mixing::ssd([input].into_iter(), None, self.d.val())
    }

    fn output(&self, mixed: Tensor<4>, u: Tensor<3>, _segments: Option<&Segments>) -> Tensor<3> {
        let inner = self.config.d_inner();
        let z = project_padded(&self.in_proj, u).narrow(2, self.config.conv_dim(), inner);
        self.gate(join_heads(mixed), z)
    }

    fn init_state(&self, batch: usize, device: &Device) -> MixerState {
        let config = &self.config;
        let shape = [batch, config.n_heads, config.headdim(), config.d_state];
        let ssm = Tensor::zeros(shape, (device, wide(self.d.dtype())));
        MixerState::Ssm { conv: self.conv1d.init_state(batch, device), ssm }
    }

    fn prefill(&self, u: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        let (conv, ssm) = state.into_ssm();
        let projected = project_padded(&self.in_proj, u);
        #[cfg(feature = "flex")]
        let (projected, conv, ssm) = {
            let [b, t, w] = projected.dims();
            match self.token(projected.reshape([b * t, w]), conv, ssm).run_through([b, t]) {
                Ok((y, conv, ssm)) => return (project(&self.out_proj, y), MixerState::Ssm { conv, ssm }),
                Err(token) => (token.projected.reshape([b, t, w]), token.window, token.state),
            }
        };
        let projected = self.split(projected, Some(conv), None);
        let (y, ssm) = self.scan(projected.input.with_state(ssm));
        let state = MixerState::Ssm { conv: projected.conv, ssm };
        (self.gate(join_heads(y), projected.z), state)
    }

    fn step(&self, u: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState) {
        let (conv, ssm) = state.into_ssm();
        let projected = project_padded(&self.in_proj, u);
        #[cfg(any(feature = "flex", feature = "cube"))]
        let (projected, conv, ssm) = match self.token(projected, conv, ssm).run() {
            Ok((y, conv, ssm)) => return (project(&self.out_proj, y), MixerState::Ssm { conv, ssm }),
            Err(token) => (token.projected, token.window, token.state),
        };
        let projected = self.split(projected.unsqueeze_dim::<3>(1), Some(conv), None);
        let token = SsdStep::first_of(projected.input);
        let [b, h, p] = token.x.dims();
        let skip = token.x.clone() * self.d.val().reshape([1, h, 1]);
        let (y, ssm) = step(token, ssm);
        let y = (y + skip).reshape([b, h * p]);
        let state = MixerState::Ssm { conv: projected.conv, ssm };
        (self.gate(y, projected.z.squeeze_dim::<2>(1)), state)
    }

    fn n_heads(&self) -> usize {
        self.config.n_heads
    }
}
