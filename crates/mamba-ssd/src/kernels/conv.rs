//! The causal depthwise convolution and its reverse, on slices.

use super::real::{Real, add_product};
use super::simd::{each_part, map_parts, vectorized};

/// Tokens of a row that one task convolves.
const TOKENS: usize = 64;

/// Shapes and arrays of one convolution: `window [b k-1+t c]`, `weight [c k]`, `reach [b t]`.
#[derive(Clone, Copy)]
pub(super) struct Conv<'a, R> {
    pub window: &'a [R],
    pub weight: &'a [R],
    pub reach: &'a [i64],
    pub t: usize,
    pub c: usize,
    pub k: usize,
}

impl<R: Real> Conv<'_, R> {
    /// Weights of every tap, `[k c]`, the current token's first.
    fn taps(&self) -> Vec<R> {
        let mut taps = vec![R::default(); self.k * self.c];
        for shift in 0..self.k {
            for channel in 0..self.c {
                taps[shift * self.c + channel] = self.weight[channel * self.k + self.k - 1 - shift];
            }
        }
        taps
    }

    fn row(&self, batch: usize, t: usize) -> &[R] {
        &self.window[(batch * (self.t + self.k - 1) + t) * self.c..][..self.c]
    }

    fn reach(&self, batch: usize, t: usize) -> usize {
        (self.reach[batch * self.t + t] as usize).min(self.k - 1)
    }

    /// `[b t c]`.
    pub fn forward(&self, bias: &[R]) -> Vec<R> {
        let taps = self.taps();
        let mut y = vec![R::default(); self.reach.len() * self.c];
        let rows = y.chunks_mut(self.t * self.c).enumerate();
        let parts = rows.flat_map(|(batch, y)| {
            y.chunks_mut(TOKENS * self.c).enumerate().map(move |(part, y)| (batch, part * TOKENS, y))
        });
        each_part(parts, |(batch, first, y)| {
            vectorized(
                #[inline(always)]
                || {
                    for (t, y) in (first..).zip(y.chunks_exact_mut(self.c)) {
                        y.copy_from_slice(bias);
                        for shift in 0..=self.reach(batch, t) {
                            let earlier = self.row(batch, t + self.k - 1 - shift);
                            add_product(y, earlier, &taps[shift * self.c..][..self.c]);
                        }
                    }
                },
            );
        });
        y
    }

    /// Gradients of window, weight and bias.
    pub fn backward(&self, dy: &[R]) -> (Vec<R>, Vec<R>, Vec<R>) {
        let taps = self.taps();
        let rows = self.t + self.k - 1;
        let mut window = vec![R::default(); self.window.len()];
        let parts = window.chunks_mut(rows * self.c).zip(dy.chunks(self.t * self.c)).enumerate();
        let partial = map_parts(parts, |(batch, (window, dy))| {
            vectorized(
                #[inline(always)]
                || self.backward_row(batch, &taps, dy, window),
            )
        });
        let (weight, bias) = self.add_up(&partial);
        (window, weight, bias)
    }

    /// One batch row: its window's gradient, and the taps' and bias' share `[k+1 c]`.
    #[inline(always)]
    fn backward_row(&self, batch: usize, taps: &[R], dy: &[R], window: &mut [R]) -> Vec<R> {
        let mut share = vec![R::default(); (self.k + 1) * self.c];
        for (t, dy) in dy.chunks_exact(self.c).enumerate() {
            for shift in 0..=self.reach(batch, t) {
                let source = t + self.k - 1 - shift;
                add_product(&mut share[shift * self.c..][..self.c], dy, self.row(batch, source));
                let to = &mut window[source * self.c..][..self.c];
                add_product(to, dy, &taps[shift * self.c..][..self.c]);
            }
            for (bias, dy) in share[self.k * self.c..].iter_mut().zip(dy) {
                *bias += *dy;
            }
        }
        share
    }

    /// Adds the rows' shares in order, so that the result does not depend on the threads.
    fn add_up(&self, partial: &[Vec<R>]) -> (Vec<R>, Vec<R>) {
        let mut weight = vec![R::default(); self.c * self.k];
        let mut bias = vec![R::default(); self.c];
        for share in partial {
            for channel in 0..self.c {
                for shift in 0..self.k {
                    weight[channel * self.k + self.k - 1 - shift] += share[shift * self.c + channel];
                }
                bias[channel] += share[self.k * self.c + channel];
            }
        }
        (weight, bias)
    }
}
