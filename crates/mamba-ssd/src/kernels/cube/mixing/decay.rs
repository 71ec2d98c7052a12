//! The gradients of the decays and of D, of what the walks added up.
//!
//! With `R_l = Σ_s N M` and `K_s = Σ_l N M`, both off the diagonal, the pairs with `s < r ≤ l` are those with `l ≥ r` less
//! those with `s ≥ r`:
//!
//! ```text
//! dlog_a_r = Σ_{l ≥ r} (R_l − K_l)
//! ```

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::layers::empty;
use super::Inputs;

/// Tokens at a time, and units of a cube.
const RUN: usize = 64;

/// `log_a`'s gradient `[b t h]`, and D's in parts `[b h]`.
pub(super) fn decay(
    inputs: &Inputs,
    of_rows: CubeTensor,
    of_columns: CubeTensor,
    corners: CubeTensor,
) -> (CubeTensor, CubeTensor) {
    let Inputs { log_a, batch, t, h, .. } = inputs;
    let dlog_a = empty(log_a, [*batch, *t, *h], DType::F32);
    let dd = empty(log_a, [*batch, *h], DType::F32);
    suffix_sums::launch(
        &log_a.client,
        CubeCount::Static((batch * h) as u32, 1, 1),
        CubeDim::new_1d(RUN as u32),
        of_rows.into_buffer_arg(),
        of_columns.into_buffer_arg(),
        corners.into_buffer_arg(),
        dlog_a.clone().into_buffer_arg(),
        dd.clone().into_buffer_arg(),
        *t,
        *h,
    );
    (dlog_a, dd)
}

/// A cube for every row of the batch and head, from the last run of tokens to the first.
#[cube(launch)]
fn suffix_sums(
    of_rows: &[f32],    // b h t
    of_columns: &[f32], // b h t
    corners: &[f32],    // b h t
    dlog_a: &mut [f32], // b t h
    dd: &mut [f32],     // b h
    t: usize,
    heads: usize,
) {
    let unit = UNIT_POS as usize;
    let (batch, head) = (CUBE_POS_X as usize / heads, CUBE_POS_X as usize % heads);
    let mut differences = Shared::<[f32]>::new_slice(RUN);
    let mut diagonal = f32::new(0.0);
    let mut behind = f32::new(0.0);
    let runs = t.div_ceil(RUN);
    for run in 0..runs {
        let token = (runs - 1 - run) * RUN + unit;
        let place = CUBE_POS_X as usize * t + token;
        let mut difference = f32::new(0.0);
        if token < t {
            difference = of_rows[place] - of_columns[place];
            diagonal += corners[place];
        }
        sync_cube();
        differences[unit] = difference;
        sync_cube();
        let mut sum = f32::new(0.0);
        let mut whole = f32::new(0.0);
        for i in 0..RUN {
            let of_token = differences[RUN - 1 - i];
            whole += of_token;
            sum += select(RUN - 1 - i >= unit, of_token, f32::new(0.0));
        }
        if token < t {
            dlog_a[(batch * t + token) * heads + head] = behind + sum;
        }
        behind += whole;
    }
    sync_cube();
    differences[unit] = diagonal;
    sync_cube();
    if unit == 0 {
        let mut sum = f32::new(0.0);
        for i in 0..RUN {
            sum += differences[i];
        }
        dd[CUBE_POS_X as usize] = sum;
    }
}
