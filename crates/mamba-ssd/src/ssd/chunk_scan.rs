//! The chunked form: quadratic inside chunks, linear between them.
//!
//! Dao and Gu (2024), section 6 and listing 1. With `t` split into chunks of length Q:
//!
//! 1. inside a chunk, `y = (L ∘ C Bᵀ) x`;
//! 2. each chunk's own state, `Σ_s a_{s+1} ⋯ a_Q · x_s ⊗ B_s`;
//! 3. the state entering each chunk, a recurrence over chunks;
//! 4. what that state contributes, `y_l += a_1 ⋯ a_l · S C_l`.
//!
//! A ragged length is padded with tokens that write nothing and decay nothing, which is exact. The
//! recurrence over chunks is evaluated in blocks, recursively, so that work stays linear in `t`.

use burn::tensor::Tensor;

use super::input::{Prepared, SsdInput, SsdOutput, groups_to_heads, heads_first};
use super::segsum::segsum;

/// Chunks that one matrix multiplication carries the state through.
const BLOCK: usize = 16;

/// Evaluates the map in chunks of `chunk` tokens. Any length and any chunk size are allowed.
///
/// # Panics
///
/// If `chunk` is 0.
pub fn chunk_scan(input: SsdInput, chunk: usize) -> SsdOutput {
    assert!(chunk > 0, "the chunk size must be at least 1, found 0");
    let [_, t, ..] = input.x.dims();
    let input = input.prepare();
    let dtype = input.dtype;
    let chunks = Chunks::split(input, chunk.min(t));

    // 1. Inside each chunk.
    let segsum = segsum(chunks.log_a.clone());
    let decay = segsum.exp(); // bc h q q
    let inside = (chunks.scores() * decay.clone()).matmul(chunks.x.clone());

    // 2. The state that each chunk writes.
    let q = chunks.x.dims()[2];
    let to_end = decay.narrow(2, q - 1, 1).transpose(); // bc h q 1
    let b = groups_to_heads::<4, 5>(chunks.b.clone(), chunks.heads, 1);
    let written = (chunks.x.clone() * to_end).transpose().matmul(b); // bc h p n

    // 3. The state that enters each chunk.
    let from_start = chunks.log_a.clone().cumsum(2); // bc h q
    let (entering, state) = chunks.carry(written, from_start.clone().narrow(2, q - 1, 1));

    // 4. What it contributes.
    let c = groups_to_heads::<4, 5>(chunks.c.clone(), chunks.heads, 1);
    let carried = (c * from_start.exp().unsqueeze_dim::<4>(3)).matmul(entering.transpose());

    SsdOutput { y: chunks.join(inside + carried, t).cast(dtype), state }
}

/// The input cut into chunks, heads before tokens: the batch axis `bc` counts chunks row by row.
struct Chunks {
    x: Tensor<4>,     // bc h q p
    log_a: Tensor<3>, // bc h q
    b: Tensor<4>,     // bc g q n
    c: Tensor<4>,     // bc g q n
    state: Tensor<4>, // b h p n
    batch: usize,
    heads: usize,
}

impl Chunks {
    fn split(input: Prepared, q: usize) -> Self {
        let [batch, t, heads, _] = input.x.dims();
        let padding = t.next_multiple_of(q) - t;
        let cut = |tensor: Tensor<4>| {
            let [_, _, h, p] = tensor.dims();
            let padded = pad_tokens(tensor, padding);
            heads_first(padded.reshape([batch * (t + padding) / q, q, h, p]))
        };
        let log_a = cut(input.log_a.unsqueeze_dim::<4>(3)).squeeze_dim(3);
        Self { x: cut(input.x), log_a, b: cut(input.b), c: cut(input.c), state: input.state, batch, heads }
    }

    fn scores(&self) -> Tensor<4> {
        groups_to_heads::<4, 5>(self.c.clone().matmul(self.b.clone().transpose()), self.heads, 1)
    }

    /// Per chunk the state that enters it `[bc h p n]`, and the state after the last chunk.
    fn carry(&self, written: Tensor<4>, log_decay: Tensor<3>) -> (Tensor<4>, Tensor<4>) {
        let [bc, h, p, n] = written.dims();
        let chunks = bc / self.batch;
        let by_head = |tensor: Tensor<4>| tensor.swap_dims(1, 2); // b c h .. to b h c ..
        let written = by_head(written.reshape([self.batch, chunks, h, p * n]));
        let initial = self.state.clone().reshape([self.batch, h, 1, p * n]);
        let log_decay = log_decay.reshape([self.batch, chunks, h]).swap_dims(1, 2); // b h c
        let first = log_decay.clone().narrow(2, 0, 1).zeros_like();

        let states = scan(Tensor::cat(vec![initial, written], 2), Tensor::cat(vec![first, log_decay], 2)); // b h c+1 pn
        let entering = by_head(states.clone().narrow(2, 0, chunks)).reshape([bc, h, p, n]);
        let last = states.narrow(2, chunks, 1).reshape([self.batch, h, p, n]);
        (entering, last)
    }

    fn join(&self, y: Tensor<4>, t: usize) -> Tensor<4> {
        let [bc, h, q, p] = y.dims();
        y.swap_dims(1, 2).reshape([self.batch, bc * q / self.batch, h, p]).narrow(1, 0, t)
    }
}

fn pad_tokens(tensor: Tensor<4>, padding: usize) -> Tensor<4> {
    if padding == 0 {
        return tensor;
    }
    let [b, _, h, p] = tensor.dims();
    let zeros = Tensor::zeros([b, padding, h, p], (&tensor.device(), tensor.dtype()));
    Tensor::cat(vec![tensor, zeros], 1)
}

/// `H_c = exp(log_decay_c) H_{c-1} + Z_c` with `H_{-1} = 0`, for `Z [b h c e]` and
/// `log_decay [b h c]`: blocks by matrix multiplication, the blocks' last states by recursion.
fn scan(z: Tensor<4>, log_decay: Tensor<3>) -> Tensor<4> {
    let [b, h, c, e] = z.dims();
    if c <= 2 * BLOCK {
        return segsum(log_decay).exp().matmul(z);
    }
    let padding = c.next_multiple_of(BLOCK) - c;
    let blocks = (c + padding) / BLOCK;
    let z = pad_dim_two(z, padding).reshape([b, h * blocks, BLOCK, e]);
    let log_decay = pad_dim_two(log_decay.unsqueeze_dim::<4>(3), padding);
    let log_decay = log_decay.reshape([b, h * blocks, BLOCK]);

    let local = segsum(log_decay.clone()).exp().matmul(z); // b hk 16 e
    let from_start = log_decay.cumsum(2);
    let last = local.clone().narrow(2, BLOCK - 1, 1).reshape([b, h, blocks, e]);
    let total = from_start.clone().narrow(2, BLOCK - 1, 1).reshape([b, h, blocks]);
    let ends = scan(last, total);
    let none = ends.clone().narrow(2, 0, 1).zeros_like();
    let entering = Tensor::cat(vec![none, ends.narrow(2, 0, blocks - 1)], 2);
    let entering = entering.reshape([b, h * blocks, 1, e]);

    let states = local + from_start.exp().unsqueeze_dim::<4>(3) * entering;
    states.reshape([b, h, blocks * BLOCK, e]).narrow(2, 0, c)
}

fn pad_dim_two(tensor: Tensor<4>, padding: usize) -> Tensor<4> {
    pad_tokens(tensor.swap_dims(1, 2), padding).swap_dims(1, 2)
}
