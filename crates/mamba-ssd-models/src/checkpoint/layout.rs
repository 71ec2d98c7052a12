//! How a parameter lies in a file, against how it lies in a module.
//!
//! PyTorch stores the weight of a linear layer `[out, in]`, burn `[in, out]`. PyTorch's depthwise
//! convolution is `[channels, 1, taps]`, ours `[channels, taps]`.

use burn::tensor::TensorData;

/// How a tensor changes between module and file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Not at all.
    Same,
    /// Rows and columns change places.
    Transposed,
    /// The file has an axis of 1 in the middle.
    Depthwise,
}

impl Layout {
    /// The layout of a parameter, by the type of the module that holds it and its name there.
    pub(super) fn of(container: &str, name: &str) -> Self {
        match (container, name) {
            ("Struct:Linear", "weight") => Self::Transposed,
            ("Struct:CausalConv1d", "weight") => Self::Depthwise,
            _ => Self::Same,
        }
    }

    /// The shape in the file of a parameter of the given shape.
    pub(super) fn file_shape(self, shape: &[usize]) -> Vec<usize> {
        match self {
            Self::Same => shape.to_vec(),
            Self::Transposed => shape.iter().rev().copied().collect(),
            Self::Depthwise => vec![shape[0], 1, shape[1]],
        }
    }

    /// The data of a file as that of a parameter of the given shape.
    pub(super) fn unpack(self, data: TensorData, shape: &[usize]) -> TensorData {
        match self {
            Self::Transposed => transpose(&data),
            Self::Same | Self::Depthwise => with_shape(data, shape.to_vec()),
        }
    }

    /// The data of a parameter as that of a file.
    pub(super) fn pack(self, data: TensorData) -> TensorData {
        let shape = self.file_shape(data.shape().as_slice());
        match self {
            Self::Transposed => transpose(&data),
            Self::Same | Self::Depthwise => with_shape(data, shape),
        }
    }
}

fn with_shape(data: TensorData, shape: Vec<usize>) -> TensorData {
    let dtype = data.dtype();
    TensorData::from_bytes_vec(data.as_bytes().to_vec(), shape, dtype)
}

/// Side of the squares that are transposed one at a time, so that both sides stay in cache.
const BLOCK: usize = 32;

fn transpose(data: &TensorData) -> TensorData {
    let (dtype, bytes) = (data.dtype(), data.as_bytes());
    let (rows, columns, size) = (data.shape()[0], data.shape()[1], data.dtype().size());
    let mut output = vec![0; bytes.len()];
    for row_block in (0..rows).step_by(BLOCK) {
        for column_block in (0..columns).step_by(BLOCK) {
            for row in row_block..rows.min(row_block + BLOCK) {
                for column in column_block..columns.min(column_block + BLOCK) {
                    let (from, to) = ((row * columns + column) * size, (column * rows + row) * size);
                    output[to..to + size].copy_from_slice(&bytes[from..from + size]);
                }
            }
        }
    }
    TensorData::from_bytes_vec(output, [columns, rows], dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposition_moves_every_element() {
        let (rows, columns) = (45, 70);
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let transposed = transpose(&TensorData::new(values, [rows, columns]));
        assert_eq!(transposed.shape().as_slice(), [columns, rows]);
        let found: Vec<f32> = transposed.try_to_vec().expect("f32");
        let expected: Vec<f32> =
            (0..rows * columns).map(|i| (i % rows * columns + i / rows) as f32).collect();
        assert_eq!(found, expected);
    }
}
