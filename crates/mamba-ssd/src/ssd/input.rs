//! What every evaluation takes and returns.

use burn::tensor::{DType, Tensor, assert_shape};

use crate::Segments;
use crate::norm::wide;

/// Log decay that erases the state: `exp` of it is exactly 0 in every dtype, and sums of it stay
/// finite, so no `inf - inf` can arise.
const ERASE: f64 = -1e30;

/// The input of one SSD map.
#[derive(Clone, Debug)]
pub struct SsdInput {
    /// Values, `[b t h p]`.
    pub x: Tensor<4>,
    /// Log decays, at most 0, `[b t h]`.
    pub log_a: Tensor<3>,
    /// Input projections ("keys"), `[b t g n]`; head `h` reads group `h / (heads / g)`.
    pub b: Tensor<4>,
    /// Output projections ("queries"), `[b t g n]`.
    pub c: Tensor<4>,
    /// The state before the first token, `[b h p n]`; none is zero.
    pub state: Option<Tensor<4>>,
    /// Packed documents; none is one document a row.
    pub segments: Option<Segments>,
}

/// What every evaluation returns.
#[derive(Clone, Debug)]
pub struct SsdOutput {
    /// Outputs `[b t h p]`, in the dtype of `x`.
    pub y: Tensor<4>,
    /// The state after the last token, `[b h p n]`, in f32 (f64 where the input is f64).
    pub state: Tensor<4>,
}

impl SsdInput {
    /// An input without incoming state and segments.
    ///
    /// # Panics
    ///
    /// If the shapes do not fit, or the groups do not divide the heads.
    pub fn new(x: Tensor<4>, log_a: Tensor<3>, b: Tensor<4>, c: Tensor<4>) -> Self {
        let [batch, t, heads, _] = x.dims();
        let [_, _, groups, n] = b.dims();
        assert!(t > 0, "SSD needs at least one token, found x of shape {:?}", x.dims());
        assert_shape!(log_a, [batch, t, heads]);
        assert_shape!(b, [batch, t, groups, n]);
        assert_shape!(c, [batch, t, groups, n]);
        assert_eq!(heads % groups, 0, "{groups} groups do not divide {heads} heads");
        Self { x, log_a, b, c, state: None, segments: None }
    }

    /// Continues from `state [b h p n]`.
    pub fn with_state(mut self, state: Tensor<4>) -> Self {
        let [b, _, h, p] = self.x.dims();
        let n = self.b.dims()[3];
        assert_shape!(state, [b, h, p, n]);
        self.state = Some(state);
        self
    }

    /// Restarts at the first token of every document.
    pub fn with_segments(mut self, segments: Option<Segments>) -> Self {
        if let Some(segments) = &segments {
            let [b, t, ..] = self.x.dims();
            assert_eq!(segments.dims(), [b, t], "segments must be [b t] of x");
        }
        self.segments = segments;
        self
    }

    /// Casts to the dtype that decays and states are computed in, and turns document borders into
    /// decays of zero: after this an evaluation need not know about dtypes or segments.
    pub(crate) fn prepare(self) -> Prepared {
        let wide = wide(self.x.dtype());
        let input = self.fold_borders();
        Prepared { x: input.x.cast(wide), b: input.b.cast(wide), c: input.c.cast(wide), ..input }
    }

    /// As [`SsdInput::prepare`], but values and projections stay in the dtype of `x`.
    pub(crate) fn fold_borders(self) -> Prepared {
        let dtype = self.x.dtype();
        let log_a = erase_at_borders(self.log_a.cast(wide(dtype)), self.segments.as_ref());
        let [b, _, h, p] = self.x.dims();
        let n = self.b.dims()[3];
        let state = match self.state {
            Some(state) => state.cast(wide(dtype)),
            None => Tensor::zeros([b, h, p, n], (&self.x.device(), wide(dtype))),
        };
        Prepared { x: self.x, log_a, b: self.b.cast(dtype), c: self.c.cast(dtype), state, dtype }
    }
}

/// An input for an evaluation, with the borders of documents folded into the decays.
pub(crate) struct Prepared {
    pub x: Tensor<4>,
    pub log_a: Tensor<3>,
    pub b: Tensor<4>,
    pub c: Tensor<4>,
    pub state: Tensor<4>,
    pub dtype: DType,
}

fn erase_at_borders(log_a: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
    let Some(segments) = segments else { return log_a };
    let shape = log_a.shape();
    log_a.mask_fill(segments.resets().unsqueeze_dim::<3>(2).expand(shape), ERASE)
}

/// Repeats groups to heads along `dim`: `[.. g ..]` to `[.. h ..]`, each group `h / g` times in a row.
pub(crate) fn groups_to_heads<const D: usize, const D1: usize>(
    groups: Tensor<D>,
    heads: usize,
    dim: usize,
) -> Tensor<D> {
    let mut shape = groups.dims();
    if shape[dim] == heads {
        return groups;
    }
    let mut repeated: Vec<usize> = shape.to_vec();
    repeated.insert(dim + 1, heads / shape[dim]);
    shape[dim] = heads;
    let repeated: [usize; D1] = repeated.try_into().expect("one axis more");
    groups.unsqueeze_dim::<D1>(dim + 1).expand(repeated).reshape(shape)
}

/// Heads before tokens, `[b t h w]` to `[b h t w]`; columns (w = 1) in that order in memory, too: burn 0.22.1
/// multiplies a row whose elements lie apart, which the reverse pass makes of them, wrongly on GPUs.
pub(crate) fn heads_first(tensor: Tensor<4>) -> Tensor<4> {
    let [b, t, h, w] = tensor.dims();
    let tensor = tensor.swap_dims(1, 2);
    if w == 1 { tensor.reshape([b * h * t]).reshape([b, h, t, w]) } else { tensor }
}
