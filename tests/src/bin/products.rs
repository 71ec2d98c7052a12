//! Products of bf16 on a GPU: right first, then how fast, every row of `mamba_ssd::PRODUCTS`. Prints Markdown.
//!
//! ```text
//! cargo run -p mamba-ssd-tests --no-default-features --features cuda --bin products
//! ```
//!
//! Arguments name rows of the table; without any, all run (burn's spends a minute on its autotune first).
//! `benches/peers/products.py` measures cuBLAS at the same shapes.
#![allow(clippy::print_stdout, reason = "a program")]

use std::time::Instant;

use burn::tensor::{DType, Device, Tensor};
use mamba_ssd::{Form, PRODUCTS, Product};
use mamba_ssd_tests::device::device;
use mamba_ssd_tests::products::{FORMS, check, check_gated, check_onto, gradients_are_products, operands};

/// `[m n k]`, ragged and tiny ones too.
const CHECKED: [[usize; 3]; 7] = [
    [8, 8, 8],
    [200, 328, 136],
    [256, 512, 256],
    [1000, 264, 1032],
    [64, 2048, 520],
    [8, 2048, 2048],
    [72, 576, 4104],
];

/// What is trained, prefilled and decoded: `[m n k]` of SmolLM2-135M, Llamba-1B and Llamba-8B.
const TIMED: [(&str, [usize; 3]); 19] = [
    ("8192 cubed", [8192, 8192, 8192]),
    ("SmolLM2-135M out_proj, 32k tokens", [32768, 576, 576]),
    ("SmolLM2-135M MLP up, 32k tokens", [32768, 1536, 576]),
    ("SmolLM2-135M MLP down, 32k tokens", [32768, 576, 1536]),
    ("SmolLM2-135M head, 8k tokens", [8192, 49152, 576]),
    ("Llamba-1B in_proj, 16k tokens", [16384, 8224, 2048]),
    ("Llamba-1B out_proj, 16k tokens", [16384, 2048, 2048]),
    ("Llamba-1B MLP up, 16k tokens", [16384, 8192, 2048]),
    ("Llamba-1B MLP down, 16k tokens", [16384, 2048, 8192]),
    ("Llamba-1B in_proj, 2k tokens", [2048, 8224, 2048]),
    ("Llamba-8B in_proj, 8k tokens", [8192, 12320, 4096]),
    ("Llamba-8B MLP up, 8k tokens", [8192, 14336, 4096]),
    ("Llamba-8B MLP down, 8k tokens", [8192, 4096, 14336]),
    ("Llamba-1B MLP up, batch 1", [1, 8192, 2048]),
    ("Llamba-1B MLP up, batch 16", [16, 8192, 2048]),
    ("Llamba-1B MLP up, batch 64", [64, 8192, 2048]),
    ("Llamba-1B MLP down, batch 64", [64, 2048, 8192]),
    ("Llamba-1B MLP up, batch 512", [512, 8192, 2048]),
    ("Llamba-8B MLP up, batch 64", [64, 14336, 4096]),
];

fn main() {
    let device = device();
    let named: Vec<String> = std::env::args().skip(1).collect();
    let asked = |product: &&Product| named.is_empty() || named.iter().any(|name| name == product.name);
    let products: Vec<&Product> = PRODUCTS.iter().filter(asked).collect();
    for product in &products {
        for form in FORMS {
            for shape in CHECKED {
                check(product, form, shape, DType::BF16, &device);
            }
        }
        if product.name == "native" {
            gradients_are_products(product, DType::BF16, &device);
            check_onto(DType::BF16, &device);
            check_gated(DType::BF16, &device);
        }
        println!("{}: right in {} cases", product.name, FORMS.len() * CHECKED.len());
    }
    println!(
        "\n| product [m n k] | form | {} |",
        products.iter().map(|p| p.name).collect::<Vec<_>>().join(" | ")
    );
    println!("|---|---|{}", "---:|".repeat(products.len()));
    for (name, shape) in TIMED {
        for form in FORMS {
            println!("| {name} {shape:?} | {form:?} | {} |", row(&products, form, shape, &device));
        }
    }
}

fn row(products: &[&Product], form: Form, shape: [usize; 3], device: &Device) -> String {
    let [m, n, k] = shape;
    let (a, b) = operands(form, shape, DType::BF16, device);
    let cell = |product: &Product| match median(product, form, &a, &b, device) {
        Some(seconds) => {
            format!("{:.4} ms, {:.0} TFLOP/s", seconds * 1e3, 2e-12 * (m * n * k) as f64 / seconds)
        }
        None => "".to_string(),
    };
    products.iter().map(|product| cell(product)).collect::<Vec<_>>().join(" | ")
}

/// Median seconds of a call, over seven series with one wait each; nothing where the row does not apply.
fn median(product: &Product, form: Form, a: &Tensor<2>, b: &Tensor<2>, device: &Device) -> Option<f64> {
    let series = |calls: usize| -> Option<f64> {
        let started = Instant::now();
        for _ in 0..calls {
            (product.run)(a.clone(), b.clone(), form)?;
        }
        device.sync().ok()?;
        Some(started.elapsed().as_secs_f64() / calls as f64)
    };
    let once = series(3)?.min(series(3)?);
    let calls = ((0.01 / once) as usize).clamp(5, 200);
    let mut seconds: Vec<f64> = (0..7).map(|_| series(calls)).collect::<Option<_>>()?;
    seconds.sort_by(f64::total_cmp);
    Some(seconds[3])
}
