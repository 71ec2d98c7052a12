//! The root mean square norm of rows, whole or in groups, and its reverse, on slices.
//!
//! ```text
//! y = r x ∘ w                     r = 1 / √(mean(x²) + ε)
//! dx = r (dy ∘ w - r² mean(dy ∘ w ∘ x) x)
//! dw = Σ_rows r dy ∘ x
//! ```

use super::real::{LANES, Real, total};
use super::simd::{each_part, map_parts, vectorized};

/// Rows that one task takes; also what fixes the order in which `dw` is summed.
const ROWS: usize = 64;

/// A norm over each of `groups` equal parts of rows of `weight.len()` features.
pub(super) struct Rms<'a, R> {
    pub weight: &'a [R],
    pub groups: usize,
    pub epsilon: f64,
}

impl<R: Real> Rms<'_, R> {
    /// `[.. d]` to `[.. d]`.
    pub fn forward(&self, x: &[R]) -> Vec<R> {
        let d = self.weight.len();
        let mut out = vec![R::default(); x.len()];
        each_part(out.chunks_mut(ROWS * d).zip(x.chunks(ROWS * d)), |(out, x)| {
            vectorized(
                #[inline(always)]
                || {
                    let parts = out.chunks_exact_mut(self.part()).zip(x.chunks_exact(self.part()));
                    for ((out, x), weight) in parts.zip(self.weights()) {
                        let scale = self.scale(x);
                        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                            *out = *x * scale * *w;
                        }
                    }
                },
            );
        });
        out
    }

    /// Gradients of `x` and of the weight.
    pub fn backward(&self, x: &[R], dy: &[R]) -> (Vec<R>, Vec<R>) {
        let d = self.weight.len();
        let mut dx = vec![R::default(); x.len()];
        let blocks = dx.chunks_mut(ROWS * d).zip(x.chunks(ROWS * d)).zip(dy.chunks(ROWS * d));
        let shares = map_parts(blocks, |((dx, x), dy)| {
            vectorized(
                #[inline(always)]
                || self.backward_block(x, dy, dx),
            )
        });
        let mut dw = vec![R::default(); d];
        for share in shares {
            for (dw, share) in dw.iter_mut().zip(share) {
                *dw += share;
            }
        }
        (dx, dw)
    }

    /// A block's rows of `dx`; returns its share of `dw`.
    #[inline(always)]
    fn backward_block(&self, x: &[R], dy: &[R], dx: &mut [R]) -> Vec<R> {
        let part = self.part();
        let mut dw = vec![R::default(); self.weight.len()];
        let parts = dx.chunks_exact_mut(part).zip(x.chunks_exact(part)).zip(dy.chunks_exact(part));
        for (index, (((dx, x), dy), weight)) in parts.zip(self.weights()).enumerate() {
            let dw = &mut dw[index % self.groups * part..][..part];
            let scale = self.scale(x);
            let along = mean(part, |i| dy[i] * weight[i] * x[i]) * scale * scale;
            for i in 0..part {
                dx[i] = scale * (dy[i] * weight[i] - along * x[i]);
                dw[i] += scale * dy[i] * x[i];
            }
        }
        dw
    }

    /// Features of a part.
    #[inline(always)]
    fn part(&self) -> usize {
        self.weight.len() / self.groups
    }

    /// The parts of the weight, over and over.
    #[inline(always)]
    fn weights(&self) -> impl Iterator<Item = &[R]> {
        self.weight.chunks_exact(self.part()).cycle()
    }

    /// `1 / √(mean(x²) + ε)`.
    #[inline(always)]
    fn scale(&self, x: &[R]) -> R {
        R::ONE / (mean(x.len(), |i| x[i] * x[i]) + R::of(self.epsilon)).sqrt()
    }
}

/// The mean of `term(0), …, term(d - 1)`.
#[inline(always)]
fn mean<R: Real>(d: usize, term: impl Fn(usize) -> R) -> R {
    let mut lanes = [R::default(); LANES];
    let whole = d / LANES * LANES;
    for block in (0..whole).step_by(LANES) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += term(block + i);
        }
    }
    for i in whole..d {
        lanes[i - whole] += term(i);
    }
    total(lanes) * R::of(1.0 / d as f64)
}
