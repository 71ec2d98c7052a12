//! `silu(gate) ∘ value` and its reverse, on slices: one pass, with a sigmoid that vectorises.

use rayon::prelude::*;

use super::real::Real;

/// Numbers that one task takes.
const CHUNK: usize = 1 << 14;

pub(super) fn forward<R: Real>(gate: &[R], value: &[R]) -> Vec<R> {
    let mut out = vec![R::default(); gate.len()];
    let inputs = gate.par_chunks(CHUNK).zip(value.par_chunks(CHUNK));
    out.par_chunks_mut(CHUNK).zip(inputs).for_each(|(out, (gate, value))| {
        pulp::Arch::new().dispatch(|| {
            for ((out, gate), value) in out.iter_mut().zip(gate).zip(value) {
                *out = *gate * gate.sigmoid() * *value;
            }
        });
    });
    out
}

/// Gradients of gate and value: `silu'(g) = σ + g σ (1 - σ)`.
pub(super) fn backward<R: Real>(gate: &[R], value: &[R], grad: &[R]) -> (Vec<R>, Vec<R>) {
    let mut to_gate = vec![R::default(); gate.len()];
    let mut to_value = vec![R::default(); gate.len()];
    let inputs = gate.par_chunks(CHUNK).zip(value.par_chunks(CHUNK)).zip(grad.par_chunks(CHUNK));
    let outputs = to_gate.par_chunks_mut(CHUNK).zip(to_value.par_chunks_mut(CHUNK));
    outputs.zip(inputs).for_each(|((to_gate, to_value), ((gate, value), grad))| {
        pulp::Arch::new().dispatch(|| {
            let inputs = gate.iter().zip(value).zip(grad);
            for ((to_gate, to_value), ((gate, value), grad)) in to_gate.iter_mut().zip(to_value).zip(inputs) {
                let sigmoid = gate.sigmoid();
                let silu = *gate * sigmoid;
                *to_value = *grad * silu;
                *to_gate = *grad * *value * (sigmoid + silu * (R::ONE - sigmoid));
            }
        });
    });
    (to_gate, to_value)
}
