//! The step sizes that Mamba-1 and Mamba-2 discretise with: `Δ = softplus(dt + bias)`.

use burn::module::Initializer;
use burn::tensor::activation::softplus;
use burn::tensor::{Device, Tensor};

use crate::norm::wide;

/// Δ of `dt [b t h]` and `bias [h]`, in f32 or wider.
pub(super) fn step_size(dt: Tensor<3>, bias: Tensor<1>) -> Tensor<3> {
    let wide = wide(dt.dtype());
    softplus(dt.cast(wide) + bias.cast(wide).unsqueeze(), 1.0)
}

/// `softplus⁻¹(Δ)` of `count` step sizes, log-uniform in [0.001, 0.1].
pub(super) fn random_bias(count: usize, device: &Device) -> Tensor<1> {
    let logs = Initializer::Uniform { min: 0.001f64.ln(), max: 0.1f64.ln() };
    let dt = logs.init::<1, _>([count], device).val().exp();
    (dt.exp() - 1.0).log().detach() // exact enough: Δ ≪ 1
}
