//! The norms of these models, computed in f32 or wider and cast back.
//!
//! ```text
//! RMSNorm(x)      = x / sqrt(mean(x²) + ε) · weight
//! LayerNorm(x)    = (x - mean(x)) / sqrt(var(x) + ε) · weight + bias
//! GatedRMSNorm    = RMSNorm over each of `groups` equal parts of y · silu(z)
//! DoubleRMSNorm   = one RMSNorm with two weights: one for each of two mixers side by side
//! ```
//!
//! The gated norm follows mamba_ssm and normalises each group by itself; transformers normalises
//! over all of `d_inner`, which differs when there is more than one group.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};

use crate::silu_gate;

/// Configuration of [`RmsNorm`] and [`LayerNorm`].
#[derive(Config, Debug)]
pub struct NormConfig {
    /// Number of features.
    pub d_model: usize,
    /// Added to the mean square, ε.
    #[config(default = 1e-5)]
    pub epsilon: f64,
}

/// Root mean square norm over the last axis.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// Scale, `[d]`.
    pub weight: Param<Tensor<1>>,
    epsilon: f64,
}

/// Layer norm over the last axis.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[d]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[d]`.
    pub bias: Param<Tensor<1>>,
    epsilon: f64,
}

/// Root mean square norm over the last axis, scaled twice.
#[derive(Module, Debug)]
pub struct DoubleRmsNorm {
    /// Scale in front of the SSM heads, `[d]`.
    pub ssm_weight: Param<Tensor<1>>,
    /// Scale in front of the attention heads, `[d]`.
    pub attn_weight: Param<Tensor<1>>,
    epsilon: f64,
}

/// Root mean square norm of `y · silu(z)`, group by group.
#[derive(Module, Debug)]
pub struct GatedRmsNorm {
    /// Scale, `[d_inner]`.
    pub weight: Param<Tensor<1>>,
    groups: usize,
    epsilon: f64,
}

impl NormConfig {
    /// An RMS norm with unit scale.
    pub fn init_rms(&self, device: &Device) -> RmsNorm {
        RmsNorm { weight: ones(self.d_model, device), epsilon: self.epsilon }
    }

    /// An RMS norm with two unit scales.
    pub fn init_double_rms(&self, device: &Device) -> DoubleRmsNorm {
        let [ssm_weight, attn_weight] = [ones(self.d_model, device), ones(self.d_model, device)];
        DoubleRmsNorm { ssm_weight, attn_weight, epsilon: self.epsilon }
    }

    /// A layer norm with unit scale and no shift.
    pub fn init_layer(&self, device: &Device) -> LayerNorm {
        let bias = Param::from_tensor(Tensor::zeros([self.d_model], device));
        LayerNorm { weight: ones(self.d_model, device), bias, epsilon: self.epsilon }
    }

    /// A gated RMS norm over `groups` equal parts, with unit scale.
    ///
    /// # Panics
    ///
    /// If `groups` does not divide `d_model`.
    pub fn init_gated(&self, groups: usize, device: &Device) -> GatedRmsNorm {
        assert_eq!(self.d_model % groups, 0, "{groups} groups do not divide {}", self.d_model);
        GatedRmsNorm { weight: ones(self.d_model, device), groups, epsilon: self.epsilon }
    }
}

impl RmsNorm {
    /// Normalises the last axis of `[.. d]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (dtype, weight) = (x.dtype(), self.weight.val());
        #[cfg(any(feature = "flex", feature = "cube"))]
        if weight.dtype() == dtype && crate::kernels::available(&x.device(), dtype) {
            return crate::kernels::native_rms_norm(x, weight, self.epsilon);
        }
        unit_rms(x.cast(wide(dtype)), self.epsilon).cast(dtype) * weight.unsqueeze()
    }
}

impl RmsNorm {
    /// `x + addend`, and its norm: one operation on GPUs where no gradients are wanted.
    pub fn forward_sum<const D: usize>(&self, x: Tensor<D>, addend: Tensor<D>) -> [Tensor<D>; 2] {
        #[cfg(feature = "cube")]
        if let Some(both) = crate::kernels::native_sum_and_norm(&x, &addend, self.weight.val(), self.epsilon)
        {
            return both;
        }
        let sum = x + addend;
        [sum.clone(), self.forward(sum)]
    }
}

impl DoubleRmsNorm {
    /// The normalised last axis of `[.. d]`, scaled for the SSM heads and for the attention heads.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> [Tensor<D>; 2] {
        let dtype = x.dtype();
        let normal = unit_rms(x.cast(wide(dtype)), self.epsilon).cast(dtype);
        [&self.ssm_weight, &self.attn_weight].map(|weight| normal.clone() * weight.val().unsqueeze())
    }
}

impl LayerNorm {
    /// Normalises the last axis of `[.. d]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        let x = x.cast(wide(dtype));
        let centred = x.clone() - x.mean_dim(D - 1);
        let normal = unit_rms(centred, self.epsilon).cast(dtype);
        normal * self.weight.val().unsqueeze() + self.bias.val().unsqueeze()
    }
}

impl GatedRmsNorm {
    /// Gates `y` with `silu(z)`, then normalises each group.
    ///
    /// # Shapes
    ///
    /// `y` and `z` `[b t d_inner]`, and so the result.
    pub fn forward(&self, y: Tensor<3>, z: Tensor<3>) -> Tensor<3> {
        let [b, t, d] = y.dims();
        let dtype = y.dtype();
        #[cfg(any(feature = "flex", feature = "cube"))]
        if [z.dtype(), self.weight.dtype()] == [dtype; 2] && crate::kernels::available(&y.device(), dtype) {
            let norm = crate::kernels::GroupNorm { groups: self.groups, epsilon: self.epsilon };
            return crate::kernels::native_gated_norm(y, z, self.weight.val(), norm);
        }
        let gated = silu_gate(z.cast(wide(dtype)), y.cast(wide(dtype)));
        let grouped = gated.reshape([b, t, self.groups, d / self.groups]);
        let normal = unit_rms(grouped, self.epsilon).reshape([b, t, d]).cast(dtype);
        normal * self.weight.val().unsqueeze()
    }
}

fn unit_rms<const D: usize>(x: Tensor<D>, epsilon: f64) -> Tensor<D> {
    let mean_square = x.clone().square().mean_dim(D - 1);
    x * (mean_square + epsilon).sqrt().recip()
}

fn ones(d: usize, device: &Device) -> Param<Tensor<1>> {
    Param::from_tensor(Tensor::ones([d], device))
}

/// The dtype that reductions and exponentials are computed in: f64 for f64, else f32.
pub(crate) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn the_native_rms_norm_equals_the_tensor_operations_forward_and_backward() {
        for (dtype, limit) in [(DType::F32, 2e-6), (DType::F64, 1e-14)] {
            let device = Device::flex().autodiff();
            let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 2.0), (&device, dtype));
            let weight = random([1, 37]).reshape([37]).require_grad();
            let (x, cotangent) = (random([130, 37]).require_grad(), random([130, 37]));
            let norm = RmsNorm { weight: Param::from_tensor(weight), epsilon: 1e-5 };
            let run = |y: Tensor<2>| {
                let grads = (y.clone() * cotangent.clone()).sum().backward();
                let weight = norm.weight.val().grad(&grads).expect("a gradient");
                [y.inner(), x.grad(&grads).expect("a gradient"), weight.unsqueeze()]
            };
            let plain = unit_rms(x.clone(), 1e-5) * norm.weight.val().unsqueeze();
            for (native, plain) in run(norm.forward(x.clone())).into_iter().zip(run(plain)) {
                let size: f64 = plain.clone().square().sum().sqrt().into_scalar();
                let error: f64 = (native - plain).square().sum().sqrt().into_scalar();
                assert!(error <= limit * size, "{dtype:?}: {error} of {size}");
            }
        }
    }
}
