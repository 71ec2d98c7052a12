//! What stands between the products of an MLP: the gate `silu(gate) ∘ value`, and GELU.

use burn::tensor::Tensor;
use burn::tensor::activation::silu;

/// `silu(gate) ∘ value`, as one native operation where the device has one.
///
/// It opens the outputs of a mixer (`gate` is z) and the halves of a gated MLP.
///
/// # Panics
///
/// If the shapes differ.
pub fn silu_gate<const D: usize>(gate: Tensor<D>, value: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), value.dims(), "a gate has the shape of what it gates");
    #[cfg(any(feature = "flex", feature = "cube"))]
    if gate.dtype() == value.dtype() && crate::kernels::available(&gate.device(), gate.dtype()) {
        return crate::kernels::native_gate(gate, value);
    }
    silu(gate) * value
}

/// GELU in its tanh form, as one native operation where the device has one.
///
/// ```text
/// x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))
/// ```
///
/// Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016), section 2.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(any(feature = "flex", feature = "cube"))]
    if crate::kernels::available(&x.device(), x.dtype()) {
        return crate::kernels::native_gelu(x);
    }
    // burn's takes the cube through `powf`, which not every device defines for negative numbers.
    let scale = (2.0 / std::f64::consts::PI).sqrt();
    let cube = x.clone() * x.clone() * x.clone();
    let inner = (x.clone() + cube * 0.044715) * scale;
    x * (inner.tanh() + 1.0) * 0.5
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, Distribution};

    #[test]
    fn the_native_gate_equals_the_tensor_operations_forward_and_backward() {
        for (dtype, limit) in [(DType::F32, 2e-5), (DType::F64, 1e-12)] {
            let device = Device::flex().autodiff();
            let random = || Tensor::<2>::random([7, 33], Distribution::Normal(0.0, 4.0), (&device, dtype));
            let (gate, value) = (random().require_grad(), random().require_grad());
            let run = |f: fn(Tensor<2>, Tensor<2>) -> Tensor<2>| {
                let y = f(gate.clone(), value.clone());
                let grads = y.clone().square().sum().backward();
                let of = |x: &Tensor<2>| x.grad(&grads).expect("a gradient");
                [y.inner(), of(&gate), of(&value)]
            };
            for (native, plain) in run(silu_gate).into_iter().zip(run(|gate, value| silu(gate) * value)) {
                let scale: f64 = plain.clone().abs().max().into_scalar();
                let error: f64 = (native - plain).abs().max().into_scalar();
                assert!(error <= limit * scale, "{dtype:?}: {error} of {scale}");
            }
        }
    }
}
