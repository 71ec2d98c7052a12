//! Native kernels: further evaluations of the same functions, chosen by device.
//!
//! The tensor-op forms in [`crate::ssd`] and [`crate::conv`] run everywhere and stay as oracle and
//! fallback. Here are the same maps with their gradients as single operations of the Flex (CPU)
//! backend, plugged into burn as a backend extension.

mod autodiff;
mod conv;
mod flex;
mod gate;
mod ops;
mod real;
mod rms;
mod rows;
mod scan;
mod softmax;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Device, Int, Tensor};

use ops::KernelOps;
pub(crate) use rows::{native_causal_softmax, native_rms_norm};

use crate::ssd::{Prepared, SsdInput, SsdOutput, groups_to_heads};

/// Whether the native kernels run on `device` in `dtype`.
pub(crate) fn available(device: &Device, dtype: DType) -> bool {
    let inner = device.clone().inner();
    matches!(inner.as_dispatch(), DispatchDevice::Flex(_)) && matches!(dtype, DType::F32 | DType::F64)
}

/// The recurrence as one pass over tokens per batch row and head, in vectorised native code.
///
/// # Panics
///
/// If the input is not on the Flex backend.
pub(crate) fn native_scan(input: SsdInput) -> SsdOutput {
    let Prepared { x, log_a, b, c, state, dtype } = input.prepare();
    let [batch, t, h, p] = x.dims();
    let n = b.dims()[3];
    let b = groups_to_heads::<4, 5>(b, h, 2);
    let c = groups_to_heads::<4, 5>(c, h, 2);
    let joined = Tensor::<1>::from_dispatch(Dispatch::ssd_forward(
        x.into_dispatch(),
        log_a.into_dispatch(),
        b.into_dispatch(),
        c.into_dispatch(),
        state.into_dispatch(),
    ));
    let outputs = batch * t * h * p;
    let y = joined.clone().narrow(0, 0, outputs).reshape([batch, t, h, p]);
    let state = joined.narrow(0, outputs, batch * h * p * n).reshape([batch, h, p, n]);
    SsdOutput { y: y.cast(dtype), state }
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

/// `silu(gate) ∘ value`.
pub(crate) fn native_gate<const D: usize>(gate: Tensor<D>, value: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::gate_forward(gate.into_dispatch(), value.into_dispatch()))
}
