//! Distances between SSD's and attention's matrices on tensor cores, a tile of 64 tokens by 64 columns at a time.
//!
//! [`rows`] walks over the columns that a tile of tokens sees, [`columns`] over the tokens that see a tile of columns;
//! [`decay`] makes the gradient of the decays of what they add up. Every result is written by one cube. Products take
//! their factors in the dtype of C and add up in f32; the entries of both matrices stay in f32.

mod columns;
mod decay;
mod entry;
mod rows;
mod sizes;

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

use super::attention::tile::StridesLaunch;
use super::attention::{WIDEST, in_rows};
use super::chunks::{Blocks, WIDE};
use super::groups::add_up;
use super::layers::{empty, sum_of_parts};
use super::tensor_cores::{emulated_rows, multiplies};
use crate::kernels::attention::AttentionOps;
use crate::kernels::mixing::MixingOps;
use rows::Wanted;
use sizes::SizesLaunch;

/// Whether the kernels take states and heads of these `sizes` in `dtype`.
pub(in crate::kernels) fn fits(client: &Client, dtype: DType, sizes: [usize; 2]) -> bool {
    let blocks = blocks(sizes);
    // The slopes of a mean over many rows are below what f16 can hold.
    let able = || dtype == DType::BF16 && multiplies(client, dtype, blocks.units(), bytes(&blocks));
    blocks.emulated || sizes.iter().all(|size| size.is_multiple_of(WIDE) && *size <= WIDEST) && able()
}

/// Tiles as wide as the wider of the two.
fn blocks([n, e]: [usize; 2]) -> Blocks {
    let real = Blocks::new(n.max(e));
    emulated_rows().map_or(real, |rows| real.emulated(rows))
}

/// Bytes of shared memory of the kernel that needs most.
fn bytes(blocks: &Blocks) -> usize {
    2 * 6 * blocks.n_tile() + 4 * (8 + 6) * blocks.chunk() + 4
}

/// The factors of both, and their sizes.
struct Inputs {
    log_a: CubeTensor,
    b: CubeTensor,
    c: CubeTensor,
    d: CubeTensor,
    q: CubeTensor,
    k: CubeTensor,
    first: CubeTensor,
    batch: usize,
    t: usize,
    h: usize,
    blocks: Blocks,
}

impl Inputs {
    fn new([log_a, b, c, d, q, k]: [CubeTensor; 6], first: CubeTensor) -> Self {
        let ([_, _, _, n], [batch, t, h, e]) = (c.shape().dims(), q.shape().dims());
        let blocks = blocks([n, e]);
        let [b, c, q, k] = [b, c, q, k].map(|tensor| in_rows(tensor, blocks.wide));
        let [log_a, d, first] = [log_a, d, first].map(into_contiguous);
        Self { log_a, b, c, d, q, k, first, batch, t, h, blocks }
    }

    fn sizes(&self) -> SizesLaunch {
        let [_, _, groups, n] = self.c.shape().dims();
        let [_, _, kv, e] = self.k.shape().dims();
        let [b, c, q, k] = [&self.b, &self.c, &self.q, &self.k].map(|tensor| {
            let strides = tensor.meta.strides();
            StridesLaunch::new(strides[0], strides[1], strides[2])
        });
        SizesLaunch::new(self.t, self.h, groups, n, kv, e, b, c, q, k)
    }

    /// A cube for every head and tile.
    fn count(&self) -> CubeCount {
        let tiles = self.t.div_ceil(self.blocks.chunk());
        CubeCount::Static((self.batch * self.h) as u32, tiles as u32, 1)
    }

    fn dim(&self) -> CubeDim {
        CubeDim::new_1d(self.blocks.units() as u32)
    }

    /// A number for every row.
    fn of_rows(&self) -> CubeTensor {
        empty(&self.log_a, [self.batch, self.h, self.t], DType::F32)
    }

    fn launch_rows(&self, wanted: Wanted, logs: &CubeTensor, slopes: &CubeTensor, to: OfRows<'_>) {
        rows::rows::launch(
            &self.log_a.client,
            self.count(),
            self.dim(),
            self.blocks.wide,
            self.blocks.pair,
            self.log_a.clone().into_buffer_arg(),
            self.b.clone().into_buffer_arg(),
            self.c.clone().into_buffer_arg(),
            self.d.clone().into_buffer_arg(),
            self.q.clone().into_buffer_arg(),
            self.k.clone().into_buffer_arg(),
            self.first.clone().into_buffer_arg(),
            logs.clone().into_buffer_arg(),
            slopes.clone().into_buffer_arg(),
            to.dc.clone().into_buffer_arg(),
            to.sums.clone().into_buffer_arg(),
            to.corners.clone().into_buffer_arg(),
            self.sizes(),
            self.blocks,
            wanted,
            dtype_to_storage_type(self.c.dtype),
            dtype_to_storage_type(self.first.dtype),
        );
    }
}

/// What a walk over columns writes.
struct OfRows<'a> {
    dc: &'a CubeTensor,
    sums: &'a CubeTensor,
    corners: &'a CubeTensor,
}

impl MixingOps for CubeBackend {
    fn row_distances(
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        first: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        // The logs come with outputs that nobody reads.
        let (_, logs) = Self::attention_forward(q.clone(), k.clone(), k.clone(), first.clone());
        let inputs = Inputs::new([log_a, b, c, d, q, k], first);
        let (sums, [none, corners]) =
            (inputs.of_rows(), [inputs.c.dtype, DType::F32].map(|dtype| empty(&inputs.c, [1], dtype)));
        inputs.launch_rows(
            Wanted::Squares,
            &logs,
            &logs,
            OfRows { dc: &none, sums: &sums, corners: &corners },
        );
        (sums, logs)
    }

    fn row_distances_backward(
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        first: IntTensor<Self>,
        logs: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let inputs = Inputs::new([log_a, b, c, d, q, k], first);
        let [logs, slopes] = [logs, grad].map(into_contiguous);
        let Inputs { batch, t, h, .. } = inputs;
        let (like, dtype) = (&inputs.c, inputs.c.dtype);
        let [_, _, groups, n] = like.shape().dims();
        let [dc, db] = [(); 2].map(|()| empty(like, [batch, t, h, n], dtype));
        let [of_rows, of_columns, corners] = [(); 3].map(|()| inputs.of_rows());
        inputs.launch_rows(
            Wanted::Gradients,
            &logs,
            &slopes,
            OfRows { dc: &dc, sums: &of_rows, corners: &corners },
        );
        columns::columns::launch(
            &like.client,
            inputs.count(),
            inputs.dim(),
            inputs.blocks.wide,
            inputs.blocks.pair,
            inputs.log_a.clone().into_buffer_arg(),
            inputs.b.clone().into_buffer_arg(),
            inputs.c.clone().into_buffer_arg(),
            inputs.d.clone().into_buffer_arg(),
            inputs.q.clone().into_buffer_arg(),
            inputs.k.clone().into_buffer_arg(),
            inputs.first.clone().into_buffer_arg(),
            logs.into_buffer_arg(),
            slopes.into_buffer_arg(),
            db.clone().into_buffer_arg(),
            of_columns.clone().into_buffer_arg(),
            inputs.sizes(),
            inputs.blocks,
            dtype_to_storage_type(dtype),
            dtype_to_storage_type(inputs.first.dtype),
        );
        let (dlog_a, dd) = decay::decay(&inputs, of_rows, of_columns, corners);
        let of_groups = [batch, t, groups, n];
        (dlog_a, add_up(db, of_groups), add_up(dc, of_groups), sum_of_parts(dd, [h], inputs.d.dtype))
    }
}
