//! The columns of a key-value cache `[b kv s d]`, which may be a view of a buffer with room for more.

use std::ops::Range;

use burn::tensor::Element;
use burn_flex::FlexTensor;
use bytemuck::Pod;

/// Whether the columns of a head follow each other.
pub(in crate::kernels) fn is_by_columns(cache: &FlexTensor) -> bool {
    let [_, _, _, d]: [usize; 4] = cache.layout().shape().dims();
    let strides = cache.layout().strides();
    strides[3] == 1 && strides[2] == d as isize
}

/// The cache, or a copy of it, with the columns of each head behind each other.
pub(in crate::kernels) fn heads_apart(cache: &FlexTensor) -> FlexTensor {
    if is_by_columns(cache) { cache.clone() } else { cache.to_contiguous() }
}

/// The columns of every head.
pub(in crate::kernels) struct Heads<'a, R> {
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
