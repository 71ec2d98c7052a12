//! The gradient of the log decays, chunk by chunk.
//!
//! With `H` the state that enters a chunk and `G` the gradient of the state that leaves it,
//!
//! ```text
//! ∂L/∂log_a_r = Σ M[l, s] over s < r ≤ l,
//!   M[l, s]   = (dy_l · x_s)(C_l · B_s) a_{s+1} ⋯ a_l        inside the chunk
//!   M[l, -1]  = a_1 ⋯ a_l  dy_lᵀ H C_l                       from what entered
//!   M[Q, s]   = a_{s+1} ⋯ a_Q  x_sᵀ G B_s                    to what leaves
//!   M[Q, -1]  = a_1 ⋯ a_Q ⟨H, G⟩
//! ```
//!
//! Every term is a product with the decays it contains; none is a difference of sums, so that a strong
//! decay's small gradient is exact.

use cubecl::prelude::*;

use super::walk::{Four, four};

/// Tokens of a chunk, and units of a cube: one per token.
pub(super) const CHUNK: usize = 64;

/// Sizes of the map.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct MapSizes {
    pub t: usize,
    pub heads: usize,
    pub groups: usize,
    pub p: usize,
    pub n: usize,
    /// Where in `states` the gradients of states begin.
    pub adjoints: usize,
}

/// One cube per batch row and head, and chunk.
#[cube(launch)]
pub(super) fn decay_gradient<E: Float>(
    x: &[E],         // b t h p
    log_a: &[f32],   // b t h
    b: &[E],         // b t g n
    c: &[E],         // b t g n
    dy: &[E],        // b t h p
    states: &[f32],  // H, then G: b h chunks p n
    out: &mut [f32], // b t h
    sizes: MapSizes,
    #[comptime] p_vectors: usize,
    #[comptime] n_vectors: usize,
    #[define(E)] _dtype: ElemType,
) {
    let unit = UNIT_POS as usize;
    let (batch, head) = (CUBE_POS_X as usize / sizes.heads, CUBE_POS_X as usize % sizes.heads);
    let first = CUBE_POS_Y as usize * CHUNK;
    let start = batch * sizes.t + first; // the chunk's first token
    let tokens = min(sizes.t - first, CHUNK);
    let group = head / (sizes.heads / sizes.groups);
    let inside = unit < tokens;

    let mut logs = Shared::<[f32]>::new_slice(CHUNK);
    let mut terms = Shared::<[f32]>::new_slice(CHUNK * (CHUNK + 1));
    let mut leaving = Shared::<[f32]>::new_slice(CHUNK);
    let mut corner = Shared::<[f32]>::new_slice(CHUNK);
    let mut log_decay = f32::new(0.0);
    if inside {
        log_decay = log_a[(start + unit) * sizes.heads + head];
    }
    logs[unit] = log_decay;
    sync_cube();

    // What entered and what leaves.
    let size = sizes.p * sizes.n;
    let at = (CUBE_POS_X as usize * CUBE_COUNT_Y as usize + CUBE_POS_Y as usize) * size;
    let value_row = ((start + unit) * sizes.heads + head) * sizes.p;
    let projection_row = ((start + unit) * sizes.groups + group) * sizes.n;
    let mut before = f32::new(0.0);
    let mut after = f32::new(0.0);
    for r in 0..CHUNK {
        if r <= unit {
            before += logs[r];
        } else {
            after += logs[r];
        }
    }
    let query = row::<E>(c, projection_row, sizes.n, inside, n_vectors);
    let key = row::<E>(b, projection_row, sizes.n, inside, n_vectors);
    let entered = before.exp() * through::<E>(dy, value_row, &query, states, at, inside, &sizes, n_vectors);
    let to_end = sizes.adjoints + at;
    leaving[unit] = after.exp() * through::<E>(x, value_row, &key, states, to_end, inside, &sizes, n_vectors);
    let mut product = f32::new(0.0);
    for i in range_stepped(unit, size, CHUNK) {
        product += states[at + i] * states[to_end + i];
    }
    corner[unit] = product;

    // Inside the chunk.
    let cotangent = row::<E>(dy, value_row, sizes.p, inside, p_vectors);
    let mut decay = f32::new(0.0);
    for i in 0..CHUNK {
        let s = CHUNK - 1 - i;
        let mut term = f32::new(0.0);
        if s < unit && inside {
            decay += logs[s + 1];
            let score =
                dot::<E>(&query, b, ((start + s) * sizes.groups + group) * sizes.n, sizes.n, n_vectors);
            let weight =
                dot::<E>(&cotangent, x, ((start + s) * sizes.heads + head) * sizes.p, sizes.p, p_vectors);
            term = score * weight * decay.exp();
        }
        terms[unit * (CHUNK + 1) + s] = term;
    }

    // Row by row over s < r, then column by column over l ≥ r.
    let mut running = entered;
    for s in 0..CHUNK {
        let at = unit * (CHUNK + 1) + s;
        let term = terms[at];
        terms[at] = running;
        running += term;
    }
    sync_cube();
    let mut gradient = f32::new(0.0);
    let mut total = f32::new(0.0);
    let mut whole = f32::new(0.0);
    for l in 0..CHUNK {
        if l >= unit {
            gradient += terms[l * (CHUNK + 1) + unit];
        } else {
            gradient += leaving[l];
        }
        total += logs[l];
        whole += corner[l];
    }
    gradient += total.exp() * whole;
    if inside {
        out[(start + unit) * sizes.heads + head] = gradient;
    }
}

/// A row of `width` numbers in registers, padded with 0.
#[cube]
fn row<E: Float>(
    from: &[E],
    at: usize,
    width: usize,
    inside: bool,
    #[comptime] vectors: usize,
) -> Array<Four> {
    let mut values = Array::<Four>::new(vectors);
    #[unroll]
    for v in 0..vectors {
        values[v] = four::<E>(from, at, v * 4, width, inside);
    }
    values
}

/// A row in registers times a row in memory.
#[cube]
fn dot<E: Float>(row: &Array<Four>, with: &[E], at: usize, width: usize, #[comptime] vectors: usize) -> f32 {
    let mut sum = Four::new(0.0);
    #[unroll]
    for v in 0..vectors {
        sum += row[v] * four::<E>(with, at, v * 4, width, true);
    }
    total(sum)
}

#[cube]
fn total(four: Four) -> f32 {
    four.extract(0usize) + four.extract(1usize) + four.extract(2usize) + four.extract(3usize)
}

/// `valuesᵀ S row` for a state `S [p n]` in memory.
#[cube]
fn through<E: Float>(
    values: &[E],
    value_row: usize,
    row: &Array<Four>,
    states: &[f32],
    at: usize,
    inside: bool,
    sizes: &MapSizes,
    #[comptime] vectors: usize,
) -> f32 {
    let mut sum = f32::new(0.0);
    if inside {
        for i in 0..sizes.p {
            sum += f32::cast_from(values[value_row + i])
                * dot::<f32>(row, states, at + i * sizes.n, sizes.n, vectors);
        }
    }
    sum
}
