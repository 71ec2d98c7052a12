//! The map on tensor cores: which devices and shapes take it, and its launches.

use std::cell::Cell;

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::ir::features::MmaConfig;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::chunks::{Blocks, ChunkSizesLaunch, WIDE, chunks};
use super::gradients::gradients;
use super::groups::add_up;
use super::map::{Gradients, Map};

thread_local! {
    static EMULATED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Runs `run` with the tensor-core kernels on any device and dtype, in chunks of `16 rows` tokens, their
/// products computed in shared memory: for tests of everything but the instruction itself.
#[doc(hidden)]
pub fn emulate_tensor_cores<R>(rows: usize, run: impl FnOnce() -> R) -> R {
    /// Ends the emulation, also when `run` panics.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            EMULATED.set(None);
        }
    }
    EMULATED.set(Some(rows));
    let _end = End;
    run()
}

/// The blocks that fit the map, where the device multiplies in its dtype.
pub(super) fn plan(map: &Map) -> Option<Blocks> {
    let real = Blocks::new(map.n);
    if let Some(rows) = emulated_rows() {
        return Some(real.emulated(rows));
    }
    let aligned = map.p.is_multiple_of(WIDE) && map.n.is_multiple_of(WIDE);
    (aligned && able(&map.x.client, map.x.dtype, map.n)).then_some(real)
}

/// Sixteens of tokens in a chunk of the emulation, if it runs.
pub(super) fn emulated_rows() -> Option<usize> {
    EMULATED.get()
}

/// Whether SSD runs on the device's tensor cores, for states of size `n`.
pub(super) fn able(client: &Client, dtype: DType, n: usize) -> bool {
    let blocks = Blocks::new(n);
    multiplies(client, dtype, blocks.units(), blocks.gradients_bytes())
}

/// Whether a device has the instructions, for cubes of `units` units with `bytes` of shared memory: those of CUDA for
/// now, copies ahead among them.
pub(super) fn multiplies(client: &Client, dtype: DType, units: usize, bytes: usize) -> bool {
    let properties = client.properties();
    let element = dtype_to_storage_type(dtype);
    let instruction = MmaConfig {
        a_type: element,
        b_type: element,
        cd_type: ElemType::Float(FloatKind::F32),
        m: 16,
        n: 8,
        k: 16,
    };
    matches!(dtype, DType::F16 | DType::BF16)
        && client.name() == "cuda"
        && properties.features.memory_reinterpret
        && properties.features.matmul.mma.contains(&instruction)
        && properties.features.matmul.ldmatrix.contains(&element)
        && properties.hardware.max_shared_memory_size >= bytes
        && properties.hardware.max_units_per_cube as usize >= units
}

/// Outputs and final state.
pub(super) fn forward(map: &Map, blocks: Blocks) -> (CubeTensor, CubeTensor) {
    let (entering, last) = enter(map, &map.x, &map.b, blocks, map.state.clone());
    let y = map.empty(map.x.shape(), map.x.dtype);
    let states = map.empty(entering.shape(), DType::F32);
    launch_chunks(
        map,
        [&map.x, &map.b],
        blocks,
        &entering,
        Results { y: Some(&y), states: &states, borders: None },
    );
    (y, last.unwrap_or(states))
}

/// Gradients of the five inputs.
pub(super) fn backward(map: &Map, blocks: Blocks, dy: CubeTensor, dstate: CubeTensor) -> Gradients {
    let (dy, dstate) = (into_contiguous(dy), into_contiguous(dstate));
    let (entering, _) = enter(map, &map.x, &map.b, blocks, map.state.clone());
    let chunks = map.t.div_ceil(blocks.chunk());
    let borders = map.empty([map.batch, map.heads, chunks, map.p, map.n], map.x.dtype);
    let last = map.empty(entering.shape(), DType::F32);
    let saving = Blocks { outputs: false, save: true, ..blocks };
    launch_chunks(
        map,
        [&map.x, &map.b],
        saving,
        &entering,
        Results { borders: Some(&borders), states: &last, y: None },
    );

    let (adjoints, first) = enter(map, &dy, &map.c, Blocks { reverse: true, ..blocks }, dstate);
    let tiles = map.p.div_ceil(blocks.chunk());
    let parts = map.heads * tiles;
    let dx = map.empty(map.x.shape(), map.x.dtype);
    let db = map.empty([map.batch, map.t, parts, map.n], map.x.dtype);
    let dc = map.empty(db.shape(), map.x.dtype);
    let dlog_a = map.empty([map.batch, map.t, parts, 1], DType::F32);
    let leaving = map.empty(adjoints.shape(), DType::F32);
    let blocks = Blocks { reverse: true, ..blocks }.staged(shared_bytes(map), Blocks::gradients_bytes);
    gradients::launch(
        &map.x.client,
        count(map, blocks),
        CubeDim::new_1d(blocks.units() as u32),
        blocks.wide,
        blocks.pair,
        map.x.clone().into_buffer_arg(),
        map.b.clone().into_buffer_arg(),
        map.c.clone().into_buffer_arg(),
        dy.into_buffer_arg(),
        map.log_a.clone().into_buffer_arg(),
        adjoints.into_buffer_arg(),
        borders.into_buffer_arg(),
        dx.clone().into_buffer_arg(),
        db.clone().into_buffer_arg(),
        dc.clone().into_buffer_arg(),
        dlog_a.clone().into_buffer_arg(),
        leaving.clone().into_buffer_arg(),
        sizes(map),
        blocks,
        dtype_to_storage_type(map.x.dtype),
    );
    let of_groups = [map.batch, map.t, map.groups, map.n];
    Gradients {
        x: dx,
        log_a: add_up(dlog_a, map.log_a.shape()),
        b: add_up(db, of_groups),
        c: add_up(dc, of_groups),
        state: first.unwrap_or(leaving),
    }
}

/// The states that enter the spans, and the one that leaves the last where there are several: of the map
/// with rows x and keys B, and in reverse of the one with rows dy and keys C.
fn enter(
    map: &Map,
    rows: &CubeTensor,
    keys: &CubeTensor,
    blocks: Blocks,
    initial: CubeTensor,
) -> (CubeTensor, Option<CubeTensor>) {
    map.enter_spans(initial, blocks.reverse, |zeros, states| {
        let blocks = Blocks { outputs: false, ..blocks };
        launch_chunks(map, [rows, keys], blocks, zeros, Results { y: None, states, borders: None });
    })
}

/// Bytes of shared memory that a cube may have.
fn shared_bytes(map: &Map) -> usize {
    map.x.client.properties().hardware.max_shared_memory_size
}

fn count(map: &Map, blocks: Blocks) -> CubeCount {
    let tiles = map.p.div_ceil(blocks.chunk());
    let [cubes, tiles, spans] = [map.batch * map.heads, tiles, map.spans()].map(|n| n as u32);
    CubeCount::Static(cubes, tiles, spans)
}

fn sizes(map: &Map) -> ChunkSizesLaunch {
    ChunkSizesLaunch::new(map.t, map.heads, map.groups, map.p, map.n, map.span())
}

/// What a walk over the chunks writes.
struct Results<'a> {
    y: Option<&'a CubeTensor>,
    borders: Option<&'a CubeTensor>,
    states: &'a CubeTensor,
}

fn launch_chunks(
    map: &Map,
    [rows, keys]: [&CubeTensor; 2],
    blocks: Blocks,
    entering: &CubeTensor,
    to: Results<'_>,
) {
    let none = map.empty([1], map.x.dtype);
    let [y, borders] = [to.y, to.borders].map(|tensor| tensor.unwrap_or(&none).clone());
    let blocks = blocks.spread().staged(shared_bytes(map), Blocks::chunks_bytes);
    chunks::launch(
        &map.x.client,
        count(map, blocks),
        CubeDim::new_1d(blocks.units() as u32),
        blocks.wide,
        blocks.pair,
        rows.clone().into_buffer_arg(),
        keys.clone().into_buffer_arg(),
        map.c.clone().into_buffer_arg(),
        map.log_a.clone().into_buffer_arg(),
        entering.clone().into_buffer_arg(),
        y.into_buffer_arg(),
        borders.into_buffer_arg(),
        to.states.clone().into_buffer_arg(),
        sizes(map),
        blocks,
        dtype_to_storage_type(map.x.dtype),
    );
}
