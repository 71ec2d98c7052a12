//! Gradients of the five inputs.
//!
//! With `G_t = dy_t ⊗ C_t + a_{t+1} G_{t+1}`, the gradient of the state after token t,
//!
//! ```text
//! dx_t = G_t B_t      dB_t = G_tᵀ x_t      dC_t = S_tᵀ dy_t      dlog_a_t = a_t ⟨G_t, S_{t-1}⟩
//! ```
//!
//! The first three are again SSD maps: `dC` is the map with rows `B`, keys `x`, queries `dy` and the
//! transposed state; `dx` and `dB` are the map from the last token to the first, with rows `dy`, keys `C`,
//! queries `B`, and with rows `C`, keys `dy`, queries `x`. The last is [`decay_gradient`].

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::decay::{CHUNK, MapSizesLaunch, decay_gradient};
use super::groups::add_up;
use super::map::{Gradients, Map, Outputs, Roles};

/// Gradients of x, log_a, B, C and the state, in their shapes.
pub(super) fn backward(map: &Map, dy: CubeTensor, dstate: CubeTensor) -> Gradients {
    let (dy, dstate) = (into_contiguous(dy), into_contiguous(dstate));
    let to_x = Roles { rows: &dy, keys: &map.c, queries: &map.b, reverse: true, transposed: false };
    let to_b = Roles { rows: &map.c, keys: &dy, queries: &map.x, reverse: true, transposed: true };
    let to_c = Roles { rows: &map.b, keys: &map.x, queries: &dy, reverse: false, transposed: true };
    let (states, _) = map.enter_spans_by_walk(&map.forward_roles(), map.state.clone());
    let (adjoints, first) = map.enter_spans_by_walk(&to_x, dstate);

    let dx = map.empty(map.x.shape(), map.x.dtype);
    let leaving = map.empty(adjoints.shape(), DType::F32);
    map.walk(&to_x, &adjoints, Outputs { out: &dx, states: &leaving, outputs: true, save: None });

    let half = map.batch * map.heads * map.chunks() * map.p * map.n;
    let borders = map.empty([2 * half], DType::F32); // H, then G
    let dc = per_head(map, &to_c, &states, &borders, 0);
    let db = per_head(map, &to_b, &adjoints, &borders, half);
    let log_a = to_log_a(map, &dy, borders, half);
    Gradients { x: dx, log_a, b: db, c: dc, state: first.unwrap_or(leaving) }
}

/// The gradient of a projection, `[b t g n]`, and the states at the borders of chunks on the way.
fn per_head(
    map: &Map,
    roles: &Roles<'_>,
    entering: &CubeTensor,
    borders: &CubeTensor,
    first: usize,
) -> CubeTensor {
    let out = map.empty([map.batch, map.t, map.heads, map.n], map.x.dtype);
    map.walk(roles, entering, Outputs { out: &out, states: borders, outputs: true, save: Some(first) });
    add_up(out, [map.batch, map.t, map.groups, map.n])
}

fn to_log_a(map: &Map, dy: &CubeTensor, borders: CubeTensor, half: usize) -> CubeTensor {
    let out = map.empty(map.log_a.shape(), DType::F32);
    let vectors = |width: usize| width.div_ceil(4).next_power_of_two();
    decay_gradient::launch(
        &map.x.client,
        CubeCount::Static((map.batch * map.heads) as u32, map.chunks() as u32, 1),
        CubeDim::new_1d(CHUNK as u32),
        map.x.clone().into_buffer_arg(),
        map.log_a.clone().into_buffer_arg(),
        map.b.clone().into_buffer_arg(),
        map.c.clone().into_buffer_arg(),
        dy.clone().into_buffer_arg(),
        borders.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        MapSizesLaunch::new(map.t, map.heads, map.groups, map.p, map.n, half),
        vectors(map.p),
        vectors(map.n),
        dtype_to_storage_type(map.x.dtype),
    );
    out
}
