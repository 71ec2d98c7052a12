//! From oracle inputs to tensors, through an evaluation and its reverse pass, and back.

use burn::tensor::{DType, Device, Tensor, TensorData};
use mamba_ssd::{Segments, SsdInput, SsdOutput};

use crate::device::{device, state_dtype};
use crate::oracle::{Gradients, Input, Output};
use crate::problem::Problem;

/// A tensor of `values` in `dtype`.
pub fn tensor<const D: usize>(values: &[f64], shape: [usize; D], dtype: DType, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (device, dtype))
}

/// The values of a tensor, whatever its dtype.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().try_to_vec().expect("f64 data")
}

/// The input as tensors of `dtype` on `device`.
pub fn ssd_input(input: &Input, dtype: DType, device: &Device) -> SsdInput {
    let shape = input.shape;
    let ssd = SsdInput::new(
        tensor(&input.x, shape.x(), dtype, device),
        tensor(&input.log_a, shape.log_a(), dtype, device),
        tensor(&input.b, shape.bc(), dtype, device),
        tensor(&input.c, shape.bc(), dtype, device),
    );
    let ssd = ssd.with_segments(input.documents.as_ref().map(|rows| Segments::from_lengths(rows, device)));
    match &input.state {
        Some(state) => ssd.with_state(tensor(state, shape.state(), state_dtype(dtype), device)),
        None => ssd,
    }
}

/// Outputs and final state.
pub fn forward(run: impl Fn(SsdInput) -> SsdOutput, input: &Input, dtype: DType) -> Output {
    let output = run(ssd_input(input, dtype, &device()));
    Output { y: values(output.y), state: values(output.state) }
}

/// Outputs, final state, and the gradients that autodiff finds for the problem's cotangents. The
/// gradient of an absent incoming state is empty.
pub fn differentiate(
    run: impl Fn(SsdInput) -> SsdOutput,
    problem: &Problem,
    dtype: DType,
) -> (Output, Gradients) {
    let device = device().autodiff();
    let input = require_grad(ssd_input(&problem.input, dtype, &device));
    let output = run(input.clone());
    let grads = loss(&output, problem, &device).backward();
    let gradients = Gradients {
        x: gradient(&input.x, &grads),
        log_a: gradient(&input.log_a, &grads),
        b: gradient(&input.b, &grads),
        c: gradient(&input.c, &grads),
        state: input.state.as_ref().map(|state| gradient(state, &grads)).unwrap_or_default(),
    };
    (Output { y: values(output.y), state: values(output.state) }, gradients)
}

fn require_grad(input: SsdInput) -> SsdInput {
    SsdInput {
        x: input.x.require_grad(),
        log_a: input.log_a.require_grad(),
        b: input.b.require_grad(),
        c: input.c.require_grad(),
        state: input.state.map(Tensor::require_grad),
        segments: input.segments,
    }
}

fn loss(output: &SsdOutput, problem: &Problem, device: &Device) -> Tensor<1> {
    let shape = problem.input.shape;
    let wide = output.state.dtype();
    let y = tensor(&problem.cotangent.y, shape.x(), wide, device);
    let state = tensor(&problem.cotangent.state, shape.state(), wide, device);
    (output.y.clone().cast(wide) * y).sum() + (output.state.clone() * state).sum()
}

fn gradient<const D: usize>(tensor: &Tensor<D>, grads: &burn::tensor::Gradients) -> Vec<f64> {
    match tensor.grad(grads) {
        Some(gradient) => values(gradient),
        None => vec![0.0; tensor.shape().num_elements()],
    }
}
