//! Attention on the CPU, a block of tokens at a time, over the columns that its last token sees.
//!
//! A block's scores are one product for every key-value head, of all query heads that share it.

use std::ops::Range;

use burn::backend::Flex;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{Element, Shape, TensorData};
use burn_flex::FlexTensor;
use bytemuck::Pod;
use rayon::prelude::*;

use super::AttentionOps;
use crate::kernels::flex::{integers, with_real};
use crate::kernels::real::{Real, dot};
use crate::kernels::simd::vectorized;
use crate::kernels::softmax::softmax_with_log;

/// Tokens of a block.
const BLOCK: usize = 64;

/// Rows of scores that are worth a thread's while.
const ROWS: usize = 16;

#[derive(Clone, Copy)]
struct Sizes {
    b: usize,
    t: usize,
    h: usize,
    kv: usize,
    s: usize,
    d: usize,
}

/// Tokens `start..end` of every row.
#[derive(Clone, Copy)]
struct Block {
    start: usize,
    end: usize,
}

impl Sizes {
    fn of(q: &FlexTensor, k: &FlexTensor) -> Self {
        let [b, t, h, d] = q.layout().shape().dims();
        let [_, s, kv, _] = k.layout().shape().dims();
        Self { b, t, h, kv, s, d }
    }

    fn blocks(self) -> impl Iterator<Item = Block> {
        (0..self.t).step_by(BLOCK).map(move |start| Block { start, end: (start + BLOCK).min(self.t) })
    }

    /// Columns that a block's last token sees, from the first on.
    fn columns(self, block: Block) -> usize {
        self.s - self.t + block.end
    }

    /// A block of `x [b t h d]` as `[b kv rows d]`: for every key-value head its query heads' tokens.
    fn stacked(self, x: &FlexTensor, block: Block) -> FlexTensor {
        let (share, tokens) = (self.h / self.kv, block.end - block.start);
        let heads = x.narrow(1, block.start, tokens).permute(&[0, 2, 1, 3]).to_contiguous();
        heads.reshape([self.b, self.kv, share * tokens, self.d].into())
    }

    /// The place in `[b t h d]`, counted in rows of d, of every row of a stacked block.
    fn places(self, block: Block) -> impl Iterator<Item = usize> {
        let share = self.h / self.kv;
        (0..self.b * self.kv).flat_map(move |at| {
            let (batch, head) = (at / self.kv, at % self.kv * share);
            (head..head + share).flat_map(move |head| {
                (block.start..block.end).map(move |token| (batch * self.t + token) * self.h + head)
            })
        })
    }

    /// What row `row` of a stacked block may see.
    fn visible(self, row: usize, block: Block, first: &[i64]) -> Range<usize> {
        let tokens = block.end - block.start;
        let (batch, token) = (row / (self.h * tokens), block.start + row % tokens);
        first[batch * self.t + token] as usize..self.s - self.t + token + 1
    }

    /// Calls `run` with every row of `rows [b kv rows columns]`, what it may see, and its one of `others`.
    fn each_row<R: Real + Element + Pod, T: Send>(
        self,
        rows: &mut FlexTensor,
        others: &mut [T],
        block: Block,
        first: &[i64],
        run: impl Fn(&mut [R], Range<usize>, &mut T) + Sync,
    ) {
        let columns = self.columns(block);
        let rows = rows.storage_mut::<R>().par_chunks_mut(columns).zip(others);
        rows.with_min_len(ROWS).enumerate().for_each(|(row, (numbers, other))| {
            run(numbers, self.visible(row, block, first), other);
        });
    }
}

/// `x [b s kv d]` as columns of every head, `[b kv s d]`.
fn by_heads(x: &FlexTensor) -> FlexTensor {
    x.permute(&[0, 2, 1, 3]).to_contiguous()
}

/// `scale q kᵀ` of a block.
fn scores(q: FlexTensor, k: &FlexTensor, columns: usize, d: usize) -> FlexTensor {
    let scaled = Flex::float_mul_scalar(q, (d as f64).powf(-0.5).into());
    Flex::float_matmul(scaled, k.narrow(2, 0, columns).transpose(2, 3))
}

impl AttentionOps for Flex {
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (sizes, first) = (Sizes::of(&q, &k), integers(&first));
        with_real!(q, R => forward::<R>(sizes, &q, [by_heads(&k), by_heads(&v)], &first))
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
        let (sizes, first) = (Sizes::of(&q, &k), integers(&first));
        let [out, logs] = [out, logs].map(|tensor| tensor.to_contiguous());
        with_real!(q, R => {
            let kept = Kept { out: &out, logs: logs.storage::<R>() };
            backward::<R>(sizes, &q, [by_heads(&k), by_heads(&v)], &first, kept, &grad)
        })
    }
}

fn forward<R: Real + Element + Pod>(
    sizes: Sizes,
    q: &FlexTensor,
    [k, v]: [FlexTensor; 2],
    first: &[i64],
) -> (FlexTensor, FlexTensor) {
    let Sizes { b, t, h, d, .. } = sizes;
    let mut out = vec![R::default(); b * t * h * d];
    let mut logs = vec![R::default(); b * h * t];
    for block in sizes.blocks() {
        let columns = sizes.columns(block);
        let mut p = scores(sizes.stacked(q, block), &k, columns, d);
        let mut of_rows = vec![R::default(); b * h * (block.end - block.start)];
        sizes.each_row::<R, R>(&mut p, &mut of_rows, block, first, |row, visible, log| {
            *log = vectorized(
                #[inline(always)]
                || softmax_with_log(row, visible.clone()),
            );
        });
        let rows = Flex::float_matmul(p, v.narrow(2, 0, columns));
        let rows = rows.storage::<R>().chunks_exact(d).zip(of_rows);
        for (place, (row, log)) in sizes.places(block).zip(rows) {
            out[place * d..][..d].copy_from_slice(row);
            let (batch, token, head) = (place / (t * h), place / h % t, place % h);
            logs[(batch * h + head) * t + token] = log;
        }
    }
    (tensor(out, [b, t, h, d]), tensor(logs, [b, h, t]))
}

/// What the forward pass left.
struct Kept<'a, R> {
    out: &'a FlexTensor,
    logs: &'a [R],
}

fn backward<R: Real + Element + Pod>(
    sizes: Sizes,
    q: &FlexTensor,
    [k, v]: [FlexTensor; 2],
    first: &[i64],
    kept: Kept<'_, R>,
    grad: &FlexTensor,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let Sizes { b, t, h, s, kv, d } = sizes;
    let mut dq = vec![R::default(); b * t * h * d];
    let [mut dk, mut dv] = [(); 2].map(|()| vec![R::default(); b * kv * s * d]);
    let scale = R::of((d as f64).powf(-0.5));
    for block in sizes.blocks() {
        let columns = sizes.columns(block);
        let [queries, grads, outs] = [q, grad, kept.out].map(|x| sizes.stacked(x, block));
        // Of every row the log of its sum, and δ.
        let rows = grads.storage::<R>().chunks_exact(d).zip(outs.storage::<R>().chunks_exact(d));
        let mut of_rows: Vec<[R; 2]> = sizes
            .places(block)
            .zip(rows)
            .map(|(place, (grad, out))| {
                let (batch, token, head) = (place / (t * h), place / h % t, place % h);
                [kept.logs[(batch * h + head) * t + token], dot(grad, out)]
            })
            .collect();
        let mut p = scores(queries.clone(), &k, columns, d);
        sizes.each_row::<R, [R; 2]>(&mut p, &mut of_rows, block, first, |row, visible, of_row| {
            vectorized(
                #[inline(always)]
                || {
                    let [log, _] = *of_row;
                    row[..visible.start].fill(R::default());
                    row[visible.end..].fill(R::default());
                    for score in &mut row[visible.clone()] {
                        *score = (*score - log).exp_in_lanes();
                    }
                },
            );
        });
        add_columns::<R>(&mut dv, &Flex::float_matmul(p.transpose(2, 3), grads.clone()), s, d);
        let mut ds = Flex::float_matmul(grads, v.narrow(2, 0, columns).transpose(2, 3));
        let mut with_p: Vec<(&[R], R)> =
            p.storage::<R>().chunks_exact(columns).zip(of_rows.iter().map(|of_row| of_row[1])).collect();
        sizes.each_row::<R, _>(&mut ds, &mut with_p, block, first, |row, _, with| {
            let (p, delta) = *with;
            vectorized(
                #[inline(always)]
                || {
                    for (ds, p) in row.iter_mut().zip(p) {
                        *ds = *p * (*ds - delta) * scale;
                    }
                },
            );
        });
        let rows = Flex::float_matmul(ds.clone(), k.narrow(2, 0, columns));
        for (place, row) in sizes.places(block).zip(rows.storage::<R>().chunks_exact(d)) {
            dq[place * d..][..d].copy_from_slice(row);
        }
        add_columns::<R>(&mut dk, &Flex::float_matmul(ds.transpose(2, 3), queries), s, d);
    }
    let [dk, dv] = [dk, dv].map(|flat| tensor(flat, [b, kv, s, d]).permute(&[0, 2, 1, 3]));
    (tensor(dq, [b, t, h, d]), dk, dv)
}

/// Adds `more [b kv columns d]` to the first columns of `to [b kv s d]`.
fn add_columns<R: Real + Element + Pod>(to: &mut [R], more: &FlexTensor, s: usize, d: usize) {
    let [_, _, columns, _]: [usize; 4] = more.layout().shape().dims();
    for (to, more) in to.chunks_exact_mut(s * d).zip(more.storage::<R>().chunks_exact(columns * d)) {
        to.iter_mut().zip(more).for_each(|(to, more)| *to += *more);
    }
}

fn tensor<R: Element>(flat: Vec<R>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(flat, shape.into()))
}
