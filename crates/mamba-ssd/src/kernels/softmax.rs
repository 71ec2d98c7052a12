//! Softmax over the columns that a row may see, and its reverse, on slices.
//!
//! ```text
//! p_s = exp(x_s - max) / Σ_r exp(x_r - max)        first ≤ s, r ≤ last;  0 elsewhere
//! dx_s = p_s (dp_s - Σ_r p_r dp_r)
//! ```

use std::ops::Range;

use rayon::prelude::*;

use super::real::{LANES, Real, dot, total};
use super::simd::vectorized;

/// Rows of scores `[b h t s]`, and the first column that each token may see, `[b t]`.
pub(super) struct Rows<'a> {
    pub first: &'a [i64],
    pub heads: usize,
    pub t: usize,
    pub s: usize,
}

impl Rows<'_> {
    /// The columns that row `index` of `[b h t s]` may see: the last token sees the last column.
    fn visible(&self, index: usize) -> Range<usize> {
        let (batch, token) = (index / (self.t * self.heads), index % self.t);
        self.first[batch * self.t + token] as usize..self.s - self.t + token + 1
    }

    pub fn forward<R: Real>(&self, scores: &[R]) -> Vec<R> {
        let mut out = vec![R::default(); scores.len()];
        let rows = out.par_chunks_mut(self.s).zip(scores.par_chunks(self.s));
        rows.with_min_len(64).enumerate().for_each(|(index, (out, scores))| {
            let visible = self.visible(index);
            let (out, scores) = (&mut out[visible.clone()], &scores[visible]);
            vectorized(
                #[inline(always)]
                || softmax(scores, out),
            );
        });
        out
    }

    pub fn backward<R: Real>(probabilities: &[R], grad: &[R], s: usize) -> Vec<R> {
        let mut out = vec![R::default(); grad.len()];
        let inputs = probabilities.par_chunks(s).zip(grad.par_chunks(s));
        out.par_chunks_mut(s).zip(inputs).with_min_len(64).for_each(|(out, (p, grad))| {
            vectorized(
                #[inline(always)]
                || {
                    let mean = dot(p, grad);
                    for ((out, p), grad) in out.iter_mut().zip(p).zip(grad) {
                        *out = *p * (*grad - mean);
                    }
                },
            );
        });
        out
    }
}

#[inline(always)]
pub(super) fn softmax<R: Real>(scores: &[R], out: &mut [R]) {
    out.copy_from_slice(scores);
    in_place(out);
}

/// Softmax in place over the visible part of a row, 0 elsewhere; the log of the sum of exponentials.
#[inline(always)]
pub(super) fn softmax_with_log<R: Real>(row: &mut [R], visible: Range<usize>) -> R {
    row[..visible.start].fill(R::default());
    row[visible.end..].fill(R::default());
    let [max, sum] = in_place(&mut row[visible]);
    max + sum.ln()
}

/// Softmax in place; the largest score, and the sum of exponentials of what the others are below it.
#[inline(always)]
fn in_place<R: Real>(row: &mut [R]) -> [R; 2] {
    let max = largest(row);
    for score in &mut *row {
        *score = (*score - max).exp_in_lanes();
    }
    let sum = sum(row);
    let scale = R::ONE / sum;
    for p in row {
        *p *= scale;
    }
    [max, sum]
}

#[inline(always)]
fn largest<R: Real>(row: &[R]) -> R {
    let mut lanes = [row[0]; LANES];
    let (blocks, tail) = row.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            lanes[i] = if block[i] > lanes[i] { block[i] } else { lanes[i] };
        }
    }
    let all = lanes.iter().chain(tail);
    all.fold(row[0], |max, value| if *value > max { *value } else { max })
}

#[inline(always)]
fn sum<R: Real>(row: &[R]) -> R {
    let mut lanes = [R::default(); LANES];
    let (blocks, tail) = row.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            lanes[i] += block[i];
        }
    }
    for (lane, value) in lanes.iter_mut().zip(tail) {
        *lane += *value;
    }
    total(lanes)
}
