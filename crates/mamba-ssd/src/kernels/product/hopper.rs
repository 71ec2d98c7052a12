//! The kernel on a CubeCL device, and its launch.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::features::Tma;
use cubecl::prelude::*;
use cubecl_cpp::cuda::ptx::{generic_to_shared, tensor_map_address};
use half::bf16;

use super::ops::{FusedProductOps, ProductOps, product_shape};
use super::plan::{ALIGNMENT, LINE, Major, Plan};
use super::ptx::Kernel;
use crate::kernels::cube::{sum_of_parts, sum_of_parts_onto};

/// Multiprocessors of a device that does not say.
const MULTIPROCESSORS: usize = 132;

/// Whether the device is a Hopper GPU under CUDA: the first with a copy engine for tensors, and the last
/// without block-scaled products. Later ones have no `wgmma`.
pub(super) fn available(client: &Client) -> bool {
    let features = client.features();
    client.name() == "cuda" && features.tma.contains(Tma::Base) && features.matmul.scaled_mma.is_empty()
}

#[cube(launch)]
fn multiply(
    a: &TensorMap<bf16, Tiled>,
    b: &TensorMap<bf16, Tiled>,
    gate: &TensorMap<bf16, Tiled>, // where there is one
    c: &TensorMap<bf16, Tiled>,
    parts: &mut [f32], // slices m n
    m: u32,
    n: u32,
    k: u32,
    slices: u32,
    #[comptime] kernel: Kernel,
) {
    let shared = Shared::<[u32]>::new_aligned_slice(comptime!(kernel.tile.shared_bytes() / 4), 128usize);
    let smem = generic_to_shared::<u32>(shared.as_ptr());
    let map_a = tensor_map_address(a);
    let map_b = tensor_map_address(b);
    let map_gate = tensor_map_address(gate);
    let map_c = tensor_map_address(c);
    let parts = parts.as_ptr();
    gpu_asm!(
        "{{
.reg .b32 smem, m, n, k, slices;
.reg .b64 map_a, map_b, map_gate, map_c, parts;
mov.b32 smem, {};
mov.b64 map_a, {};
mov.b64 map_b, {};
mov.b64 map_gate, {};
mov.b64 map_c, {};
mov.b64 parts, {};
mov.b32 m, {};
mov.b32 n, {};
mov.b32 k, {};
mov.b32 slices, {};
{text}
}}",
        in(_) smem, in(_) map_a, in(_) map_b, in(_) map_gate, in(_) map_c, in(_) parts, in(_) m,
        in(_) n, in(_) k, in(_) slices, text = const kernel.ptx()
    );
}

impl ProductOps for CubeBackend {
    fn product(a: FloatTensor<Self>, b: FloatTensor<Self>, transposed: [bool; 2]) -> FloatTensor<Self> {
        let shape = product_shape(&a.shape(), &b.shape(), &transposed);
        let dtype = a.dtype;
        match multiplied(a, b, transposed) {
            Product::Whole(c) => c,
            Product::Slices(parts) => sum_of_parts(parts, shape, dtype),
        }
    }
}

impl FusedProductOps for CubeBackend {
    fn product_onto(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        onto: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        match multiplied(a, b, [false; 2]) {
            Product::Whole(c) => Self::float_add(onto, c),
            Product::Slices(parts) => sum_of_parts_onto(parts, onto),
        }
    }

    fn product_gated(
        a: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [[m, k], [_, n]] = [&a, &b].map(|matrix| matrix.shape().dims());
        let plan = Plan::gated([m, n, k], multiprocessors(&a));
        let c = empty(&a, [m, n], a.dtype);
        let none = empty(&a, [1], DType::F32);
        let [a, gate, b] = [a, gate, b].map(in_rows);
        launch([a, b, c.clone()], Some(gate), none, [m, n, k], [false; 2], plan);
        c
    }
}

/// A product, or the sums of slices of its depth, `[slices m n]` in f32.
enum Product {
    Whole(CubeTensor),
    Slices(CubeTensor),
}

fn multiplied(a: CubeTensor, b: CubeTensor, transposed: [bool; 2]) -> Product {
    let shape = product_shape(&a.shape(), &b.shape(), &transposed);
    let [m, n] = shape.dims();
    let k = a.shape()[usize::from(!transposed[0])];
    let plan = Plan::new([m, n, k], multiprocessors(&a));
    let c = empty(&a, shape, a.dtype);
    let parts = if plan.slices == 1 { 1 } else { plan.slices * m * n };
    let parts = empty(&a, [parts], DType::F32);
    let [a, b] = [a, b].map(in_rows);
    launch([a, b, c.clone()], None, parts.clone(), [m, n, k], transposed, plan);
    if plan.slices == 1 { Product::Whole(c) } else { Product::Slices(parts) }
}

fn multiprocessors(like: &CubeTensor) -> usize {
    let hardware = &like.client.properties().hardware;
    hardware.num_streaming_multiprocessors.map_or(MULTIPROCESSORS, |n| n as usize)
}

fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape.into(), dtype)
}

/// A matrix whose rows the copy engine can read: a view of whole rows stays as it is.
fn in_rows(matrix: CubeTensor) -> CubeTensor {
    let strides = matrix.meta.strides();
    let readable = strides[1] == 1 && strides[0].is_multiple_of(ALIGNMENT);
    if readable { matrix } else { into_contiguous(matrix) }
}

fn launch(
    [a, b, c]: [CubeTensor; 3],
    gate: Option<CubeTensor>,
    parts: CubeTensor,
    [m, n, k]: [usize; 3],
    transposed: [bool; 2],
    plan: Plan,
) {
    let client = c.client.clone();
    let tile = plan.tile;
    let kernel = Kernel {
        tile,
        a: if transposed[0] { Major::Outer } else { Major::Depth },
        b: if transposed[1] { Major::Depth } else { Major::Outer },
        sliced: plan.slices > 1,
        gated: gate.is_some(),
    };
    let gate = gate.unwrap_or_else(|| b.clone());
    multiply::launch(
        &client,
        CubeCount::Static(plan.cubes as u32, 1, 1),
        CubeDim::new_1d(tile.threads() as u32),
        operand(a, kernel.a, tile.m),
        operand(b, kernel.b, tile.n),
        operand(gate, kernel.b, tile.n),
        boxes(c, LINE),
        parts.into_buffer_arg(),
        m as u32,
        n as u32,
        k as u32,
        plan.slices as u32,
        kernel,
    );
}

fn operand(matrix: CubeTensor, major: Major, outer: usize) -> TensorMapArg<Tiled> {
    match major {
        Major::Depth => boxes(matrix, outer),
        Major::Outer => boxes(matrix, LINE),
    }
}

/// A matrix in boxes of `rows` lines of 64.
fn boxes(matrix: CubeTensor, rows: usize) -> TensorMapArg<Tiled> {
    let element = dtype_to_storage_type(matrix.dtype);
    let tile = TiledArgs { tile_size: [rows, LINE].into() };
    TensorMapArg::new(tile, matrix.into_tensor_arg(), element)
        .with_swizzle(TensorMapSwizzle::B128)
        .with_prefetch(TensorMapPrefetch::B256)
}
