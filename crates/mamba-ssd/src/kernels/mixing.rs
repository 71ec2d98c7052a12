//! Distances between mixing matrices, row by row, as one operation that never holds a matrix.
//!
//! With the student's `M[l, s] = (C_l · B_s) a_{s+1} ⋯ a_l`, D on the diagonal, and the teacher's
//! `P[l, s] = exp(q_l · k_s / √e − logs_l)`, both over the s that l may see,
//!
//! ```text
//! r_l = Σ_s (M − P)²                        N[l, s] = 2 dr_l (M − P)
//! dC_l = Σ_s N a_{s+1} ⋯ a_l B_s            dB_s = Σ_l N a_{s+1} ⋯ a_l C_l          dD = Σ_l N[l, l]
//! dlog_a_r = Σ N (C_l · B_s) a_{s+1} ⋯ a_l over s < r ≤ l
//! ```
//!
//! (MOHAWK, arXiv 2408.10189, section 4.1, whose loss is the mean over heads of `√Σ_l r_l`.) The teacher is a constant: its
//! queries and keys get no gradient. Kept are its logs, one number a row; M and P are computed again in reverse.

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, DispatchDevice, backend_extension};
use burn::tensor::{Int, Tensor};

use super::autodiff::FIRST_ORDER;

/// The factors of a student's matrices, borders of documents folded into the decays.
pub(crate) struct SsdFactors<'a> {
    /// `[b t h]`, in f32.
    pub log_a: &'a Tensor<3>,
    /// `[b t g n]`.
    pub b: &'a Tensor<4>,
    /// `[b t g n]`.
    pub c: &'a Tensor<4>,
    /// `[h]`.
    pub d: &'a Tensor<1>,
}

/// The factors of a teacher's.
pub(crate) struct SoftmaxFactors<'a> {
    /// `[b t h e]`.
    pub q: &'a Tensor<4>,
    /// `[b t kv e]`.
    pub k: &'a Tensor<4>,
    /// The first column that a token sees, `[b t]`; without, it is 0.
    pub first: Option<&'a Tensor<2, Int>>,
}

/// `Σ_s (M − P)²` of every row, `[b h t]`, where the device has it for the dtype and the sizes. Gradients flow to the
/// student alone.
pub(crate) fn native_row_distances(
    student: &SsdFactors<'_>,
    teacher: &SoftmaxFactors<'_>,
) -> Option<Tensor<3>> {
    let dtype = student.c.dtype();
    let (n, [b, t, _, e]) = (student.c.dims()[3], teacher.q.dims());
    let fits = match student.c.device().inner().as_dispatch() {
        DispatchDevice::Cube(device) => super::cube::distances_fit(&device.client(), dtype, [n, e]),
        #[allow(unreachable_patterns)] // other backends that a program may compile in
        _ => false,
    };
    if !fits || [student.b, teacher.q, teacher.k].iter().any(|tensor| tensor.dtype() != dtype) {
        return None;
    }
    let first = teacher.first.cloned().unwrap_or_else(|| Tensor::zeros([b, t], &teacher.q.device()));
    let (rows, _) = Dispatch::row_distances(
        student.log_a.clone().into_dispatch(),
        student.b.clone().into_dispatch(),
        student.c.clone().into_dispatch(),
        student.d.clone().cast(student.log_a.dtype()).into_dispatch(),
        teacher.q.clone().into_dispatch(),
        teacher.k.clone().into_dispatch(),
        first.into_dispatch(),
    );
    Some(Tensor::from_dispatch(rows))
}

/// The operation.
#[backend_extension(Autodiff, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub trait MixingOps: Backend {
    /// The sums of squares, and the logs of the teacher's rows, `[b h t]` both in f32.
    #[allow(clippy::too_many_arguments, reason = "an operation of burn takes tensors one by one")]
    #[fusion(meta = |log_a, _b, _c, _d, _q, _k, _first| {
        let rows = [log_a.shape[0], log_a.shape[2], log_a.shape[1]];
        let spec = || burn::backend::fusion::custom::TensorSpec::new(rows.into(), log_a.dtype);
        (spec(), spec())
    })]
    fn row_distances(
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        first: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of `log_a`, b, c and d, given that of the sums.
    #[allow(clippy::too_many_arguments, reason = "an operation of burn takes tensors one by one")]
    #[fusion(meta = |log_a, b, c, d, _q, _k, _first, _logs, _grad| {
        (log_a.clone(), b.clone(), c.clone(), d.clone())
    })]
    fn row_distances_backward(
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        first: IntTensor<Self>,
        logs: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

#[derive(Debug)]
struct RowDistances;

impl<B: MixingOps> Backward<B, 4> for RowDistances {
    /// The student's factors, then the teacher's, the first columns, and the logs.
    type State = ([NodeId; 4], [FloatTensor<B>; 2], IntTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (student, [q, k], first, logs) = ops.state;
        let [log_a, b, c, d] = student.map(|id| checkpointer.retrieve_node_output(id));
        let (log_a, b, c, d) = B::row_distances_backward(log_a, b, c, d, q, k, first, logs, grad);
        for (node, gradient) in ops.parents.into_iter().zip([log_a, b, c, d]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: MixingOps, C: CheckpointStrategy> MixingOps for Autodiff<B, C> {
    fn row_distances(
        log_a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        first: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let student = [log_a, b, c, d];
        let [q, k] = [q, k].map(|constant| constant.into_primitive());
        let nodes = student.each_ref().map(|tensor| tensor.node());
        let run = |student: [FloatTensor<Self>; 4]| {
            let [log_a, b, c, d] = student.map(|tensor| tensor.into_primitive());
            B::row_distances(log_a, b, c, d, q.clone(), k.clone(), first.clone())
        };
        match RowDistances.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = student.each_ref().map(|tensor| prep.checkpoint(tensor));
                let (rows, logs) = run(student);
                (prep.finish((ids, [q, k], first, logs.clone()), rows), Self::from_inner(logs))
            }
            OpsKind::UnTracked(prep) => {
                let (rows, logs) = run(student);
                (prep.finish(rows), Self::from_inner(logs))
            }
        }
    }

    fn row_distances_backward(
        _log_a: FloatTensor<Self>,
        _b: FloatTensor<Self>,
        _c: FloatTensor<Self>,
        _d: FloatTensor<Self>,
        _q: FloatTensor<Self>,
        _k: FloatTensor<Self>,
        _first: IntTensor<Self>,
        _logs: FloatTensor<Self>,
        _grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("{FIRST_ORDER}")
    }
}
