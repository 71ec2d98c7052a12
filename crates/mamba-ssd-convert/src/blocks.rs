//! The input projection in its five blocks of columns, and the values that fill them.

use burn::tensor::{DType, Device, Tensor, TensorData};
use mamba_ssd::DiscreteMamba2Config;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Columns of `in_proj`, or parts of its bias when they have one row: `[x | B | C | z | A_log]`.
pub(crate) struct Blocks {
    /// x, B and C, which pass through the convolution.
    pub xbc: [Tensor<2>; 3],
    /// The gate.
    pub z: Tensor<2>,
    /// The decay.
    pub a_log: Tensor<2>,
}

impl Blocks {
    /// The blocks side by side, in the order of the checkpoints.
    pub(crate) fn join(self) -> Tensor<2> {
        let [x, b, c] = self.xbc;
        Tensor::cat(vec![x, b, c, self.z, self.a_log], 1)
    }
}

/// Columns of x, B and C.
pub(crate) fn xbc_columns(config: &DiscreteMamba2Config) -> [usize; 3] {
    let bc = config.groups() * config.d_state;
    [config.d_inner(), bc, bc]
}

/// A source of tensors of one dtype on one device.
pub(crate) struct Draw {
    pub rng: ChaCha8Rng,
    pub device: Device,
    pub dtype: DType,
}

impl Draw {
    /// Uniform in `±bound`.
    pub(crate) fn uniform(&mut self, shape: [usize; 2], bound: f64) -> Tensor<2> {
        let count = shape[0] * shape[1];
        let values: Vec<f32> = (0..count).map(|_| self.within(bound)).collect();
        self.tensor(values, shape)
    }

    /// Every element `value`.
    pub(crate) fn constant(&self, shape: [usize; 2], value: f64) -> Tensor<2> {
        Tensor::full(shape, value, (&self.device, self.dtype))
    }

    /// The given elements, row by row.
    pub(crate) fn tensor(&self, values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, shape), (&self.device, self.dtype))
    }

    fn within(&mut self, bound: f64) -> f32 {
        let unit: f64 = self.rng.random(); // in [0, 1)
        ((2.0 * unit - 1.0) * bound) as f32
    }
}
