//! Rotary position embedding, half-split: pairs are `(i, i + dim/2)`, as in HF checkpoints.
//!
//! ```text
//! (u, v) ← (u cos φ - v sin φ, v cos φ + u sin φ)      φ = position · inv_freq[i]
//! inv_freq[i] = theta^(-2i/dim)
//! ```
//!
//! Su et al. (2021); partial rotation as in Phi; frequency scaling as in Llama 3.1 and later, which
//! divides low frequencies by `factor` and blends between the two wavelengths
//! `original_max_position / low_freq_factor` and `original_max_position / high_freq_factor`.

use std::f64::consts::TAU;

use burn::config::Config;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

use crate::norm::wide;

/// Which part of a head rotates, and how fast.
#[derive(Config, Debug, PartialEq)]
pub struct RotaryConfig {
    /// Number of leading features of a head that rotate; even, at most the head dimension.
    pub dim: usize,
    /// Base of the frequencies.
    #[config(default = 10000.0)]
    pub theta: f64,
    /// Llama 3's frequency scaling.
    pub scaling: Option<Llama3Scaling>,
}

/// Llama 3's frequency scaling.
#[derive(Config, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// Divisor of the low frequencies.
    pub factor: f64,
    /// Wavelengths above `original_max_position / low_freq_factor` are divided.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_position / high_freq_factor` are kept.
    pub high_freq_factor: f64,
    /// Context length before scaling, in tokens.
    pub original_max_position: usize,
}

impl RotaryConfig {
    /// Radians per position of each pair, `dim / 2` of them.
    pub fn inv_freq(&self) -> Vec<f64> {
        let plain = |i: usize| self.theta.powf(-2.0 * i as f64 / self.dim as f64);
        let scale = |frequency| match &self.scaling {
            Some(scaling) => scaling.scale(frequency),
            None => frequency,
        };
        (0..self.dim / 2).map(plain).map(scale).collect()
    }
}

impl Llama3Scaling {
    fn scale(&self, frequency: f64) -> f64 {
        let turns = self.original_max_position as f64 * frequency / TAU; // in the original context
        let blend = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
        let blend = blend.clamp(0.0, 1.0);
        (1.0 - blend) * frequency / self.factor + blend * frequency
    }
}

/// Rotates the first `config.dim` features of every head by its position.
///
/// # Shapes
///
/// `x [b t h d]`, `positions [b t]` or `[1 t]`.
///
/// # Panics
///
/// If `config.dim` is odd or exceeds `d`.
pub fn rotate(x: Tensor<4>, positions: Tensor<2, Int>, config: &RotaryConfig) -> Tensor<4> {
    let d = x.dims()[3];
    let half = config.dim / 2;
    assert!(config.dim.is_multiple_of(2) && config.dim <= d, "cannot rotate {} of {d} features", config.dim);
    if half == 0 {
        return x;
    }
    #[cfg(any(feature = "flex", feature = "cube"))]
    if crate::kernels::available(&x.device(), x.dtype()) {
        let frequencies = TensorData::new(config.inv_freq(), [half]);
        let frequencies = Tensor::from_data(frequencies, (&x.device(), wide(x.dtype())));
        return crate::kernels::native_rotate(x, positions, frequencies);
    }
    by_tensors(x, positions, config)
}

/// The same in tensor operations.
fn by_tensors(x: Tensor<4>, positions: Tensor<2, Int>, config: &RotaryConfig) -> Tensor<4> {
    let (d, half) = (x.dims()[3], config.dim / 2);
    let (cos, sin) = cos_sin(positions, config, x.dtype(), &x.device());
    let u = x.clone().narrow(3, 0, half);
    let v = x.clone().narrow(3, half, half);
    let mut parts = vec![u.clone() * cos.clone() - v.clone() * sin.clone(), v * cos + u * sin];
    if config.dim < d {
        parts.push(x.narrow(3, config.dim, d - config.dim));
    }
    Tensor::cat(parts, 3)
}

/// Cosines and sines, `[b t 1 dim/2]`.
fn cos_sin(
    positions: Tensor<2, Int>,
    config: &RotaryConfig,
    dtype: DType,
    device: &Device,
) -> (Tensor<4>, Tensor<4>) {
    let [b, t] = positions.dims();
    let half = config.dim / 2;
    let inv_freq = TensorData::new(config.inv_freq(), [1, 1, half]);
    let inv_freq = Tensor::<3>::from_data(inv_freq, (device, wide(dtype)));
    // Not `float()`, which is what new tensors are in on this device: half precision knows no position beyond 256 from its neighbour.
    let positions = positions.cast(FloatDType::from(wide(dtype)));
    let angles = positions.unsqueeze_dim::<3>(2) * inv_freq;
    let angles = angles.reshape([b, t, 1, half]);
    (angles.clone().cos().cast(dtype), angles.sin().cast(dtype))
}
