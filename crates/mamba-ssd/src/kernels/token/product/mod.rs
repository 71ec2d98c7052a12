//! `x W` for a few rows x, where reading the weight is most of the work.
//!
//! ```text
//! y[r, c] = Σ_k x[r, k] W[k, c]
//! ```
//!
//! How many rows there are and how the columns are shared out among threads does not change a number of the result: it
//! is one chain of additions over the depth for a weight that is stored by depth, and sixteen chains side by side for
//! one that is stored by columns.

mod columns;
mod depth;

use super::super::real::Real;
use super::super::simd::{map_parts, shares, vectorized_fused};

/// Columns that a thread's share is a multiple of.
const UNIT: usize = 64;
/// Numbers of a weight that are worth a thread.
const WORTH: usize = 1 << 17;

/// Rows that a weight is to be multiplied with.
#[derive(Clone, Copy)]
pub(super) struct Product<'a, R> {
    /// Rows `[m k]`.
    pub x: &'a [R],
    pub k: usize,
    pub n: usize,
}

impl<R: Real> Product<'_, R> {
    fn rows(&self) -> usize {
        self.x.len() / self.k
    }

    /// `[m n]` from what `part` adds to some columns of it: whether to fuse, the first of them, and `[m columns]`.
    #[inline(always)]
    fn run(&self, part: impl Fn(bool, usize, &mut [R]) + Sync) -> Vec<R> {
        let (m, n) = (self.rows(), self.n);
        if m == 0 {
            return Vec::new();
        }
        let width = self.columns_of_a_part();
        let firsts = (0..n).step_by(width);
        let mut parts = map_parts(firsts, |first| {
            let mut out = vec![R::default(); m * width.min(n - first)];
            vectorized_fused(
                #[inline(always)]
                |fused| part(fused, first, &mut out),
            );
            out
        });
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let mut out = Vec::with_capacity(m * n);
        for row in 0..m {
            for part in &parts {
                let columns = part.len() / m;
                out.extend_from_slice(&part[row * columns..(row + 1) * columns]);
            }
        }
        out
    }

    /// A share for every thread, if the product is worth several.
    fn columns_of_a_part(&self) -> usize {
        let work = self.k * self.n * self.rows().div_ceil(4);
        self.n.div_ceil(shares(work, WORTH)).next_multiple_of(UNIT)
    }
}
