//! Whether a product has the native kernel, and the call.

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Device, Tensor};

use super::ops::{FusedProductOps, ProductOps};
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

/// `onto + a b` as one operation, for `a [.. k]` and `onto [.. n]`; nothing where [`native_product`] has nothing, or
/// gradients are wanted.
pub(crate) fn native_product_onto<const D: usize>(
    a: &Tensor<D>,
    b: &Tensor<2>,
    onto: &Tensor<D>,
) -> Option<Tensor<D>> {
    let shape = product_of_rows(a, b);
    if onto.dims() != shape || !plain([b, b]) || !plain([a, onto]) || !on_hopper(&a.device()) {
        return None;
    }
    let (a, onto) = (rows(a), rows(onto));
    if !fits(&a, b) {
        return None;
    }
    let [a, b, onto] = [a, b.clone(), onto].map(|tensor| tensor.into_dispatch());
    Some(Tensor::<2>::from_dispatch(Dispatch::product_onto(a, b, onto)).reshape(shape))
}

/// `silu(a gate) ∘ (a b)` as one operation, for `a [.. k]`; nothing where [`native_product`] has nothing, or gradients are
/// wanted.
pub(crate) fn native_gated_product<const D: usize>(
    a: &Tensor<D>,
    gate: &Tensor<2>,
    b: &Tensor<2>,
) -> Option<Tensor<D>> {
    let shape = product_of_rows(a, b);
    if gate.dims() != b.dims() || !plain([gate, b]) || !plain([a, a]) || !on_hopper(&a.device()) {
        return None;
    }
    let a = rows(a);
    if !fits(&a, b) || !fits(&a, gate) {
        return None;
    }
    let [a, gate, b] = [&a, gate, b].map(|tensor| tensor.clone().into_dispatch());
    Some(Tensor::<2>::from_dispatch(Dispatch::product_gated(a, gate, b)).reshape(shape))
}

/// Whether both are in bf16 and beside automatic differentiation.
fn plain<const D: usize>(tensors: [&Tensor<D>; 2]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::BF16 && !tensor.device().is_autodiff())
}

/// `[.. n]` of `a [.. k]` and `b [k n]`.
fn product_of_rows<const D: usize>(a: &Tensor<D>, b: &Tensor<2>) -> [usize; D] {
    let mut shape = a.dims();
    shape[D - 1] = b.dims()[1];
    shape
}

/// `[.. d]` as rows.
fn rows<const D: usize>(x: &Tensor<D>) -> Tensor<2> {
    let shape = x.dims();
    x.clone().reshape([shape[..D - 1].iter().product::<usize>(), shape[D - 1]])
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
