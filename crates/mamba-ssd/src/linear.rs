//! Products with weights: the projections, MLPs and heads of these models.
//!
//! [`project`] and [`project_transposed`] are one function, evaluated by the device's native product where
//! there is one (bf16 on an NVIDIA Hopper GPU), else by burn's. Both are rows of [`PRODUCTS`].

use burn::nn::Linear;
use burn::tensor::Tensor;

/// One way to evaluate `a [m k] · b [k n]`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Its name in reports and benchmarks.
    pub name: &'static str,
    /// `a b`, or nothing where this evaluation does not exist for the device, dtype or shape.
    pub run: fn(Tensor<2>, Tensor<2>) -> Option<Tensor<2>>,
    /// `a bᵀ` with `b [n k]`, likewise.
    pub run_transposed: fn(Tensor<2>, Tensor<2>) -> Option<Tensor<2>>,
}

/// Every evaluation of the product, the preferred one last.
pub const PRODUCTS: &[Product] = &[
    Product {
        name: "burn",
        run: |a, b| Some(a.matmul(b)),
        run_transposed: |a, b| Some(a.matmul(b.transpose())),
    },
    Product { name: "native", run: |a, b| native(a, b, false), run_transposed: |a, b| native(a, b, true) },
];

/// `x W + bias` of a linear layer, whose weight burn keeps as `[k n]`.
///
/// # Shapes
///
/// `x [.. k]`; returns `[.. n]`.
pub fn project<const D: usize>(linear: &Linear, x: Tensor<D>) -> Tensor<D> {
    let product = product(x, linear.weight.val(), false);
    match &linear.bias {
        Some(bias) => product + bias.val().unsqueeze(),
        None => product,
    }
}

/// `x Wᵀ` with `weight [n k]`: the head of a model whose embedding serves as head.
///
/// # Shapes
///
/// `x [.. k]`; returns `[.. n]`.
pub fn project_transposed<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    product(x, weight, true)
}

/// `x W` or `x Wᵀ`, over the last axis of x.
fn product<const D: usize>(x: Tensor<D>, weight: Tensor<2>, transposed: bool) -> Tensor<D> {
    let mut shape = x.dims();
    let depth = shape[D - 1];
    let rows = shape[..D - 1].iter().product::<usize>();
    shape[D - 1] = weight.dims()[usize::from(!transposed)];
    let x = x.reshape([rows, depth]);
    let found = PRODUCTS.iter().rev().find_map(|product| {
        let run = if transposed { product.run_transposed } else { product.run };
        run(x.clone(), weight.clone())
    });
    found.expect("burn multiplies everything").reshape(shape)
}

#[cfg(feature = "cuda")]
fn native(a: Tensor<2>, b: Tensor<2>, transposed: bool) -> Option<Tensor<2>> {
    crate::kernels::native_product(a, b, transposed)
}

#[cfg(not(feature = "cuda"))]
fn native(_a: Tensor<2>, _b: Tensor<2>, _transposed: bool) -> Option<Tensor<2>> {
    None
}
