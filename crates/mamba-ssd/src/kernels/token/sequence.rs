//! Many tokens of an SSM mixer between its projections, on slices: what the step does, read in one go.
//!
//! ```text
//! projected ─► convolution, activation ─► recurrence, head by head ─► rows of all heads, gated
//! ```
//!
//! Nothing is taken apart or laid out anew before it is needed: every pass reads what it needs of the rows of the input
//! projection.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, backend_extension};
use burn::tensor::{DType, Element, TensorData};
use burn_flex::FlexTensor;
use bytemuck::Pod;

use super::super::real::{Real, add_product};
use super::super::scan::{Passing, WIDTH, pass};
use super::super::simd::{each_part, map_parts, vectorized, vectorized_fused};
use super::super::step::{ConvStep, StateStep};
use super::mixer::{Token, owned, taps};

/// Tokens that one task takes.
const TOKENS: usize = 32;

/// The two operations of a step, for many tokens a row.
#[backend_extension(Flex: cfg(feature = "flex"))]
pub trait SequenceOps: Backend {
    /// `projected [b t w]` and the arrays of [`StepOps`](super::super::step::StepOps) to `[b t h·p]`, the next window and
    /// the next state.
    #[allow(clippy::too_many_arguments, reason = "an operation of burn takes and returns tensors one by one")]
    fn sequence(
        projected: FloatTensor<Self>,
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        state: FloatTensor<Self>,
        d: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: (ConvStep, StateStep),
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl SequenceOps for Flex {
    fn sequence(
        projected: FloatTensor<Self>,
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        state: FloatTensor<Self>,
        d: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: (ConvStep, StateStep),
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let arrays = [projected, weight, bias, d, first, second].map(|tensor| tensor.to_contiguous());
        match state.dtype() {
            DType::F64 => run::<f64>(&arrays, window, state, step),
            _ => run::<f32>(&arrays, window, state, step),
        }
    }
}

fn run<R: Real + Element + Pod>(
    [projected, weight, bias, d, first, second]: &[FlexTensor; 6],
    window: FlexTensor,
    state: FlexTensor,
    (conv, step): (ConvStep, StateStep),
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let [b, t, w]: [usize; 3] = projected.layout().shape().dims();
    let [_, earlier, c]: [usize; 3] = window.layout().shape().dims();
    let [_, heads, p, n]: [usize; 4] = state.layout().shape().dims();
    let (mut window, mut state) = (owned(window), owned(state));
    let projected: &[R] = projected.storage();
    let rows = Rows { projected, window: window.storage(), t, w, c, earlier, conv };
    let bias: Option<&[R]> = conv.bias.then(|| bias.storage());
    let xbc = rows.convolved(&taps(weight.storage(), earlier + 1), bias, b);
    let next = rows.next_window(b);
    window.storage_mut::<R>()[..next.len()].copy_from_slice(&next);
    let token = Token {
        xbc: &xbc,
        projected,
        d: d.storage(),
        first: first.storage(),
        second: second.storage(),
        heads,
        p,
        n,
        step,
    };
    let states = state.storage_mut::<R>()[..b * heads * p * n].chunks_exact_mut(p * n).enumerate();
    let read = map_parts(states, |(index, state)| {
        vectorized_fused(
            #[inline(always)]
            |fused| match fused {
                true => token.through::<true>(index, t, state),
                false => token.through::<false>(index, t, state),
            },
        )
    });
    let mut y = vec![R::default(); b * t * heads * p];
    let parts = y.chunks_mut(t * heads * p).enumerate().flat_map(|(row, y)| {
        let tasks = y.chunks_mut(TOKENS * heads * p).enumerate();
        tasks.map(move |(task, y)| (row, task * TOKENS, y))
    });
    each_part(parts, |(row, start, y)| {
        vectorized(
            #[inline(always)]
            || {
                for (at, y) in (start..).zip(y.chunks_exact_mut(heads * p)) {
                    for (head, y) in y.chunks_exact_mut(p).enumerate() {
                        y.copy_from_slice(&read[row * heads + head][at * p..(at + 1) * p]);
                        token.gate(row * t + at, head, y);
                    }
                }
            },
        );
    });
    (FlexTensor::from_data(TensorData::new(y, [b, t, heads * p])), window, state)
}

/// The rows that a convolution reads: those of the window, then those of the projection.
struct Rows<'a, R> {
    projected: &'a [R],
    window: &'a [R],
    t: usize,
    w: usize,
    c: usize,
    earlier: usize,
    conv: ConvStep,
}

impl<R: Real> Rows<'_, R> {
    /// Line `line` of a batch row, of which the window has the first.
    #[inline(always)]
    fn line(&self, row: usize, line: usize) -> &[R] {
        match line.checked_sub(self.earlier) {
            Some(token) => &self.projected[(row * self.t + token) * self.w + self.conv.first..][..self.c],
            None => &self.window[(row * self.earlier + line) * self.c..][..self.c],
        }
    }

    /// `[b t c]`.
    fn convolved(&self, taps: &[R], bias: Option<&[R]>, b: usize) -> Vec<R> {
        let c = self.c;
        let mut out = vec![R::default(); b * self.t * c];
        let parts = out.chunks_mut(self.t * c).enumerate().flat_map(|(row, out)| {
            let tasks = out.chunks_mut(TOKENS * c).enumerate();
            tasks.map(move |(task, out)| (row, task * TOKENS, out))
        });
        each_part(parts, |(row, start, out)| {
            vectorized(
                #[inline(always)]
                || {
                    for (token, out) in (start..).zip(out.chunks_exact_mut(c)) {
                        if let Some(bias) = bias {
                            out.copy_from_slice(bias);
                        }
                        for (shift, taps) in taps.chunks_exact(c).enumerate() {
                            add_product(out, self.line(row, token + shift), taps);
                        }
                        if self.conv.silu {
                            out.iter_mut().for_each(|x| *x *= x.sigmoid());
                        }
                    }
                },
            );
        });
        out
    }

    /// The last lines, `[b k-1 c]`.
    fn next_window(&self, b: usize) -> Vec<R> {
        let lines = (0..b).flat_map(|row| (self.t..self.t + self.earlier).map(move |line| (row, line)));
        lines.flat_map(|(row, line)| self.line(row, line).iter().copied()).collect()
    }
}

impl<R: Real> Token<'_, R> {
    /// Head `index` of `[b h]` through all tokens: `[t p]`, not yet gated. The state lies the other way round on the way,
    /// as in [`Head::forward`](super::super::scan::Head::forward).
    #[inline(always)]
    fn through<const FUSED: bool>(&self, index: usize, t: usize, state: &mut [R]) -> Vec<R> {
        let (row, head) = (index / self.heads, index % self.heads);
        let Self { p, n, step, .. } = *self;
        let (inner, of_groups) = (self.heads * p, step.groups * n);
        let group = head / (self.heads / step.groups);
        let width_of_xbc = inner + 2 * of_groups;
        let width = self.projected.len() / (self.xbc.len() / width_of_xbc);
        let mut factors = Vec::with_capacity(t);
        for token in row * t..(row + 1) * t {
            factors.push(self.decay(self.projected[token * width + step.decay + head], head));
        }
        let mut y = vec![R::default(); t * p];
        let mut strip = vec![[R::default(); WIDTH]; n];
        for first in (0..p).step_by(WIDTH) {
            let columns = WIDTH.min(p - first);
            for (i, row) in state[first * n..].chunks_exact(n).take(columns).enumerate() {
                strip.iter_mut().zip(row).for_each(|(line, number)| line[i] = *number);
            }
            let xbc = |token: usize| &self.xbc[(row * t + token) * width_of_xbc..][..width_of_xbc];
            pass::<FUSED, R>(
                &mut strip,
                t,
                #[inline(always)]
                |token| {
                    let (xbc, (decay, scale)) = (xbc(token), factors[token]);
                    let mut x = [R::default(); WIDTH];
                    let from = &xbc[head * p + first..][..columns];
                    x.iter_mut().zip(from).for_each(|(x, from)| *x = *from * scale);
                    let b = &xbc[inner + group * n..][..n];
                    let c = &xbc[inner + of_groups + group * n..][..n];
                    Passing { decay, x, b, c }
                },
                #[inline(always)]
                |token, read| {
                    let x = &xbc(token)[head * p + first..][..columns];
                    let y = &mut y[token * p + first..][..columns];
                    for ((y, read), x) in y.iter_mut().zip(read).zip(x) {
                        *y = *read + self.d[head] * *x;
                    }
                },
            );
            for (i, row) in state[first * n..].chunks_exact_mut(n).take(columns).enumerate() {
                row.iter_mut().zip(&strip).for_each(|(number, line)| *number = line[i]);
            }
        }
        y
    }
}
