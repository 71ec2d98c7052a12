//! What a training step does to every parameter, as one operation each: AdamW, and the sum of a gradient's squares.
//!
//! A model has hundreds of parameters, most of them small; a step in tensor operations is a dozen launches for each.
//!
//! ```text
//! m ← β₁ m + (1 − β₁) s g      v ← β₂ v + (1 − β₂) (s g)²
//! θ ← (1 − decay) θ − rate · m / (√(v / correction) + ε)
//! ```

use burn::tensor::{DType, Tensor};

use crate::norm::wide;

/// The scalars of one step of AdamW (Loshchilov and Hutter, arXiv 1711.05101).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWRates {
    /// β₁ and β₂.
    pub betas: [f64; 2],
    /// ε, added to the root of the second moment.
    pub epsilon: f64,
    /// The learning rate over `1 − β₁ᵗ`.
    pub rate: f64,
    /// `1 − β₂ᵗ`.
    pub correction: f64,
    /// The learning rate times the weight decay.
    pub decay: f64,
}

/// A parameter as the optimiser keeps it, flat, all of one length.
#[derive(Clone, Debug)]
pub struct AdamWState {
    /// The parameter in f32, where the model keeps it in half precision.
    pub master: Option<Tensor<1>>,
    /// m, in f32 or wider.
    pub first: Tensor<1>,
    /// v, in f32 or wider.
    pub second: Tensor<1>,
}

impl AdamWState {
    /// No moments yet.
    pub fn new(value: &Tensor<1>) -> Self {
        let wide = wide(value.dtype());
        let zeros = || Tensor::zeros(value.shape(), (&value.device(), wide));
        let master = (wide != value.dtype()).then(|| value.clone().cast(wide));
        Self { master, first: zeros(), second: zeros() }
    }
}

/// One step on a parameter with the gradient of its dtype, times `scale [1]`: s, which is on the device, so that nobody
/// waits for it ([`Squares::clip`]). Moments and master change in place where nothing else holds them.
///
/// # Panics
///
/// If lengths or the dtypes of value and gradient differ.
pub fn adamw(
    value: Tensor<1>,
    gradient: Tensor<1>,
    scale: &Tensor<1>,
    state: AdamWState,
    rates: &AdamWRates,
) -> (Tensor<1>, AdamWState) {
    assert_eq!(value.dims(), gradient.dims(), "a gradient has the length of its parameter");
    let dtype = value.dtype();
    assert_eq!(dtype, gradient.dtype(), "a gradient has the dtype of its parameter");
    let wide = wide(dtype);
    let scale = scale.clone().cast(wide);
    #[cfg(any(feature = "flex", feature = "cube"))]
    if crate::kernels::available(&value.device(), dtype) && !value.device().is_autodiff() {
        return crate::kernels::native_adamw(value, gradient, scale, state, *rates);
    }
    let AdamWRates { betas: [beta1, beta2], epsilon, rate, correction, decay } = *rates;
    let gradient = gradient.cast(wide) * scale;
    let first = state.first.mul_scalar(beta1) + gradient.clone().mul_scalar(1.0 - beta1);
    let second = state.second.mul_scalar(beta2) + gradient.square().mul_scalar(1.0 - beta2);
    let root = second.clone().div_scalar(correction).sqrt().add_scalar(epsilon);
    let before = state.master.unwrap_or_else(|| value.cast(wide));
    let after = before.mul_scalar(1.0 - decay) - first.clone().mul_scalar(rate) / root;
    let master = (wide != dtype).then(|| after.clone());
    (after.cast(dtype), AdamWState { master, first, second })
}

/// Sums of squares of many tensors, still in parts and on the device.
#[derive(Debug)]
pub struct Squares {
    /// All parts, tensor by tensor, in f32 or f64.
    pub parts: Tensor<1>,
    counts: Vec<usize>,
}

/// Numbers whose squares make up a part.
pub(crate) const PART: usize = 1 << 12;

impl Squares {
    /// Of flat `tensors`, of any float dtypes, at least one.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn of<'a>(tensors: impl IntoIterator<Item = &'a Tensor<1>>) -> Self {
        let tensors: Vec<&Tensor<1>> = tensors.into_iter().collect();
        let first = tensors.first().expect("at least one tensor");
        let counts: Vec<usize> = tensors.iter().map(|tensor| tensor.dims()[0].div_ceil(PART)).collect();
        let wide = tensors.iter().map(|tensor| wide(tensor.dtype())).find(|&dtype| dtype == DType::F64);
        let wide = wide.unwrap_or(DType::F32);
        let mut parts = Tensor::zeros([counts.iter().sum::<usize>()], (&first.device(), wide));
        let mut offset = 0;
        for (tensor, count) in tensors.into_iter().zip(&counts) {
            parts = put_squares(parts, tensor, offset);
            offset += count;
        }
        Self { parts, counts }
    }

    /// What scales all tensors together down to a norm of `largest`, `[1]`: 1 where theirs is not larger, or `largest`
    /// is 0.
    pub fn clip(&self, largest: f64) -> Tensor<1> {
        // Parts over the largest of them: the sum of squares may be beyond f32 where the norm is not.
        let top = self.parts.clone().max().clamp_min(f64::from(f32::MIN_POSITIVE));
        let norm = (self.parts.clone() / top.clone()).sum().sqrt() * top.sqrt();
        if largest > 0.0 { norm.recip().mul_scalar(largest).clamp_max(1.0) } else { norm.ones_like() }
    }

    /// The sum of every tensor, from the numbers of [`Squares::parts`].
    pub fn sums(&self, parts: &[f64]) -> Vec<f64> {
        let mut rest = parts;
        let sums = self.counts.iter().map(|&count| {
            let (own, others) = rest.split_at(count);
            rest = others;
            own.iter().sum()
        });
        sums.collect()
    }
}

/// Writes the parts of a tensor's sum from `offset` on.
fn put_squares(parts: Tensor<1>, tensor: &Tensor<1>, offset: usize) -> Tensor<1> {
    #[cfg(any(feature = "flex", feature = "cube"))]
    if crate::kernels::available(&tensor.device(), tensor.dtype())
        && wide(tensor.dtype()) == parts.dtype()
        && !tensor.device().is_autodiff()
    {
        return crate::kernels::native_squares(parts, tensor.clone(), offset);
    }
    let sum = tensor.clone().cast(parts.dtype()).square().sum();
    parts.slice_assign(offset..offset + 1, sum) // the other parts are 0
}
