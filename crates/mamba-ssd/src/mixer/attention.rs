//! Softmax attention: the teacher's mixer, and that of a hybrid's remaining attention layers.
//!
//! ```text
//! M = softmax(mask(Q Kᵀ / √d_head))          Q, K after rotation
//! out = o_proj(M V)
//! ```
//!
//! Multi-head and grouped-query: query head `i` reads key-value head `i / (heads / kv heads)`.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};

use super::skip::{join_heads, split_heads};
use super::{MatrixMixer, MixerState};
use crate::Segments;
use crate::rope::{RotaryConfig, rotate};
use crate::softmax::causal_softmax;

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
}

impl AttentionConfig {
    /// Number of parameters.
    pub fn n_params(&self) -> usize {
        let (q, kv) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        let qkv_bias = if self.qkv_bias { q + 2 * kv } else { 0 };
        let out_bias = if self.out_bias { self.d_model } else { 0 };
        2 * self.d_model * (q + kv) + qkv_bias + out_bias
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
        let (q, kv) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        let linear = |input, output, bias| LinearConfig::new(input, output).with_bias(bias).init(device);
        Attention {
            q_proj: linear(self.d_model, q, self.qkv_bias),
            k_proj: linear(self.d_model, kv, self.qkv_bias),
            v_proj: linear(self.d_model, kv, self.qkv_bias),
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
    /// `heads · head_dim → d`.
    pub o_proj: Linear,
    #[module(skip)]
    config: AttentionConfig,
}

impl Attention {
    /// Shapes of this mixer.
    pub fn config(&self) -> &AttentionConfig {
        &self.config
    }

    /// Rotated queries, `[b h t d]`.
    fn queries(&self, u: Tensor<3>, positions: Tensor<2, Int>) -> Tensor<4> {
        let q = split_heads(self.q_proj.forward(u), self.config.n_heads);
        rotate(q, positions, &self.config.rotary).swap_dims(1, 2)
    }

    /// Rotated keys, `[b kv t d]`.
    fn keys(&self, u: Tensor<3>, positions: Tensor<2, Int>) -> Tensor<4> {
        let k = split_heads(self.k_proj.forward(u), self.config.n_kv_heads);
        rotate(k, positions, &self.config.rotary).swap_dims(1, 2)
    }

    /// Values, `[b kv t d]`.
    fn kv_values(&self, u: Tensor<3>) -> Tensor<4> {
        split_heads(self.v_proj.forward(u), self.config.n_kv_heads).swap_dims(1, 2)
    }

    /// Attention probabilities of `q [b h t d]` over `k [b kv s d]`.
    fn probabilities(&self, q: Tensor<4>, k: Tensor<4>, segments: Option<&Segments>) -> Tensor<4> {
        let scale = (self.config.head_dim as f64).powf(-0.5);
        let k = kv_to_heads(k, self.config.n_heads);
        causal_softmax((q * scale).matmul(k.transpose()), segments)
    }

    /// Appends `u` to the cache and attends over it.
    fn attend(&self, u: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        let (past_k, past_v) = state.into_attention();
        let [_, t, _] = u.dims();
        let past = past_k.dims()[2];
        let positions = positions(past, t, &u.device());
        let k = append(past_k, self.keys(u.clone(), positions.clone()));
        let v = append(past_v, self.kv_values(u.clone()));
        let m = self.probabilities(self.queries(u.clone(), positions), k.clone(), None);
        let mixed = m.matmul(kv_to_heads(v.clone(), self.config.n_heads)).swap_dims(1, 2);
        (self.output(mixed, u), MixerState::Attention { k, v })
    }
}

/// Positions `past .. past + t`, `[1 t]`.
fn positions(past: usize, t: usize, device: &Device) -> Tensor<2, Int> {
    Tensor::<1, Int>::arange(past as i64..(past + t) as i64, device).unsqueeze()
}

fn append(past: Tensor<4>, new: Tensor<4>) -> Tensor<4> {
    if past.dims()[2] == 0 { new } else { Tensor::cat(vec![past, new], 2) }
}

/// `[b kv t d]` to `[b h t d]`.
fn kv_to_heads(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [b, kv, t, d] = x.dims();
    if kv == heads {
        return x;
    }
    x.unsqueeze_dim::<5>(2).expand([b, kv, heads / kv, t, d]).reshape([b, heads, t, d])
}

impl MatrixMixer for Attention {
    fn forward(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        let m = self.mixing_matrix(u.clone(), segments);
        let v = kv_to_heads(self.kv_values(u.clone()), self.config.n_heads);
        self.output(m.matmul(v).swap_dims(1, 2), u)
    }

    fn values(&self, u: Tensor<3>, _segments: Option<&Segments>) -> Tensor<4> {
        kv_to_heads(self.kv_values(u), self.config.n_heads).swap_dims(1, 2)
    }

    fn mixing_matrix(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<4> {
        let [_, t, _] = u.dims();
        let device = u.device();
        let positions = match segments {
            Some(segments) => segments.positions(),
            None => positions(0, t, &device),
        };
        let q = self.queries(u.clone(), positions.clone());
        self.probabilities(q, self.keys(u, positions), segments)
    }

    fn output(&self, mixed: Tensor<4>, _u: Tensor<3>) -> Tensor<3> {
        self.o_proj.forward(join_heads(mixed))
    }

    fn init_state(&self, batch: usize, device: &Device) -> MixerState {
        let shape = [batch, self.config.n_kv_heads, 0, self.config.head_dim];
        let empty = Tensor::zeros(shape, (device, self.k_proj.weight.dtype()));
        MixerState::Attention { k: empty.clone(), v: empty }
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
