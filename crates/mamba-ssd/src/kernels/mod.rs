//! Native kernels: further evaluations of the same functions, chosen by device and dtype.
//!
//! The tensor-op forms in [`crate::ssd`] and [`crate::conv`] run everywhere and stay as oracle and
//! fallback. Here are the same maps with their gradients as single operations, plugged into burn as
//! backend extensions on the Flex (CPU) backend and on every CubeCL backend: SSD, the convolution, the gate,
//! the norms, attention and its parts, the losses over a vocabulary.

mod attention;
mod autodiff;
mod autodiff_layers;
#[cfg(any(feature = "flex", feature = "cube"))]
mod batch;
#[cfg(feature = "cube")]
mod batched;
#[cfg(feature = "flex")]
mod conv;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cube")]
mod discrete;
#[cfg(feature = "flex")]
mod divergence;
#[cfg(feature = "cube")]
mod embedding;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod gate;
#[cfg(feature = "flex")]
mod gelu;
mod losses;
#[cfg(feature = "cube")]
mod mixing;
mod ops;
mod optimize;
#[cfg(feature = "cube")]
mod overwrite;
#[cfg(any(feature = "cuda", test))]
mod product;
#[cfg(feature = "flex")]
mod real;
#[cfg(feature = "cube")]
mod residual;
#[cfg(feature = "flex")]
mod rms;
mod rotate;
mod rows;
#[cfg(feature = "flex")]
mod scan;
#[cfg(feature = "flex")]
mod simd;
#[cfg(feature = "flex")]
mod softmax;
mod step;
#[cfg(feature = "flex")]
mod token;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Device, Int, Tensor};

pub(crate) use attention::native_attention;
#[cfg(any(feature = "flex", feature = "cube"))]
pub(crate) use batch::{Moves, append_cached_rows, append_columns, append_rows, buffers_have_room};
#[cfg(feature = "cube")]
pub(crate) use batched::native_batched;
#[cfg(feature = "cube")]
pub(crate) use discrete::{Discrete, Mixer as DiscreteMixer};
#[cfg(feature = "cube")]
pub(crate) use embedding::native_embedding;
pub(crate) use losses::{native_divergence, native_next_token_loss};
#[cfg(feature = "cube")]
pub(crate) use mixing::{SoftmaxFactors, SsdFactors, native_row_distances};
use ops::{KernelOps, SsdOps};
pub(crate) use optimize::{native_adamw, native_squares};
#[cfg(feature = "cube")]
pub(crate) use overwrite::{overwrite_float, overwrite_int};
#[cfg(feature = "cuda")]
pub(crate) use product::{native_gated_product, native_product, native_product_onto};
#[cfg(feature = "cube")]
pub(crate) use residual::native_sum_and_norm;
pub(crate) use rotate::native_rotate;
pub(crate) use rows::{GroupNorm, native_causal_softmax, native_gated_norm, native_rms_norm};
pub(crate) use step::{ConvStep, StateStep, StepForm, TokenStep};
#[cfg(feature = "flex")]
pub(crate) use token::{
    attend_by_rows, into_int8, is_int8, is_stored, product_by_rows, rows_are_independent, rows_of_int8, silu,
    widened,
};

#[cfg(feature = "cube")]
pub use cube::emulate_tensor_cores;

use crate::ssd::{Prepared, SsdInput, SsdOutput};

/// Where the native kernels of a device compute, and in what.
enum Native {
    /// On the CPU: everything in the dtype of the state.
    #[cfg(feature = "flex")]
    Wide,
    /// On a CubeCL device: values and projections as they come, sums and states in f32.
    #[cfg(feature = "cube")]
    Mixed,
}

impl Native {
    fn of(input: &SsdInput) -> Option<Self> {
        match input.x.device().inner().as_dispatch() {
            #[cfg(feature = "flex")]
            DispatchDevice::Flex(_) => Some(Self::Wide),
            #[cfg(feature = "cube")]
            DispatchDevice::Cube(device) => {
                cube::fits(&device.client(), input.x.dtype(), input.x.dims()[3], input.b.dims()[3])
                    .then_some(Self::Mixed)
            }
            #[allow(unreachable_patterns)] // other backends that a program may compile in
            _ => None,
        }
    }
}

/// SSD by the native kernel of the input's device, if it has one.
pub(crate) fn native_scan(input: &SsdInput) -> Option<SsdOutput> {
    let prepared = match Native::of(input)? {
        #[cfg(feature = "flex")]
        Native::Wide => input.clone().prepare(),
        #[cfg(feature = "cube")]
        Native::Mixed => input.clone().fold_borders(),
    };
    let Prepared { x, log_a, b, c, state, dtype } = prepared;
    let (y, state) = Dispatch::ssd_forward(
        x.into_dispatch(),
        log_a.into_dispatch(),
        b.into_dispatch(),
        c.into_dispatch(),
        state.into_dispatch(),
    );
    Some(SsdOutput { y: Tensor::<4>::from_dispatch(y).cast(dtype), state: Tensor::from_dispatch(state) })
}

/// How SSD is computed natively on `device` in `dtype`, if it is.
#[allow(unused_variables, reason = "without backends")]
pub(crate) fn ssd_form(device: &Device, dtype: DType) -> Option<&'static str> {
    match device.clone().inner().as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => Some("native scan, in the dtype of the state"),
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(device) => cube::ssd_form(&device.client(), dtype),
        #[allow(unreachable_patterns)] // other backends that a program may compile in
        _ => None,
    }
}

/// Who multiplies matrices of `dtype` on `device` in burn's stead, if anyone.
#[allow(unused_variables, reason = "without CUDA")]
pub(crate) fn product_form(device: &Device, dtype: DType) -> Option<&'static str> {
    #[cfg(feature = "cuda")]
    if dtype == DType::BF16 && product::on_hopper(device) {
        return Some("native, for Hopper");
    }
    None
}

/// Whether the maps beside SSD have native kernels on `device` in `dtype`.
#[allow(unused_variables, reason = "without backends")]
pub(crate) fn available(device: &Device, dtype: DType) -> bool {
    match device.clone().inner().as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => matches!(dtype, DType::F32 | DType::F64),
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => matches!(dtype, DType::F32 | DType::F16 | DType::BF16),
        #[allow(unreachable_patterns)] // other backends that a program may compile in
        _ => false,
    }
}

/// The causal convolution of `window [b k-1+t c]`, where token `[b, t]` may look back `reach[b, t]`
/// tokens.
pub(crate) fn native_conv1d(
    window: Tensor<3>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    reach: Tensor<2, Int>,
) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::conv_forward(
        window.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        reach.into_dispatch(),
    ))
}

/// GELU in its tanh form.
pub(crate) fn native_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::tanh_gelu_forward(x.into_dispatch()))
}

/// `silu(gate) ∘ value`.
pub(crate) fn native_gate<const D: usize>(gate: Tensor<D>, value: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::gate_forward(gate.into_dispatch(), value.into_dispatch()))
}
