//! Keys and values that grow by a column a token, in a buffer with room for more.
//!
//! A cache `[b kv s d]` is a view of `[b kv room d]`: what a token adds is written behind the last column while there is
//! room and nobody else holds the buffer, and a buffer that is full is copied into one half as large again.

use std::ops::Range;

use burn::tensor::{Element, TensorData};
use burn_flex::{FlexTensor, Layout};
use bytemuck::Pod;

use super::super::real::Real;

/// Columns that a new buffer has room for behind those that it holds.
const ROOM: usize = 64;

/// Whether the columns of a head follow each other.
fn is_by_columns(cache: &FlexTensor) -> bool {
    let [_, _, _, d]: [usize; 4] = cache.layout().shape().dims();
    let strides = cache.layout().strides();
    strides[3] == 1 && strides[2] == d as isize
}

/// The cache, or a copy of it, with the columns of each head behind each other.
pub(super) fn heads_apart(cache: &FlexTensor) -> FlexTensor {
    if is_by_columns(cache) { cache.clone() } else { cache.to_contiguous() }
}

/// The columns of every head.
pub(super) struct Heads<'a, R> {
    numbers: &'a [R],
    start: usize,
    /// From row to row, and from head to head.
    strides: [usize; 2],
    d: usize,
}

impl<'a, R: Element + Pod> Heads<'a, R> {
    /// Of a cache that [`heads_apart`] returned.
    pub fn of(cache: &'a FlexTensor) -> Self {
        let layout = cache.layout();
        let [_, _, _, d]: [usize; 4] = layout.shape().dims();
        let strides = [0, 1].map(|axis| layout.strides()[axis] as usize);
        Self { numbers: cache.storage(), start: layout.start_offset(), strides, d }
    }

    /// Some columns of a head, `[s d]`.
    pub fn columns(&self, row: usize, head: usize, columns: Range<usize>) -> &'a [R] {
        let start = self.start + row * self.strides[0] + head * self.strides[1];
        &self.numbers[start + columns.start * self.d..start + columns.end * self.d]
    }
}

/// `cache [b kv s d]` with `more [b kv t d]` behind.
pub(super) fn append<R: Real + Element + Pod>(cache: FlexTensor, more: &FlexTensor) -> FlexTensor {
    let [b, kv, s, d]: [usize; 4] = cache.layout().shape().dims();
    let [_, _, t, _]: [usize; 4] = more.layout().shape().dims();
    let more = more.to_contiguous();
    let mut cache = if has_room(&cache, t) { cache } else { with_room::<R>(&cache, t + ROOM + (s + t) / 2) };
    let (more, room) = (more.storage::<R>(), cache.layout().strides()[1] as usize);
    let numbers = cache.storage_mut::<R>();
    for (head, more) in more.chunks_exact(t * d).enumerate() {
        numbers[head * room + s * d..][..t * d].copy_from_slice(more);
    }
    let layout = cache.layout();
    let (strides, start) = (layout.strides().to_vec(), layout.start_offset());
    cache.with_layout(Layout::new([b, kv, s + t, d].into(), strides, start))
}

/// Whether the cache is alone in a buffer `[b kv room d]` with room for `more` columns.
fn has_room(cache: &FlexTensor, more: usize) -> bool {
    let [b, kv, s, d]: [usize; 4] = cache.layout().shape().dims();
    let strides: Vec<usize> = cache.layout().strides().iter().map(|&stride| stride as usize).collect();
    let held = cache.bytes().len() / cache.dtype().size();
    let whole = cache.layout().start_offset() == 0 && strides[0] == kv * strides[1] && held == b * strides[0];
    is_by_columns(cache) && whole && (s + more) * d <= strides[1] && cache.is_unique()
}

/// A copy with room for `more` columns.
fn with_room<R: Real + Element + Pod>(cache: &FlexTensor, more: usize) -> FlexTensor {
    let [b, kv, s, d]: [usize; 4] = cache.layout().shape().dims();
    let cache = heads_apart(cache);
    let heads = Heads::<R>::of(&cache);
    let room = (s + more) * d;
    let mut numbers = vec![R::default(); b * kv * room];
    for (head, numbers) in numbers.chunks_exact_mut(room).enumerate() {
        numbers[..s * d].copy_from_slice(heads.columns(head / kv, head % kv, 0..s));
    }
    let buffer = FlexTensor::from_data(TensorData::new(numbers, [b, kv, s + more, d]));
    buffer.narrow(2, 0, s)
}
