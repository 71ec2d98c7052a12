//! The gate of these models: `silu(gate) ∘ value`.

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
