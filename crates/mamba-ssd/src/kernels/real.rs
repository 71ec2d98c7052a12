//! Numbers the kernels are generic over, and the inner loops that must vectorise.

use std::ops::{Add, AddAssign, Mul, MulAssign};

/// f32 or f64.
pub(super) trait Real:
    Copy + Default + Send + Sync + Add<Output = Self> + Mul<Output = Self> + AddAssign + MulAssign
{
    fn exp(self) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn exp(self) -> Self {
        f32::exp(self)
    }
}

impl Real for f64 {
    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
}

/// Partial sums kept side by side, so that a sum over a row is one vector operation per `LANES`.
pub(super) const LANES: usize = 16;

/// Sum of the lanes, pairwise.
#[inline(always)]
pub(super) fn total<R: Real>(mut lanes: [R; LANES]) -> R {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `to += scale · from`.
#[inline(always)]
pub(super) fn add_scaled<R: Real>(to: &mut [R], scale: R, from: &[R]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += scale * *from;
    }
}

/// `to += a ∘ b`.
#[inline(always)]
pub(super) fn add_product<R: Real>(to: &mut [R], a: &[R], b: &[R]) {
    for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
        *to += *a * *b;
    }
}
