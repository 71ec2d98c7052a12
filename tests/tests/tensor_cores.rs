//! The tensor-core kernels of GPUs with their products emulated in shared memory, against the portable
//! kernel: everything but the instruction itself, on any device that runs kernels.
#![cfg(any(feature = "wgpu", feature = "cuda"))]

use burn::tensor::{Device, Distribution, Tensor};
use mamba_ssd::{SsdInput, emulate_tensor_cores, scan};
use mamba_ssd_tests::device::device;
use mamba_ssd_tests::evaluate::values;

fn random([b, t, h, p, g, n]: [usize; 6], device: &Device) -> SsdInput {
    let normal =
        |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), device).require_grad();
    let log_a = -Tensor::<3>::random([b, t, h], Distribution::Uniform(0.0, 0.5), device);
    SsdInput::new(normal([b, t, h, p]), log_a.require_grad(), normal([b, t, g, n]), normal([b, t, g, n]))
        .with_state(normal([b, h, p, n]))
}

/// Outputs, final state, and with `reverse` the five gradients.
fn run(input: &SsdInput, rows: Option<usize>, reverse: bool) -> Vec<Vec<f64>> {
    match rows {
        Some(rows) => emulate_tensor_cores(rows, || results(input, reverse)),
        None => results(input, reverse),
    }
}

fn results(input: &SsdInput, reverse: bool) -> Vec<Vec<f64>> {
    let output = scan(input.clone(), 64);
    let mut results = vec![values(output.y.clone()), values(output.state.clone())];
    if reverse {
        let grads = (output.y.square().sum() + output.state.square().sum()).backward();
        let of = |tensor: &Tensor<4>| values(tensor.grad(&grads).expect("a gradient"));
        results.extend([&input.x, &input.b, &input.c].map(of));
        results.extend(input.state.as_ref().map(of));
        results.push(values(input.log_a.grad(&grads).expect("a gradient")));
    }
    results
}

fn agree(shape: [usize; 6], rows: usize, reverse: bool) {
    let input = random(shape, &device().autodiff());
    let (plain, blocks) = (run(&input, None, reverse), run(&input, Some(rows), reverse));
    for (i, (plain, blocks)) in plain.iter().zip(&blocks).enumerate() {
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let difference = norm(&mut plain.iter().zip(blocks).map(|(a, b)| a - b));
        let error = difference / norm(&mut plain.iter().copied());
        assert!(error < 1e-5, "result {i} of {shape:?} with {rows} rows of blocks: relative error {error}");
    }
}

#[test]
fn blocks_of_tokens_equal_the_recurrence() {
    agree([2, 37, 4, 9, 2, 12], 1, false);
    agree([1, 100, 2, 40, 1, 16], 2, false);
}

#[test]
fn gradients_by_blocks_equal_those_of_the_recurrence() {
    agree([2, 37, 4, 20, 2, 12], 1, true);
    agree([1, 300, 2, 9, 1, 12], 1, true); // in two spans
}
