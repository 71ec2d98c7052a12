//! Losses over a vocabulary and their reverse on slices, a row of logits at a time.

use rayon::prelude::*;

use super::losses::{Distance, Kind};
use super::real::{LANES, Real, total};
use super::simd::vectorized;

/// Rows of `v` logits of a student and a teacher.
pub(super) struct Pair<'a, R> {
    pub student: &'a [R],
    pub teacher: &'a [R],
    pub v: usize,
    pub distance: Distance,
}

/// A row's log probabilities: logits times a scale less `log Σ exp`.
#[derive(Clone, Copy)]
struct Log<'a, R> {
    logits: &'a [R],
    scale: R,
    sum: R,
}

impl<'a, R: Real> Log<'a, R> {
    #[inline(always)]
    fn of(logits: &'a [R], scale: f64) -> Self {
        let scale = R::of(scale);
        Self { logits, scale, sum: log_sum_exp(logits, scale) }
    }

    #[inline(always)]
    fn at(&self, i: usize) -> R {
        self.logits[i] * self.scale - self.sum
    }
}

impl<R: Real> Pair<'_, R> {
    /// Losses `[r]`, and the sums `[3 r]` that the gradient needs.
    pub fn forward(&self) -> (Vec<R>, Vec<R>) {
        let rows = self.student.len() / self.v;
        let of_rows: Vec<[R; 4]> = (0..rows).into_par_iter().map(|row| self.row(row)).collect();
        let column = |i: usize| of_rows.iter().map(move |row| row[i]);
        (column(0).collect(), (1..4).flat_map(column).collect())
    }

    /// The row's loss, both `log Σ exp`, and the expectation that the gradient subtracts.
    fn row(&self, row: usize) -> [R; 4] {
        vectorized(
            #[inline(always)]
            || {
                let (log_q, log_p) = self.logs(row);
                let [loss, expectation] = match self.distance.kind() {
                    Kind::CrossEntropy => sums(self.v, |i| {
                        [log_p.at(i).exp_in_lanes() * (R::default() - log_q.at(i)), R::default()]
                    }),
                    Kind::ForwardKl => sums(self.v, |i| {
                        [log_p.at(i).exp_in_lanes() * (log_p.at(i) - log_q.at(i)), R::default()]
                    }),
                    Kind::ReverseKl => sums(self.v, |i| {
                        let term = log_q.at(i).exp_in_lanes() * (log_q.at(i) - log_p.at(i));
                        [term, term]
                    }),
                    Kind::JensenShannon => sums(self.v, |i| {
                        let (log_q, log_p) = (log_q.at(i), log_p.at(i));
                        let log_m = self.log_mixture(log_q, log_p);
                        let of_q = log_q.exp_in_lanes() * (log_q - log_m);
                        let of_p = log_p.exp_in_lanes() * (log_p - log_m);
                        let beta = R::of(self.distance.beta());
                        [beta * of_p + (R::ONE - beta) * of_q, of_q]
                    }),
                };
                [loss, log_q.sum, log_p.sum, expectation]
            },
        )
    }

    #[inline(always)]
    fn logs(&self, row: usize) -> (Log<'_, R>, Log<'_, R>) {
        let [of_student, of_teacher] = self.distance.scales();
        let at = row * self.v..(row + 1) * self.v;
        (Log::of(&self.student[at.clone()], of_student), Log::of(&self.teacher[at], of_teacher))
    }

    /// `log(β p + (1 − β) q)`.
    #[inline(always)]
    fn log_mixture(&self, log_q: R, log_p: R) -> R {
        let beta = self.distance.beta();
        let (a, b) = (log_p + R::of(beta.ln()), log_q + R::of((1.0 - beta).ln()));
        let (low, high) = if a > b { (b, a) } else { (a, b) };
        high + (R::ONE + (low - high).exp_in_lanes()).ln()
    }

    /// The gradient of the student's logits.
    pub fn backward(&self, sums: &[R], grad: &[R]) -> Vec<R> {
        let rows = grad.len();
        let mut out = vec![R::default(); self.student.len()];
        let [of_student, of_teacher] = self.distance.scales();
        out.par_chunks_mut(self.v).enumerate().for_each(|(row, out)| {
            let at = row * self.v..(row + 1) * self.v;
            let log_q = Log { logits: &self.student[at.clone()], scale: R::of(of_student), sum: sums[row] };
            let log_p = Log { logits: &self.teacher[at], scale: R::of(of_teacher), sum: sums[rows + row] };
            let (scale, expectation) = (grad[row] * R::of(of_student), sums[2 * rows + row]);
            vectorized(
                #[inline(always)]
                || match self.distance.kind() {
                    Kind::CrossEntropy | Kind::ForwardKl => {
                        fill(out, |i| scale * (log_q.at(i).exp_in_lanes() - log_p.at(i).exp_in_lanes()));
                    }
                    Kind::ReverseKl => fill(out, |i| {
                        scale * log_q.at(i).exp_in_lanes() * (log_q.at(i) - log_p.at(i) - expectation)
                    }),
                    Kind::JensenShannon => {
                        let scale = scale * R::of(1.0 - self.distance.beta());
                        fill(out, |i| {
                            let log_q = log_q.at(i);
                            let log_m = self.log_mixture(log_q, log_p.at(i));
                            scale * log_q.exp_in_lanes() * (log_q - log_m - expectation)
                        });
                    }
                },
            );
        });
        out
    }
}

/// `log Σ exp(logits) − logits[target]` and `log Σ exp(logits)` of every row.
pub(super) fn next_token<R: Real>(logits: &[R], targets: &[i64]) -> (Vec<R>, Vec<R>) {
    let v = logits.len() / targets.len();
    let rows = logits.par_chunks(v).zip(targets);
    rows.map(|(row, &target)| {
        let sum = vectorized(
            #[inline(always)]
            || log_sum_exp(row, R::ONE),
        );
        (sum - row[target as usize], sum)
    })
    .unzip()
}

/// The gradient of the logits.
pub(super) fn next_token_backward<R: Real>(logits: &[R], targets: &[i64], sums: &[R], grad: &[R]) -> Vec<R> {
    let v = logits.len() / targets.len();
    let mut out = vec![R::default(); logits.len()];
    out.par_chunks_mut(v).enumerate().for_each(|(row, out)| {
        let logits = &logits[row * v..][..v];
        vectorized(
            #[inline(always)]
            || fill(out, |i| grad[row] * (logits[i] - sums[row]).exp_in_lanes()),
        );
        let target = &mut out[targets[row] as usize];
        *target = *target - grad[row];
    });
    out
}

#[inline(always)]
fn fill<R: Real>(out: &mut [R], of: impl Fn(usize) -> R) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = of(i);
    }
}

/// `log Σ_i exp(scale · logits_i)`.
#[inline(always)]
fn log_sum_exp<R: Real>(logits: &[R], scale: R) -> R {
    let mut top = logits[0] * scale;
    for logit in logits {
        let logit = *logit * scale;
        top = if logit > top { logit } else { top };
    }
    let [sum, _] = sums(logits.len(), |i| [(logits[i] * scale - top).exp_in_lanes(), R::default()]);
    top + sum.ln()
}

/// Terms that a lane adds up before its sum joins the others: a sum of thousands would round every small term down.
const RUN: usize = 64;

/// Two sums of `count` terms side by side.
#[inline(always)]
fn sums<R: Real>(count: usize, term: impl Fn(usize) -> [R; 2]) -> [R; 2] {
    let mut lanes = [[R::default(); LANES]; 2];
    let whole = count / LANES * LANES;
    for run in (0..whole).step_by(RUN * LANES) {
        let mut own = [[R::default(); LANES]; 2];
        for block in (run..(run + RUN * LANES).min(whole)).step_by(LANES) {
            let [firsts, seconds] = &mut own;
            for (i, (first, second)) in firsts.iter_mut().zip(seconds).enumerate() {
                let term = term(block + i);
                *first += term[0];
                *second += term[1];
            }
        }
        for (lanes, own) in lanes.iter_mut().zip(&own) {
            lanes.iter_mut().zip(own).for_each(|(lane, own)| *lane += *own);
        }
    }
    for i in whole..count {
        let [first, second] = term(i);
        lanes[0][i - whole] += first;
        lanes[1][i - whole] += second;
    }
    lanes.map(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vocabulary of tens of thousands: the mean error over rows shows what rounds one way.
    #[test]
    fn a_long_sum_is_not_rounded_down() {
        const ROWS: usize = 8;
        // As a model's: a few are likely, most are not.
        let part = |number: usize, ratio: f64| (number as f64 * ratio).fract();
        let logit = |row: usize, i: usize| {
            let likely = part(i * 7919 + row * 104_729, 0.618_033_988_7).powi(8);
            14.0 * likely - 3.0 * part(i * 104_729, 0.754_877_666_2)
        };
        let mean = (0..ROWS).map(|row| {
            let logits: Vec<f32> = (0..49_152).map(|i| logit(row, i) as f32).collect();
            let exact: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
            f64::from(log_sum_exp(&logits, 1.0)) - log_sum_exp(&exact, 1.0)
        });
        let mean = mean.sum::<f64>() / ROWS as f64;
        assert!(mean.abs() < 1e-6, "off by {mean:.1e} nats on average");
    }
}
