//! Every evaluation of a product with weights, on whatever device the features choose.

use burn::nn::LinearConfig;
use burn::tensor::{Distribution, Tensor};
use mamba_ssd::{Form, PRODUCTS, project, project_transposed};
#[cfg(feature = "flex")]
use mamba_ssd_tests::device::skipped;
use mamba_ssd_tests::device::{backend, device, dtypes, widest};
use mamba_ssd_tests::evaluate::values;
use mamba_ssd_tests::products::{FORMS, check, check_gated, check_onto, gradients_are_products, operands};

#[test]
fn every_form_equals_a_product_on_the_host() {
    for (product, dtype) in
        PRODUCTS.iter().flat_map(|product| dtypes().into_iter().map(move |d| (product, d)))
    {
        for form in FORMS {
            for shape in [[1, 8, 8], [37, 24, 40], [128, 200, 64], [29, 300, 300]] {
                check(product, form, shape, dtype, &device());
            }
        }
    }
}

#[test]
fn a_projection_with_what_follows_it_equals_its_parts() {
    for dtype in dtypes() {
        for device in [device(), device().autodiff()] {
            check_onto(dtype, &device);
            check_gated(dtype, &device);
        }
    }
}

/// Where products go row by row (on the CPU), a row is what it is alone, bit for bit.
#[test]
fn a_row_of_a_product_by_rows_does_not_depend_on_the_others() {
    const ROWS: usize = 27;
    let device = device();
    for form in [Form::Plain, Form::RightTransposed] {
        for [n, k] in [[70, 37], [300, 600], [5, 16]] {
            let (x, weight) = operands(form, [ROWS, n, k], widest(), &device);
            let run = |x: Tensor<2>| (PRODUCTS[0].run)(x, weight.clone(), form).map(values);
            let Some(alone) =
                (0..ROWS).map(|row| run(x.clone().narrow(0, row, 1))).collect::<Option<Vec<_>>>()
            else {
                assert_ne!(backend(), "flex");
                continue;
            };
            for rows in 1..=ROWS {
                let together = run(x.clone().narrow(0, 0, rows)).expect("as for one row");
                assert_eq!(together, alone[..rows].concat(), "{form:?} {rows} rows, [{n} {k}]");
            }
        }
    }
}

/// What is multiplied with is the weight as it is stored, in a step and in a prefill, and that is the weight but for the
/// rounding of its format.
#[cfg(feature = "flex")]
#[test]
fn stored_weights_are_multiplied_as_what_they_stand_for() {
    use burn::nn::EmbeddingConfig;
    use mamba_ssd::{WeightFormat, embed};

    if skipped(&["cuda", "wgpu"], "weights are stored in formats of the CPU alone") {
        return;
    }
    let device = device();
    let close = |got: &[f64], want: &[f64], limit: f64| {
        let size = want.iter().map(|want| want.abs()).fold(0.0, f64::max);
        let apart = got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
        assert!(got.len() == want.len() && apart < limit * size, "{apart:.1e} apart, of {size:.1e}");
    };
    // Half a unit of bf16's 8 bits, or half a 127th of the largest of a block. 1,024, 192, 96 and 48 are in blocks of 128,
    // 64, 32 and 16; 72 is no multiple of 16, so that is in bf16.
    const ROUNDING: f64 = 4e-3;
    // 70 columns of 1,024 are more than a thread widens at a time.
    for (format, depth) in [
        (WeightFormat::Bf16, 1024),
        (WeightFormat::Int8, 1024),
        (WeightFormat::Int8, 192),
        (WeightFormat::Int8, 96),
        (WeightFormat::Int8, 48),
        (WeightFormat::Int8, 72),
    ] {
        let (linear, words) =
            (LinearConfig::new(depth, 70).init(&device), EmbeddingConfig::new(80, depth).init(&device));
        let stored = format.store(linear.clone());
        let eye = Tensor::<2>::eye(depth, &device);
        let weight =
            project(&stored, eye.unsqueeze::<3>()) - stored.bias.as_ref().expect("a bias").val().unsqueeze();
        close(&values(weight.clone()), &values(linear.weight.val()), ROUNDING);
        let stored_words = format.store(words.clone());
        let rows = embed(stored_words.weight.val(), Tensor::arange(0..80, &device).unsqueeze());
        close(&values(rows.clone()), &values(words.weight.val()), ROUNDING);

        for batch in [1, 2, 3, 6, 29] {
            let x = Tensor::<2>::random([batch, depth], Distribution::Normal(0.0, 1.0), &device);
            let row = |x: &Tensor<2>, row: usize| x.clone().narrow(0, row, 1);
            let products = |x: Tensor<2>| {
                let head = project_transposed(x.clone(), stored_words.weight.val());
                Tensor::cat(vec![project(&stored, x), head], 1)
            };
            let alone: Vec<f64> = (0..batch).flat_map(|i| values(products(row(&x, i)))).collect();
            assert_eq!(
                values(products(x.clone())),
                alone,
                "{format:?} {depth}, {batch} rows, alone and together"
            );
            let bias = linear.bias.as_ref().expect("a bias").val();
            let want = x.clone().matmul(weight.clone().squeeze_dim(0)) + bias.unsqueeze();
            close(&values(project(&stored, x.clone())), &values(want.clone()), 2e-6);
            close(&values(project(&stored, x.clone().unsqueeze::<3>())), &values(want), 2e-6);
            let heads = stored_words.weight.val();
            let want = values(x.clone().matmul(rows.clone().cast(x.dtype()).squeeze_dim::<2>(0).transpose()));
            close(&values(project_transposed(x.clone(), heads.clone())), &want, 2e-6);
            close(&values(project_transposed(x.unsqueeze::<3>(), heads)), &want, 2e-6);
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
