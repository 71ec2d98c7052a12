//! The tensor-core kernels of GPUs with their products emulated in shared memory, and the portable kernel,
//! against the chunk scan in tensor operations: everything but the instruction itself, on any device that runs kernels.
#![cfg(any(feature = "wgpu", feature = "cuda"))]

use burn::tensor::{DType, Device, Distribution, Tensor};
use mamba_ssd::{SsdInput, SsdOutput, chunk_scan, emulate_tensor_cores, scan};
use mamba_ssd_tests::device::{device, skipped};
use mamba_ssd_tests::evaluate::values;
use mamba_ssd_tests::limits::relative_error;

fn random([b, t, h, p, g, n]: [usize; 6], device: &Device) -> SsdInput {
    let normal =
        |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), device).require_grad();
    // Gentle enough that the first token still matters to the last.
    let steepest = (8.0 / t as f64).min(0.5);
    let log_a = -Tensor::<3>::random([b, t, h], Distribution::Uniform(0.0, steepest), device);
    SsdInput::new(normal([b, t, h, p]), log_a.require_grad(), normal([b, t, g, n]), normal([b, t, g, n]))
        .with_state(normal([b, h, p, n]))
}

/// Outputs, final state, and with `reverse` the five gradients.
fn results(input: &SsdInput, reverse: bool, run: impl Fn(SsdInput) -> SsdOutput) -> Vec<Vec<f64>> {
    let output = run(input.clone());
    let mut results = vec![values(output.y.clone()), values(output.state.clone())];
    if reverse {
        let grads = (output.y.cast(DType::F32).square().sum() + output.state.square().sum()).backward();
        let of = |tensor: &Tensor<4>| values(tensor.grad(&grads).expect("a gradient"));
        results.extend([&input.x, &input.b, &input.c].map(of));
        results.extend(input.state.as_ref().map(of));
        results.push(values(input.log_a.grad(&grads).expect("a gradient")));
    }
    results
}

/// The chunk scan in tensor operations, the portable kernel, and the blocks agree.
fn agree(shape: [usize; 6], rows: usize, reverse: bool) {
    let input = random(shape, &device().autodiff());
    let kernel = |input| scan(input, 64);
    let want = results(&input, reverse, |input| chunk_scan(input, 64));
    let plain = results(&input, reverse, kernel);
    let blocks = emulate_tensor_cores(rows, || results(&input, reverse, kernel));
    for (i, want) in want.iter().enumerate() {
        for (form, got) in [("recurrence", &plain[i]), ("blocks", &blocks[i])] {
            let error = relative_error(got, want, want);
            assert!(error < 2e-5, "result {i} of {shape:?} by {form}, {rows} rows: relative error {error}");
        }
    }
}

/// x, B and C in f16, where a device that has no bf16 has that.
#[test]
fn the_recurrence_in_f16_equals_the_chunk_scan_in_f32_but_for_rounding() {
    if skipped(&["flex"], "it has kernels of its own") {
        return;
    }
    let device = device().autodiff();
    if !device.supports_dtype(DType::F16) {
        return;
    }
    let input = random([1, 40, 2, 12, 1, 8], &device);
    let cast =
        |tensor: &Tensor<4>, dtype| Tensor::from_inner(tensor.clone().inner().cast(dtype)).require_grad();
    let of = |input: &SsdInput, dtype| {
        let [x, b, c] = [&input.x, &input.b, &input.c].map(|tensor| cast(tensor, dtype));
        SsdInput { x, b, c, ..input.clone() }
    };
    let half = of(&input, DType::F16);
    let got = results(&half, true, |input| scan(input, 64));
    let want = results(&of(&half, DType::F32), true, |input| chunk_scan(input, 64));
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let error = relative_error(got, want, want);
        assert!(error < 2e-3, "result {i}: relative error {error}");
    }
}

#[test]
fn blocks_of_tokens_and_recurrence_equal_the_chunk_scan() {
    if skipped(&["flex"], "it has kernels of its own") {
        return;
    }
    agree([2, 37, 4, 9, 2, 12], 1, false);
    agree([1, 100, 2, 40, 1, 16], 2, false);
}

#[test]
fn gradients_by_blocks_and_recurrence_equal_those_of_the_chunk_scan() {
    if skipped(&["flex"], "it has kernels of its own") {
        return;
    }
    agree([1, 17, 9, 9, 1, 12], 1, true); // more heads of a group than are added up at once
    agree([1, 20, 2, 20, 1, 28], 1, true); // two planes for the states, whose second half is ragged
    agree([1, 300, 2, 9, 1, 12], 1, true); // in two spans
}
