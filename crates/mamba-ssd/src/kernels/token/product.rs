//! `x W` for a few rows x, where reading the weight is most of the work.
//!
//! ```text
//! y[r, c] = Σ_k x[r, k] W[k, c]
//! ```
//!
//! Every number is one chain of additions over the depth, for a weight that is stored by depth, or sixteen chains
//! side by side for one stored by columns; how many rows there are and how the columns are shared out among threads
//! does not change it.

use super::super::real::{LANES, Real, add, total};
use super::super::simd::{map_parts, vectorized_fused};
use super::stored::{Full, Stored};

/// Lines of a weight that are read together.
const LINES: usize = 8;
/// Columns that are summed side by side.
const WIDTH: usize = 16;
/// Depth of a strip of the weight that is copied for many rows.
const DEPTH: usize = 256;
/// Strips that are copied together: a line of one alone is too short a piece of memory to be read fast.
const STRIPS: usize = 8;
/// Rows that share a strip's columns in registers.
const ROWS: usize = 6;
/// Rows from which on a weight's numbers are copied into strips first.
const MANY: usize = 24;
/// Rows from which on columns are brought into the type that is computed in before they are met.
const SEVERAL: usize = 3;
/// Numbers of a weight that are worth a thread.
const WORTH: usize = 1 << 17;

/// A product whose weight `[k n]` is stored by depth, or as `[n k]` by columns.
#[derive(Clone, Copy)]
pub(super) struct Product<'a, R, S> {
    /// Rows `[m k]`.
    pub x: &'a [R],
    pub weight: S,
    pub k: usize,
    pub n: usize,
    /// Whether the weight is `[n k]`.
    pub by_columns: bool,
}

impl<R: Real, S: Stored<R>> Product<'_, R, S> {
    fn rows(&self) -> usize {
        self.x.len() / self.k
    }

    /// `[m n]`.
    pub fn run(&self) -> Vec<R> {
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
                |fused| match fused {
                    true => self.part::<true>(first, &mut out),
                    false => self.part::<false>(first, &mut out),
                },
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
        let parts = (work / WORTH).clamp(1, rayon::current_num_threads());
        self.n.div_ceil(parts).next_multiple_of(4 * WIDTH)
    }

    #[inline(always)]
    fn part<const FUSED: bool>(&self, first: usize, out: &mut [R]) {
        match (self.by_columns, self.rows() < MANY) {
            (true, _) => self.along_rows::<FUSED>(first, out),
            (false, true) => self.over_depth::<FUSED>(first, out),
            (false, false) => self.in_strips::<FUSED>(first, out),
        }
    }

    /// Few rows: the weight is read once from beginning to end, and the sums are kept in the cache.
    #[inline(always)]
    fn over_depth<const FUSED: bool>(&self, first: usize, out: &mut [R]) {
        let whole = self.k / LINES * LINES;
        for line in (0..whole).step_by(LINES) {
            self.lines::<FUSED, LINES>(line, first, out);
        }
        for line in whole..self.k {
            self.lines::<FUSED, 1>(line, first, out);
        }
    }

    /// Adds what `N` lines of the weight contribute.
    #[inline(always)]
    fn lines<const FUSED: bool, const N: usize>(&self, line: usize, first: usize, out: &mut [R]) {
        let columns = out.len() / self.rows();
        let whole = columns / WIDTH * WIDTH;
        self.band::<FUSED, N, WIDTH>(line, first, [0, whole], out);
        self.band::<FUSED, N, 1>(line, first, [whole, columns], out);
    }

    /// Adds what `N` lines contribute to the columns from one to another.
    #[inline(always)]
    fn band<const FUSED: bool, const N: usize, const W: usize>(
        &self,
        line: usize,
        first: usize,
        [start, end]: [usize; 2],
        out: &mut [R],
    ) {
        if start == end {
            return;
        }
        let columns = out.len() / self.rows();
        let mut xs: Vec<[R; N]> = Vec::with_capacity(self.rows());
        for x in self.x.chunks_exact(self.k) {
            xs.push(*x[line..line + N].as_array().expect("N lines"));
        }
        self.weight.tiles::<N, W>(
            line,
            first + start,
            (end - start) / W,
            #[inline(always)]
            |place, weights| {
                let mut column = start + place * W;
                for x in &xs {
                    let sums: &mut [R; W] = out[column..column + W].as_mut_array().expect("W columns");
                    column += columns;
                    let mut now = *sums;
                    for i in 0..N {
                        for j in 0..W {
                            now[j] = add::<FUSED, R>(now[j], x[i], weights[i][j]);
                        }
                    }
                    *sums = now;
                }
            },
        );
    }

    /// Many rows: strips of the weight are copied once and met by several rows at a time.
    #[inline(always)]
    fn in_strips<const FUSED: bool>(&self, first: usize, out: &mut [R]) {
        let columns = out.len() / self.rows();
        let whole = columns / WIDTH * WIDTH;
        #[allow(clippy::useless_vec, reason = "too large for a stack")]
        let mut strips = vec![[[R::default(); WIDTH]; DEPTH]; STRIPS];
        for start in (0..self.k).step_by(DEPTH) {
            let depth = DEPTH.min(self.k - start);
            let groups: Vec<Vec<[R; ROWS]>> =
                (0..self.rows()).step_by(ROWS).map(|row| self.group(row, start, depth)).collect();
            for band in (0..whole).step_by(STRIPS * WIDTH) {
                let strips = &mut strips[..STRIPS.min((whole - band) / WIDTH)];
                for i in 0..depth {
                    for (j, strip) in strips.iter_mut().enumerate() {
                        strip[i] = self.weight.piece(start + i, first + band + j * WIDTH);
                    }
                }
                for (j, strip) in strips.iter().enumerate() {
                    for (group, x) in groups.iter().enumerate() {
                        let out = &mut out[group * ROWS * columns..];
                        block::<FUSED, R>(x, &strip[..depth], band + j * WIDTH, columns, out);
                    }
                }
            }
            for line in start..start + depth {
                self.band::<FUSED, 1, 1>(line, first, [whole, columns], out);
            }
        }
    }

    /// Some of the depth of [`ROWS`] rows, side by side; zeros for rows that there are not.
    #[inline(always)]
    fn group(&self, row: usize, start: usize, depth: usize) -> Vec<[R; ROWS]> {
        let mut group = vec![[R::default(); ROWS]; depth];
        for (i, x) in self.x[row * self.k..].chunks_exact(self.k).take(ROWS).enumerate() {
            for (group, x) in group.iter_mut().zip(&x[start..start + depth]) {
                group[i] = *x;
            }
        }
        group
    }

    /// A weight stored by columns: four of them at a time with every row.
    #[inline(always)]
    fn along_rows<const FUSED: bool>(&self, first: usize, out: &mut [R]) {
        let columns = out.len() / self.rows();
        let whole = columns / 4 * 4;
        let mut four = vec![R::default(); 4 * self.k];
        for column in (0..whole).step_by(4) {
            if self.rows() < SEVERAL {
                for (row, x) in self.x.chunks_exact(self.k).enumerate() {
                    let sums = four_dots::<FUSED, R>(self.weight, first + column, x);
                    out[row * columns + column..][..4].copy_from_slice(&sums);
                }
                continue;
            }
            for (i, column) in four.chunks_exact_mut(self.k).zip(first + column..) {
                read(self.weight, column, i);
            }
            let four = Full { numbers: &four, width: self.k };
            for (row, x) in self.x.chunks_exact(self.k).enumerate() {
                let sums = four_dots::<FUSED, R>(four, 0, x);
                out[row * columns + column..][..4].copy_from_slice(&sums);
            }
        }
        for column in whole..columns {
            for (row, x) in self.x.chunks_exact(self.k).enumerate() {
                out[row * columns + column] = dot::<FUSED, R>(self.weight, first + column, x);
            }
        }
    }
}

/// A row with four columns. Their sums are variables of their own, so that they stay in registers.
#[inline(always)]
fn four_dots<const FUSED: bool, R: Real>(weight: impl Stored<R>, column: usize, x: &[R]) -> [R; 4] {
    let [mut s0, mut s1, mut s2, mut s3] = [[R::default(); LANES]; 4];
    let (blocks, tail) = x.as_chunks::<LANES>();
    weight.tiles::<4, LANES>(
        column,
        0,
        blocks.len(),
        #[inline(always)]
        |block, [w0, w1, w2, w3]| {
            let x = &blocks[block];
            for i in 0..LANES {
                s0[i] = add::<FUSED, R>(s0[i], x[i], w0[i]);
                s1[i] = add::<FUSED, R>(s1[i], x[i], w1[i]);
                s2[i] = add::<FUSED, R>(s2[i], x[i], w2[i]);
                s3[i] = add::<FUSED, R>(s3[i], x[i], w3[i]);
            }
        },
    );
    let depth = blocks.len() * LANES;
    [
        with_tail::<FUSED, R>(weight, s0, column, depth, tail),
        with_tail::<FUSED, R>(weight, s1, column + 1, depth, tail),
        with_tail::<FUSED, R>(weight, s2, column + 2, depth, tail),
        with_tail::<FUSED, R>(weight, s3, column + 3, depth, tail),
    ]
}

/// A row with one column, summed as [`four_dots`] does.
#[inline(always)]
fn dot<const FUSED: bool, R: Real>(weight: impl Stored<R>, column: usize, x: &[R]) -> R {
    let mut sums = [R::default(); LANES];
    let (blocks, tail) = x.as_chunks::<LANES>();
    for (block, x) in blocks.iter().enumerate() {
        let weights: [R; LANES] = weight.piece(column, block * LANES);
        for i in 0..LANES {
            sums[i] = add::<FUSED, R>(sums[i], x[i], weights[i]);
        }
    }
    with_tail::<FUSED, R>(weight, sums, column, blocks.len() * LANES, tail)
}

/// The total of the lanes with the rest of the row.
#[inline(always)]
fn with_tail<const FUSED: bool, R: Real>(
    stored: impl Stored<R>,
    mut sums: [R; LANES],
    column: usize,
    depth: usize,
    tail: &[R],
) -> R {
    for (i, x) in tail.iter().enumerate() {
        let [weight] = stored.piece(column, depth + i);
        sums[i] = add::<FUSED, R>(sums[i], *x, weight);
    }
    total(sums)
}

/// A whole row of a stored matrix.
#[inline(always)]
fn read<R: Real>(stored: impl Stored<R>, row: usize, out: &mut [R]) {
    let (pieces, tail) = out.as_chunks_mut::<LANES>();
    let whole = pieces.len() * LANES;
    for (i, piece) in pieces.iter_mut().enumerate() {
        *piece = stored.piece(row, i * LANES);
    }
    for (i, number) in tail.iter_mut().enumerate() {
        [*number] = stored.piece(row, whole + i);
    }
}

/// Adds what a strip contributes to the rows of a group, whose sums stay in registers.
#[inline(always)]
fn block<const FUSED: bool, R: Real>(
    group: &[[R; ROWS]],
    strip: &[[R; WIDTH]],
    column: usize,
    columns: usize,
    out: &mut [R],
) {
    let mut sums = [[R::default(); WIDTH]; ROWS];
    for (sums, out) in sums.iter_mut().zip(out.chunks_exact(columns)) {
        sums.copy_from_slice(&out[column..column + WIDTH]);
    }
    for (x, line) in group.iter().zip(strip) {
        for i in 0..ROWS {
            for j in 0..WIDTH {
                sums[i][j] = add::<FUSED, R>(sums[i][j], x[i], line[j]);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out.chunks_exact_mut(columns)) {
        out[column..column + WIDTH].copy_from_slice(sums);
    }
}
