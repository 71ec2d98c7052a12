//! The rows of `PRODUCTS` against an f64 product on the host, forward and backward.

use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Distribution, Tensor};
use mamba_ssd::{Form, Product, project, project_gated, project_onto};

use crate::evaluate::values;
use crate::limits::relative_error;

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

/// A projection onto a stream is the projection added to it: one row whose depth is cut into slices on a GPU, more rows
/// whose depth is not, with a bias and without.
///
/// # Panics
///
/// If a number is off by more than rounding.
pub fn check_onto(dtype: DType, device: &Device) {
    for (rows, n, k, bias) in [(1, 64, 2048, false), (3, 64, 2048, true), (200, 64, 128, false)] {
        let linear = linear(k, n, bias, dtype, device);
        let random = |columns| Tensor::<3>::random([rows, 1, columns], NORMAL, device).cast(dtype);
        let (x, onto) = (random(k), random(n));
        let got = values(project_onto(&linear, x.clone(), onto.clone()));
        let product = values(project(&linear, x));
        for ((got, product), onto) in got.into_iter().zip(product).zip(values(onto)) {
            let apart = (got - product - onto).abs() / (product.abs() + onto.abs());
            assert!(apart <= 3.0 * limit(dtype), "{got} for {product} + {onto}, {dtype:?}");
        }
    }
}

/// A gated projection is the gate of two projections.
///
/// # Panics
///
/// If the relative L2 error is above the limit of the dtype.
pub fn check_gated(dtype: DType, device: &Device) {
    for (rows, n, k) in [(1, 512, 128), (3, 200, 72), (200, 328, 64)] {
        let [gate, up] = [false; 2].map(|bias| linear(k, n, bias, dtype, device));
        let x = Tensor::<2>::random([rows, k], NORMAL, device).cast(dtype);
        let [gates, ups] = [&gate, &up].map(|linear| values(project(linear, x.clone())));
        let got = values(project_gated(&gate, &up, x));
        let want: Vec<f64> = gates.iter().zip(&ups).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        let (error, limit) = (relative_error(&got, &want, &want), 3.0 * limit(dtype));
        assert!(error <= limit, "{rows} rows of {n} in {dtype:?}: {error:.1e}, above {limit:.0e}");
    }
}

const NORMAL: Distribution = Distribution::Normal(0.0, 1.0);

fn linear(k: usize, n: usize, bias: bool, dtype: DType, device: &Device) -> Linear {
    let mut linear = LinearConfig::new(k, n).with_bias(bias).init(device);
    linear.weight = Param::from_tensor(Tensor::<2>::random([k, n], NORMAL, device).cast(dtype));
    linear.bias =
        linear.bias.map(|_| Param::from_tensor(Tensor::<1>::random([n], NORMAL, device).cast(dtype)));
    linear
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
