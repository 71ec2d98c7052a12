//! Rows of tokens and the tensors made of them.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use mamba_ssd::Segments;

use super::Dataset;
use crate::teacher_cache::Kept;

/// One packed row on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub tokens: Vec<u32>,
    pub targets: Vec<u32>,
    pub mask: Vec<bool>,
    /// Tokens before the padding.
    pub present: usize,
    /// Index in the row of the first token of each token's document.
    pub starts: Vec<usize>,
    /// Where in the stream it begins.
    pub at: usize,
}

impl Row {
    /// Cuts `len` tokens from the circular stream, from `start` on; a shorter stream is padded
    /// with the end token.
    pub fn cut(data: &Dataset, start: usize, len: usize) -> Self {
        let total = data.tokens.len();
        let mut row = Self { at: start, ..Self::with_capacity(len) };
        let mut document = data.document_at(start);
        for index in 0..len.min(total) {
            let at = (start + index) % total;
            if at == 0 || at == data.borders[document + 1] {
                document = data.document_at(at);
            }
            row.push(data, at, document, index);
        }
        row.pad(len, data.eos);
        row
    }

    fn with_capacity(len: usize) -> Self {
        Self {
            tokens: Vec::with_capacity(len),
            targets: Vec::with_capacity(len),
            mask: Vec::with_capacity(len),
            present: 0,
            starts: Vec::with_capacity(len),
            at: 0,
        }
    }

    fn push(&mut self, data: &Dataset, at: usize, document: usize, index: usize) {
        let first = index == 0 || at == data.borders[document];
        let start = if first { index } else { self.starts[index - 1] };
        self.starts.push(start);
        self.tokens.push(data.tokens[at]);
        self.mask.push(data.has_target(at, document));
        self.targets.push(data.tokens[(at + 1) % data.tokens.len()]);
    }

    /// Padding is one document of end tokens without targets.
    fn pad(&mut self, len: usize, eos: u32) {
        let start = self.tokens.len();
        self.present = start;
        self.tokens.resize(len, eos);
        self.targets.resize(len, eos);
        self.mask.resize(len, false);
        self.starts.resize(len, start);
    }
}

/// A batch of packed rows on a device.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Tokens, `[b t]`.
    pub tokens: Tensor<2, Int>,
    /// The next token of each token's document, `[b t]`; arbitrary where `mask` is false.
    pub targets: Tensor<2, Int>,
    /// Whether a token has a target that is learned, `[b t]`; `None` where all have.
    pub mask: Option<Tensor<2, Bool>>,
    /// Whether a token is no padding, `[b t]`; `None` where there is no padding.
    pub present: Option<Tensor<2, Bool>>,
    /// Where the documents begin; `None` where every row is one document.
    pub segments: Option<Segments>,
    /// What there is in it.
    pub counts: Counts,
    /// Where in the stream of all documents its rows begin.
    pub starts: Vec<usize>,
    /// What the teacher predicts, if that is kept, for cross entropy and forward KL at temperature 1; otherwise it is asked.
    pub kept: Option<Kept>,
}

/// What there is in some rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows.
    pub rows: usize,
    /// Tokens that are no padding.
    pub present: usize,
    /// Tokens that have a target that is learned.
    pub targets: usize,
}

impl Counts {
    pub(super) fn of(rows: &[Row]) -> Self {
        Self {
            rows: rows.len(),
            present: rows.iter().map(|row| row.present).sum(),
            targets: rows.iter().flat_map(|row| &row.mask).filter(|&&counts| counts).count(),
        }
    }
}

impl Batch {
    /// Number of tokens, `b · t`.
    pub fn tokens_count(&self) -> usize {
        self.tokens.dims().iter().product()
    }

    pub(super) fn from_rows(rows: &[Row], device: &Device) -> Self {
        let shape = [rows.len(), rows.first().map_or(0, |row| row.tokens.len())];
        let mask: Vec<bool> = flatten(rows, |row| &row.mask);
        let present = rows.iter().flat_map(|row| (0..shape[1]).map(|at| at < row.present));
        let present: Vec<bool> = present.collect();
        Self {
            tokens: ids(flatten(rows, |row| &row.tokens), shape, device),
            targets: ids(flatten(rows, |row| &row.targets), shape, device),
            counts: Counts::of(rows),
            starts: rows.iter().map(|row| row.at).collect(),
            kept: None,
            mask: unless_all(mask, shape, device),
            present: unless_all(present, shape, device),
            segments: segments(rows, shape, device),
        }
    }
}

fn unless_all(mask: Vec<bool>, shape: [usize; 2], device: &Device) -> Option<Tensor<2, Bool>> {
    let all = mask.iter().all(|&counts| counts);
    (!all).then(|| Tensor::from_data(TensorData::new(mask, shape), device))
}

fn flatten<T: Copy>(rows: &[Row], field: impl Fn(&Row) -> &Vec<T>) -> Vec<T> {
    rows.iter().flat_map(|row| field(row).iter().copied()).collect()
}

fn ids(values: Vec<u32>, shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    let values: Vec<i32> = values.into_iter().map(|id| id as i32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn segments(rows: &[Row], shape: [usize; 2], device: &Device) -> Option<Segments> {
    let packed = rows.iter().any(|row| row.starts.last().is_some_and(|&start| start > 0));
    packed.then(|| {
        let starts: Vec<i32> = flatten(rows, |row| &row.starts).iter().map(|&s| s as i32).collect();
        Segments::from_starts(Tensor::from_data(TensorData::new(starts, shape), device))
    })
}
