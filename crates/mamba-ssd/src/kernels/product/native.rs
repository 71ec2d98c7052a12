//! Whether a product has the native kernel, and the call.

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Device, Tensor};

use super::ops::ProductOps;
use super::{hopper, plan};

/// The product of two matrices, each as it is stored or, where `transposed` says so, the other way round;
/// nothing where the device, the dtype or the shape does not fit.
pub(crate) fn native_product(a: Tensor<2>, b: Tensor<2>, transposed: [bool; 2]) -> Option<Tensor<2>> {
    if !fits(&a, &b) {
        return None;
    }
    let product = Dispatch::product(a.into_dispatch(), b.into_dispatch(), transposed);
    Some(Tensor::from_dispatch(product))
}

/// Rows of both, and of the result, must be whole units of the copy engine.
fn fits(a: &Tensor<2>, b: &Tensor<2>) -> bool {
    let sizes = [a.dims()[1], b.dims()[0], b.dims()[1]];
    let aligned =
        sizes.iter().all(|&size| size > 0 && size.is_multiple_of(plan::ALIGNMENT)) && a.dims()[0] > 0;
    aligned && [a, b].iter().all(|tensor| tensor.dtype() == DType::BF16) && on_hopper(&a.device())
}

/// Whether the kernel runs on `device`.
pub(crate) fn on_hopper(device: &Device) -> bool {
    match device.clone().inner().as_dispatch() {
        DispatchDevice::Cube(device) => hopper::available(&device.client()),
        #[allow(unreachable_patterns)] // other backends that a program may compile in
        _ => false,
    }
}
