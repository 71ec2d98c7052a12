//! The optimiser's native operations. No gradients.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::optimize::{AdamWRates, AdamWState};

/// One step of AdamW.
pub(crate) fn native_adamw(
    value: Tensor<1>,
    gradient: Tensor<1>,
    scale: Tensor<1>,
    state: AdamWState,
    rates: AdamWRates,
) -> (Tensor<1>, AdamWState) {
    let separate = state.master.is_some();
    let master = state.master.unwrap_or_else(|| value.clone());
    let (value, master, first, second) = Dispatch::adamw(
        value.into_dispatch(),
        gradient.into_dispatch(),
        scale.into_dispatch(),
        master.into_dispatch(),
        state.first.into_dispatch(),
        state.second.into_dispatch(),
        rates,
        separate,
    );
    let [value, master, first, second] = [value, master, first, second].map(Tensor::from_dispatch);
    (value, AdamWState { master: separate.then_some(master), first, second })
}

/// Sums of squares of parts of `tensor`, written into `parts` from `offset` on.
pub(crate) fn native_squares(parts: Tensor<1>, tensor: Tensor<1>, offset: usize) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::squares(parts.into_dispatch(), tensor.into_dispatch(), offset))
}

/// The native operations.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion")
)]
pub trait OptimizeOps: Backend {
    /// The value after a step, and master and moments; master is the value itself where it is not `separate`.
    #[allow(
        clippy::type_complexity,
        clippy::too_many_arguments,
        reason = "an operation of burn takes and returns tensors one by one"
    )]
    #[fusion(meta = |value, _gradient, _scale, master, first, second, _rates, _separate| {
        (value.clone(), master.clone(), first.clone(), second.clone())
    })]
    fn adamw(
        value: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        master: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        rates: AdamWRates,
        separate: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// `parts` with the sums of squares of the parts of `tensor` from `offset` on.
    #[fusion(dtype = parts, shape = parts)]
    fn squares(parts: FloatTensor<Self>, tensor: FloatTensor<Self>, offset: usize) -> FloatTensor<Self>;
}

/// A step on slices: the value, and both moments, afterwards.
#[cfg(feature = "flex")]
pub(super) fn adamw_on_slices<R: super::real::Real>(
    value: &[R],
    gradient: &[R],
    scale: R,
    [first, second]: [&[R]; 2],
    rates: &AdamWRates,
) -> [Vec<R>; 3] {
    use super::simd::{each_part, vectorized};

    /// Numbers that one task takes.
    const CHUNK: usize = 1 << 14;
    let AdamWRates { betas, epsilon, rate, correction, decay } = *rates;
    let [beta1, beta2] = betas.map(R::of);
    let [fresh1, fresh2] = betas.map(|beta| R::of(1.0 - beta));
    let (epsilon, rate, kept) = (R::of(epsilon), R::of(rate), R::of(1.0 - decay));
    let correction = R::of(correction.recip());
    let [mut value, mut first, mut second] = [value, first, second].map(<[R]>::to_vec);
    let moments = first.chunks_mut(CHUNK).zip(second.chunks_mut(CHUNK));
    let all = value.chunks_mut(CHUNK).zip(moments).zip(gradient.chunks(CHUNK));
    each_part(all, |((value, (first, second)), gradient)| {
        vectorized(
            #[inline(always)]
            || {
                for i in 0..value.len() {
                    let gradient = scale * gradient[i];
                    first[i] = beta1 * first[i] + fresh1 * gradient;
                    second[i] = beta2 * second[i] + fresh2 * gradient * gradient;
                    let root = (second[i] * correction).sqrt() + epsilon;
                    value[i] = kept * value[i] - rate * first[i] / root;
                }
            },
        );
    });
    [value, first, second]
}

/// Sums of squares of the parts of a slice.
#[cfg(feature = "flex")]
pub(super) fn squares_of_slice<R: super::real::Real>(values: &[R]) -> Vec<R> {
    use super::simd::{map_parts, vectorized};

    map_parts(values.chunks(crate::optimize::PART), |part| {
        vectorized(
            #[inline(always)]
            || super::real::dot(part, part),
        )
    })
}
