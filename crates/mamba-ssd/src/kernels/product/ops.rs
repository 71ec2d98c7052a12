//! The product as an operation of burn's backends.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};
use burn::tensor::Shape;

/// Products of matrices.
#[backend_extension(Autodiff, Cube: cfg(feature = "cuda"), Fusion: cfg(feature = "fusion"))]
pub trait ProductOps: Backend {
    /// `a b` of two matrices, each as it is stored or, where `transposed` says so, the other way round.
    #[fusion(dtype = a, shape = product_shape(a, b, transposed))]
    fn product(a: FloatTensor<Self>, b: FloatTensor<Self>, transposed: [bool; 2]) -> FloatTensor<Self>;
}

/// Products and what follows them, without gradients.
#[backend_extension(Cube: cfg(feature = "cuda"), Fusion: cfg(feature = "fusion"))]
pub trait FusedProductOps: Backend {
    /// `onto + a b`, added up in f32 where the depth is cut into slices, and else to the rounded product.
    #[fusion(dtype = a, shape = product_shape(a, b, &[false; 2]))]
    fn product_onto(a: FloatTensor<Self>, b: FloatTensor<Self>, onto: FloatTensor<Self>)
    -> FloatTensor<Self>;

    /// `silu(a gate) ∘ (a b)`, rounded once, for two matrices of one shape.
    #[fusion(dtype = a, shape = product_shape(a, b, &[false; 2]))]
    fn product_gated(
        a: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// `[m n]`.
pub(super) fn product_shape(a: &Shape, b: &Shape, transposed: &[bool; 2]) -> Shape {
    let [of_a, of_b] = *transposed;
    Shape::new([a[usize::from(of_a)], b[usize::from(!of_b)]])
}
