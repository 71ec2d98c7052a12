//! The root mean square norm of rows and its reverse, on slices.
//!
//! ```text
//! y = r x ∘ w                     r = 1 / √(mean(x²) + ε)
//! dx = r (dy ∘ w - r² mean(dy ∘ w ∘ x) x)
//! dw = Σ_rows r dy ∘ x
//! ```

use rayon::prelude::*;

use super::real::{LANES, Real, total};

/// Rows that one task takes; also what fixes the order in which `dw` is summed.
const ROWS: usize = 64;

/// A norm over rows of `weight.len()` features.
pub(super) struct Rms<'a, R> {
    pub weight: &'a [R],
    pub epsilon: f64,
}

impl<R: Real> Rms<'_, R> {
    /// `[.. d]` to `[.. d]`.
    pub fn forward(&self, x: &[R]) -> Vec<R> {
        let d = self.weight.len();
        let mut out = vec![R::default(); x.len()];
        out.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d)).for_each(|(out, x)| {
            pulp::Arch::new().dispatch(|| {
                for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                    let scale = self.scale(x);
                    for ((out, x), w) in out.iter_mut().zip(x).zip(self.weight) {
                        *out = *x * scale * *w;
                    }
                }
            });
        });
        out
    }

    /// Gradients of `x` and of the weight.
    pub fn backward(&self, x: &[R], dy: &[R]) -> (Vec<R>, Vec<R>) {
        let d = self.weight.len();
        let mut dx = vec![R::default(); x.len()];
        let blocks = dx.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d)).zip(dy.par_chunks(ROWS * d));
        let shares: Vec<Vec<R>> = blocks
            .map(|((dx, x), dy)| pulp::Arch::new().dispatch(|| self.backward_block(x, dy, dx)))
            .collect();
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
        let d = self.weight.len();
        let mut dw = vec![R::default(); d];
        for ((dx, x), dy) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(dy.chunks_exact(d)) {
            let scale = self.scale(x);
            let along = mean(d, |i| dy[i] * self.weight[i] * x[i]) * scale * scale;
            for i in 0..d {
                dx[i] = scale * (dy[i] * self.weight[i] - along * x[i]);
                dw[i] += scale * dy[i] * x[i];
            }
        }
        dw
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
