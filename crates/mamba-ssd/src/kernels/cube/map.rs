//! The tensors of one map on a CubeCL device, and walks over them.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::{empty_device_contiguous_dtype, zeros_client};
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

use super::decay::CHUNK;
use super::spans::{carry, span_totals};
use super::walk::{Form, SizesLaunch, walk};

/// Units of a walking cube.
pub(super) const UNITS: usize = 64;

/// Tokens below which a span is not worth another pass.
const SHORTEST_SPAN: usize = 2 * CHUNK;

/// Multiprocessors of a device that does not say.
const MULTIPROCESSORS: usize = 16;

/// Five contiguous inputs, and their sizes.
pub(super) struct Map {
    pub x: CubeTensor,
    pub log_a: CubeTensor,
    pub b: CubeTensor,
    pub c: CubeTensor,
    pub state: CubeTensor,
    pub batch: usize,
    pub t: usize,
    pub heads: usize,
    pub groups: usize,
    pub p: usize,
    pub n: usize,
}

/// Which arrays a walk reads as rows, keys and queries, `[b t h width]` each.
pub(super) struct Roles<'a> {
    pub rows: &'a CubeTensor,
    pub keys: &'a CubeTensor,
    pub queries: &'a CubeTensor,
    pub reverse: bool,
    pub transposed: bool,
}

impl Map {
    pub fn new(inputs: [CubeTensor; 5]) -> Self {
        let [x, log_a, b, c, state] = inputs.map(into_contiguous);
        let [batch, t, heads, p] = x.shape().dims();
        let [_, _, groups, n] = b.shape().dims();
        Self { x, log_a, b, c, state, batch, t, heads, groups, p, n }
    }

    /// Rows `x`, keys `B`, queries `C`.
    pub fn forward_roles(&self) -> Roles<'_> {
        Roles { rows: &self.x, keys: &self.b, queries: &self.c, reverse: false, transposed: false }
    }

    pub fn empty(&self, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
        let shape = shape.into();
        let count = shape.num_elements();
        assert!(
            count <= u32::MAX as usize,
            "kernels count in 32 bits, too few for {count} numbers: split the batch"
        );
        empty_device_contiguous_dtype(self.x.client.clone(), self.x.device.clone(), shape, dtype)
    }

    pub fn chunks(&self) -> usize {
        self.t.div_ceil(CHUNK)
    }

    /// Tokens of a span: the whole sequence where heads and rows of the batch fill the device.
    pub fn span(&self) -> usize {
        let hardware = &self.x.client.properties().hardware;
        let wanted = 2 * hardware.num_streaming_multiprocessors.map_or(MULTIPROCESSORS, |n| n as usize);
        let cubes = self.batch * self.heads * self.p.div_ceil(UNITS);
        let spans = (wanted / cubes).min(self.t / SHORTEST_SPAN).max(1);
        self.t.div_ceil(spans).next_multiple_of(CHUNK)
    }

    pub fn spans(&self) -> usize {
        self.t.div_ceil(self.span())
    }

    /// The states `[b h spans p n]` that enter each span, and where there are several the one `[b h p n]`
    /// that leaves the last. `own` computes every span's own state from no state at all.
    pub fn enter_spans(
        &self,
        initial: CubeTensor,
        reverse: bool,
        own: impl FnOnce(&CubeTensor, &CubeTensor),
    ) -> (CubeTensor, Option<CubeTensor>) {
        let spans = self.spans();
        if spans == 1 {
            return (initial, None);
        }
        let shape = Shape::new([self.batch, self.heads, spans, self.p, self.n]);
        // One axis: with several, CUDA may pad rows, which the kernels would read without a stride.
        let flat = Shape::new([shape.num_elements()]);
        let zeros = zeros_client(self.x.client.clone(), self.x.device.clone(), flat, DType::F32);
        let states = self.empty(shape, DType::F32);
        own(&zeros, &states);
        let last = self.carry(&states, initial, reverse);
        (states, Some(last))
    }

    pub fn enter_spans_by_walk(
        &self,
        roles: &Roles<'_>,
        initial: CubeTensor,
    ) -> (CubeTensor, Option<CubeTensor>) {
        self.enter_spans(initial, roles.reverse, |zeros, states| {
            let none = self.empty([1], self.x.dtype);
            self.walk(roles, zeros, Outputs { out: &none, states, outputs: false, save: None });
        })
    }

    fn carry(&self, states: &CubeTensor, initial: CubeTensor, reverse: bool) -> CubeTensor {
        let (spans, client) = (self.spans(), &self.x.client);
        let totals = self.empty([self.batch, self.heads, spans], DType::F32);
        span_totals::launch(
            client,
            CubeCount::Static((self.batch * self.heads) as u32, spans as u32, 1),
            CubeDim::new_1d(UNITS as u32),
            self.log_a.clone().into_buffer_arg(),
            totals.clone().into_buffer_arg(),
            self.t,
            self.heads,
            self.span(),
            UNITS,
        );

        let last = self.empty(initial.shape(), DType::F32);
        let units = initial.shape().num_elements();
        let dim = CubeDim::new(client, units);
        carry::launch(
            client,
            calculate_cube_count_elemwise(client, units, dim),
            dim,
            states.clone().into_buffer_arg(),
            totals.into_buffer_arg(),
            initial.into_buffer_arg(),
            last.clone().into_buffer_arg(),
            self.batch * self.heads,
            spans,
            self.p * self.n,
            reverse,
        );
        last
    }

    /// One walk over all spans at once.
    pub fn walk(&self, roles: &Roles<'_>, entering: &CubeTensor, to: Outputs<'_>) {
        let [_, _, row_heads, rows] = roles.rows.shape().dims();
        let [_, _, key_heads, width] = roles.keys.shape().dims();
        let [_, _, query_heads, _] = roles.queries.shape().dims();
        let form = Form {
            units: UNITS,
            vectors: width.div_ceil(4).next_power_of_two(),
            reverse: roles.reverse,
            transposed: roles.transposed,
            outputs: to.outputs,
            save: to.save.is_some(),
        };
        let cubes = [self.batch * self.heads, rows.div_ceil(UNITS), self.spans()].map(|n| n as u32);
        let sizes = SizesLaunch::new(
            self.t,
            self.heads,
            row_heads,
            key_heads,
            query_heads,
            rows,
            width,
            self.span(),
            CHUNK,
            to.save.unwrap_or(0),
        );
        walk::launch(
            &self.x.client,
            CubeCount::Static(cubes[0], cubes[1], cubes[2]),
            CubeDim::new_1d(UNITS as u32),
            roles.rows.clone().into_buffer_arg(),
            roles.keys.clone().into_buffer_arg(),
            roles.queries.clone().into_buffer_arg(),
            self.log_a.clone().into_buffer_arg(),
            entering.clone().into_buffer_arg(),
            to.out.clone().into_buffer_arg(),
            to.states.clone().into_buffer_arg(),
            sizes,
            form,
            dtype_to_storage_type(self.x.dtype),
        );
    }
}

/// Gradients of the inputs, in their shapes.
pub(super) struct Gradients {
    pub x: CubeTensor,
    pub log_a: CubeTensor,
    pub b: CubeTensor,
    pub c: CubeTensor,
    pub state: CubeTensor,
}

/// What a walk writes: outputs, and states at the end of every span, or from the given place on at the
/// border of every chunk.
pub(super) struct Outputs<'a> {
    pub out: &'a CubeTensor,
    pub states: &'a CubeTensor,
    pub outputs: bool,
    pub save: Option<usize>,
}
