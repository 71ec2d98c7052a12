//! Sums of log decays over the tokens between two positions.

use burn::tensor::{Bool, Tensor};

/// Log decay between positions that no path connects: its `exp` is exactly 0.
const UNREACHABLE: f64 = -1e30;

/// Segment sums: `out[.., l, s] = log_a[.., s+1] + … + log_a[.., l]` for `s ≤ l` (0 on the
/// diagonal), and a value whose `exp` is 0 above it.
///
/// Computed by a masked cumulative sum. A difference of cumulative sums would lose the small decays
/// between large ones: at T = 1024 in f32 the error is 5e-4 instead of 8e-6.
///
/// # Shapes
///
/// `[b h t]` to `[b h t t]`.
pub fn segsum(log_a: Tensor<3>) -> Tensor<4> {
    let [b, h, t] = log_a.dims();
    let device = log_a.device();
    let rows = log_a.unsqueeze_dim::<4>(3).expand([b, h, t, t]); // r along axis 2, s along axis 3
    let upto_s = Tensor::<2, Bool>::tril_mask([t, t], -1, &device); // true where r <= s
    let above = Tensor::<2, Bool>::tril_mask([t, t], 0, &device); // true where l < s
    rows.mask_fill(upto_s.unsqueeze::<4>().expand([b, h, t, t]), 0.0)
        .cumsum(2)
        .mask_fill(above.unsqueeze::<4>().expand([b, h, t, t]), UNREACHABLE)
}
