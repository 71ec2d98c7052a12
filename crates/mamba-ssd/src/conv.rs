//! Causal depthwise convolution with a carried window.
//!
//! ```text
//! y_t[c] = bias[c] + Σ_{j<k} weight[c, j] · x_{t-k+1+j}[c]
//! ```
//!
//! Tap `k - 1` multiplies the current token, as in the checkpoints. Tokens before the first are those
//! carried in, or zero. Taps never reach into an earlier document.

use burn::tensor::{Tensor, assert_shape};

use crate::Segments;

/// The convolution over a sequence. Returns the output and the last `k - 1` tokens, which a later
/// call takes as `carried`.
///
/// # Shapes
///
/// `x [b t c]`, `weight [c k]`, `bias [c]`, `carried [b k-1 c]`; returns `[b t c]` and `[b k-1 c]`.
pub fn causal_conv1d(
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    carried: Option<Tensor<3>>,
    segments: Option<&Segments>,
) -> (Tensor<3>, Tensor<3>) {
    let [b, t, c] = x.dims();
    let [_, k] = weight.dims();
    assert_shape!(weight, [c, k]);
    let carried = match carried {
        Some(carried) => carried.cast(x.dtype()),
        None => Tensor::zeros([b, k - 1, c], (&x.device(), x.dtype())),
    };
    assert_shape!(carried, [b, k - 1, c]);
    let window = Tensor::cat(vec![carried, x], 1); // b k-1+t c

    let y = convolve(&window, weight, bias, segments);
    (y, window.narrow(1, t, k - 1))
}

/// By the native kernel of the device where there is one, else by shifted sums.
fn convolve(
    window: &Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    segments: Option<&Segments>,
) -> Tensor<3> {
    #[cfg(any(feature = "flex", feature = "cube"))]
    let alike = |dtype| dtype == window.dtype();
    #[cfg(any(feature = "flex", feature = "cube"))]
    if alike(weight.dtype())
        && bias.as_ref().is_none_or(|bias| alike(bias.dtype()))
        && crate::kernels::available(&window.device(), window.dtype())
    {
        let [b, rows, c] = window.dims();
        let k = weight.dims()[1];
        let reach = match segments {
            Some(segments) => segments.reach(k - 1),
            None => Tensor::full([b, rows + 1 - k], (k - 1) as i64, &window.device()),
        };
        let bias = bias.unwrap_or_else(|| Tensor::zeros([c], (&window.device(), window.dtype())));
        return crate::kernels::native_conv1d(window.clone(), weight, bias, reach);
    }
    shifted_sums(window, weight, bias, segments)
}

/// The convolution in tensor operations: one shifted copy of the window per tap.
///
/// # Shapes
///
/// `window [b k-1+t c]`, `weight [c k]`, `bias [c]`; returns `[b t c]`.
pub fn shifted_sums(
    window: &Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    segments: Option<&Segments>,
) -> Tensor<3> {
    let [_, rows, c] = window.dims();
    let k = weight.dims()[1];
    let t = rows + 1 - k;
    let tap = |j: usize| weight.clone().narrow(1, j, 1).reshape([1, 1, c]);
    let mut y = window.clone().narrow(1, k - 1, t) * tap(k - 1);
    for shift in 1..k {
        let earlier = window.clone().narrow(1, k - 1 - shift, t);
        y = y + within_document(earlier, shift, segments) * tap(k - 1 - shift);
    }
    match bias {
        Some(bias) => y + bias.reshape([1, 1, c]),
        None => y,
    }
}

fn within_document(earlier: Tensor<3>, shift: usize, segments: Option<&Segments>) -> Tensor<3> {
    let Some(segments) = segments else { return earlier };
    let shape = earlier.shape();
    earlier.mask_fill(segments.crosses(shift).unsqueeze_dim::<3>(2).expand(shape), 0.0)
}
