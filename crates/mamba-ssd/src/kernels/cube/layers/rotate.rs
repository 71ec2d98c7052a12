//! Rotary embedding: a unit turns the same pair of features of every head of a token, whose angle it makes once.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{cubes, empty_like};

#[cube(launch)]
fn rotate_pairs<E: Float, I: Int>(
    x: &[E],             // b t h d
    positions: &[I],     // b t, or t
    frequencies: &[f32], // half
    out: &mut [E],
    heads: usize,
    d: usize,
    half: usize,
    tokens: usize,
    places: usize,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let features = d - half; // pairs, then what does not turn
    let (token, i) = (ABSOLUTE_POS / features, ABSOLUTE_POS % features);
    if token >= tokens {
        terminate!();
    }
    let first = token * heads * d + i;
    if i < half {
        let angle = f32::cast_from(positions[token % places]) * frequencies[i];
        let (cos, sin) = (angle.cos(), angle.sin());
        for head in 0..heads {
            let at = first + head * d;
            let (u, v) = (f32::cast_from(x[at]), f32::cast_from(x[at + half]));
            out[at] = E::cast_from(u * cos - v * sin);
            out[at + half] = E::cast_from(v * cos + u * sin);
        }
    } else {
        for head in 0..heads {
            let at = first + half + head * d;
            out[at] = x[at];
        }
    }
}

pub fn rotate(x: CubeTensor, positions: CubeTensor, frequencies: CubeTensor) -> CubeTensor {
    let [x, positions, frequencies] = [x, positions, frequencies].map(into_contiguous);
    let [b, t, heads, d] = x.shape().dims();
    let half = frequencies.shape().num_elements();
    let places = positions.shape().num_elements();
    let out = empty_like(&x);
    let (cubes, dim) = cubes(&x, b * t * (d - half));
    let (dtype, index) = (dtype_to_storage_type(x.dtype), dtype_to_storage_type(positions.dtype));
    rotate_pairs::launch(
        &out.client,
        cubes,
        dim,
        x.into_buffer_arg(),
        positions.into_buffer_arg(),
        frequencies.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        heads,
        d,
        half,
        b * t,
        places,
        dtype,
        index,
    );
    out
}
