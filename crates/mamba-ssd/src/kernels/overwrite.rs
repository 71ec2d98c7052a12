//! Writing into a buffer that others hold: what a recorded graph reads.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor};

/// The operation.
#[backend_extension(Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub trait OverwriteOps: Backend {
    /// Writes the numbers of `source` into the buffer of `target`, whoever else holds it.
    #[fusion(dtype = target, shape = target)]
    fn overwrite_float(target: FloatTensor<Self>, source: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The same for integers.
    #[fusion(dtype = target, shape = target)]
    fn overwrite_int(target: IntTensor<Self>, source: IntTensor<Self>) -> IntTensor<Self>;
}

/// Writes `source` into the buffer of `target`: for buffers that a recorded graph reads.
pub(crate) fn overwrite_float<const D: usize>(target: Tensor<D>, source: Tensor<D>) -> Tensor<D> {
    let source = source.cast(target.dtype());
    Tensor::from_dispatch(Dispatch::overwrite_float(target.into_dispatch(), source.into_dispatch()))
}

/// The same for integers.
pub(crate) fn overwrite_int(target: Tensor<1, Int>, source: Tensor<1, Int>) -> Tensor<1, Int> {
    let source = source.cast(target.dtype());
    Tensor::from_dispatch(Dispatch::overwrite_int(target.into_dispatch(), source.into_dispatch()))
}
