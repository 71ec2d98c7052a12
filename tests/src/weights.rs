//! Random weights for mixers, and weights as the checkpoints store them.

use burn::module::{ModuleMapper, Param};
use burn::nn::Linear;
use burn::tensor::{DType, Tensor};
use mamba_ssd::CausalConv1d;

use crate::evaluate::{tensor, values};
use crate::formulas::{Conv, Rows};
use crate::rng::Rng;

/// Replaces every parameter by small normal numbers, so that none is left at 0 or 1.
pub struct RandomWeights {
    rng: Rng,
    dtype: DType,
}

impl RandomWeights {
    /// Weights in `dtype` that depend on the seed.
    pub fn new(seed: u64, dtype: DType) -> Self {
        Self { rng: Rng::new(seed), dtype }
    }
}

impl ModuleMapper for RandomWeights {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (shape, device) = (param.dims(), param.device());
        let numbers = self.rng.normals(shape.iter().product());
        param.map(|_| tensor(&numbers, shape, self.dtype, &device) * 0.4)
    }
}

/// The rows of a matrix.
pub fn rows(matrix: Tensor<2>) -> Rows {
    let width = matrix.dims()[1];
    values(matrix).chunks(width).map(<[f64]>::to_vec).collect()
}

/// A row for every output of a linear layer.
pub fn linear_rows(linear: &Linear) -> Rows {
    rows(linear.weight.val().transpose())
}

/// A convolution with bias.
pub fn conv(conv1d: &CausalConv1d) -> Conv {
    let bias = conv1d.bias.as_ref().expect("a convolution with bias").val();
    Conv { weight: rows(conv1d.weight.val()), bias: values(bias) }
}
