//! Products with weights: the projections, MLPs and heads of these models.
//!
//! [`project`] and [`project_transposed`] are one function, evaluated by the device's native product where
//! there is one (bf16 on an NVIDIA Hopper GPU), else by burn's. One token a row, without gradients on the CPU, goes
//! row by row, so that decoding a row does not depend on its neighbours, and reads the weight as it is stored
//! ([`WeightFormat`](crate::WeightFormat)). All are rows of [`PRODUCTS`].

use burn::nn::Linear;
use burn::tensor::Tensor;

use crate::silu_gate;

/// Which product of two matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `a b`, `a [m k]` and `b [k n]`: a layer.
    Plain,
    /// `a bᵀ`, `b [n k]`: a layer's gradient for its input; a tied head.
    RightTransposed,
    /// `aᵀ b`, `a [k m]`: a layer's gradient for its weight. Not differentiable itself.
    LeftTransposed,
}

/// One way to evaluate a product.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Its name in reports and benchmarks.
    pub name: &'static str,
    /// The product `[m n]`, or nothing where this evaluation does not exist for the device, the dtype or
    /// the shape.
    pub run: fn(Tensor<2>, Tensor<2>, Form) -> Option<Tensor<2>>,
}

/// Every evaluation of the product, the preferred one last; for one token a row the first, where it exists.
pub const PRODUCTS: &[Product] = &[
    Product { name: "row by row", run: row_by_row },
    Product { name: "burn", run: by_burn },
    Product { name: "native", run: native },
];

/// `x W + bias` of a linear layer, whose weight burn keeps as `[k n]`.
///
/// # Shapes
///
/// `x [.. k]`; returns `[.. n]`.
pub fn project<const D: usize>(linear: &Linear, x: Tensor<D>) -> Tensor<D> {
    let product = product(x, linear.weight.val(), Form::Plain);
    match &linear.bias {
        Some(bias) => product + bias.val().unsqueeze(),
        None => product,
    }
}

/// `onto + x W + bias`: the projection back to a residual stream, in fewer kernels where the device has them and no
/// gradients are wanted.
///
/// # Shapes
///
/// `x [.. k]` and `onto [.. n]`; returns `[.. n]`.
pub fn project_onto<const D: usize>(linear: &Linear, x: Tensor<D>, onto: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cuda")]
    if linear.bias.is_none()
        && let Some(sum) = crate::kernels::native_product_onto(&x, &linear.weight.val(), &onto)
    {
        return sum;
    }
    onto + project(linear, x)
}

/// `silu(x gate) ∘ (x W)`: the wide half of a gated MLP, one kernel where the device has it and no gradients are wanted.
///
/// # Shapes
///
/// `x [.. k]`, two layers of one shape; returns `[.. n]`.
pub fn project_gated<const D: usize>(gate: &Linear, linear: &Linear, x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cuda")]
    if gate.bias.is_none()
        && linear.bias.is_none()
        && let Some(gated) =
            crate::kernels::native_gated_product(&x, &gate.weight.val(), &linear.weight.val())
    {
        return gated;
    }
    silu_gate(project(gate, x.clone()), project(linear, x))
}

/// [`project`], with columns of zeros behind where the device's native product wants rows of whole units: `[.. n']`,
/// `n' ≥ n`.
pub(crate) fn project_padded<const D: usize>(linear: &Linear, x: Tensor<D>) -> Tensor<D> {
    const UNIT: usize = 8;
    let weight = linear.weight.val();
    let [k, n] = weight.dims();
    let missing = n.next_multiple_of(UNIT) - n;
    if missing == 0 || !multiplies_natively(&weight) {
        return project(linear, x);
    }
    let like = (&weight.device(), weight.dtype());
    let zeros = Tensor::zeros([k, missing], like);
    let product = product(x, Tensor::cat(vec![weight.clone(), zeros], 1), Form::Plain);
    match &linear.bias {
        Some(bias) => {
            let bias = Tensor::cat(vec![bias.val(), Tensor::zeros([missing], like)], 0);
            product + bias.unsqueeze()
        }
        None => product,
    }
}

/// Whether the device has a native product for the weight's dtype.
#[allow(unused_variables, reason = "without backends")]
fn multiplies_natively(weight: &Tensor<2>) -> bool {
    #[cfg(any(feature = "flex", feature = "cube"))]
    return crate::kernels::product_form(&weight.device(), weight.dtype()).is_some();
    #[cfg(not(any(feature = "flex", feature = "cube")))]
    return false;
}

/// `x Wᵀ` with `weight [n k]`: the head of a model whose embedding serves as head.
///
/// # Shapes
///
/// `x [.. k]`; returns `[.. n]`.
pub fn project_transposed<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    product(x, weight, Form::RightTransposed)
}

/// The product over the last axis of x. `[.. d]` of one axis more, or of length 1, is one token a row.
fn product<const D: usize>(x: Tensor<D>, weight: Tensor<2>, form: Form) -> Tensor<D> {
    let mut shape = x.dims();
    let depth = shape[D - 1];
    let rows = shape[..D - 1].iter().product::<usize>();
    shape[D - 1] = weight.dims()[usize::from(form == Form::Plain)];
    let one_token = D == 2 || shape[D - 2] == 1;
    let (mut x, mut weight) = (x.reshape([rows, depth]), weight);
    if one_token {
        (x, weight) = match stored_product(x, weight, form) {
            Ok(product) => return product.reshape(shape),
            Err(operands) => operands,
        };
    }
    let weight = crate::weights::widened(weight, x.dtype());
    let run = |product: &Product| (product.run)(x.clone(), weight.clone(), form);
    PRODUCTS[1..].iter().rev().find_map(run).expect("burn multiplies everything").reshape(shape)
}

fn row_by_row(a: Tensor<2>, b: Tensor<2>, form: Form) -> Option<Tensor<2>> {
    stored_product(a, b, form).ok()
}

/// [`row_by_row`], or the operands where it does not exist: a clone of a weight in 8-bit integers copies its scales.
#[allow(clippy::result_large_err, reason = "the operands as they were")]
fn stored_product(a: Tensor<2>, b: Tensor<2>, form: Form) -> Result<Tensor<2>, (Tensor<2>, Tensor<2>)> {
    #[cfg(feature = "flex")]
    match form {
        Form::Plain => return crate::kernels::product_by_rows(a, b, false),
        Form::RightTransposed => return crate::kernels::product_by_rows(a, b, true),
        Form::LeftTransposed => {}
    }
    let _ = form;
    Err((a, b))
}

/// `a b` of stacks of matrices, `a [b h m k]` and `b [b h k n]`.
pub(crate) fn batched(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "cube")]
    if let Some(product) = crate::kernels::native_batched(&a, &b) {
        return product;
    }
    a.matmul(b)
}

fn by_burn(a: Tensor<2>, b: Tensor<2>, form: Form) -> Option<Tensor<2>> {
    Some(match form {
        Form::Plain => a.matmul(b),
        Form::RightTransposed => a.matmul(b.transpose()),
        Form::LeftTransposed => a.transpose().matmul(b),
    })
}

#[cfg(feature = "cuda")]
fn native(a: Tensor<2>, b: Tensor<2>, form: Form) -> Option<Tensor<2>> {
    crate::kernels::native_product(a, b, [form == Form::LeftTransposed, form == Form::RightTransposed])
}

#[cfg(not(feature = "cuda"))]
fn native(_a: Tensor<2>, _b: Tensor<2>, _form: Form) -> Option<Tensor<2>> {
    None
}
