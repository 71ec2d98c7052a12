//! `silu(gate) ∘ value` and its reverse, on slices: one pass, with a sigmoid that vectorises.

use super::real::Real;
use super::simd::{each_part, vectorized};

/// Numbers that one task takes.
const CHUNK: usize = 1 << 14;

pub(super) fn forward<R: Real>(gate: &[R], value: &[R]) -> Vec<R> {
    let mut out = vec![R::default(); gate.len()];
    let inputs = gate.chunks(CHUNK).zip(value.chunks(CHUNK));
    each_part(out.chunks_mut(CHUNK).zip(inputs), |(out, (gate, value))| {
        vectorized(
            #[inline(always)]
            || {
                for ((out, gate), value) in out.iter_mut().zip(gate).zip(value) {
                    *out = *gate * gate.sigmoid() * *value;
                }
            },
        );
    });
    out
}

/// Gradients of gate and value: `silu'(g) = σ + g σ (1 - σ)`.
pub(super) fn backward<R: Real>(gate: &[R], value: &[R], grad: &[R]) -> (Vec<R>, Vec<R>) {
    let mut to_gate = vec![R::default(); gate.len()];
    let mut to_value = vec![R::default(); gate.len()];
    let inputs = gate.chunks(CHUNK).zip(value.chunks(CHUNK)).zip(grad.chunks(CHUNK));
    let outputs = to_gate.chunks_mut(CHUNK).zip(to_value.chunks_mut(CHUNK));
    each_part(outputs.zip(inputs), |((to_gate, to_value), ((gate, value), grad))| {
        vectorized(
            #[inline(always)]
            || {
                let inputs = gate.iter().zip(value).zip(grad);
                for ((to_gate, to_value), ((gate, value), grad)) in
                    to_gate.iter_mut().zip(to_value.iter_mut()).zip(inputs)
                {
                    let sigmoid = gate.sigmoid();
                    let silu = *gate * sigmoid;
                    *to_value = *grad * silu;
                    *to_gate = *grad * *value * (sigmoid + silu * (R::ONE - sigmoid));
                }
            },
        );
    });
    (to_gate, to_value)
}
