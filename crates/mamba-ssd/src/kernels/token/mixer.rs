//! The two operations of a mixer's step, on slices.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Element, TensorData};
use burn_flex::FlexTensor;
use bytemuck::Pod;

use super::super::real::{Real, add_product};
use super::super::scan::advance_and_read;
use super::super::simd::{each_part, shares, vectorized, vectorized_fused};
use super::super::step::{ConvStep, StateStep, StepForm, StepOps};
use super::WORTH;

impl StepOps for Flex {
    fn conv_step(
        projected: FloatTensor<Self>,
        window: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        step: ConvStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let arrays = [projected, weight, bias].map(|tensor| tensor.to_contiguous());
        match window.dtype() {
            DType::F64 => convolve::<f64>(&arrays, owned(window), step),
            _ => convolve::<f32>(&arrays, owned(window), step),
        }
    }

    fn state_step(
        xbc: FloatTensor<Self>,
        projected: FloatTensor<Self>,
        state: FloatTensor<Self>,
        d: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: StateStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let arrays = [xbc, projected, d, first, second].map(|tensor| tensor.to_contiguous());
        match state.dtype() {
            DType::F64 => advance::<f64>(&arrays, state, step),
            _ => advance::<f32>(&arrays, state, step),
        }
    }
}

/// The tensor as one row of numbers: itself where it is, so that what nobody else holds is changed in place. Its buffer may have more
/// behind them.
pub(super) fn owned(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() && tensor.layout().start_offset() == 0 {
        return tensor;
    }
    let contiguous = tensor.to_contiguous();
    drop(tensor);
    contiguous
}

/// The convolution of one token of every row, and the window moved on.
fn convolve<R: Real + Element + Pod>(
    [projected, weight, bias]: &[FlexTensor; 3],
    mut window: FlexTensor,
    step: ConvStep,
) -> (FlexTensor, FlexTensor) {
    let [b, earlier, c]: [usize; 3] = window.layout().shape().dims();
    let [_, width]: [usize; 2] = projected.layout().shape().dims();
    let (projected, weight) = (projected.storage::<R>(), weight.storage::<R>());
    let taps = taps(weight, earlier + 1);
    let mut out = match step.bias {
        true => bias.storage::<R>().repeat(b),
        false => vec![R::default(); b * c],
    };
    let rows = out.chunks_exact_mut(c).zip(projected.chunks_exact(width));
    let numbers = window.storage_mut::<R>();
    for (row, (out, projected)) in rows.enumerate() {
        let current = &projected[step.first..step.first + c];
        let window = &mut numbers[row * earlier * c..(row + 1) * earlier * c];
        vectorized(
            #[inline(always)]
            || {
                let lines = window.chunks_exact(c).chain([current]);
                lines.zip(taps.chunks_exact(c)).for_each(|(line, taps)| add_product(out, line, taps));
                if step.silu {
                    out.iter_mut().for_each(|x| *x *= x.sigmoid());
                }
            },
        );
        if earlier > 0 {
            window.copy_within(c.., 0);
            window[(earlier - 1) * c..].copy_from_slice(current);
        }
    }
    (FlexTensor::from_data(TensorData::new(out, [b, c])), window)
}

/// Weights of every tap, `[k c]`, the earliest token's first.
pub(super) fn taps<R: Real>(weight: &[R], k: usize) -> Vec<R> {
    let c = weight.len() / k;
    let mut taps = vec![R::default(); k * c];
    for (channel, weight) in weight.chunks_exact(k).enumerate() {
        for (tap, weight) in weight.iter().enumerate() {
            taps[tap * c + channel] = *weight;
        }
    }
    taps
}

/// Tokens of a mixer with all its heads.
pub(super) struct Token<'a, R> {
    pub xbc: &'a [R],
    pub projected: &'a [R],
    pub d: &'a [R],
    pub first: &'a [R],
    pub second: &'a [R],
    pub heads: usize,
    pub p: usize,
    pub n: usize,
    pub step: StateStep,
}

fn advance<R: Real + Element + Pod>(
    [xbc, projected, d, first, second]: &[FlexTensor; 5],
    state: FlexTensor,
    step: StateStep,
) -> (FlexTensor, FlexTensor) {
    let [b, heads, p, n]: [usize; 4] = state.layout().shape().dims();
    let mut state = owned(state);
    let token = Token {
        xbc: xbc.storage::<R>(),
        projected: projected.storage(),
        d: d.storage(),
        first: first.storage(),
        second: second.storage(),
        heads,
        p,
        n,
        step,
    };
    let mut y = vec![R::default(); b * heads * p];
    let together = (b * heads).div_ceil(shares(b * heads * p * n, WORTH)).max(1); // heads of a part
    let parts = state.storage_mut::<R>().chunks_mut(together * p * n).zip(y.chunks_mut(together * p));
    each_part(parts.enumerate(), |(part, (state, y))| {
        let heads = state.chunks_exact_mut(p * n).zip(y.chunks_exact_mut(p)).enumerate();
        for (i, (state, y)) in heads {
            vectorized_fused(
                #[inline(always)]
                |fused| match fused {
                    true => token.head::<true>(part * together + i, state, y),
                    false => token.head::<false>(part * together + i, state, y),
                },
            );
        }
    });
    (FlexTensor::from_data(TensorData::new(y, [b, heads * p])), state)
}

impl<R: Real> Token<'_, R> {
    /// Head `index` of `[b h]`.
    #[inline(always)]
    fn head<const FUSED: bool>(&self, index: usize, state: &mut [R], y: &mut [R]) {
        let (row, head) = (index / self.heads, index % self.heads);
        let Self { p, n, step, .. } = *self;
        let (inner, of_groups) = (self.heads * p, step.groups * n);
        let width = self.projected.len() / (self.xbc.len() / (inner + 2 * of_groups));
        let xbc = &self.xbc[row * (inner + 2 * of_groups)..];
        let projected = &self.projected[row * width..];
        let group = head / (self.heads / step.groups);
        let x = &xbc[head * p..][..p];
        let b = &xbc[inner + group * n..][..n];
        let c = &xbc[inner + of_groups + group * n..][..n];
        let (decay, scale) = self.decay(projected[step.decay + head], head);
        for ((line, x), y) in state.chunks_exact_mut(n).zip(x).zip(y.iter_mut()) {
            *y = advance_and_read::<FUSED, R>(line, decay, *x * scale, b, c) + self.d[head] * *x;
        }
        self.gate(row, head, y);
    }

    /// Gates `y [p]` of a head, where the mixer does that without a norm; `row` is of the projection.
    #[inline(always)]
    pub fn gate(&self, row: usize, head: usize, y: &mut [R]) {
        let StepForm::Discrete { z_bias } = self.step.form else { return };
        let (p, inner) = (self.p, self.heads * self.p);
        let width = self.projected.len() / (self.xbc.len() / (inner + 2 * self.step.groups * self.n));
        let z = &self.projected[row * width + self.step.gate + head * p..][..p];
        for (i, y) in y.iter_mut().enumerate() {
            let z = if z_bias { z[i] + self.first[head * p + i] } else { z[i] };
            *y *= z * z.sigmoid();
        }
    }

    /// The head's decay, and what its x is multiplied with.
    #[inline(always)]
    pub fn decay(&self, projected: R, head: usize) -> (R, R) {
        match self.step.form {
            StepForm::Discrete { .. } => (R::ONE / (R::ONE + projected.exp()), R::ONE),
            StepForm::StepSize => {
                let delta = softplus(projected + self.first[head]);
                ((R::default() - delta * self.second[head].exp()).exp(), delta)
            }
        }
    }
}

/// `log(1 + exp(x))`.
#[inline(always)]
fn softplus<R: Real>(x: R) -> R {
    let largest = if x > R::default() { x } else { R::default() };
    let distance = if x > R::default() { R::default() - x } else { x };
    largest + distance.exp().ln_1p()
}
