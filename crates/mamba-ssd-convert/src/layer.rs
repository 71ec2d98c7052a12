//! One attention to one [`DiscreteMamba2`].
//!
//! MOHAWK's start ([`Init::Mohawk`]; Bick et al. 2024 and the authors' configurations):
//!
//! ```text
//! z rows 0, z_bias 1.278464542761 (silu = 1)    conv = (0, 0, 0, 1), bias 0    D = 1
//! out_proj uniform in ±1/√(d_inner · n_layers)  other rows uniform in ±1/√d
//! ```
//!
//! From Q, K, V and O ([`Init::Qkvo`]; "The Mamba in the Llama", Wang et al. 2024, section 3, on this
//! mixer):
//!
//! ```text
//! x ← V    B ← K    C ← Q / √head_dim    out_proj ← O    D = 0    gate and convolution as above
//! ```
//!
//! With D = 0 and no decay the mixer is then exactly masked linear attention,
//! `M = tril(Q Kᵀ) / √head_dim`, without rotation and without softmax. The biases of Q, K and V live
//! on in the convolution's bias, which adds the same vector to every token. The decay cannot start
//! at 1: its rows have no bias unless the mixer's projections have one, so rows near 0 start it at
//! σ(0) = 1/2; with a bias, the heads' spans are spread from 8 to 256 tokens.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::Tensor;
use mamba_ssd::{Activation, Attention, AttentionConfig, CausalConv1d, DiscreteMamba2, DiscreteMamba2Config};

use crate::blocks::{Blocks, Draw, xbc_columns};
use crate::heads::{expand, pad};
use crate::{Action, ConvertError, Init, LayerPlan, LayerReport};

/// The gate bias that opens the gate: `silu(1.278464542761) = 1`.
pub const OPEN_GATE: f64 = 1.278464542761;

/// Base-2 logarithms of the shortest and the longest span of a head, in tokens.
const SPANS: [f64; 2] = [3.0, 8.0];

/// What is dropped when nothing of the attention is used.
pub(crate) const QKVO: &str = "q, k, v, o_proj";

/// Size of the decay's rows, relative to the others, when Q, K, V and O are copied.
const SMALL: f64 = 0.1;

/// Makes a mixer from an attention, and tells what became of each parameter.
///
/// The attention is left as it is; the mixer is on its device, in its dtype, and trainable.
///
/// # Errors
///
/// If the widths differ, the mixer's own heads do not divide, or Q, K, V and O cannot be copied into
/// a mixer of these shapes.
pub fn attention_to_discrete_mamba2(
    attention: &Attention,
    config: &DiscreteMamba2Config,
    plan: LayerPlan,
) -> Result<(DiscreteMamba2, LayerReport), ConvertError> {
    check_shapes(attention.config(), config)?;
    if plan.init == Init::Qkvo {
        check_heads(attention.config(), config)?;
    }
    let mut start = Start::new(attention, config, plan);
    let mut mixer = config.init(&start.draw.device);
    mixer.in_proj = start.in_proj();
    mixer.conv1d = start.conv1d();
    mixer.z_bias = start.z_bias();
    mixer.d = start.skip();
    mixer.out_proj = start.out_proj();
    start.dropped();
    Ok((mixer, start.report))
}

fn check_shapes(attention: &AttentionConfig, config: &DiscreteMamba2Config) -> Result<(), ConvertError> {
    let (heads, groups, d_inner) = (config.n_heads, config.groups(), config.d_inner());
    if attention.d_model != config.d_model {
        return Err(ConvertError::Width { teacher: attention.d_model, student: config.d_model });
    }
    if heads == 0 || !d_inner.is_multiple_of(heads) {
        return Err(ConvertError::HeadDim { heads, d_inner });
    }
    if groups == 0 || !heads.is_multiple_of(groups) {
        return Err(ConvertError::Groups { groups, heads });
    }
    Ok(())
}

/// Whether every head of the mixer can be a head, or an equal part of a head, of the attention.
fn check_heads(attention: &AttentionConfig, config: &DiscreteMamba2Config) -> Result<(), ConvertError> {
    let (teacher, head_dim) = (attention.n_heads, attention.head_dim);
    let (student, groups) = (config.n_heads, config.groups());
    if !student.is_multiple_of(teacher) || !groups.is_multiple_of(teacher) {
        return Err(ConvertError::Heads { teacher, head_dim, student, groups });
    }
    if config.d_inner() != teacher * head_dim {
        let (teacher, student) = (teacher * head_dim, config.d_inner());
        return Err(ConvertError::InnerWidth { teacher, student });
    }
    if config.d_state < head_dim {
        return Err(ConvertError::StateSize { d_state: config.d_state, head_dim });
    }
    if config.activation != Activation::Identity {
        return Err(ConvertError::Activation);
    }
    Ok(())
}

/// Where the biases of Q, K and V can go.
#[derive(PartialEq)]
enum Carrier {
    Convolution,
    Projection,
    Nowhere,
}

/// A mixer in the making.
struct Start<'a> {
    attention: &'a Attention,
    config: &'a DiscreteMamba2Config,
    plan: LayerPlan,
    draw: Draw,
    report: LayerReport,
}

impl<'a> Start<'a> {
    fn new(attention: &'a Attention, config: &'a DiscreteMamba2Config, plan: LayerPlan) -> Self {
        let weight = attention.q_proj.weight.val();
        let draw = Draw { rng: plan.rng(), device: weight.device(), dtype: weight.dtype() };
        let report = LayerReport { layer: plan.layer, ..LayerReport::default() };
        Self { attention, config, plan, draw, report }
    }

    fn qkvo(&self) -> bool {
        self.plan.init == Init::Qkvo
    }

    fn in_proj(&mut self) -> Linear {
        let (d, heads) = (self.config.d_model, self.config.n_heads);
        let bound = (d as f64).powf(-0.5);
        let xbc = if self.qkvo() { self.copied_xbc(bound) } else { self.random_xbc(bound) };
        let z = self.gate_rows(bound);
        let scale = if self.qkvo() { SMALL } else { 1.0 };
        let a_log = self.draw.uniform([d, heads], bound * scale);
        self.report.add(Action::Initialised, "in_proj A_log", d * heads, format!("uniform in ±{scale}/√d"));
        let bias = self.config.bias.then(|| self.in_proj_bias(bound));
        Linear { weight: parameter(Blocks { xbc, z, a_log }.join()), bias }
    }

    fn random_xbc(&mut self, bound: f64) -> [Tensor<2>; 3] {
        let (d, columns) = (self.config.d_model, xbc_columns(self.config));
        let params = d * self.config.conv_dim();
        self.report.add(Action::Initialised, "in_proj x, B, C", params, "uniform in ±1/√d");
        columns.map(|columns| self.draw.uniform([d, columns], bound))
    }

    fn copied_xbc(&mut self, bound: f64) -> [Tensor<2>; 3] {
        let more = self.padding();
        let d = self.config.d_model;
        let attention = self.attention;
        let weights =
            [&attention.v_proj, &attention.k_proj, &attention.q_proj].map(|linear| linear.weight.val());
        let padding = [self.draw.uniform([d, more], bound), self.draw.constant([d, more], 0.0)];
        let xbc = self.as_heads(weights, padding);
        for (block, source, teacher) in self.sources() {
            let columns =
                if block == "x" { self.config.d_inner() } else { self.config.groups() * self.head_dim() };
            self.copied(&format!("in_proj {block}"), d * columns, d * teacher, source);
        }
        if more > 0 {
            let note = format!("state beyond the {} features of a key", self.head_dim());
            self.report.add(Action::Initialised, "in_proj B, C", 2 * d * more, note);
        }
        xbc
    }

    /// V, K and Q as x, B and C.
    fn as_heads(&self, [v, k, q]: [Tensor<2>; 3], [pad_b, pad_c]: [Tensor<2>; 2]) -> [Tensor<2>; 3] {
        let AttentionConfig { n_heads, n_kv_heads, head_dim, .. } = *self.attention.config();
        let groups = self.config.groups();
        let x = expand(v, n_kv_heads, n_heads);
        let b = pad(expand(k, n_kv_heads, groups), groups, pad_b);
        let q = q * (self.plan.query_scale * (head_dim as f64).powf(-0.5));
        let c = pad(expand(q, n_heads, groups), groups, pad_c);
        [x, b, c]
    }

    /// Gate rows: zero when a bias can open the gate, else as PyTorch draws them.
    fn gate_rows(&mut self, bound: f64) -> Tensor<2> {
        let shape = [self.config.d_model, self.config.d_inner()];
        let open = self.config.z_bias || self.config.bias;
        let note =
            if open { "0: the gate starts open" } else { "uniform in ±1/√d: no bias to open the gate" };
        self.report.add(Action::Initialised, "in_proj z", shape[0] * shape[1], note);
        if open { self.draw.constant(shape, 0.0) } else { self.draw.uniform(shape, bound) }
    }

    fn in_proj_bias(&mut self, bound: f64) -> Param<Tensor<1>> {
        let (d_inner, heads) = (self.config.d_inner(), self.config.n_heads);
        let xbc = match self.carrier() {
            Carrier::Projection if self.carries_biases() => self.qkv_biases(),
            _ if self.qkvo() => xbc_columns(self.config).map(|columns| self.draw.constant([1, columns], 0.0)),
            _ => xbc_columns(self.config).map(|columns| self.draw.uniform([1, columns], bound)),
        };
        let gate = if self.config.z_bias { 0.0 } else { OPEN_GATE };
        let z = self.draw.constant([1, d_inner], gate);
        let a_log = if self.qkvo() { self.spread_decays() } else { self.draw.uniform([1, heads], bound) };
        self.report.add(Action::Initialised, "in_proj bias", self.config.in_proj_dim(), self.bias_note());
        vector(Blocks { xbc, z, a_log }.join())
    }

    fn bias_note(&self) -> &'static str {
        if self.qkvo() {
            "0, the gate's open, decays spread over 8 to 256 tokens"
        } else {
            "uniform in ±1/√d, the gate's open"
        }
    }

    /// `A_log = -ln(span - 1)`, so that `σ(-A_log) = 1 - 1/span`.
    fn spread_decays(&self) -> Tensor<2> {
        let heads = self.config.n_heads;
        let position = |head: usize| head as f64 / (heads.max(2) - 1) as f64;
        let span = |head| (SPANS[0] + (SPANS[1] - SPANS[0]) * position(head)).exp2();
        let values = (0..heads).map(|head| -(span(head) - 1.0).ln() as f32);
        self.draw.tensor(values.collect(), [1, heads])
    }

    fn conv1d(&mut self) -> CausalConv1d {
        let (channels, taps) = (self.config.conv_dim(), self.config.d_conv);
        let past = self.draw.constant([channels, taps - 1], 0.0);
        let weight = Tensor::cat(vec![past, self.draw.constant([channels, 1], 1.0)], 1);
        self.report.add(Action::Initialised, "conv1d weight", channels * taps, "passes the current token");
        let bias = self.config.conv_bias.then(|| self.conv_bias(channels));
        CausalConv1d { weight: parameter(weight), bias }
    }

    fn conv_bias(&mut self, channels: usize) -> Param<Tensor<1>> {
        if self.carries_biases() && self.carrier() == Carrier::Convolution {
            let teacher = self.bias_params();
            self.copied("conv1d bias", channels, teacher, "biases of v_proj, k_proj, q_proj");
            return vector(Tensor::cat(self.qkv_biases().to_vec(), 1));
        }
        self.report.add(Action::Initialised, "conv1d bias", channels, "0");
        vector(self.draw.constant([1, channels], 0.0))
    }

    fn z_bias(&mut self) -> Option<Param<Tensor<1>>> {
        let d_inner = self.config.d_inner();
        self.config.z_bias.then(|| {
            self.report.add(
                Action::Initialised,
                "z_bias",
                d_inner,
                format!("{OPEN_GATE}: the gate starts open"),
            );
            vector(self.draw.constant([1, d_inner], OPEN_GATE))
        })
    }

    fn skip(&mut self) -> Param<Tensor<1>> {
        let (heads, value) = (self.config.n_heads, if self.qkvo() { 0.0 } else { 1.0 });
        self.report.add(Action::Initialised, "D", heads, value.to_string());
        vector(self.draw.constant([1, heads], value))
    }

    fn out_proj(&mut self) -> Linear {
        let shape = [self.config.d_inner(), self.config.d_model];
        let params = shape[0] * shape[1];
        let weight = if self.qkvo() {
            self.copied("out_proj", params, params, "o_proj");
            self.attention.o_proj.weight.val()
        } else {
            self.report.add(Action::Initialised, "out_proj", params, "uniform in ±1/√(d_inner · n_layers)");
            let bound = ((shape[0] * self.plan.n_layers) as f64).powf(-0.5);
            self.draw.uniform(shape, bound)
        };
        let bias = self.config.bias.then(|| self.out_bias());
        Linear { weight: parameter(weight), bias }
    }

    fn out_bias(&mut self) -> Param<Tensor<1>> {
        let d = self.config.d_model;
        match &self.attention.o_proj.bias {
            Some(bias) if self.qkvo() => {
                self.copied("out_proj bias", d, d, "o_proj bias");
                vector(bias.val().unsqueeze_dim(0))
            }
            _ => {
                self.report.add(Action::Initialised, "out_proj bias", d, "0");
                vector(self.draw.constant([1, d], 0.0))
            }
        }
    }

    /// What the mixer has no place for.
    fn dropped(&mut self) {
        let attention = self.attention.config();
        let mut drop =
            |tensor: &str, params, note: &str| self.report.add(Action::Dropped, tensor, params, note);
        if self.plan.init == Init::Mohawk {
            drop(QKVO, attention.n_params() - attention.n_conv_params(), "the mixer learns its own");
        } else if attention.out_bias && !self.config.bias {
            drop("o_proj bias", attention.d_model, "the mixer's projections have no bias");
        }
        if attention.d_conv.is_some() {
            drop("conv1d", attention.n_conv_params(), "the mixer's convolution passes the current token");
        }
        if self.carries_biases() && self.carrier() == Carrier::Nowhere {
            let params = self.bias_params();
            self.report.add(
                Action::Dropped,
                "q, k, v_proj bias",
                params,
                "the mixer has no bias to hold them",
            );
        }
        if attention.rotary.dim > 0 {
            let note = format!(
                "{} of {} features rotate; a mixer has no rotation",
                attention.rotary.dim, attention.head_dim
            );
            self.report.add(Action::Dropped, "rotary embedding", 0, note);
        }
    }

    fn carrier(&self) -> Carrier {
        match (self.config.conv_bias, self.config.bias) {
            (true, _) => Carrier::Convolution,
            (false, true) => Carrier::Projection,
            (false, false) => Carrier::Nowhere,
        }
    }

    fn carries_biases(&self) -> bool {
        self.qkvo() && self.attention.config().qkv_bias
    }

    /// The biases of V, K and Q as those of x, B and C.
    fn qkv_biases(&self) -> [Tensor<2>; 3] {
        let attention = self.attention;
        let bias = |linear: &Linear| {
            linear.bias.as_ref().expect("qkv_bias says that there is one").val().unsqueeze_dim(0)
        };
        let biases = [&attention.v_proj, &attention.k_proj, &attention.q_proj].map(bias);
        let none = self.draw.constant([1, self.padding()], 0.0);
        self.as_heads(biases, [none.clone(), none])
    }

    fn bias_params(&self) -> usize {
        self.sources().iter().map(|(_, _, columns)| columns).sum()
    }

    /// Block, source and the source's columns.
    fn sources(&self) -> [(&'static str, &'static str, usize); 3] {
        let AttentionConfig { n_heads, n_kv_heads, head_dim, .. } = *self.attention.config();
        let (q, kv) = (n_heads * head_dim, n_kv_heads * head_dim);
        [("x", "v_proj", kv), ("B", "k_proj", kv), ("C", "q_proj / √head_dim", q)]
    }

    fn copied(&mut self, tensor: &str, params: usize, teacher: usize, source: &str) {
        let action = if params > teacher { Action::Repeated } else { Action::Copied };
        let times = params / teacher;
        let note = if times > 1 { format!("{source}, each head {times} times") } else { source.to_string() };
        self.report.add(action, tensor, params, note);
    }

    fn head_dim(&self) -> usize {
        self.attention.config().head_dim
    }

    /// State features that no key fills, over all groups.
    fn padding(&self) -> usize {
        self.config.groups() * (self.config.d_state - self.head_dim())
    }
}

/// A trainable parameter of its own, whatever the tensor was computed from.
pub(crate) fn parameter(tensor: Tensor<2>) -> Param<Tensor<2>> {
    Param::from_tensor(tensor.detach())
}

/// A row `[1, n]` as a parameter `[n]`.
pub(crate) fn vector(row: Tensor<2>) -> Param<Tensor<1>> {
    Param::from_tensor(row.squeeze_dim::<1>(0).detach())
}
