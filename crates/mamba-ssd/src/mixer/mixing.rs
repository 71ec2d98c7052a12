//! Mixing matrices by what they are made of: any block of rows without the others.
//!
//! A whole matrix has `b h t²` entries, which for a model and its teacher soon outgrow a device. The factors have
//! `b t` times a few thousand, and a block of rows is made from them alone:
//!
//! ```text
//! SSD         M[l, s] = (C_l · B_s) exp(Σ_{s<r≤l} log a_r) Δ_s, and D on the diagonal
//! attention   M[l, ·] = softmax over the visible s of q_l · k_s / √d
//! ```
//!
//! Decays between a row of the block and a column in front of it are the sum of the decays inside the block and
//! those in front of it: sums of numbers of one sign, which lose nothing to cancellation.

use std::ops::Range;

use burn::tensor::{Int, Tensor};

use super::skip::add_diagonal;
use crate::attend::{kv_to_heads, scaled};
#[cfg(feature = "cube")]
use crate::kernels::{SoftmaxFactors, SsdFactors, native_row_distances};
use crate::linear::batched;
use crate::softmax::softmax_from;
use crate::ssd::{Prepared, groups_to_heads, heads_first, segsum};
use crate::{Segments, SsdInput};

/// The factors of a stack of mixing matrices `[b h t t]`, zero above the diagonal.
#[derive(Clone, Debug)]
pub struct Mixing {
    t: usize,
    factors: Factors,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one at a time, and handles only
enum Factors {
    /// The sum of SSD matrices, its columns scaled, D on its diagonal.
    Ssd {
        terms: Vec<Ssd>,
        columns: Option<Tensor<3>>,
        d: Tensor<1>,
    },
    Attention(Softmax),
}

/// One SSD matrix, borders of documents folded into its decays.
#[derive(Clone, Debug)]
struct Ssd {
    log_a: Tensor<3>, // b t h
    b: Tensor<4>,     // b t g n
    c: Tensor<4>,     // b t g n
}

#[derive(Clone, Debug)]
struct Softmax {
    q: Tensor<4>,                  // b t h d
    k: Tensor<4>,                  // b t kv d
    first: Option<Tensor<2, Int>>, // b t
}

impl Mixing {
    /// The sum of the matrices of `inputs`, whose values do not matter, with columns scaled by `columns [b t h]` and
    /// D `[h]` on the diagonal.
    ///
    /// # Panics
    ///
    /// If there is no input.
    pub fn ssd(inputs: impl Iterator<Item = SsdInput>, columns: Option<Tensor<3>>, d: Tensor<1>) -> Self {
        let terms: Vec<Ssd> = inputs
            .map(|input| {
                let Prepared { log_a, b, c, .. } = input.fold_borders();
                Ssd { log_a, b, c }
            })
            .collect();
        let t = terms.first().expect("at least one term").log_a.dims()[1];
        Self { t, factors: Factors::Ssd { terms, columns, d } }
    }

    /// The matrices of attention of `q [b t h d]` over `k [b t kv d]`.
    pub fn attention(q: Tensor<4>, k: Tensor<4>, segments: Option<&Segments>) -> Self {
        let t = q.dims()[1];
        let first = segments.map(Segments::starts);
        Self { t, factors: Factors::Attention(Softmax { q, k, first }) }
    }

    /// Batch, heads and length, `[b h t]`.
    pub fn dims(&self) -> [usize; 3] {
        match &self.factors {
            Factors::Ssd { terms, .. } => {
                let [b, t, h] = terms[0].log_a.dims();
                [b, h, t]
            }
            Factors::Attention(Softmax { q, .. }) => {
                let [b, t, h, _] = q.dims();
                [b, h, t]
            }
        }
    }

    /// The matrices, `[b h t t]`.
    pub fn whole(&self) -> Tensor<4> {
        self.rows(0..self.t)
    }

    /// Rows `rows` and the columns that they may see, `[b h rows end]` with `end` the end of `rows`; further columns
    /// are 0.
    ///
    /// # Panics
    ///
    /// If there is no row, or none as late.
    pub fn rows(&self, rows: Range<usize>) -> Tensor<4> {
        assert!(rows.start < rows.end && rows.end <= self.t, "rows {rows:?} of {}", self.t);
        match &self.factors {
            Factors::Ssd { terms, columns, d } => {
                let matrices = terms.iter().map(|term| term.rows(rows.clone()));
                let matrix = matrices.reduce(|sum, matrix| sum + matrix).expect("at least one term");
                let matrix = match columns {
                    Some(columns) => {
                        let scale = columns.clone().narrow(1, 0, rows.end).swap_dims(1, 2);
                        matrix * scale.unsqueeze_dim::<4>(2)
                    }
                    None => matrix,
                };
                add_to_end(matrix, |square| add_diagonal(square, d.clone()))
            }
            Factors::Attention(Softmax { q, k, first }) => {
                let q = q.clone().narrow(1, rows.start, rows.len());
                let k = k.clone().narrow(1, 0, rows.end).swap_dims(1, 2);
                let k = kv_to_heads(k, q.dims()[2]);
                let first = first.as_ref().map(|first| first.clone().narrow(1, rows.start, rows.len()));
                softmax_from(batched(scaled(q.swap_dims(1, 2)), k.transpose()), first)
            }
        }
    }

    /// The squares of the differences between these matrices and those of attention, added up along every row,
    /// `[b h t]`, as one operation that holds neither. Gradients flow to these matrices alone.
    ///
    /// None where the device has no such operation (CUDA has it in bf16), or these are not the matrices of one SSD without
    /// scaled columns, such as those of [`DiscreteMamba2`](super::DiscreteMamba2).
    ///
    /// # Panics
    ///
    /// If the sizes of the two differ.
    pub fn row_distances(&self, attention: &Self) -> Option<Tensor<3>> {
        assert_eq!(self.dims(), attention.dims(), "batch, heads and length of the mixing matrices");
        #[cfg(feature = "cube")]
        if let (Factors::Ssd { terms, columns: None, d }, Factors::Attention(softmax)) =
            (&self.factors, &attention.factors)
            && let [Ssd { log_a, b, c }] = &terms[..]
        {
            let Softmax { q, k, first } = softmax;
            let student = SsdFactors { log_a, b, c, d };
            return native_row_distances(&student, &SoftmaxFactors { q, k, first: first.as_ref() });
        }
        None
    }

    /// The same with every factor that a gradient may reach changed, flat, one after another in a fixed order.
    pub fn map(&self, change: &mut dyn FnMut(Tensor<1>) -> Tensor<1>) -> Self {
        let factors = match &self.factors {
            Factors::Ssd { terms, columns, d } => {
                let terms = terms.iter().map(|term| Ssd {
                    log_a: flat(&term.log_a, change),
                    b: flat(&term.b, change),
                    c: flat(&term.c, change),
                });
                Factors::Ssd {
                    terms: terms.collect(),
                    columns: columns.as_ref().map(|columns| flat(columns, change)),
                    d: flat(d, change),
                }
            }
            Factors::Attention(Softmax { q, k, first }) => {
                Factors::Attention(Softmax { q: flat(q, change), k: flat(k, change), first: first.clone() })
            }
        };
        Self { t: self.t, factors }
    }
}

fn flat<const D: usize>(tensor: &Tensor<D>, change: &mut dyn FnMut(Tensor<1>) -> Tensor<1>) -> Tensor<D> {
    let shape = tensor.dims();
    change(tensor.clone().reshape([shape.iter().product::<usize>()])).reshape(shape)
}

impl Ssd {
    fn rows(&self, rows: Range<usize>) -> Tensor<4> {
        let heads = self.log_a.dims()[2];
        let log_a = self.log_a.clone().swap_dims(1, 2); // b h t
        let inside = log_a.clone().narrow(2, rows.start, rows.len());
        let within = segsum(inside.clone()); // b h rows rows
        let decay = if rows.start == 0 {
            within
        } else {
            let from_block = inside.cumsum(2).unsqueeze_dim::<4>(3);
            let to_block = sums_behind(log_a.narrow(2, 0, rows.start)).unsqueeze_dim::<4>(2);
            Tensor::cat(vec![from_block + to_block, within], 3)
        };
        let b = self.b.clone().narrow(1, 0, rows.end).permute([0, 2, 3, 1]); // b g n end
        let c = heads_first(self.c.clone().narrow(1, rows.start, rows.len())); // b g rows n
        groups_to_heads::<4, 5>(batched(c, b), heads, 1).cast(decay.dtype()) * decay.exp()
    }
}

/// `out[.., s]` is the sum of the numbers behind s, `[b h s]`.
fn sums_behind(x: Tensor<3>) -> Tensor<3> {
    let [b, h, s] = x.dims();
    let none = Tensor::zeros([b, h, 1], (&x.device(), x.dtype()));
    if s == 1 {
        return none;
    }
    let sums = x.narrow(2, 1, s - 1).flip([2]).cumsum(2).flip([2]);
    Tensor::cat(vec![sums, none], 2)
}

/// Changes the last square of `[b h r s]`, `s ≥ r`.
fn add_to_end(matrix: Tensor<4>, change: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let [_, _, r, s] = matrix.dims();
    if r == s {
        return change(matrix);
    }
    let front = matrix.clone().narrow(3, 0, s - r);
    Tensor::cat(vec![front, change(matrix.narrow(3, s - r, r))], 3)
}
