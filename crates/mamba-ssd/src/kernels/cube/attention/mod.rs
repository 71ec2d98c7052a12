//! Softmax attention on tensor cores, a tile of 64 tokens by 64 columns at a time.
//!
//! Forward ([`forward`]) and the gradient of the queries ([`queries`]) walk over the columns that a tile of tokens
//! sees; the gradients of keys and values ([`keys`]) walk over the tokens, of all query heads, that see a tile of
//! columns. Every result is written by one cube, so there are no atomics. Products take their factors in the dtype of
//! q and add up in f32.

mod forward;
mod keys;
mod queries;
pub(super) mod tile;
pub(super) mod tokens;

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

use super::batch::{buffer, extent};
use super::chunks::{Blocks, WIDE};
use super::layers::{cubes, empty};
use super::tensor_cores::{emulated_rows, multiplies};
use crate::kernels::attention::AttentionOps;
use tile::{SizesLaunch, StridesLaunch};

/// The widest head.
pub(super) const WIDEST: usize = 128;

/// Whether the kernels take heads of `d` numbers in `dtype`.
pub(in crate::kernels) fn fits(client: &Client, dtype: DType, d: usize) -> bool {
    let blocks = blocks(d);
    let able = || multiplies(client, dtype, blocks.units(), bytes(&blocks));
    blocks.emulated || d.is_multiple_of(WIDE) && d <= WIDEST && able()
}

fn blocks(d: usize) -> Blocks {
    let real = Blocks::new(d);
    emulated_rows().map_or(real, |rows| real.emulated(rows))
}

/// Bytes of shared memory of the kernel that needs most.
fn bytes(blocks: &Blocks) -> usize {
    2 * 6 * blocks.n_tile() + 4 * 6 * blocks.chunk() + 4
}

/// Queries, keys, values and first columns, and their sizes.
struct Inputs {
    q: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    first: CubeTensor,
    b: usize,
    t: usize,
    h: usize,
    s: usize,
    kv: usize,
    d: usize,
    blocks: Blocks,
}

/// How a pass goes over the rows of q.
struct Walk {
    /// Heads that have rows of their own, and rows of each.
    heads: usize,
    rows: usize,
    /// Parts of the columns.
    parts: usize,
    sizes: SizesLaunch,
}

impl Inputs {
    fn new([q, k, v]: [CubeTensor; 3], first: CubeTensor) -> Self {
        let [b, t, h, d] = q.shape().dims();
        let [_, s, kv, _] = k.shape().dims();
        let blocks = blocks(d);
        let [q, k, v] = [q, k, v].map(|tensor| in_rows(tensor, blocks.wide));
        Self { q, k, v, first: into_contiguous(first), b, t, h, s, kv, d, blocks }
    }

    /// Every query head for itself.
    fn by_heads(&self) -> Walk {
        let Self { t, h, kv, d, .. } = *self;
        let strides = self.q.meta.strides();
        let q = StridesLaunch::new(strides[0], strides[1], strides[2]);
        let out = StridesLaunch::new(t * h * d, h * d, d);
        Walk { heads: h, rows: t, parts: 1, sizes: self.sizes([h, t, t, kv], q, out) }
    }

    /// One token, whose query heads are the rows of the head that they share, so that columns are read once.
    fn of_token(&self) -> Walk {
        let Self { h, kv, d, .. } = *self;
        let (share, strides) = (h / kv, self.q.meta.strides());
        let q = StridesLaunch::new(strides[0], strides[2], share * strides[2]);
        let out = StridesLaunch::new(h * d, d, share * d);
        let sizes = self.sizes([kv, share, 1, kv], q, out);
        Walk { heads: kv, rows: share, parts: self.parts(), sizes }
    }

    /// Parts of the columns that keep a device busy, of two tiles at least.
    fn parts(&self) -> usize {
        const USUAL: u32 = 64;
        let processors = self.q.client.properties().hardware.num_streaming_multiprocessors.unwrap_or(USUAL);
        let most = self.s / (2 * self.blocks.chunk());
        (2 * processors as usize / (self.b * self.kv)).clamp(1, most.max(1))
    }

    fn sizes(
        &self,
        [heads, rows, tokens, kv]: [usize; 4],
        q: StridesLaunch,
        out: StridesLaunch,
    ) -> SizesLaunch {
        let [k, v] = [&self.k, &self.v].map(|tensor| {
            let strides = tensor.meta.strides();
            StridesLaunch::new(strides[0], strides[1], strides[2])
        });
        SizesLaunch::new(rows, tokens, self.s, heads, kv, self.d, q, k, v, out)
    }

    /// Queries, keys and values, as far as they reach.
    fn arguments(&self) -> [BufferArg; 3] {
        [&self.q, &self.k, &self.v].map(|tensor| buffer(tensor, extent(tensor)))
    }

    /// A cube for every head and tile of `length`.
    fn count(&self, heads: usize, length: usize) -> CubeCount {
        CubeCount::Static((self.b * heads) as u32, length.div_ceil(self.blocks.chunk()) as u32, 1)
    }

    fn dim(&self) -> CubeDim {
        CubeDim::new_1d(self.blocks.units() as u32)
    }
}

/// A tensor `[.. .. .. d]` whose rows can be read `wide` numbers at a time: a view stays as it is where they can.
pub(super) fn in_rows(tensor: CubeTensor, wide: usize) -> CubeTensor {
    let strides = tensor.meta.strides();
    let readable = strides[3] == 1 && strides[..3].iter().all(|stride| stride.is_multiple_of(wide));
    if readable { tensor } else { into_contiguous(tensor) }
}

impl AttentionOps for CubeBackend {
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let inputs = Inputs::new([q, k, v], first);
        let Inputs { b, t, h, kv, d, blocks, .. } = inputs;
        let together = t == 1 && h / kv <= blocks.chunk();
        let Walk { heads, rows, parts, sizes } = if together { inputs.of_token() } else { inputs.by_heads() };
        let arrays = |parts| {
            let out = empty(&inputs.q, [parts * b, t, h, d], inputs.q.dtype);
            (out, empty(&inputs.q, [parts * b, h, t], DType::F32))
        };
        let (out, logs) = arrays(parts);
        let [q, k, v] = inputs.arguments();
        let tiles = rows.div_ceil(blocks.chunk()) as u32;
        forward::attend::launch(
            &out.client,
            CubeCount::Static((b * heads) as u32, tiles, parts as u32),
            inputs.dim(),
            blocks.wide,
            blocks.pair,
            q,
            k,
            v,
            inputs.first.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            logs.clone().into_buffer_arg(),
            sizes,
            blocks,
            dtype_to_storage_type(inputs.q.dtype),
            dtype_to_storage_type(inputs.first.dtype),
        );
        if parts == 1 {
            return (out, logs);
        }
        let (whole, sums) = arrays(1);
        let (count, dim) = cubes(&whole, b * h * d);
        forward::combine::launch(
            &whole.client,
            count,
            dim,
            out.into_buffer_arg(),
            logs.into_buffer_arg(),
            whole.clone().into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            parts,
            b * h,
            d,
            dtype_to_storage_type(whole.dtype),
        );
        (whole, sums)
    }

    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: IntTensor<Self>,
        out: FloatTensor<Self>,
        logs: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let inputs = Inputs::new([q, k, v], first);
        let [out, logs, grad] = [out, logs, grad].map(into_contiguous);
        let Inputs { b, t, h, s, kv, d, blocks, .. } = inputs;
        let (dtype, index) = (dtype_to_storage_type(grad.dtype), dtype_to_storage_type(inputs.first.dtype));
        let deltas = empty(&grad, [b, h, t], DType::F32);
        let [q, k, v] = inputs.arguments();
        let dq = empty(&grad, grad.shape(), grad.dtype);
        queries::queries::launch(
            &grad.client,
            inputs.count(h, t),
            inputs.dim(),
            blocks.wide,
            blocks.pair,
            q,
            k,
            v,
            inputs.first.clone().into_buffer_arg(),
            out.into_buffer_arg(),
            logs.clone().into_buffer_arg(),
            grad.clone().into_buffer_arg(),
            dq.clone().into_buffer_arg(),
            deltas.clone().into_buffer_arg(),
            inputs.by_heads().sizes,
            blocks,
            dtype,
            index,
        );
        let [dk, dv] = [(); 2].map(|()| empty(&grad, [b, s, kv, d], grad.dtype));
        let [q, k, v] = inputs.arguments();
        keys::keys::launch(
            &dq.client,
            inputs.count(kv, s),
            inputs.dim(),
            blocks.wide,
            blocks.pair,
            q,
            k,
            v,
            inputs.first.clone().into_buffer_arg(),
            logs.into_buffer_arg(),
            deltas.into_buffer_arg(),
            grad.into_buffer_arg(),
            dk.clone().into_buffer_arg(),
            dv.clone().into_buffer_arg(),
            inputs.by_heads().sizes,
            blocks,
            dtype,
            index,
        );
        (dq, dk, dv)
    }
}
