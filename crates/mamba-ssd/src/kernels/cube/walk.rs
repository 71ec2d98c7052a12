//! The recurrence, one unit a row of the state.
//!
//! ```text
//! S ← a S + r ⊗ k,    out = S q
//! ```
//!
//! The row `S[i]` lives in registers, tiles of `k`, `q` and decays in shared memory, so a token costs
//! three multiplications and additions per element of the state and no exchange between units. Forward,
//! `r = x`, `k = B`, `q = C`. The same walk with other arguments gives three of the gradients; see
//! [`super::backward`].

use cubecl::prelude::*;

/// Tokens staged at a time.
pub(super) const TILE: usize = 16;

/// Four numbers side by side.
pub(super) type Four = Vector<f32, Const<4>>;

/// What is compiled into a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form {
    /// Units of a cube: rows it can hold.
    pub units: usize,
    /// Fours in a row of the state.
    pub vectors: usize,
    /// From the last token to the first: `G ← a' G + r ⊗ k` with the decay of the token after.
    pub reverse: bool,
    /// Rows of the walk are columns of the state arrays.
    pub transposed: bool,
    /// Whether `out` is wanted, or only states.
    pub outputs: bool,
    /// Write the state at every chunk's border, instead of the last one.
    pub save: bool,
}

/// Sizes of a walk. Rows and keys may be shared by several heads.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Sizes {
    pub t: usize,
    pub heads: usize,
    pub row_heads: usize,
    pub key_heads: usize,
    pub query_heads: usize,
    /// Rows and columns of the state.
    pub rows: usize,
    pub width: usize,
    /// Tokens of a span; a multiple of the chunk.
    pub span: usize,
    pub chunk: usize,
    /// Where in `states` this walk writes.
    pub first_state: usize,
}

/// What one unit works on.
#[derive(CubeType, Clone, Copy)]
struct Place {
    batch: usize,
    head: usize,
    row: usize,
    /// First token of the span, and their number.
    first: usize,
    tokens: usize,
}

/// Tiles in registers, on their way to shared memory.
#[derive(CubeType)]
struct Ahead {
    keys: Array<Four>,
    queries: Array<Four>,
    rows: Array<f32>,
    decay: f32,
}

#[cube(launch)]
pub(super) fn walk<E: Float>(
    rows: &[E],         // b t hr R
    keys: &[E],         // b t hk W
    queries: &[E],      // b t hq W
    log_a: &[f32],      // b t h
    entering: &[f32],   // b h spans R W
    out: &mut [E],      // b t h R
    states: &mut [f32], // b h spans R W, or b h chunks R W
    sizes: Sizes,
    #[comptime] form: Form,
    #[define(E)] _dtype: ElemType,
) {
    let place = place(&sizes, form);
    let unit = UNIT_POS as usize;
    let size = comptime!(TILE * form.vectors);
    let mut key_tile = Shared::<[Four]>::new_slice(size);
    let mut query_tile = Shared::<[Four]>::new_slice(size);
    let mut row_tile = Shared::<[f32]>::new_slice(comptime!(TILE * form.units));
    let mut decay_tile = Shared::<[f32]>::new_slice(TILE);

    let share = comptime!(size.div_ceil(form.units));
    let mut ahead = Ahead {
        keys: Array::new(share),
        queries: Array::new(share),
        rows: Array::new(TILE),
        decay: f32::new(0.0),
    };
    let mut state = Array::<Four>::new(form.vectors);
    load_state(&mut state, entering, &place, &sizes, form);

    let tiles = place.tokens.div_ceil(TILE);
    let mut pending = f32::new(1.0);
    fetch::<E>(&mut ahead, rows, keys, queries, log_a, tile_at(0usize, tiles, form), &place, &sizes, form);
    for i in 0..tiles {
        let tile = tile_at(i, tiles, form);
        sync_cube();
        #[unroll]
        for j in 0..share {
            let at = j * form.units + unit;
            if at < size {
                key_tile[at] = ahead.keys[j];
                query_tile[at] = ahead.queries[j];
            }
        }
        #[unroll]
        for j in 0..TILE {
            row_tile[j * form.units + unit] = ahead.rows[j];
        }
        if unit < TILE {
            decay_tile[unit] = ahead.decay;
        }
        sync_cube();
        if i + 1 < tiles {
            let next = tile_at(i + 1, tiles, form);
            fetch::<E>(&mut ahead, rows, keys, queries, log_a, next, &place, &sizes, form);
        }
        if form.save && at_border(tile, tiles, &sizes, form) {
            let chunk = (place.first + tile * TILE) / sizes.chunk;
            let chunks = sizes.t.div_ceil(sizes.chunk);
            store_state(&state, pending, states, chunk, chunks, &place, &sizes, form);
        }
        for step in 0..TILE {
            let j = if form.reverse { TILE - 1 - step } else { step };
            let decay = decay_tile[j];
            let factor = if form.reverse { pending } else { decay };
            let x = Four::new(row_tile[j * form.units + unit]);
            let mut sum = Four::new(0.0);
            #[unroll]
            for v in 0..form.vectors {
                state[v] = state[v] * Four::new(factor) + x * key_tile[j * form.vectors + v];
                if form.outputs {
                    sum += state[v] * query_tile[j * form.vectors + v];
                }
            }
            if form.reverse {
                pending = decay;
            }
            let token = tile * TILE + j;
            if form.outputs && token < place.tokens && place.row < sizes.rows {
                let at =
                    ((place.batch * sizes.t + place.first + token) * sizes.heads + place.head) * sizes.rows;
                out[at + place.row] = E::cast_from(
                    sum.extract(0usize) + sum.extract(1usize) + sum.extract(2usize) + sum.extract(3usize),
                );
            }
        }
    }
    if !form.save {
        let spans = CUBE_COUNT_Z as usize;
        store_state(&state, pending, states, CUBE_POS_Z as usize, spans, &place, &sizes, form);
    }
}

#[cube]
fn place(sizes: &Sizes, #[comptime] form: Form) -> Place {
    let index = CUBE_POS_X as usize;
    let first = CUBE_POS_Z as usize * sizes.span;
    Place {
        batch: index / sizes.heads,
        head: index % sizes.heads,
        row: CUBE_POS_Y as usize * form.units + UNIT_POS as usize,
        first,
        tokens: min(sizes.t - first, sizes.span),
    }
}

/// The tile that the `i`-th step works on.
#[cube]
fn tile_at(i: usize, tiles: usize, #[comptime] form: Form) -> usize {
    if form.reverse { tiles - 1 - i } else { i }
}

/// Whether a chunk begins with this tile, in the walk's direction.
#[cube]
#[allow(clippy::manual_is_multiple_of)] // a kernel has the operator only
fn at_border(tile: usize, tiles: usize, sizes: &Sizes, #[comptime] form: Form) -> bool {
    let per_chunk = sizes.chunk / TILE;
    if form.reverse { tile + 1 == tiles || (tile + 1) % per_chunk == 0 } else { tile % per_chunk == 0 }
}

/// Reads a tile's numbers; tokens beyond the span write nothing and decay nothing.
#[cube]
fn fetch<E: Float>(
    ahead: &mut Ahead,
    rows: &[E],
    keys: &[E],
    queries: &[E],
    log_a: &[f32],
    tile: usize,
    place: &Place,
    sizes: &Sizes,
    #[comptime] form: Form,
) {
    let unit = UNIT_POS as usize;
    let start = place.batch * sizes.t + place.first;
    let key_head = place.head / (sizes.heads / sizes.key_heads);
    let query_head = place.head / (sizes.heads / sizes.query_heads);
    let row_head = place.head / (sizes.heads / sizes.row_heads);
    let share = comptime!((TILE * form.vectors).div_ceil(form.units));
    #[unroll]
    for j in 0..share {
        let at = j * form.units + unit;
        let token = tile * TILE + at / form.vectors;
        let column = at % form.vectors * 4;
        let inside = token < place.tokens && at < TILE * form.vectors;
        let key = ((start + token) * sizes.key_heads + key_head) * sizes.width;
        ahead.keys[j] = four::<E>(keys, key, column, sizes.width, inside);
        if form.outputs {
            let query = ((start + token) * sizes.query_heads + query_head) * sizes.width;
            ahead.queries[j] = four::<E>(queries, query, column, sizes.width, inside);
        }
    }
    #[unroll]
    for j in 0..TILE {
        let token = tile * TILE + j;
        let mut value = f32::new(0.0);
        if token < place.tokens && place.row < sizes.rows {
            let at = ((start + token) * sizes.row_heads + row_head) * sizes.rows + place.row;
            value = f32::cast_from(rows[at]);
        }
        ahead.rows[j] = value;
    }
    let token = tile * TILE + unit;
    let mut log_decay = f32::new(0.0);
    if unit < TILE && token < place.tokens {
        log_decay = log_a[(start + token) * sizes.heads + place.head];
    }
    ahead.decay = log_decay.exp();
}

/// Four numbers of a row, 0 beyond its end.
#[cube]
pub(super) fn four<E: Float>(from: &[E], row: usize, column: usize, width: usize, inside: bool) -> Four {
    let mut value = Four::new(0.0);
    #[unroll]
    for i in 0..4usize {
        if inside && column + i < width {
            value.insert(i, f32::cast_from(from[row + column + i]));
        }
    }
    value
}

/// Index of `[row, column]` in a state of `rows` by `width`.
#[cube]
fn state_index(row: usize, column: usize, sizes: &Sizes, #[comptime] form: Form) -> usize {
    if form.transposed { column * sizes.rows + row } else { row * sizes.width + column }
}

#[cube]
fn load_state(state: &mut Array<Four>, from: &[f32], place: &Place, sizes: &Sizes, #[comptime] form: Form) {
    let slot = CUBE_POS_X as usize * CUBE_COUNT_Z as usize + CUBE_POS_Z as usize;
    let first = slot * sizes.rows * sizes.width;
    #[unroll]
    for v in 0..form.vectors {
        let mut value = Four::new(0.0);
        #[unroll]
        for i in 0..4usize {
            let column = v * 4 + i;
            if place.row < sizes.rows && column < sizes.width {
                value.insert(i, from[first + state_index(place.row, column, sizes, form)]);
            }
        }
        state[v] = value;
    }
}

/// Writes `factor` times the state to its slot of `slots`.
#[cube]
fn store_state(
    state: &Array<Four>,
    factor: f32,
    to: &mut [f32],
    slot: usize,
    slots: usize,
    place: &Place,
    sizes: &Sizes,
    #[comptime] form: Form,
) {
    let first = sizes.first_state + (CUBE_POS_X as usize * slots + slot) * sizes.rows * sizes.width;
    #[unroll]
    for v in 0..form.vectors {
        #[unroll]
        for i in 0..4usize {
            let column = v * 4 + i;
            if place.row < sizes.rows && column < sizes.width {
                to[first + state_index(place.row, column, sizes, form)] = state[v].extract(i) * factor;
            }
        }
    }
}
