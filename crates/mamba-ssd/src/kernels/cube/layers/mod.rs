//! The maps beside SSD on every CubeCL backend: convolution, gate, norms, softmax,
//! rotation, losses, and the optimiser's step.
//!
//! Each reads its inputs once or twice and writes its results once, computes in f32 and rounds at the end.
//! Sums over tokens are of parts in a fixed order, without atomics.

mod conv;
mod discrete;
mod embedding;
mod gate;
mod gelu;
mod losses;
mod optimize;
mod reduce;
mod rms;
mod rotate;
mod softmax;
mod step;

use burn::backend::TensorMetadata;
use burn::backend::ops::ModuleOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::client::Client;
use cubecl::prelude::*;

pub(super) use step::own;

pub(in crate::kernels) use reduce::sum_of_parts;
#[cfg(feature = "cuda")]
pub(in crate::kernels) use reduce::sum_of_parts_onto;

use crate::kernels::discrete::{Discrete, DiscreteOps};
use crate::kernels::embedding::EmbeddingOps;
use crate::kernels::losses::{Distance, LossOps};
use crate::kernels::ops::KernelOps;
use crate::kernels::optimize::OptimizeOps;
use crate::kernels::residual::ResidualOps;
use crate::kernels::rotate::RotateOps;
use crate::kernels::rows::{GroupNorm, RowOps};
use crate::optimize::AdamWRates;

/// Whether a head's step fits the device.
pub(in crate::kernels) fn step_fits(client: &Client, p: usize, n: usize) -> bool {
    let hardware = &client.properties().hardware;
    hardware.max_units_per_cube as usize >= UNITS
        && hardware.max_shared_memory_size >= step::state_bytes(p, n)
}

/// Units of a cube that works on one row.
const UNITS: usize = 128;

/// Numbers in an access: four where rows divide into fours.
fn wide(row: usize) -> usize {
    if row.is_multiple_of(4) { 4 } else { 1 }
}

/// A contiguous array beside `like`.
pub(super) fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let shape = shape.into();
    let count = shape.num_elements();
    assert!(
        count <= u32::MAX as usize,
        "kernels count in 32 bits, too few for {count} numbers: split the batch"
    );
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, dtype)
}

fn empty_like(like: &CubeTensor) -> CubeTensor {
    empty(like, like.shape(), like.dtype)
}

/// As many cubes as `units` units fill.
pub(super) fn cubes(like: &CubeTensor, units: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(&like.client, units);
    (calculate_cube_count_elemwise(&like.client, units, dim), dim)
}

/// One cube for each row, in a grid no axis of which is too long for any backend.
fn cube_for_each(rows: usize) -> CubeCount {
    const LONGEST: usize = 1 << 15;
    let high = rows.div_ceil(LONGEST).max(1);
    CubeCount::Static(rows.div_ceil(high) as u32, high as u32, 1)
}

impl KernelOps for CubeBackend {
    fn conv_forward(
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        reach: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        conv::forward(window, weight, bias, reach)
    }

    fn conv_backward(
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        reach: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        conv::backward(window, weight, reach, grad)
    }

    fn gate_forward(gate: FloatTensor<Self>, value: FloatTensor<Self>) -> FloatTensor<Self> {
        gate::forward(gate, value)
    }

    fn gate_backward(
        gate: FloatTensor<Self>,
        value: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        gate::backward(gate, value, grad)
    }

    fn tanh_gelu_forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        gelu::forward(x)
    }

    fn tanh_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        gelu::backward(x, grad)
    }
}

impl RowOps for CubeBackend {
    fn softmax_forward(scores: FloatTensor<Self>, first: IntTensor<Self>) -> FloatTensor<Self> {
        softmax::forward(scores, first)
    }

    fn softmax_backward(probabilities: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        softmax::backward(probabilities, grad)
    }

    fn rms_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        rms::forward(x, None, weight, GroupNorm { groups: 1, epsilon })
    }

    fn rms_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, _, weight) = rms::backward(x, None, weight, grad, GroupNorm { groups: 1, epsilon });
        (x, weight)
    }

    fn gated_norm_forward(
        value: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        norm: GroupNorm,
    ) -> FloatTensor<Self> {
        rms::forward(value, Some(gate), weight, norm)
    }

    fn gated_norm_backward(
        value: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        norm: GroupNorm,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (value, gate, weight) = rms::backward(value, Some(gate), weight, grad, norm);
        (value, gate.expect("a gate's gradient"), weight)
    }
}

impl ResidualOps for CubeBackend {
    fn sum_and_norm(
        x: FloatTensor<Self>,
        addend: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        rms::sum_and_norm(x, addend, weight, epsilon)
    }
}

impl LossOps for CubeBackend {
    fn divergence_forward(
        student: FloatTensor<Self>,
        teacher: FloatTensor<Self>,
        distance: Distance,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        losses::divergence(student, teacher, distance)
    }

    fn divergence_backward(
        student: FloatTensor<Self>,
        teacher: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        distance: Distance,
    ) -> FloatTensor<Self> {
        losses::divergence_gradient(student, teacher, sums, grad, distance)
    }

    fn next_token_forward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        losses::next_token(logits, targets)
    }

    fn next_token_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        sums: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        losses::next_token_gradient(logits, targets, sums, grad)
    }
}

impl RotateOps for CubeBackend {
    fn rotate(
        x: FloatTensor<Self>,
        positions: IntTensor<Self>,
        frequencies: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        rotate::rotate(x, positions, frequencies)
    }
}

impl OptimizeOps for CubeBackend {
    fn adamw(
        value: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        master: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        rates: AdamWRates,
        separate: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        optimize::adamw([value, gradient, scale, master, first, second], &rates, separate)
    }

    fn squares(parts: FloatTensor<Self>, tensor: FloatTensor<Self>, offset: usize) -> FloatTensor<Self> {
        optimize::squares(parts, tensor, offset)
    }
}

impl DiscreteOps for CubeBackend {
    fn discrete_forward(
        projected: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        z_bias: FloatTensor<Self>,
        d: FloatTensor<Self>,
        starts: IntTensor<Self>,
        form: Discrete,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let inputs = discrete::Inputs { projected, weight, bias, z_bias, d, starts };
        discrete::forward(inputs, form)
    }

    fn discrete_backward(
        projected: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        z_bias: FloatTensor<Self>,
        d: FloatTensor<Self>,
        starts: IntTensor<Self>,
        y: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        form: Discrete,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let inputs = discrete::Inputs { projected, weight, bias, z_bias, d, starts };
        let gradients = discrete::backward(inputs, y, grad, form);
        (gradients.projected, gradients.weight, gradients.bias, gradients.z_bias, gradients.d)
    }
}

impl EmbeddingOps for CubeBackend {
    fn embedding_rows(weight: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        Self::embedding(weight, tokens)
    }

    fn embedding_gradient(
        grad: FloatTensor<Self>,
        tokens: IntTensor<Self>,
        words: usize,
    ) -> FloatTensor<Self> {
        embedding::gradient(grad, tokens, words)
    }
}
