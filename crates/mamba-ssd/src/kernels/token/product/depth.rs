//! A weight stored by depth, `[k n]`: a layer's, as it is trained.

use super::super::super::real::{Real, add};
use super::super::stored::{Number, Plain, wide};
use super::Product;

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

impl<R: Real> Product<'_, R> {
    /// `[m n]`, the weight stored by depth, `[k n]`.
    pub fn by_depth<T: Number<R>>(self, weight: Plain<T>) -> Vec<R> {
        self.run(
            #[inline(always)]
            |fused, first, out| match (fused, self.rows() < MANY) {
                (true, true) => self.over_depth::<true, T>(weight, first, out),
                (true, false) => self.in_strips::<true, T>(weight, first, out),
                (false, true) => self.over_depth::<false, T>(weight, first, out),
                (false, false) => self.in_strips::<false, T>(weight, first, out),
            },
        )
    }

    /// Few rows: the weight is read once from beginning to end, and the sums are kept in the cache.
    #[inline(always)]
    fn over_depth<const FUSED: bool, T: Number<R>>(&self, weight: Plain<T>, first: usize, out: &mut [R]) {
        let whole = self.k / LINES * LINES;
        for line in (0..whole).step_by(LINES) {
            self.lines::<FUSED, LINES, T>(weight, line, first, out);
        }
        for line in whole..self.k {
            self.lines::<FUSED, 1, T>(weight, line, first, out);
        }
    }

    /// Adds what `N` lines of the weight contribute.
    #[inline(always)]
    fn lines<const FUSED: bool, const N: usize, T: Number<R>>(
        &self,
        weight: Plain<T>,
        line: usize,
        first: usize,
        out: &mut [R],
    ) {
        let columns = out.len() / self.rows();
        let whole = columns / WIDTH * WIDTH;
        self.band::<FUSED, N, WIDTH, T>(weight, line, first, [0, whole], out);
        self.band::<FUSED, N, 1, T>(weight, line, first, [whole, columns], out);
    }

    /// Adds what `N` lines contribute to the columns from one to another.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "a place is one of every line")]
    fn band<const FUSED: bool, const N: usize, const W: usize, T: Number<R>>(
        &self,
        weight: Plain<T>,
        line: usize,
        first: usize,
        [start, end]: [usize; 2],
        out: &mut [R],
    ) {
        if start == end {
            return;
        }
        let columns = out.len() / self.rows();
        let count = (end - start) / W;
        let mut xs: Vec<[R; N]> = Vec::with_capacity(self.rows());
        for x in self.x.chunks_exact(self.k) {
            xs.push(*x[line..line + N].as_array().expect("N lines"));
        }
        let mut lines = weight.lines::<N, W>([line, first + start], count);
        for line in &mut lines {
            *line = &line[..count];
        }
        for place in 0..count {
            let mut weights = [[R::default(); W]; N];
            for i in 0..N {
                weights[i] = wide(&lines[i][place]);
            }
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
        }
    }

    /// Many rows: strips of the weight are copied once and met by several rows at a time.
    #[inline(always)]
    fn in_strips<const FUSED: bool, T: Number<R>>(&self, weight: Plain<T>, first: usize, out: &mut [R]) {
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
                    let [line] = weight.lines::<1, WIDTH>([start + i, first + band], strips.len());
                    for (strip, piece) in strips.iter_mut().zip(line) {
                        strip[i] = wide(piece);
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
                self.band::<FUSED, 1, 1, T>(weight, line, first, [whole, columns], out);
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
