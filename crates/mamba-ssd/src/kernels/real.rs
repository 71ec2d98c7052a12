//! Numbers the kernels are generic over, and the inner loops that must vectorise.

use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Sub};

/// f32 or f64.
pub(super) trait Real:
    Copy
    + Default
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + PartialOrd
    + AddAssign
    + MulAssign
{
    const ONE: Self;

    /// `value` in this type.
    fn of(value: f64) -> Self;

    fn sqrt(self) -> Self;

    /// `self · factor + term`, rounded once.
    fn mul_add(self, factor: Self, term: Self) -> Self;

    fn exp(self) -> Self;

    fn ln(self) -> Self;

    /// `ln(1 + self)`, exact for small numbers.
    fn ln_1p(self) -> Self;

    /// Cosine and sine.
    fn cos_sin(self) -> [Self; 2];

    /// `exp` in arithmetic that vectorises; below the range of normal numbers it is not 0 but tiny.
    fn exp_in_lanes(self) -> Self;

    /// `1 / (1 + exp(-x))`.
    fn sigmoid(self) -> Self;
}

impl Real for f32 {
    const ONE: Self = 1.0;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        f32::mul_add(self, factor, term)
    }

    #[inline(always)]
    fn exp(self) -> Self {
        f32::exp(self)
    }

    #[inline(always)]
    fn ln(self) -> Self {
        f32::ln(self)
    }

    #[inline(always)]
    fn ln_1p(self) -> Self {
        f32::ln_1p(self)
    }

    #[inline(always)]
    fn cos_sin(self) -> [Self; 2] {
        [f32::cos(self), f32::sin(self)]
    }

    #[inline(always)]
    fn exp_in_lanes(self) -> Self {
        exp_in_lanes(self)
    }

    #[inline(always)]
    fn sigmoid(self) -> Self {
        1.0 / (1.0 + exp_in_lanes(-self))
    }
}

/// `exp` in arithmetic that vectorises, with a relative error of 2e-7: `2^k · exp(r)` with k the
/// nearest integer to `x / ln 2`, found by adding and subtracting 1.5 · 2²³, and r, at most
/// `ln 2 / 2`, through the Taylor polynomial of degree 6.
#[inline(always)]
fn exp_in_lanes(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let k = shifted - SHIFT;
    let r = x - k * LN_2_HIGH - k * LN_2_LOW;
    let taylor = 1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0)))));
    let power = shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127) << 23;
    (1.0 + r * taylor) * f32::from_bits(power)
}

impl Real for f64 {
    const ONE: Self = 1.0;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        f64::mul_add(self, factor, term)
    }

    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }

    #[inline(always)]
    fn ln(self) -> Self {
        f64::ln(self)
    }

    #[inline(always)]
    fn ln_1p(self) -> Self {
        f64::ln_1p(self)
    }

    #[inline(always)]
    fn cos_sin(self) -> [Self; 2] {
        [f64::cos(self), f64::sin(self)]
    }

    #[inline(always)]
    fn exp_in_lanes(self) -> Self {
        f64::exp(self)
    }

    #[inline(always)]
    fn sigmoid(self) -> Self {
        1.0 / (1.0 + f64::exp(-self))
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

/// `sum + a b`, rounded once where the CPU can: elsewhere that would be a call for every number.
#[inline(always)]
pub(super) fn add<const FUSED: bool, R: Real>(sum: R, a: R, b: R) -> R {
    if FUSED { a.mul_add(b, sum) } else { sum + a * b }
}

/// `Σ a ∘ b`, in lanes.
#[inline(always)]
pub(super) fn dot<R: Real>(a: &[R], b: &[R]) -> R {
    let mut lanes = [R::default(); LANES];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_tail.iter().zip(b_tail)) {
        *lane += *a * *b;
    }
    total(lanes)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectorised_exponential_is_exact_to_rounding() {
        let worst = (-8700..8800).map(|i| i as f32 / 100.0).map(|x| {
            let exact = f64::from(x).exp();
            ((f64::from(exp_in_lanes(x)) - exact) / exact).abs()
        });
        assert!(worst.fold(0.0, f64::max) < 3e-7);
        assert_eq!(f32::sigmoid(-1000.0), 1.0 / (1.0 + exp_in_lanes(88.0)));
    }
}
