//! SSD on every CubeCL backend: wgpu, Vulkan, CUDA, ROCm, Metal; where there are tensor cores attention, and distances
//! between mixing matrices; the maps beside them ([`layers`]), and the rows and columns of states ([`batch`]).
//!
//! The portable kernel is the recurrence with the state in registers ([`walk`]); its reverse pass is the
//! same map three more times ([`backward`]). Where a device multiplies matrices in the dtype of `x`, the
//! chunked form takes over ([`chunks`], [`gradients`]). Sums and states are in f32 whatever the dtype of
//! `x`. No float atomics: results do not depend on the order that cubes run in.

#![allow(clippy::too_many_arguments, reason = "kernels take their arrays one by one")]
#![allow(clippy::needless_range_loop, reason = "kernels have no iterators over arrays")]

mod attention;
mod backward;
mod batch;
mod chunks;
mod decay;
mod decays;
mod forward;
mod gradients;
mod groups;
mod layers;
mod map;
mod mixing;
mod mma;
mod spans;
mod tensor_cores;
mod tiles;
mod walk;

use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use cubecl::client::Client;

use super::ops::SsdOps;
use map::Map;

pub(super) use attention::fits as attention_fits;
pub(super) use layers::step_fits;
#[cfg(feature = "cuda")]
pub(super) use layers::{sum_of_parts, sum_of_parts_onto};
pub(super) use mixing::fits as distances_fit;
pub use tensor_cores::emulate_tensor_cores;

/// Rows of the state that a unit can hold in registers.
pub(super) const WIDEST: usize = 128;

/// Whether the kernels take values of `dtype` with head dimension `p` and state size `n`.
pub(super) fn fits(client: &Client, dtype: DType, p: usize, n: usize) -> bool {
    let hardware = &client.properties().hardware;
    let shared = 4 * (2 * walk::TILE * WIDEST + walk::TILE * map::UNITS + walk::TILE);
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
        && p.max(n) <= WIDEST
        && hardware.max_units_per_cube as usize >= map::UNITS
        && hardware.max_shared_memory_size >= shared
}

/// How SSD is computed in `dtype`, with head dimension and state size 64, if at all.
pub(super) fn ssd_form(client: &Client, dtype: DType) -> Option<&'static str> {
    const SIZE: usize = 64;
    if tensor_cores::able(client, dtype, SIZE) {
        return Some("chunks on tensor cores");
    }
    fits(client, dtype, SIZE, SIZE).then_some("recurrence, state in registers")
}

impl SsdOps for CubeBackend {
    fn ssd_forward(
        x: FloatTensor<Self>,
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        state: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let map = Map::new([x, log_a, b, c, state]);
        match tensor_cores::plan(&map) {
            Some(blocks) => tensor_cores::forward(&map, blocks),
            None => forward::forward(&map),
        }
    }

    fn ssd_backward(
        x: FloatTensor<Self>,
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        state: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        dstate: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let map = Map::new([x, log_a, b, c, state]);
        let gradients = match tensor_cores::plan(&map) {
            Some(blocks) => tensor_cores::backward(&map, blocks, dy, dstate),
            None => backward::backward(&map, dy, dstate),
        };
        (gradients.x, gradients.log_a, gradients.b, gradients.c, gradients.state)
    }
}
