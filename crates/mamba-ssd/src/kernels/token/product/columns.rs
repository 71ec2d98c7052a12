//! A weight stored by columns, `[n k]`: a head's, or a layer's that lies turned. Each column is read from beginning to
//! end, since memory is not as fast for several in turns.

use std::hint::black_box;

use super::super::super::real::{LANES, Real, add, total};
use super::super::stored::{Number, Stored, wide, widen};
use super::Product;

/// Columns that meet a row together.
const COLUMNS: usize = 4;
/// Rows from which on columns are brought into the type that is computed in before they are met.
const SEVERAL: usize = 3;

/// The sums of a row with a column.
type Lanes<R> = [R; LANES];

impl<R: Real> Product<'_, R> {
    /// `[m n]`, the weight stored by columns, `[n k]`.
    pub fn by_columns<S: Stored<R>>(self, weight: S) -> Vec<R> {
        match weight.block() {
            128 if S::SCALED => self.by_columns_in::<128, S>(weight),
            64 if S::SCALED => self.by_columns_in::<64, S>(weight),
            32 if S::SCALED => self.by_columns_in::<32, S>(weight),
            _ => self.by_columns_in::<16, S>(weight),
        }
    }

    fn by_columns_in<const BLOCK: usize, S: Stored<R>>(self, weight: S) -> Vec<R> {
        let few = self.rows() < SEVERAL;
        self.run(
            #[inline(always)]
            |fused, first, out| match (fused, few) {
                (true, true) => self.along_rows::<true, BLOCK, S>(weight, first, out),
                (true, false) => self.along_fours::<true, BLOCK, S>(weight, first, out),
                (false, true) => self.along_rows::<false, BLOCK, S>(weight, first, out),
                (false, false) => self.along_fours::<false, BLOCK, S>(weight, first, out),
            },
        )
    }

    /// A row or two.
    #[inline(always)]
    fn along_rows<const FUSED: bool, const BLOCK: usize, S: Stored<R>>(
        &self,
        weight: S,
        first: usize,
        out: &mut [R],
    ) {
        let columns = out.len() / self.rows();
        for column in 0..columns {
            for (row, x) in self.x.chunks_exact(self.k).enumerate() {
                out[row * columns + column] = dot::<FUSED, BLOCK, R, S>(weight, first + column, x);
            }
        }
    }

    /// Several rows, and columns that are widened before they meet them.
    #[inline(always)]
    fn along_fours<const FUSED: bool, const BLOCK: usize, S: Stored<R>>(
        &self,
        weight: S,
        first: usize,
        out: &mut [R],
    ) {
        let (rows, columns) = (self.rows(), out.len() / self.rows());
        let whole = columns / COLUMNS * COLUMNS;
        let mut lines = vec![R::default(); COLUMNS * self.k];
        for column in (0..whole).step_by(COLUMNS) {
            for (line, column) in lines.chunks_exact_mut(self.k).zip(first + column..) {
                widen(weight.row(column), line);
            }
            let four = Four { lines: &lines, weight, column: first + column };
            let mut put = |row: usize, sums: [R; COLUMNS]| {
                out[row * columns + column..][..COLUMNS].copy_from_slice(&sums);
            };
            let mut pairs = self.x.chunks_exact(2 * self.k);
            for (pair, x) in pairs.by_ref().enumerate() {
                let (above, below) = x.split_at(self.k);
                let sums = four.with_rows::<FUSED, BLOCK, true>(above, below);
                put(2 * pair, sums[0]);
                put(2 * pair + 1, sums[1]);
            }
            let last = pairs.remainder();
            if !last.is_empty() {
                put(rows - 1, four.with_rows::<FUSED, BLOCK, false>(last, last)[0]);
            }
        }
        for column in whole..columns {
            for (row, x) in self.x.chunks_exact(self.k).enumerate() {
                out[row * columns + column] = dot::<FUSED, BLOCK, R, S>(weight, first + column, x);
            }
        }
    }
}

/// A row with a column, in a sum for each lane; numbers that have a factor for every `BLOCK` are summed before they meet
/// it.
#[inline(always)]
fn dot<const FUSED: bool, const BLOCK: usize, R: Real, S: Stored<R>>(weight: S, column: usize, x: &[R]) -> R {
    let numbers = weight.row(column);
    if !S::SCALED {
        return total(in_memory(add_lanes::<FUSED, R, S::Number>(x, numbers)));
    }
    let ((x, _), (numbers, _)) = (x.as_chunks::<BLOCK>(), numbers.as_chunks::<BLOCK>());
    let mut lanes = [R::default(); LANES];
    for (place, (x, numbers)) in x.iter().zip(numbers).enumerate() {
        let part = add_lanes::<FUSED, R, S::Number>(x, numbers);
        let factor = weight.factor(column, place);
        for i in 0..LANES {
            lanes[i] = add::<FUSED, R>(lanes[i], part[i], factor);
        }
    }
    total(in_memory(lanes))
}

/// `x ∘ numbers` in lanes.
#[inline(always)]
fn add_lanes<const FUSED: bool, R: Real, N: Number<R>>(x: &[R], numbers: &[N]) -> Lanes<R> {
    let mut lanes = [R::default(); LANES];
    let ((x, x_tail), (numbers, tail)) = (x.as_chunks::<LANES>(), numbers.as_chunks::<LANES>());
    for (x, numbers) in x.iter().zip(numbers) {
        let numbers = wide(numbers);
        for i in 0..LANES {
            lanes[i] = add::<FUSED, R>(lanes[i], x[i], numbers[i]);
        }
    }
    for (i, (x, number)) in x_tail.iter().zip(tail).enumerate() {
        lanes[i] = add::<FUSED, R>(lanes[i], *x, number.wide());
    }
    lanes
}

/// [`COLUMNS`] columns that are widened but for their factors.
struct Four<'a, R, S> {
    lines: &'a [R],
    weight: S,
    /// The first of them.
    column: usize,
}

impl<R: Real, S: Stored<R>> Four<'_, R, S> {
    /// One or two rows with every column, each pair summed as [`dot`] does.
    #[inline(always)]
    fn with_rows<const FUSED: bool, const BLOCK: usize, const TWO: bool>(
        &self,
        x: &[R],
        y: &[R],
    ) -> [[R; COLUMNS]; 2] {
        let lanes = match S::SCALED {
            true => self.in_blocks::<FUSED, BLOCK, TWO>(x, y),
            false => self.lanes::<FUSED, TWO>(x, y, 0),
        };
        let mut sums = [[R::default(); COLUMNS]; 2];
        for (sums, lanes) in sums.iter_mut().zip(in_memory(lanes)) {
            for (sum, lanes) in sums.iter_mut().zip(lanes) {
                *sum = total(lanes);
            }
        }
        sums
    }

    #[inline(always)]
    fn in_blocks<const FUSED: bool, const BLOCK: usize, const TWO: bool>(
        &self,
        x: &[R],
        y: &[R],
    ) -> [[Lanes<R>; COLUMNS]; 2] {
        let [mut s0, mut s1, mut s2, mut s3] = [[R::default(); LANES]; COLUMNS];
        let [mut t0, mut t1, mut t2, mut t3] = [[R::default(); LANES]; COLUMNS];
        let ((x, _), (y, _)) = (x.as_chunks::<BLOCK>(), y.as_chunks::<BLOCK>());
        for (place, (x, y)) in x.iter().zip(y).enumerate() {
            let [[p0, p1, p2, p3], [q0, q1, q2, q3]] = self.lanes::<FUSED, TWO>(x, y, place * BLOCK);
            let factor = |j| self.weight.factor(self.column + j, place);
            let (f0, f1, f2, f3) = (factor(0), factor(1), factor(2), factor(3));
            for i in 0..LANES {
                s0[i] = add::<FUSED, R>(s0[i], p0[i], f0);
                s1[i] = add::<FUSED, R>(s1[i], p1[i], f1);
                s2[i] = add::<FUSED, R>(s2[i], p2[i], f2);
                s3[i] = add::<FUSED, R>(s3[i], p3[i], f3);
                if TWO {
                    t0[i] = add::<FUSED, R>(t0[i], q0[i], f0);
                    t1[i] = add::<FUSED, R>(t1[i], q1[i], f1);
                    t2[i] = add::<FUSED, R>(t2[i], q2[i], f2);
                    t3[i] = add::<FUSED, R>(t3[i], q3[i], f3);
                }
            }
        }
        [[s0, s1, s2, s3], [t0, t1, t2, t3]]
    }

    /// `x` and `y`, the numbers of the rows from a place on, with every column, in lanes. The sums are variables of their
    /// own, so that they stay in registers.
    #[inline(always)]
    fn lanes<const FUSED: bool, const TWO: bool>(
        &self,
        x: &[R],
        y: &[R],
        start: usize,
    ) -> [[Lanes<R>; COLUMNS]; 2] {
        let [mut s0, mut s1, mut s2, mut s3] = [[R::default(); LANES]; COLUMNS];
        let [mut t0, mut t1, mut t2, mut t3] = [[R::default(); LANES]; COLUMNS];
        let k = self.lines.len() / COLUMNS;
        let line = |j: usize| self.lines[j * k + start..][..x.len()].as_chunks::<LANES>();
        let ((l0, r0), (l1, r1), (l2, r2), (l3, r3)) = (line(0), line(1), line(2), line(3));
        let ((x, x_tail), (y, y_tail)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
        let pieces = x.len();
        let (y, l0, l1, l2, l3) = (&y[..pieces], &l0[..pieces], &l1[..pieces], &l2[..pieces], &l3[..pieces]);
        for place in 0..pieces {
            let (x, y) = (&x[place], &y[place]);
            let (c0, c1, c2, c3) = (&l0[place], &l1[place], &l2[place], &l3[place]);
            for i in 0..LANES {
                s0[i] = add::<FUSED, R>(s0[i], x[i], c0[i]);
                s1[i] = add::<FUSED, R>(s1[i], x[i], c1[i]);
                s2[i] = add::<FUSED, R>(s2[i], x[i], c2[i]);
                s3[i] = add::<FUSED, R>(s3[i], x[i], c3[i]);
                if TWO {
                    t0[i] = add::<FUSED, R>(t0[i], y[i], c0[i]);
                    t1[i] = add::<FUSED, R>(t1[i], y[i], c1[i]);
                    t2[i] = add::<FUSED, R>(t2[i], y[i], c2[i]);
                    t3[i] = add::<FUSED, R>(t3[i], y[i], c3[i]);
                }
            }
        }
        if x_tail.is_empty() {
            return [[s0, s1, s2, s3], [t0, t1, t2, t3]];
        }
        let mut lanes = in_memory([[s0, s1, s2, s3], [t0, t1, t2, t3]]);
        for (lanes, x) in lanes.iter_mut().zip([x_tail, y_tail]) {
            for (lanes, rest) in lanes.iter_mut().zip([r0, r1, r2, r3]) {
                for (lane, (x, number)) in lanes.iter_mut().zip(x.iter().zip(rest)) {
                    *lane = add::<FUSED, R>(*lane, *x, *number);
                }
            }
        }
        lanes
    }
}

/// Lanes that are stored before they are added up. Otherwise the compiler would arrange the loop that made them for the
/// pairs of that sum, two lanes to a vector.
#[inline(always)]
fn in_memory<T>(lanes: T) -> T {
    black_box(lanes)
}
