//! Rotary embedding as one operation. It is linear and orthogonal: its reverse is the rotation backwards.

use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor};

/// Rotates features `(i, i + half)` of every head by `position · frequencies[i]`, half of them; the others stay.
pub(crate) fn native_rotate(x: Tensor<4>, positions: Tensor<2, Int>, frequencies: Tensor<1>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::rotate(
        x.into_dispatch(),
        positions.into_dispatch(),
        frequencies.into_dispatch(),
    ))
}

/// The native rotation.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion")
)]
pub trait RotateOps: Backend {
    /// `x [b t h d]`, `positions [b t]` or `[1 t]`, `frequencies [half]`, in radians a position, in f64 where x is
    /// and else in f32. Frequencies of the other sign turn back.
    #[fusion(dtype = x, shape = x)]
    fn rotate(
        x: FloatTensor<Self>,
        positions: IntTensor<Self>,
        frequencies: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

#[derive(Debug)]
struct Rotation;

impl<B: RotateOps> Backward<B, 1> for Rotation {
    type State = (IntTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (positions, frequencies) = ops.state;
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::rotate(grad, positions, B::float_neg(frequencies)));
        }
    }
}

impl<B: RotateOps, C: CheckpointStrategy> RotateOps for Autodiff<B, C> {
    fn rotate(
        x: FloatTensor<Self>,
        positions: IntTensor<Self>,
        frequencies: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let frequencies = Self::inner(frequencies);
        match Rotation.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(
                (positions.clone(), frequencies.clone()),
                B::rotate(x.into_primitive(), positions, frequencies),
            ),
            OpsKind::UnTracked(prep) => prep.finish(B::rotate(x.into_primitive(), positions, frequencies)),
        }
    }
}

/// The rotation on slices: `x [b t h d]`, a row of angles for each token.
#[cfg(feature = "flex")]
pub(super) fn on_slices<R: super::real::Real>(
    x: &[R],
    positions: &[i64],
    frequencies: &[R],
    [heads, d]: [usize; 2],
) -> Vec<R> {
    /// Numbers that one task takes.
    const CHUNK: usize = 1 << 14;

    let (half, width) = (frequencies.len(), heads * d);
    let mut out = x.to_vec();
    let together = (CHUNK / width).max(1); // tokens of a part
    super::simd::each_part(out.chunks_mut(together * width).enumerate(), |(part, tokens)| {
        for (i, heads) in tokens.chunks_exact_mut(width).enumerate() {
            let position = R::of(positions[(part * together + i) % positions.len()] as f64);
            let turns: Vec<[R; 2]> =
                frequencies.iter().map(|frequency| (position * *frequency).cos_sin()).collect();
            for head in heads.chunks_exact_mut(d) {
                let (first, rest) = head.split_at_mut(half);
                for ((u, v), [cos, sin]) in first.iter_mut().zip(rest).zip(&turns) {
                    (*u, *v) = (*u * *cos - *v * *sin, *v * *cos + *u * *sin);
                }
            }
        }
    });
    out
}
