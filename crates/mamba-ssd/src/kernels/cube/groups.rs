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
    let sixteen_bytes = 16 / per_head.dtype.size();
    let wide = if n.is_multiple_of(sixteen_bytes) { sixteen_bytes } else { 1 };
    let units = batch * t * heads / share * n / wide;
    let dim = CubeDim::new(&client, units);
    let dtype = dtype_to_storage_type(per_head.dtype);
    add_up_heads::launch(
        &client,
        calculate_cube_count_elemwise(&client, units, dim),
        dim,
        wide,
        per_head.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        share,
        n / wide,
        units,
        dtype,
    );
    out
}

/// Heads whose numbers are asked for together.
const TOGETHER: usize = 8;

#[cube(launch)]
fn add_up_heads<E: Float, W: Size>(
    per_head: &[Vector<E, W>],
    out: &mut [Vector<E, W>],
    share: usize,
    vectors: usize,
    units: usize,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (row, column) = (ABSOLUTE_POS / vectors, ABSOLUTE_POS % vectors);
    let first = row * share * vectors + column;
    let mut sum = Vector::<f32, W>::new(0.0);
    let whole = share / TOGETHER;
    for round in 0..whole {
        let mut some = Array::<Vector<E, W>>::new(TOGETHER);
        #[unroll]
        for i in 0..TOGETHER {
            some[i] = per_head[first + (round * TOGETHER + i) * vectors];
        }
        #[unroll]
        for i in 0..TOGETHER {
            sum += Vector::<f32, W>::cast_from(some[i]);
        }
    }
    for head in whole * TOGETHER..share {
        sum += Vector::<f32, W>::cast_from(per_head[first + head * vectors]);
    }
    out[ABSOLUTE_POS] = Vector::cast_from(sum);
}
