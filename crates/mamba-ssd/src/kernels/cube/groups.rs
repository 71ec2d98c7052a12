//! What the heads of a group share: gradients of B and C add up over them.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::Shape;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

use super::layers::empty;

/// `[b t h n]` to `shape`, `[b t g n]` or `[b t g]` where n is 1, in the order of heads.
pub(super) fn add_up(per_head: CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    let shape = shape.into();
    let [batch, t, heads, n] = per_head.shape().dims();
    let share = heads / shape[2];
    if share == 1 {
        return CubeTensor::new_contiguous(
            per_head.client,
            per_head.device,
            shape,
            per_head.handle,
            per_head.dtype,
        );
    }
    let out = empty(&per_head, shape, per_head.dtype);
    let client = per_head.client.clone();
    let units = batch * t * heads / share * n;
    let dim = CubeDim::new(&client, units);
    let dtype = dtype_to_storage_type(per_head.dtype);
    add_up_heads::launch(
        &client,
        calculate_cube_count_elemwise(&client, units, dim),
        dim,
        per_head.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        share,
        n,
        dtype,
    );
    out
}

#[cube(launch)]
fn add_up_heads<E: Float>(
    per_head: &[E],
    out: &mut [E],
    share: usize,
    n: usize,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let (row, column) = (ABSOLUTE_POS / n, ABSOLUTE_POS % n);
    let mut sum = f32::new(0.0);
    for head in 0..share {
        sum += f32::cast_from(per_head[(row * share + head) * n + column]);
    }
    out[ABSOLUTE_POS] = E::cast_from(sum);
}
