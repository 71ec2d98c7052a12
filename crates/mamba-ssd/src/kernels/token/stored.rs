//! Weights as they are stored, and what a product reads of them.

use burn::tensor::DType;
use burn::tensor::quantization::{BlockSize, QuantMode, QuantScheme, QuantStore, QuantValue, ScaleDtype};
use burn_flex::{FlexQTensor, FlexTensor};
use bytemuck::Pod;
use half::bf16;

use super::super::real::Real;
use super::super::simd::{each_part, map_parts, vectorized};

/// Numbers that one task converts.
const CHUNK: usize = 1 << 16;

/// A matrix of numbers that a product reads in pieces of rows.
pub(super) trait Stored<R>: Copy + Sync {
    /// `L` numbers of a row, from a column on: one, or as many as a [`Quantized`] block of a row begins with there.
    fn piece<const L: usize>(&self, row: usize, column: usize) -> [R; L];

    /// Pieces of `N` rows one below the other, from a multiple of `N` on.
    #[inline(always)]
    fn tile<const N: usize, const L: usize>(&self, row: usize, column: usize) -> [[R; L]; N]
    where
        R: Real,
    {
        let mut tile = [[R::default(); L]; N];
        for (i, piece) in tile.iter_mut().enumerate() {
            *piece = self.piece(row + i, column);
        }
        tile
    }
}

/// Numbers of the type that is computed in.
#[derive(Clone, Copy)]
pub(super) struct Full<'a, R> {
    pub numbers: &'a [R],
    pub width: usize,
}

impl<R: Real> Stored<R> for Full<'_, R> {
    #[inline(always)]
    fn piece<const L: usize>(&self, row: usize, column: usize) -> [R; L] {
        array(self.numbers, row * self.width + column)
    }
}

/// bf16: the upper half of an f32.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a> {
    pub numbers: &'a [bf16],
    pub width: usize,
}

impl Stored<f32> for Halves<'_> {
    #[inline(always)]
    fn piece<const L: usize>(&self, row: usize, column: usize) -> [f32; L] {
        let halves: [bf16; L] = array(self.numbers, row * self.width + column);
        let mut numbers = [0.0; L]; // by a loop: the closure of `map` would not be inlined
        for i in 0..L {
            numbers[i] = f32::from_bits(u32::from(halves[i].to_bits()) << 16);
        }
        numbers
    }
}

/// Integers with one scale for every block of a row's or a column's numbers, 16 of them or a larger power of two.
#[derive(Clone, Copy)]
pub(super) struct Quantized<'a> {
    numbers: &'a [i8],
    scales: &'a [f32],
    width: usize,
    /// Binary logarithm of the numbers in a block.
    shift: u32,
    /// Whether a block is of a column.
    down: bool,
}

impl<'a> Quantized<'a> {
    pub fn of(tensor: &'a FlexQTensor) -> Self {
        let [_, width]: [usize; 2] = tensor.tensor().layout().shape().dims();
        let [rows, columns] = block_of(&scheme_of(tensor));
        let (shift, down) = ((rows * columns).ilog2(), columns == 1);
        Self { numbers: tensor.tensor().storage(), scales: tensor.scales(), width, shift, down }
    }

    /// The scales of a piece.
    #[inline(always)]
    fn scales<const L: usize>(&self, row: usize, column: usize) -> [f32; L] {
        match self.down {
            true => array(self.scales, (row >> self.shift) * self.width + column),
            false => [self.scales[row * (self.width >> self.shift) + (column >> self.shift)]; L],
        }
    }

    #[inline(always)]
    fn scaled<const L: usize>(&self, row: usize, column: usize, scales: &[f32; L]) -> [f32; L] {
        let numbers: [i8; L] = array(self.numbers, row * self.width + column);
        let mut out = [0.0; L];
        for i in 0..L {
            out[i] = f32::from(numbers[i]) * scales[i];
        }
        out
    }
}

impl Stored<f32> for Quantized<'_> {
    #[inline(always)]
    fn piece<const L: usize>(&self, row: usize, column: usize) -> [f32; L] {
        self.scaled(row, column, &self.scales(row, column))
    }

    #[inline(always)]
    fn tile<const N: usize, const L: usize>(&self, row: usize, column: usize) -> [[f32; L]; N] {
        let mut scales = self.scales(row, column);
        let mut tile = [[0.0; L]; N];
        for (i, piece) in tile.iter_mut().enumerate() {
            if !self.down {
                scales = self.scales(row + i, column);
            }
            *piece = self.scaled(row + i, column, &scales);
        }
        tile
    }
}

#[inline(always)]
fn array<T: Copy, const L: usize>(slice: &[T], first: usize) -> [T; L] {
    let piece = &slice[first..first + L];
    *piece.as_array().expect("as long as asked")
}

/// The scheme of a matrix of i8 with an f32 for every `block`, rows and columns, of numbers.
pub(crate) fn int8(block: [u8; 2]) -> QuantScheme {
    QuantScheme::default()
        .with_value(QuantValue::Q8S)
        .with_mode(QuantMode::Symmetric)
        .with_store(QuantStore::Native)
        .per_block(block, ScaleDtype::F32)
}

/// Whether a dtype is one of [`int8`]'s, with blocks as [`Quantized`] reads them.
pub(crate) fn is_int8(dtype: DType) -> bool {
    let DType::QFloat(scheme) = dtype else { return false };
    let [rows, columns] = sizes(&scheme);
    let numbers = rows.max(columns);
    let block = rows.min(columns) == 1 && numbers >= 16 && numbers.is_power_of_two();
    block && int8([rows, columns]) == scheme
}

fn scheme_of(tensor: &FlexQTensor) -> QuantScheme {
    use burn::backend::TensorMetadata;
    match tensor.dtype() {
        DType::QFloat(scheme) => scheme,
        dtype => panic!("a quantised tensor of {dtype:?}"),
    }
}

fn sizes(scheme: &QuantScheme) -> [u8; 2] {
    scheme.block_size().as_ref().map_or([1, 1], BlockSize::as_dim)
}

fn block_of(scheme: &QuantScheme) -> [usize; 2] {
    sizes(scheme).map(usize::from)
}

/// The nearest integers in units of a 127th of each block's largest magnitude.
pub(super) fn quantize(weight: &FlexTensor, scheme: &QuantScheme) -> FlexQTensor {
    let weight = weight.to_contiguous();
    let [height, width]: [usize; 2] = weight.layout().shape().dims();
    let numbers: &[f32] = weight.storage();
    let [rows, columns] = block_of(scheme);
    let across = width / columns;
    let mut integers = vec![0i8; numbers.len()];
    let bands = integers.chunks_mut(rows * width).zip(numbers.chunks(rows * width));
    let scales = map_parts(bands, |(integers, numbers)| {
        let mut scales = vec![0.0f32; across];
        for (i, number) in numbers.iter().enumerate() {
            let scale = &mut scales[i % width / columns];
            *scale = scale.max(number.abs() / 127.0);
        }
        for (i, (integer, number)) in integers.iter_mut().zip(numbers).enumerate() {
            let scale = scales[i % width / columns];
            *integer = if scale > 0.0 { (number / scale).round() as i8 } else { 0 };
        }
        scales
    });
    let integers = FlexTensor::from_data(burn::tensor::TensorData::new(integers, [height, width]));
    FlexQTensor::new(integers, *scheme, scales.concat(), None)
}

/// A stored matrix `[height width]` as numbers that a general product takes.
pub(super) fn expand<R: Real + Pod, S: Stored<R>>(stored: S, [height, width]: [usize; 2]) -> Vec<R> {
    const L: usize = 16;
    let mut out = vec![R::default(); height * width];
    let rows = (CHUNK / width).max(1);
    each_part(out.chunks_mut(rows * width).enumerate(), |(part, out)| {
        vectorized(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(width).enumerate() {
                    let row = part * rows + i;
                    let (pieces, rest) = out.as_chunks_mut::<L>();
                    let whole = pieces.len() * L;
                    for (j, piece) in pieces.iter_mut().enumerate() {
                        *piece = stored.piece(row, j * L);
                    }
                    for (j, number) in rest.iter_mut().enumerate() {
                        [*number] = stored.piece(row, whole + j);
                    }
                }
            },
        );
    });
    out
}
