//! How a parameter lies in a file, against how it lies in a module.
//!
//! PyTorch stores the weight of a linear layer `[out, in]`, burn `[in, out]`. PyTorch's depthwise
//! convolution is `[channels, 1, taps]`, ours `[channels, taps]`.

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;

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

    /// The data of a file as that of a parameter of the given shape and float type.
    pub(super) fn unpack(self, data: TensorData, shape: &[usize], dtype: DType) -> TensorData {
        match self {
            Self::Transposed => transposed_as(&data, dtype),
            Self::Same | Self::Depthwise => converted(with_shape(data, shape.to_vec()), dtype),
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

/// A number of two bytes as f32. Published weights are mostly bf16 and computed with as f32: that way is worth loops
/// of its own, over all threads.
type Widen = fn([u8; 2]) -> f32;

/// How numbers of one type become those of another, if that is by [`Widen`].
fn widening(from: DType, to: DType) -> Option<Widen> {
    match (from, to) {
        (DType::BF16, DType::F32) => Some(|bytes| bf16::from_ne_bytes(bytes).to_f32()),
        (DType::F16, DType::F32) => Some(|bytes| f16::from_ne_bytes(bytes).to_f32()),
        _ => None,
    }
}

/// Numbers that one thread widens at a time.
const RUN: usize = 1 << 16;

/// Numbers as another float type.
fn converted(data: TensorData, dtype: DType) -> TensorData {
    let Some(widen) = widening(data.dtype(), dtype) else {
        return if data.dtype() == dtype { data } else { data.convert_dtype(dtype) };
    };
    let (numbers, _) = data.as_bytes().as_chunks();
    let mut values = vec![0.0; numbers.len()];
    values.par_chunks_mut(RUN).zip(numbers.par_chunks(RUN)).for_each(|(values, numbers)| {
        values.iter_mut().zip(numbers).for_each(|(value, bytes)| *value = widen(*bytes));
    });
    TensorData::new(values, data.shape().as_slice().to_vec())
}

fn with_shape(data: TensorData, shape: Vec<usize>) -> TensorData {
    let dtype = data.dtype();
    TensorData::from_bytes(data.into_bytes(), shape, dtype)
}

/// A matrix transposed, as another float type: in one pass where it is read as f32.
fn transposed_as(data: &TensorData, dtype: DType) -> TensorData {
    let Some(widen) = widening(data.dtype(), dtype) else { return converted(transpose(data), dtype) };
    let (rows, columns) = (data.shape()[0], data.shape()[1]);
    TensorData::new(transposed(data.as_bytes(), rows, columns, 0.0, widen), [columns, rows])
}

fn transpose(data: &TensorData) -> TensorData {
    fn moved<const N: usize>(data: &TensorData, rows: usize, columns: usize) -> Vec<u8> {
        transposed(data.as_bytes(), rows, columns, [0; N], |bytes| bytes).into_flattened()
    }
    let (rows, columns) = (data.shape()[0], data.shape()[1]);
    let output = match data.dtype().size() {
        2 => moved::<2>(data, rows, columns),
        4 => moved::<4>(data, rows, columns),
        _ => moved::<8>(data, rows, columns),
    };
    TensorData::from_bytes_vec(output, [columns, rows], data.dtype())
}

/// Side of the squares that are transposed one at a time.
const BLOCK: usize = 32;

/// A matrix of elements of `N` bytes, transposed, each element changed on the way. A thread fills [`BLOCK`] rows of
/// the output at a time.
///
/// A square is copied and then written out, so that every line of memory is read and written once and whole: the
/// lines of a column lie a power of two apart in most models, in one place of the cache.
fn transposed<const N: usize, T: Copy + Send + Sync>(
    bytes: &[u8],
    rows: usize,
    columns: usize,
    zero: T,
    change: impl Fn([u8; N]) -> T + Sync,
) -> Vec<T> {
    let (elements, _) = bytes.as_chunks::<N>();
    let mut output = vec![zero; elements.len()];
    output.par_chunks_mut(BLOCK * rows.max(1)).enumerate().for_each(|(band, output)| {
        let (first, width) = (band * BLOCK, output.len() / rows);
        let mut square = [[zero; BLOCK]; BLOCK];
        for row in (0..rows).step_by(BLOCK) {
            let height = BLOCK.min(rows - row);
            for (line, row) in square[..height].iter_mut().zip(row..) {
                let elements = &elements[row * columns + first..][..width];
                line.iter_mut().zip(elements).for_each(|(place, bytes)| *place = change(*bytes));
            }
            for (column, output) in output.chunks_mut(rows).enumerate() {
                let places = output[row..][..height].iter_mut();
                places.zip(&square).for_each(|(place, line)| *place = line[column]);
            }
        }
    });
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

    /// Sides below, at and beyond those of a block, and none.
    const SIDES: [(usize, usize); 7] = [(45, 70), (32, 64), (130, 33), (1, 65), (65, 1), (0, 5), (5, 0)];

    #[test]
    fn transposition_moves_every_element() {
        for (rows, columns) in SIDES {
            let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let transposed = transpose(&TensorData::new(values, [rows, columns]));
            assert_eq!(transposed.shape().as_slice(), [columns, rows]);
            let found: Vec<f32> = transposed.try_to_vec().expect("f32");
            let expected: Vec<f32> =
                (0..rows * columns).map(|i| (i % rows * columns + i / rows) as f32).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_matrix_widened_while_it_is_transposed_is_that_transposed_and_then_widened() {
        for ((rows, columns), dtype) in
            SIDES.into_iter().flat_map(|sides| [(sides, DType::BF16), (sides, DType::F16)])
        {
            let bytes = (0..rows * columns).flat_map(|i| (i as u16).wrapping_mul(7).to_ne_bytes()).collect();
            let data = TensorData::from_bytes_vec(bytes, [rows, columns], dtype);
            let found = Layout::Transposed.unpack(data.clone(), &[columns, rows], DType::F32);
            let expected = transpose(&data).convert_dtype(DType::F32);
            assert_eq!(found.shape(), expected.shape());
            assert_eq!((found.dtype(), found.as_bytes()), (DType::F32, expected.as_bytes()));
        }
    }
}
