//! Every evaluation of a product with weights, on whatever device the features choose.

use burn::nn::LinearConfig;
use burn::tensor::{Distribution, Tensor};
use mamba_ssd::{Form, PRODUCTS, project, project_transposed};
use mamba_ssd_tests::device::{backend, device, dtypes, widest};
use mamba_ssd_tests::evaluate::values;
use mamba_ssd_tests::products::{FORMS, check, gradients_are_products, operands};

#[test]
fn every_form_equals_a_product_on_the_host() {
    for (product, dtype) in
        PRODUCTS.iter().flat_map(|product| dtypes().into_iter().map(move |d| (product, d)))
    {
        for form in FORMS {
            for shape in [[1, 8, 8], [37, 24, 40], [128, 200, 64]] {
                check(product, form, shape, dtype, &device());
            }
        }
    }
}

/// Where products go row by row (on the CPU), a row is what it is alone, bit for bit.
#[test]
fn a_row_of_a_product_by_rows_does_not_depend_on_the_others() {
    let device = device();
    for form in [Form::Plain, Form::RightTransposed] {
        for [n, k] in [[70, 37], [64, 600], [5, 16]] {
            let (x, weight) = operands(form, [9, n, k], widest(), &device);
            let run = |x: Tensor<2>| (PRODUCTS[0].run)(x, weight.clone(), form).map(values);
            let Some(alone) = (0..9).map(|row| run(x.clone().narrow(0, row, 1))).collect::<Option<Vec<_>>>()
            else {
                assert_ne!(backend(), "flex");
                continue;
            };
            for rows in 1..=9 {
                let together = run(x.clone().narrow(0, 0, rows)).expect("as for one row");
                assert_eq!(together, alone[..rows].concat(), "{form:?} {rows} rows, [{n} {k}]");
            }
        }
    }
}

#[test]
fn gradients_are_products_of_the_same_table() {
    gradients_are_products(&PRODUCTS[1], widest(), &device());
}

#[test]
fn projections_act_on_the_last_axis_and_add_the_bias() {
    let device = device();
    let linear = LinearConfig::new(6, 5).init(&device);
    let x = Tensor::<3>::random([2, 3, 6], Distribution::Normal(0.0, 1.0), &device);
    let close = |got: Tensor<3>, want: Tensor<3>| {
        let apart = values(got).into_iter().zip(values(want)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 1e-5, "{apart} apart");
    };
    close(project(&linear, x.clone()), linear.forward(x.clone()));
    let weight = Tensor::<2>::random([5, 6], Distribution::Normal(0.0, 1.0), &device);
    close(project_transposed(x.clone(), weight.clone()), x.matmul(weight.transpose().unsqueeze()));
}
