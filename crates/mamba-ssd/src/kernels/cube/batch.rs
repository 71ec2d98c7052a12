//! Rows and columns of a state's buffers: what comes is put into their room, what leaves is closed up from behind.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::Shape;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::layers::{cubes, empty, own};
use crate::kernels::batch::{BatchOps, ROOM};

/// Where a block `[rows heads columns d]` lies in memory, in accesses.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Place {
    first: usize,
    row: usize,
    head: usize,
    column: usize,
}

/// Accesses in a column, columns and heads of a block that is written, and its columns in front, which are zeros.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Block {
    accesses: usize,
    columns: usize,
    heads: usize,
    zeros: usize,
    /// All accesses.
    count: usize,
}

/// Writes a block of keys and one of values. `never` is 0: a kernel that does not read a buffer vouches for all of it, also where the
/// rest is not there for want of memory.
#[cube(launch)]
fn put<E: Float, W: Size>(
    k: &[Vector<E, W>],
    v: &[Vector<E, W>],
    into_k: &mut [Vector<E, W>],
    into_v: &mut [Vector<E, W>],
    from: Sequence<Place>,
    to: Sequence<Place>,
    block: Block,
    never: u32,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= block.count {
        terminate!();
    }
    let (access, rest) = (ABSOLUTE_POS % block.accesses, ABSOLUTE_POS / block.accesses);
    let (column, rest) = (rest % block.columns, rest / block.columns);
    let (head, row) = (rest % block.heads, rest / block.heads);
    let (mut key, mut value) = (Vector::new(E::new(0.0)), Vector::new(E::new(0.0)));
    if column >= block.zeros {
        let column = column - block.zeros;
        key = k[place(&from[0], row, head, column) + access];
        value = v[place(&from[1], row, head, column) + access];
    }
    let (to_k, to_v) = (place(&to[0], row, head, column) + access, place(&to[1], row, head, column) + access);
    if never != 0 {
        key = into_k[to_k];
        value = into_v[to_v];
    }
    into_k[to_k] = key;
    into_v[to_v] = value;
}

#[cube]
fn place(of: &Place, row: usize, head: usize, column: usize) -> usize {
    of.first + row * of.row + head * of.head + column * of.column
}

/// Copies an array to a place in another; `never` is 0, as in [`put`].
#[cube(launch)]
fn put_flat<E: Float, W: Size>(
    source: &[Vector<E, W>],
    target: &mut [Vector<E, W>],
    first: usize,
    count: usize,
    never: u32,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < count {
        let mut number = source[ABSOLUTE_POS];
        if never != 0 {
            number = target[first + ABSOLUTE_POS];
        }
        target[first + ABSOLUTE_POS] = number;
    }
}

/// Copies rows to the places of others.
#[cube(launch)]
fn move_rows<E: Float, I: Int, W: Size>(
    state: &mut [Vector<E, W>],
    moves: &[I], // 2 count
    count: usize,
    row: usize,
    head: usize,
    heads: usize,
    accesses: usize, // of a head
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let (access, rest) = (ABSOLUTE_POS % accesses, ABSOLUTE_POS / accesses);
    let (of_head, index) = (rest % heads, rest / heads);
    if index >= count {
        terminate!();
    }
    let at = of_head * head + access;
    let (from, to) = (usize::cast_from(moves[index]), usize::cast_from(moves[count + index]));
    state[to * row + at] = state[from * row + at];
}

/// The first number behind a view, counted from its own first.
pub(super) fn extent(tensor: &CubeTensor) -> usize {
    if tensor.meta.shape().iter().any(|&length| length == 0) {
        return 0;
    }
    let steps = tensor.meta.shape().iter().zip(tensor.meta.strides().iter());
    1 + steps.map(|(length, stride)| (length - 1) * stride).sum::<usize>()
}

/// A view's buffer from its first number on, `count` of them: a kernel may reach as many numbers of an argument as its
/// shape has, which are fewer than a view's extent.
pub(super) fn buffer(tensor: &CubeTensor, count: usize) -> BufferArg {
    let tensor = tensor.clone();
    let shape = Shape::from([count]);
    CubeTensor::new_contiguous(tensor.client, tensor.device, shape, tensor.handle, tensor.dtype)
        .into_buffer_arg()
}

/// The same numbers with other lengths of the axes.
fn resized(tensor: CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    let mut tensor = tensor;
    tensor.meta.shape = shape.into();
    tensor
}

/// Numbers in an access, of 16 bytes where all of these are multiples of it.
fn wide(tensor: &CubeTensor, numbers: &[usize]) -> usize {
    let most = 16 / tensor.dtype.size();
    if numbers.iter().all(|number| number.is_multiple_of(most)) { most } else { 1 }
}

/// Numbers in the buffer of a tensor that begins with it. What is cut off its end is what it was rounded up by: burn's views are
/// cut at multiples of the alignment.
fn held(tensor: &CubeTensor) -> Option<usize> {
    let (handle, alignment) = (&tensor.handle, tensor.client.properties().memory.alignment);
    let (start, end) = (handle.offset_start.unwrap_or(0), handle.offset_end.unwrap_or(0));
    let whole = start == 0 && end < alignment;
    whole.then(|| (handle.size() - end) as usize / tensor.dtype.size())
}

/// Whether a cache lies as `[b + room, kv, s + room, d]`.
fn is_by_columns(cache: &CubeTensor) -> bool {
    let [_, kv, s, d]: [usize; 4] = cache.shape().dims();
    let strides = cache.meta.strides();
    strides[3] == 1 && strides[2] == d && strides[1] >= s * d && strides[0] == kv * strides[1]
}

/// Whether a cache is alone in a buffer with room for so many more rows and columns.
fn has_room(cache: &CubeTensor, rows: usize, columns: usize) -> bool {
    let [b, _, s, d]: [usize; 4] = cache.shape().dims();
    let strides = cache.meta.strides();
    let fits = |held| (b + rows) * strides[0] <= held && (s + columns) * d <= strides[1];
    is_by_columns(cache) && cache.can_mut() && held(cache).is_some_and(fits)
}

/// Copies in buffers with room for so many more rows and columns, and for what is to spare of both while kernels can count that far.
fn with_room(
    caches: [CubeTensor; 2],
    [rows, columns]: [usize; 2],
    [spare_rows, spare_columns]: [usize; 2],
) -> [CubeTensor; 2] {
    let [b, kv, s, d]: [usize; 4] = caches[0].shape().dims();
    let (least, roomy) = ([b + rows, s + columns], [b + rows + spare_rows, s + columns + spare_columns]);
    let counted = |[rows, columns]: [usize; 2]| rows * kv * columns * d <= u32::MAX as usize;
    let [rows, columns] = if counted(roomy) { roomy } else { least };
    let copies = caches.each_ref().map(|cache| {
        let room = empty(cache, [rows, kv, columns, d], cache.dtype);
        resized(room, [b, kv, s, d])
    });
    if s > 0 {
        put_block(caches, &copies, [0, 0], s);
    }
    copies
}

/// Writes `more` of keys and values into `columns` columns of their buffers, of which the last ones are theirs, from a
/// row and a column on.
fn put_block(more: [CubeTensor; 2], into: &[CubeTensor; 2], [row, column]: [usize; 2], columns: usize) {
    let more =
        more.map(|tensor| if tensor.meta.strides()[3] == 1 { tensor } else { into_contiguous(tensor) });
    let [b, heads, t, d]: [usize; 4] = more[0].shape().dims();
    let all = more.iter().chain(into).flat_map(|tensor| tensor.meta.strides()[..3].to_vec());
    let wide = wide(&into[0], &all.chain([d]).collect::<Vec<_>>());
    let place = |tensor: &CubeTensor, row: usize, column: usize| {
        let strides = [0, 1, 2].map(|axis| tensor.meta.strides()[axis] / wide);
        let first = row * strides[0] + column * strides[2];
        PlaceLaunch::new(first, strides[0], strides[1], strides[2])
    };
    let places = |tensors: &[CubeTensor; 2], row, column| {
        let mut sequence = SequenceArg::new();
        tensors.iter().for_each(|tensor| sequence.push(place(tensor, row, column)));
        sequence
    };
    let count = b * heads * columns * d / wide;
    let block = BlockLaunch::new(d / wide, columns, heads, columns - t, count);
    let (cubes, dim) = cubes(&into[0], count);
    let room = |tensor: &CubeTensor| {
        let strides = tensor.meta.strides();
        buffer(
            tensor,
            (row + b - 1) * strides[0] + (heads - 1) * strides[1] + (column + columns) * strides[2],
        )
    };
    put::launch(
        &into[0].client,
        cubes,
        dim,
        wide,
        buffer(&more[0], extent(&more[0])),
        buffer(&more[1], extent(&more[1])),
        room(&into[0]),
        room(&into[1]),
        places(&more, 0, 0),
        places(into, row, column),
        block,
        0,
        dtype_to_storage_type(into[0].dtype),
    );
}

/// Copies an array to a place in another, counted in numbers.
fn put_at(source: CubeTensor, target: &CubeTensor, first: usize) {
    let source = into_contiguous(source);
    let count = source.shape().num_elements();
    let wide = wide(target, &[count, first]);
    let (cubes, dim) = cubes(target, count / wide);
    put_flat::launch(
        &target.client,
        cubes,
        dim,
        wide,
        source.into_buffer_arg(),
        buffer(target, first + count),
        first / wide,
        count / wide,
        0,
        dtype_to_storage_type(target.dtype),
    );
}

impl BatchOps for CubeBackend {
    fn append_columns(
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        more_k: FloatTensor<Self>,
        more_v: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let ([b, kv, s, d], t) = (k.shape().dims(), more_k.shape()[2]);
        let caches = match has_room(&k, 0, t) && has_room(&v, 0, t) {
            true => [k, v],
            false => with_room([k, v], [0, t], [0, ROOM + (s + t) / 2]),
        };
        put_block([more_k, more_v], &caches, [0, s], t);
        caches.map(|cache| resized(cache, [b, kv, s + t, d])).into()
    }

    fn append_cached_rows(
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        more_k: FloatTensor<Self>,
        more_v: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let ([b, kv, s, d], m) = (k.shape().dims(), more_k.shape()[0]);
        let caches = match has_room(&k, m, 0) && has_room(&v, m, 0) {
            true => [k, v],
            false => with_room([k, v], [m, 0], [(b + m) / 4, ROOM + s / 2]),
        };
        put_block([more_k, more_v], &caches, [b, 0], s);
        caches.map(|cache| resized(cache, [b + m, kv, s, d])).into()
    }

    fn append_rows(state: FloatTensor<Self>, more: FloatTensor<Self>) -> FloatTensor<Self> {
        let ([b, w], m) = (state.shape().dims(), more.shape()[0]);
        let fits = |held| (b + m) * w <= held;
        let has_room = state.is_contiguous() && state.can_mut() && held(&state).is_some_and(fits);
        let buffer = if has_room {
            state
        } else {
            let buffer = empty(&state, [b + m + (b + m) / 4, w], state.dtype);
            put_at(state, &buffer, 0);
            buffer
        };
        put_at(more, &buffer, b * w);
        resized(buffer, [b + m, w])
    }

    fn keep_rows(
        state: FloatTensor<Self>,
        moves: IntTensor<Self>,
        count: usize,
        kept: usize,
    ) -> FloatTensor<Self> {
        let mut shape = state.shape();
        let is_cache = shape.num_dims() == 4 && is_by_columns(&state);
        let state = if is_cache && state.can_mut() { state } else { own(state) };
        let strides = state.meta.strides();
        let row = strides[0];
        let (head, heads, length) = match is_cache {
            true => (strides[1], shape[1], shape[2] * shape[3]),
            false => (0, 1, row),
        };
        let wide = wide(&state, &[row, head, length]);
        if count * length > 0 {
            let (cubes, dim) = cubes(&state, count * heads * length / wide);
            let index = dtype_to_storage_type(moves.dtype);
            move_rows::launch(
                &state.client,
                cubes,
                dim,
                wide,
                buffer(&state, extent(&state)),
                into_contiguous(moves).into_buffer_arg(),
                count,
                row / wide,
                head / wide,
                heads,
                length / wide,
                dtype_to_storage_type(state.dtype),
                index,
            );
        }
        shape[0] = kept;
        resized(state, shape)
    }
}
