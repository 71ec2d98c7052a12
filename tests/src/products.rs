//! The rows of `PRODUCTS` against an f64 product on the host, forward and backward.

use burn::tensor::{DType, Device, Distribution, Tensor};
use mamba_ssd::{Form, Product};

use crate::evaluate::values;

/// Every form of a product.
pub const FORMS: [Form; 3] = [Form::Plain, Form::RightTransposed, Form::LeftTransposed];

/// Largest relative L2 error: rounding of the result in the dtype, ten times over for f32 and f64.
fn limit(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 2e-15,
        DType::F32 => 3e-6,
        _ => 5e-3,
    }
}

/// The product of random matrices of shape `[m n k]` against an f64 product on the host, where this row
/// exists.
///
/// # Panics
///
/// If the relative L2 error is above the limit of the dtype.
pub fn check(product: &Product, form: Form, shape: [usize; 3], dtype: DType, device: &Device) {
    let [m, n, k] = shape;
    let (a, b) = operands(form, shape, dtype, device);
    let (left, right) = (values(a.clone()), values(b.clone()));
    let Some(result) = (product.run)(a, b, form) else { return };
    let left_at =
        |i: usize, l: usize| if form == Form::LeftTransposed { left[l * m + i] } else { left[i * k + l] };
    let right_at =
        |l: usize, j: usize| if form == Form::RightTransposed { right[j * k + l] } else { right[l * n + j] };
    let (mut error, mut size) = (0.0, 0.0);
    for (at, got) in values(result).into_iter().enumerate() {
        let want: f64 = (0..k).map(|l| left_at(at / n, l) * right_at(l, at % n)).sum();
        error += (got - want).powi(2);
        size += want * want;
    }
    let error: f64 = (error / size).sqrt();
    let limit = limit(dtype);
    assert!(error < limit, "{} {form:?} {shape:?} {dtype:?}: {error:.1e}, above {limit:.0e}", product.name);
}

/// The gradients that autodiff finds are the products they should be, number for number. Those were checked
/// by themselves.
///
/// # Panics
///
/// If a number differs, or this row does not exist for the device and dtype.
pub fn gradients_are_products(product: &Product, dtype: DType, device: &Device) {
    let one =
        |a: &Tensor<2>, b: &Tensor<2>, form| (product.run)(a.clone(), b.clone(), form).expect("a product");
    for form in [Form::Plain, Form::RightTransposed] {
        let (a, b) = operands(form, [200, 328, 136], dtype, device);
        let dy = Tensor::<2>::random([200, 328], Distribution::Normal(0.0, 1.0), device).cast(dtype);
        let want = match form {
            Form::Plain => [one(&dy, &b, Form::RightTransposed), one(&a, &dy, Form::LeftTransposed)],
            _ => [one(&dy, &b, Form::Plain), one(&dy, &a, Form::LeftTransposed)],
        };
        let [a, b, dy] = [a, b, dy].map(Tensor::from_inner);
        let (a, b) = (a.require_grad(), b.require_grad());
        let grads = (one(&a, &b, form) * dy).sum().backward();
        for (x, want) in [a, b].into_iter().zip(want) {
            let got = values(x.grad(&grads).expect("a gradient"));
            assert_eq!(got, values(want), "{}: a gradient of {form:?}", product.name);
        }
    }
}

/// Random factors of a product of shape `[m n k]`.
pub fn operands(form: Form, [m, n, k]: [usize; 3], dtype: DType, device: &Device) -> (Tensor<2>, Tensor<2>) {
    let random = |rows, columns| {
        let normal = Tensor::<2>::random([rows, columns], Distribution::Normal(0.0, 1.0), device);
        normal.cast(dtype)
    };
    match form {
        Form::Plain => (random(m, k), random(k, n)),
        Form::RightTransposed => (random(m, k), random(n, k)),
        Form::LeftTransposed => (random(k, m), random(k, n)),
    }
}
