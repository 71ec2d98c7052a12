//! Additions to the residual stream in the kernel that follows or comes before them. No gradients; GPUs.
//!
//! At one token a row a kernel of its own for an addition costs as much as a norm.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

/// The sum and its norm.
#[backend_extension(Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub trait ResidualOps: Backend {
    /// `x + addend`, rounded, and the RMS norm of that, for `[.. d]` and `weight [d]`.
    #[fusion(meta = |x, _addend, _weight, _epsilon| (x.clone(), x.clone()))]
    fn sum_and_norm(
        x: FloatTensor<Self>,
        addend: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// `x + addend` and its RMS norm, where the device has both as one operation and no gradients are wanted.
pub(crate) fn native_sum_and_norm<const D: usize>(
    x: &Tensor<D>,
    addend: &Tensor<D>,
    weight: Tensor<1>,
    epsilon: f64,
) -> Option<[Tensor<D>; 2]> {
    let alike = [addend.dtype(), weight.dtype()] == [x.dtype(); 2] && x.dims() == addend.dims();
    let tracked =
        [x, addend].iter().any(|tensor| tensor.device().is_autodiff()) || weight.device().is_autodiff();
    let native = super::step::is_cube(&x.device()) && super::available(&x.device(), x.dtype());
    if !alike || tracked || !native {
        return None;
    }
    let [x, addend] = [x, addend].map(|tensor| tensor.clone().into_dispatch());
    let (sum, normed) = Dispatch::sum_and_norm(x, addend, weight.into_dispatch(), epsilon);
    Some([sum, normed].map(Tensor::from_dispatch))
}
