//! The gradient of an embedding: a cube for each token adds up the gradients of all tokens of its word, if it is the
//! first of them, in their order and in f32.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::zeros_client;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{UNITS, cube_for_each};

/// Tokens of one word that are listed at a time.
const LISTED: usize = 1024;

#[cube(launch)]
fn add_rows<E: Float, I: Int>(
    grad: &[E],    // tokens d
    tokens: &[I],  // tokens
    out: &mut [E], // v d, of zeros
    count: usize,
    d: usize,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let mut counts = Shared::<[u32]>::new_slice(UNITS);
    let mut earlier = Shared::<[u32]>::new_slice(UNITS);
    let mut list = Shared::<[u32]>::new_slice(LISTED);
    let own = CUBE_POS;
    if own >= count {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let word = usize::cast_from(tokens[own]);
    // Every unit looks through a stretch of the tokens, so that the list is in their order.
    let stretch = count.div_ceil(UNITS);
    let (start, end) = (min(unit * stretch, count), min((unit + 1) * stretch, count));
    let mut found = 0u32;
    let mut before = 0u32;
    for token in start..end {
        if usize::cast_from(tokens[token]) == word {
            found += 1;
            if token < own {
                before += 1;
            }
        }
    }
    counts[unit] = found;
    earlier[unit] = before;
    sync_cube();
    let mut rank = 0usize;
    let mut total = 0usize;
    let mut before = 0usize;
    for i in 0..UNITS {
        let found = usize::cast_from(counts[i]);
        if i < unit {
            rank += found;
        }
        total += found;
        before += usize::cast_from(earlier[i]);
    }
    if before > 0 {
        terminate!(); // the first token of the word does it
    }
    for window in 0..total.div_ceil(LISTED) {
        let mut at = rank;
        for token in start..end {
            if usize::cast_from(tokens[token]) == word {
                if at / LISTED == window {
                    list[at % LISTED] = u32::cast_from(token);
                }
                at += 1;
            }
        }
        sync_cube();
        let listed = min(LISTED, total - window * LISTED);
        for run in 0..d.div_ceil(UNITS) {
            let feature = run * UNITS + unit;
            if feature < d {
                let mut sum = f32::cast_from(out[word * d + feature]);
                for i in 0..listed {
                    sum += f32::cast_from(grad[usize::cast_from(list[i]) * d + feature]);
                }
                out[word * d + feature] = E::cast_from(sum);
            }
        }
        sync_cube();
    }
}

/// The gradient `[words d]` of the weight, given that of the rows, `[b t d]`.
pub fn gradient(grad: CubeTensor, tokens: CubeTensor, words: usize) -> CubeTensor {
    let [grad, tokens] = [grad, tokens].map(into_contiguous);
    let [b, t, d] = grad.shape().dims();
    let flat = zeros_client(grad.client.clone(), grad.device.clone(), [words * d].into(), grad.dtype);
    let out = burn_cubecl::ops::reshape(flat, [words, d].into());
    let (dtype, index) = (dtype_to_storage_type(grad.dtype), dtype_to_storage_type(tokens.dtype));
    add_rows::launch(
        &out.client,
        cube_for_each(b * t),
        CubeDim::new_1d(UNITS as u32),
        grad.into_buffer_arg(),
        tokens.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        b * t,
        d,
        dtype,
        index,
    );
    out
}
