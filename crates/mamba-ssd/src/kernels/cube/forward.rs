//! Outputs and final state.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;

use super::map::{Map, Outputs};

/// `y [b t h p]` in the dtype of `x`, and the final state `[b h p n]`.
pub(super) fn forward(map: &Map) -> (CubeTensor, CubeTensor) {
    let roles = map.forward_roles();
    let (entering, last) = map.enter_spans_by_walk(&roles, map.state.clone());
    let y = map.empty(map.x.shape(), map.x.dtype);
    let states = map.empty(entering.shape(), DType::F32);
    map.walk(&roles, &entering, Outputs { out: &y, states: &states, outputs: true, save: None });
    (y, last.unwrap_or(states))
}
