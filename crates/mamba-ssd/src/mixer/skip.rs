//! What the SSM mixers share around the scan: heads and the skip term D.

use burn::tensor::{Bool, Tensor};

use crate::ssd::groups_to_heads;
use crate::{SsdInput, scan};

/// `[b t h·p]` to `[b t h p]`.
pub(super) fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [b, t, d] = x.dims();
    x.reshape([b, t, heads, d / heads])
}

/// `[b t h p]` to `[b t h·p]`.
pub(super) fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [b, t, h, p] = x.dims();
    x.reshape([b, t, h * p])
}

/// Heads of `width` channels, each repeated in a row until they are `heads`: `[b t c]` to `[b t heads width]`.
pub(super) fn repeat_heads(x: Tensor<3>, width: usize, heads: usize) -> Tensor<4> {
    let channels = x.dims()[2];
    groups_to_heads::<4, 5>(split_heads(x, channels / width), heads, 2)
}

/// The scan plus `D x` of the mixer's values, which `input.x` may be a scaled form of. Returns
/// `[b t h p]` and the final state.
pub(super) fn scan_with_skip(
    input: SsdInput,
    values: Tensor<4>,
    d: Tensor<1>,
    chunk: usize,
) -> (Tensor<4>, Tensor<4>) {
    let [h] = d.dims();
    let scan = scan(input, chunk);
    (scan.y + values * d.reshape([1, 1, h, 1]), scan.state)
}

/// Adds D to the diagonal of `[b h t t]`.
pub(super) fn add_diagonal(matrix: Tensor<4>, d: Tensor<1>) -> Tensor<4> {
    let [_, h, t, _] = matrix.dims();
    let off_diagonal = Tensor::<2, Bool>::diag_mask([t, t], 0, &matrix.device());
    let d = d.cast(matrix.dtype()).reshape([1, h, 1, 1]).expand([1, h, t, t]);
    matrix + d.mask_fill(off_diagonal.unsqueeze::<4>().expand([1, h, t, t]), 0.0)
}
