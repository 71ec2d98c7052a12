//! GELU in its tanh form and its reverse, on slices: `x σ(u)` with `u = 2 √(2/π) (x + 0.044715 x³)`, since
//! `1 + tanh(u/2) = 2 σ(u)`.

use super::real::Real;
use super::simd::{each_part, vectorized};

/// Numbers that one task takes.
const CHUNK: usize = 1 << 14;

/// `2 √(2/π)`.
const SLOPE: f64 = 1.595_769_121_605_730_7;
/// What the cube weighs.
const CUBE: f64 = 0.044_715;

/// `σ(u)`.
#[inline(always)]
fn open<R: Real>(x: R) -> R {
    let inner = x + R::of(CUBE) * x * x * x;
    (R::of(SLOPE) * inner).sigmoid()
}

pub(super) fn forward<R: Real>(x: &[R]) -> Vec<R> {
    let mut out = vec![R::default(); x.len()];
    each_part(out.chunks_mut(CHUNK).zip(x.chunks(CHUNK)), |(out, x)| {
        vectorized(
            #[inline(always)]
            || out.iter_mut().zip(x).for_each(|(out, x)| *out = *x * open(*x)),
        );
    });
    out
}

/// `dy (σ + x σ (1 - σ) u')`.
pub(super) fn backward<R: Real>(x: &[R], grad: &[R]) -> Vec<R> {
    let mut dx = vec![R::default(); x.len()];
    let inputs = x.chunks(CHUNK).zip(grad.chunks(CHUNK));
    each_part(dx.chunks_mut(CHUNK).zip(inputs), |(dx, (x, grad))| {
        vectorized(
            #[inline(always)]
            || {
                for ((dx, x), grad) in dx.iter_mut().zip(x).zip(grad) {
                    let open = open(*x);
                    let slope = R::of(SLOPE) * (R::ONE + R::of(3.0 * CUBE) * *x * *x);
                    *dx = *grad * open * (R::ONE + *x * (R::ONE - open) * slope);
                }
            },
        );
    });
    dx
}
