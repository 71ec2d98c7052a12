//! The linear form: one token at a time.

use burn::tensor::Tensor;

use crate::norm::wide;

use super::input::{Prepared, SsdInput, SsdOutput, groups_to_heads};

/// The projections of one token.
#[derive(Clone, Debug)]
pub struct SsdStep {
    /// Values, `[b h p]`.
    pub x: Tensor<3>,
    /// Log decays, at most 0, `[b h]`.
    pub log_a: Tensor<2>,
    /// Input projections, `[b g n]`.
    pub b: Tensor<3>,
    /// Output projections, `[b g n]`.
    pub c: Tensor<3>,
}

impl SsdStep {
    /// The only token of an input of length 1.
    pub(crate) fn first_of(input: SsdInput) -> Self {
        Self::cut(&input.x, &input.log_a, [&input.b, &input.c], 0)
    }

    fn at(input: &Prepared, i: usize) -> Self {
        Self::cut(&input.x, &input.log_a, [&input.b, &input.c], i)
    }

    fn cut(x: &Tensor<4>, log_a: &Tensor<3>, [b, c]: [&Tensor<4>; 2], i: usize) -> Self {
        let token = |tensor: &Tensor<4>| tensor.clone().narrow(1, i, 1).squeeze_dim::<3>(1);
        let log_a = log_a.clone().narrow(1, i, 1).squeeze_dim(1);
        Self { x: token(x), log_a, b: token(b), c: token(c) }
    }
}

/// One step of the recurrence: `S ← a S + x ⊗ B`, `y = S C`.
///
/// # Shapes
///
/// State `[b h p n]`; returns `y [b h p]` in the dtype of `x`, and the new state in the dtype of the old one, computed
/// in f32 or wider.
pub fn step(token: SsdStep, state: Tensor<4>) -> (Tensor<3>, Tensor<4>) {
    let [b, h, p] = token.x.dims();
    let n = token.b.dims()[2];
    let (dtype, kept) = (token.x.dtype(), state.dtype());
    let wide = wide(kept);
    let x = token.x.cast(wide).reshape([b, h, p, 1]);
    let key = groups_to_heads::<3, 4>(token.b.cast(wide), h, 1).reshape([b, h, 1, n]);
    let query = groups_to_heads::<3, 4>(token.c.cast(wide), h, 1).reshape([b, h, n, 1]);
    let decay = token.log_a.cast(wide).exp().reshape([b, h, 1, 1]);

    let state = state.cast(wide) * decay + x * key;
    let y = state.clone().matmul(query).reshape([b, h, p]);
    (y.cast(dtype), state.cast(kept))
}

/// Every token by [`step`].
pub fn recurrent(input: SsdInput) -> SsdOutput {
    let input = input.prepare();
    let [b, t, h, p] = input.x.dims();
    let mut state = input.state.clone();
    let mut outputs = Vec::with_capacity(t);
    for i in 0..t {
        let token = SsdStep::at(&input, i);
        let (y, next) = step(token, state);
        state = next;
        outputs.push(y.reshape([b, 1, h, p]));
    }
    SsdOutput { y: Tensor::cat(outputs, 1).cast(input.dtype), state }
}
