//! The product under automatic differentiation: its gradients are products of the same matrices.
//!
//! ```text
//! y = a b      da = dy bᵀ     db = aᵀ dy
//! y = a bᵀ     da = dy b      db = dyᵀ a
//! ```

use burn::backend::Autodiff;
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::FloatTensor;

use super::ops::ProductOps;

#[derive(Debug)]
struct Product;

impl<B: ProductOps> Backward<B, 2> for Product {
    type State = ([NodeId; 2], bool);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (ids, transposed) = ops.state;
        let [a, b]: [FloatTensor<B>; 2] = ids.map(|id| checkpointer.retrieve_node_output(id));
        let [to_a, to_b] = ops.parents;
        if let Some(node) = to_a {
            grads.register::<B>(node.id, B::product(dy.clone(), b, [false, !transposed]));
        }
        if let Some(node) = to_b {
            let db =
                if transposed { B::product(dy, a, [true, false]) } else { B::product(a, dy, [true, false]) };
            grads.register::<B>(node.id, db);
        }
    }
}

impl<B: ProductOps, C: CheckpointStrategy> ProductOps for Autodiff<B, C> {
    fn product(a: FloatTensor<Self>, b: FloatTensor<Self>, transposed: [bool; 2]) -> FloatTensor<Self> {
        assert!(!transposed[0], "only the second factor of a differentiable product may be transposed");
        match Product.prepare::<C>([a.node(), b.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let ids = [&a, &b].map(|tensor| prep.checkpoint(tensor));
                let product = B::product(a.into_primitive(), b.into_primitive(), transposed);
                prep.finish((ids, transposed[1]), product)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::product(a.into_primitive(), b.into_primitive(), transposed))
            }
        }
    }
}
