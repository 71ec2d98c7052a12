//! Softmax attention: the teacher's mixer, and that of a hybrid's remaining attention layers.
//!
//! ```text
//! M = softmax(mask(Q Kᵀ / √d_head))          Q, K after rotation
//! out = o_proj(M V)
//! ```
//!
//! Multi-head and grouped-query: query head `i` reads key-value head `i / (heads / kv heads)`.
//!
//! With `d_conv`, a causal depthwise convolution with bias stands between the projections of Q, K and V and
//! the rotation, as in mamba_ssm's `mha.py` (the attention of `mamba2attn-2.7b`). Its state is the last k - 1
//! rows *before* the convolution; mamba_ssm's prefill keeps those after it, so that its first k - 1 cached
//! tokens are off.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Int, Tensor};

use super::skip::{join_heads, split_heads};
use super::{CausalConv1d, KvCache, MatrixMixer, MixerState, Mixing};
use crate::attend::{attention_from, kv_to_heads};
use crate::rope::{RotaryConfig, rotate};
use crate::{Segments, causal_attention, project};

/// Shapes of an [`Attention`].
#[derive(Config, Debug)]
pub struct AttentionConfig {
    /// Width of the residual stream, d.
    pub d_model: usize,
    /// Query heads, h.
    pub n_heads: usize,
    /// Key and value heads; they divide the query heads.
    pub n_kv_heads: usize,
    /// Features per head.
    pub head_dim: usize,
    /// Position embedding.
    pub rotary: RotaryConfig,
    /// Whether the query, key and value projections have biases.
    #[config(default = false)]
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    #[config(default = false)]
    pub out_bias: bool,
    /// Taps of the convolution over Q, K and V, k; none has none.
    pub d_conv: Option<usize>,
}

impl AttentionConfig {
    /// Number of parameters.
    pub fn n_params(&self) -> usize {
        let [q, kv, _] = self.qkv_parts();
        let qkv_bias = if self.qkv_bias { q + 2 * kv } else { 0 };
        let out_bias = if self.out_bias { self.d_model } else { 0 };
        2 * self.d_model * (q + kv) + qkv_bias + out_bias + self.n_conv_params()
    }

    /// Parameters of the convolution, none without one.
    pub fn n_conv_params(&self) -> usize {
        self.d_conv.map_or(0, |taps| self.conv_dim() * (taps + 1))
    }

    /// Channels of the convolution: q, k and v.
    pub fn conv_dim(&self) -> usize {
        self.qkv_parts().iter().sum()
    }

    /// Channels of q, k and v.
    pub fn qkv_parts(&self) -> [usize; 3] {
        [self.n_heads, self.n_kv_heads, self.n_kv_heads].map(|heads| heads * self.head_dim)
    }

    /// Attention with PyTorch's default random weights.
    ///
    /// # Panics
    ///
    /// If the key-value heads do not divide the query heads.
    pub fn init(&self, device: &Device) -> Attention {
        assert_eq!(
            self.n_heads % self.n_kv_heads,
            0,
            "{} key-value heads do not divide {} heads",
            self.n_kv_heads,
            self.n_heads
        );
        let [q, kv, _] = self.qkv_parts();
        let linear = |input, output, bias| LinearConfig::new(input, output).with_bias(bias).init(device);
        Attention {
            q_proj: linear(self.d_model, q, self.qkv_bias),
            k_proj: linear(self.d_model, kv, self.qkv_bias),
            v_proj: linear(self.d_model, kv, self.qkv_bias),
            conv1d: self.d_conv.map(|taps| CausalConv1d::init(self.conv_dim(), taps, true, device)),
            o_proj: linear(q, self.d_model, self.out_bias),
            config: self.clone(),
        }
    }
}

/// Softmax attention.
#[derive(Module, Debug)]
pub struct Attention {
    /// `d → heads · head_dim`.
    pub q_proj: Linear,
    /// `d → kv heads · head_dim`.
    pub k_proj: Linear,
    /// `d → kv heads · head_dim`.
    pub v_proj: Linear,
    /// Over the channels `[q | k | v]`, before rotation.
    pub conv1d: Option<CausalConv1d>,
    /// `heads · head_dim → d`.
    pub o_proj: Linear,
    #[module(skip)]
    config: AttentionConfig,
}

/// One of the projections, in the order of the convolution's channels.
#[derive(Clone, Copy)]
enum Part {
    Q,
    K,
    V,
}

impl Attention {
    /// Shapes of this mixer.
    pub fn config(&self) -> &AttentionConfig {
        &self.config
    }

    /// Queries, keys or values before rotation, `[b t h d]`, and the last inputs of their convolution.
    fn part(
        &self,
        part: Part,
        u: Tensor<3>,
        carried: Option<&Tensor<3>>,
        segments: Option<&Segments>,
    ) -> (Tensor<4>, Option<Tensor<3>>) {
        let (linear, heads) = match part {
            Part::Q => (&self.q_proj, self.config.n_heads),
            Part::K => (&self.k_proj, self.config.n_kv_heads),
            Part::V => (&self.v_proj, self.config.n_kv_heads),
        };
        let x = project(linear, u);
        let Some(conv1d) = &self.conv1d else { return (split_heads(x, heads), None) };
        let first = self.config.qkv_parts()[..part as usize].iter().sum();
        let (x, window) = conv1d.forward_part(first, x, carried, segments);
        (split_heads(x, heads), Some(window))
    }

    /// Heads `[b t h d]` at their positions.
    fn rotated(&self, heads: Tensor<4>, positions: Tensor<2, Int>) -> Tensor<4> {
        rotate(heads, positions, &self.config.rotary)
    }

    /// Rotated queries `[b t h d]` and keys `[b t kv d]` of whole sequences.
    fn queries_and_keys(&self, u: Tensor<3>, segments: Option<&Segments>) -> [Tensor<4>; 2] {
        let [_, t, _] = u.dims();
        let positions = match segments {
            Some(segments) => segments.positions(),
            None => positions(0, t, &u.device()),
        };
        [Part::Q, Part::K].map(|part| {
            let (heads, _) = self.part(part, u.clone(), None, segments);
            self.rotated(heads, positions.clone())
        })
    }

    /// Appends `u` to the cache and attends over it.
    fn attend(&self, u: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        let (cache, carried) = state.into_attention();
        let ([_, t, _], device) = (u.dims(), u.device());
        let positions = cache.positions(t, &device);
        let [(q, q_window), (k, k_window), (v, v_window)] =
            [Part::Q, Part::K, Part::V].map(|part| self.part(part, u.clone(), carried.as_ref(), None));
        let windows: Vec<_> = [q_window, k_window, v_window].into_iter().flatten().collect();
        let conv = (!windows.is_empty()).then(|| Tensor::cat(windows, 2));
        let k = self.rotated(k, positions.clone());
        let cache = cache.append(k.swap_dims(1, 2), v.swap_dims(1, 2));
        let mixed = attend_over(&cache, self.rotated(q, positions));
        (self.output(mixed, u, None), MixerState::Attention { cache, conv })
    }
}

/// Attention of the last t tokens, `q [b t h d]`, over a cache.
fn attend_over(cache: &KvCache, q: Tensor<4>) -> Tensor<4> {
    let [_, t, _, _] = q.dims();
    let first = cache.first_visible(t, &q.device());
    #[cfg(feature = "flex")]
    if t == 1 && crate::kernels::rows_are_independent(&q.device(), q.dtype()) {
        return crate::kernels::attend_by_rows(crate::attend::scaled(q.swap_dims(1, 2)), cache, first)
            .swap_dims(1, 2);
    }
    let [k, v] = [&cache.k, &cache.v].map(|cached| cached.clone().swap_dims(1, 2));
    attention_from(q, k, v, first)
}

/// Positions `past .. past + t`, `[1 t]`.
fn positions(past: usize, t: usize, device: &Device) -> Tensor<2, Int> {
    Tensor::<1, Int>::arange(past as i64..(past + t) as i64, device).unsqueeze()
}

impl MatrixMixer for Attention {
    fn forward(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        let [q, k] = self.queries_and_keys(u.clone(), segments);
        let (v, _) = self.part(Part::V, u.clone(), None, segments);
        self.output(causal_attention(q, k, v, segments), u, segments)
    }

    fn values(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<4> {
        let (v, _) = self.part(Part::V, u, None, segments);
        kv_to_heads(v.swap_dims(1, 2), self.config.n_heads).swap_dims(1, 2)
    }

    fn mixing(&self, u: Tensor<3>, segments: Option<&Segments>) -> Mixing {
        let [q, k] = self.queries_and_keys(u, segments);
        Mixing::attention(q, k, segments)
    }

    fn output(&self, mixed: Tensor<4>, _u: Tensor<3>, _segments: Option<&Segments>) -> Tensor<3> {
        project(&self.o_proj, join_heads(mixed))
    }

    fn init_state(&self, batch: usize, device: &Device) -> MixerState {
        let shape = [batch, self.config.n_kv_heads, 0, self.config.head_dim];
        let dtype = match self.k_proj.weight.dtype() {
            DType::QFloat(_) => DType::F32,
            dtype => dtype,
        };
        let empty = Tensor::zeros(shape, (device, dtype));
        let conv = self.conv1d.as_ref().map(|conv1d| conv1d.init_state(batch, device));
        MixerState::Attention { cache: KvCache::empty(empty), conv }
    }

    fn prefill(&self, u: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        self.attend(u, state)
    }

    fn step(&self, u: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState) {
        let (y, state) = self.attend(u.unsqueeze_dim::<3>(1), state);
        (y.squeeze_dim(1), state)
    }

    fn n_heads(&self) -> usize {
        self.config.n_heads
    }
}
