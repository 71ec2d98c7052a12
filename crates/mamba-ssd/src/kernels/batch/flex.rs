//! The operations on Flex tensors.
//!
//! A tensor is a view of its buffer, so what room there is follows from its strides and from how long the buffer is. What nobody else
//! holds is written in place.

use burn::backend::Flex;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, Element, TensorData};
use burn_flex::{FlexTensor, Layout};
use bytemuck::Pod;
use half::{bf16, f16};

use super::{BatchOps, ROOM};
use crate::kernels::flex::integers;
use crate::kernels::token::cache::{Heads, heads_apart, is_by_columns};

/// Runs `$body` with `$type` bound to the element type of `$tensor`.
macro_rules! with_float {
    ($tensor:expr, $type:ident => $body:expr) => {
        match $tensor.dtype() {
            DType::F64 => {
                type $type = f64;
                $body
            }
            DType::F16 => {
                type $type = f16;
                $body
            }
            DType::BF16 => {
                type $type = bf16;
                $body
            }
            _ => {
                type $type = f32;
                $body
            }
        }
    };
}

impl BatchOps for Flex {
    fn append_columns(
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        more_k: FloatTensor<Self>,
        more_v: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        with_float!(k, R => (columns::<R>(k, &more_k), columns::<R>(v, &more_v)))
    }

    fn append_cached_rows(
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        more_k: FloatTensor<Self>,
        more_v: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        with_float!(k, R => (cached_rows::<R>(k, &more_k), cached_rows::<R>(v, &more_v)))
    }

    fn append_rows(state: FloatTensor<Self>, more: FloatTensor<Self>) -> FloatTensor<Self> {
        with_float!(state, R => rows::<R>(state, &more))
    }

    fn keep_rows(
        state: FloatTensor<Self>,
        moves: IntTensor<Self>,
        count: usize,
        kept: usize,
    ) -> FloatTensor<Self> {
        let moves = integers(&moves);
        let (from, to) = moves.split_at(moves.len() / 2);
        let moves = from.iter().zip(to).take(count).map(|(&from, &to)| [from as usize, to as usize]);
        with_float!(state, R => keep::<R>(state, moves, kept))
    }
}

/// `cache [b kv s d]` with `more [b kv t d]` behind.
fn columns<R: Element + Pod>(cache: FlexTensor, more: &FlexTensor) -> FlexTensor {
    let ([b, kv, s, d], [_, _, t, _]) = (dims(&cache), dims(more));
    let mut cache = match has_room(&cache, [0, t]) {
        true => cache,
        false => with_room::<R>(&cache, [b, s + t + ROOM + (s + t) / 2]),
    };
    put::<R>(&mut cache, more, [0, s]);
    resized(cache, vec![b, kv, s + t, d])
}

/// `cache [b kv s d]` with the rows of `more [m kv t d]`, which end in its last column.
fn cached_rows<R: Element + Pod>(cache: FlexTensor, more: &FlexTensor) -> FlexTensor {
    let ([b, kv, s, d], [m, _, t, _]) = (dims(&cache), dims(more));
    let mut cache = match has_room(&cache, [m, 0]) {
        true => cache,
        false => with_room::<R>(&cache, [b + m + (b + m) / 4, s + ROOM + s / 2]),
    };
    let ([row, head], start) = (strides(&cache), cache.layout().start_offset());
    let numbers = cache.storage_mut::<R>();
    for at in (b..b + m).flat_map(|to| (0..kv).map(move |of| start + to * row + of * head)) {
        numbers[at..at + (s - t) * d].fill(R::zeroed());
    }
    put::<R>(&mut cache, more, [b, s - t]);
    resized(cache, vec![b + m, kv, s, d])
}

/// `state [b w]` with the rows of `more`.
fn rows<R: Element + Pod>(state: FlexTensor, more: &FlexTensor) -> FlexTensor {
    let ([b, w], [m, _]): ([usize; 2], [usize; 2]) =
        (state.layout().shape().dims(), more.layout().shape().dims());
    let in_place = state.is_unique() && starts_its_buffer(&state) && (b + m) * w <= held(&state);
    let mut buffer = match in_place {
        true => state,
        false => {
            let mut numbers = vec![R::zeroed(); (b + m + (b + m) / 4) * w];
            numbers[..b * w].copy_from_slice(&state.to_contiguous().storage::<R>()[..b * w]);
            let length = numbers.len();
            FlexTensor::from_data(TensorData::new(numbers, [length / w.max(1), w]))
        }
    };
    let more = more.to_contiguous();
    buffer.storage_mut::<R>()[b * w..(b + m) * w].copy_from_slice(&more.storage::<R>()[..m * w]);
    resized(buffer, vec![b + m, w])
}

/// The first `kept` rows, after moves of some to the places of others.
fn keep<R: Element + Pod>(
    state: FlexTensor,
    moves: impl Iterator<Item = [usize; 2]>,
    kept: usize,
) -> FlexTensor {
    let mut shape: Vec<usize> = state.layout().shape().iter().copied().collect();
    let is_cache = shape.len() == 4 && is_in_rows(&state) && state.is_unique();
    let mut state = match is_cache || state.is_unique() && starts_its_buffer(&state) {
        true => state,
        false => state.to_contiguous(),
    };
    let row = shape[1..].iter().product();
    let (row, head, heads, length) = match is_cache {
        true => (strides(&state)[0], strides(&state)[1], shape[1], shape[2] * shape[3]),
        false => (row, 0, 1, row),
    };
    let start = state.layout().start_offset();
    let numbers = state.storage_mut::<R>();
    for [from, to] in moves {
        for head in (0..heads).map(|of| start + of * head) {
            numbers.copy_within(from * row + head..from * row + head + length, to * row + head);
        }
    }
    shape[0] = kept;
    resized(state, shape)
}

fn dims(cache: &FlexTensor) -> [usize; 4] {
    cache.layout().shape().dims()
}

/// From row to row, and from head to head.
fn strides(cache: &FlexTensor) -> [usize; 2] {
    [0, 1].map(|axis| cache.layout().strides()[axis] as usize)
}

/// Numbers in the buffer.
fn held(tensor: &FlexTensor) -> usize {
    tensor.bytes().len() / tensor.dtype().size()
}

fn starts_its_buffer(tensor: &FlexTensor) -> bool {
    tensor.is_contiguous() && tensor.layout().start_offset() == 0
}

/// Whether a cache lies as `[b + room, kv, cut + s + room, d]` from the beginning of its buffer on, columns having been cut in front.
fn is_in_rows(cache: &FlexTensor) -> bool {
    let [_, kv, s, d] = dims(cache);
    let [row, head] = strides(cache);
    is_by_columns(cache) && cache.layout().start_offset() + s * d <= head && row == kv * head
}

/// Whether a cache is alone in a buffer with room for so many more rows and columns.
fn has_room(cache: &FlexTensor, [rows, columns]: [usize; 2]) -> bool {
    let [b, _, s, d] = dims(cache);
    let [row, head] = strides(cache);
    let start = cache.layout().start_offset();
    let fits = (b + rows) * row <= held(cache) && start + (s + columns) * d <= head;
    is_in_rows(cache) && fits && cache.is_unique()
}

/// A copy in a buffer of so many rows and columns.
fn with_room<R: Element + Pod>(cache: &FlexTensor, [rows, columns]: [usize; 2]) -> FlexTensor {
    let [b, kv, s, d] = dims(cache);
    let numbers = vec![R::zeroed(); rows * kv * columns * d];
    let buffer = FlexTensor::from_data(TensorData::new(numbers, [rows, kv, columns, d]));
    let mut buffer = resized(buffer, vec![b, kv, s, d]);
    put::<R>(&mut buffer, cache, [0, 0]);
    buffer
}

/// Writes `more` into a cache's buffer, from a row and a column on.
fn put<R: Element + Pod>(into: &mut FlexTensor, more: &FlexTensor, [row, column]: [usize; 2]) {
    let [m, kv, t, d] = dims(more);
    let ([to_row, to_head], start) = (strides(into), into.layout().start_offset());
    let more = heads_apart(more);
    let heads = Heads::<R>::of(&more);
    let numbers = into.storage_mut::<R>();
    for (from, of) in (0..m).flat_map(|from| (0..kv).map(move |of| (from, of))) {
        let at = start + (row + from) * to_row + of * to_head + column * d;
        numbers[at..at + t * d].copy_from_slice(heads.columns(from, of, 0..t));
    }
}

/// The same numbers with other lengths of the axes.
fn resized(tensor: FlexTensor, shape: Vec<usize>) -> FlexTensor {
    let layout = tensor.layout();
    let (strides, start) = (layout.strides().to_vec(), layout.start_offset());
    tensor.with_layout(Layout::new(shape.into(), strides, start))
}
