//! How a parameter lies in a file, against how it lies in a module.
//!
//! PyTorch stores the weight of a linear layer `[out, in]`, burn `[in, out]`. PyTorch's depthwise
//! convolution is `[channels, 1, taps]`, ours `[channels, taps]`.

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};

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

/// Numbers as another float type. Published weights are mostly bf16 and computed with as f32: that way is
/// worth a loop of its own.
pub(super) fn converted(data: TensorData, dtype: DType) -> TensorData {
    let wide = |widen: fn([u8; 2]) -> f32| {
        let values: Vec<f32> = data.as_bytes().as_chunks().0.iter().map(|bytes| widen(*bytes)).collect();
        TensorData::new(values, data.shape().as_slice().to_vec())
    };
    match (data.dtype(), dtype) {
        (from, to) if from == to => data,
        (DType::BF16, DType::F32) => wide(|bytes| bf16::from_ne_bytes(bytes).to_f32()),
        (DType::F16, DType::F32) => wide(|bytes| f16::from_ne_bytes(bytes).to_f32()),
        _ => data.convert_dtype(dtype),
    }
}

fn with_shape(data: TensorData, shape: Vec<usize>) -> TensorData {
    let dtype = data.dtype();
    TensorData::from_bytes_vec(data.as_bytes().to_vec(), shape, dtype)
}

/// Side of the squares that are transposed one at a time, so that both sides stay in cache.
const BLOCK: usize = 32;

fn transpose(data: &TensorData) -> TensorData {
    let (rows, columns) = (data.shape()[0], data.shape()[1]);
    let bytes = data.as_bytes();
    let output = match data.dtype().size() {
        2 => transposed::<2>(bytes, rows, columns),
        4 => transposed::<4>(bytes, rows, columns),
        _ => transposed::<8>(bytes, rows, columns),
    };
    TensorData::from_bytes_vec(output, [columns, rows], data.dtype())
}

/// A matrix of elements of `N` bytes, transposed.
fn transposed<const N: usize>(bytes: &[u8], rows: usize, columns: usize) -> Vec<u8> {
    let (elements, _) = bytes.as_chunks::<N>();
    let mut output = vec![0; bytes.len()];
    let (places, _) = output.as_chunks_mut::<N>();
    for row_block in (0..rows).step_by(BLOCK) {
        for column_block in (0..columns).step_by(BLOCK) {
            for column in column_block..columns.min(column_block + BLOCK) {
                for row in row_block..rows.min(row_block + BLOCK) {
                    places[column * rows + row] = elements[row * columns + column];
                }
            }
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_numbers_are_widened_as_the_general_way_does() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_ne_bytes).collect(); // every one there is
        for dtype in [DType::BF16, DType::F16] {
            let data = TensorData::from_bytes_vec(bytes.clone(), [256, 256], dtype);
            let bits = |data: TensorData| -> Vec<u32> {
                let values: Vec<f32> = data.try_to_vec().expect("f32");
                values.into_iter().filter(|value| !value.is_nan()).map(f32::to_bits).collect()
            };
            let found = converted(data.clone(), DType::F32);
            assert_eq!(found.shape(), data.shape());
            assert!(bits(found) == bits(data.convert_dtype(DType::F32)), "{dtype:?}");
        }
    }

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
