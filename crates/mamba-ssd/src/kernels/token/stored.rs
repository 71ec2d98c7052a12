//! Weights as they are stored, and what a product reads of them.

use burn::tensor::quantization::{BlockSize, QuantMode, QuantScheme, QuantStore, QuantValue, ScaleDtype};
use burn::tensor::{DType, TensorData};
use burn_flex::{FlexQTensor, FlexTensor};
use half::bf16;

use super::super::real::Real;
use super::super::simd::{each_part, map_parts, vectorized};

/// Numbers that one task converts.
const CHUNK: usize = 1 << 16;

/// A number as it is stored.
pub(super) trait Number<R>: Copy + Sync {
    /// As what is computed in.
    fn wide(self) -> R;
}

impl<R: Real> Number<R> for R {
    #[inline(always)]
    fn wide(self) -> R {
        self
    }
}

/// The upper half of an f32.
impl Number<f32> for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Number<f32> for i8 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from(self)
    }
}

/// `L` numbers as what is computed in: by a loop, since the closure of `map` would not be inlined.
#[inline(always)]
pub(super) fn wide<N: Number<R>, R: Real, const L: usize>(numbers: &[N; L]) -> [R; L] {
    let mut out = [R::default(); L];
    for i in 0..L {
        out[i] = numbers[i].wide();
    }
    out
}

/// A matrix that a product reads row by row.
pub(super) trait Stored<R>: Copy + Sync {
    /// How its numbers are stored.
    type Number: Number<R>;
    /// Whether they are in units of a factor, one for every block of a row.
    const SCALED: bool;

    fn row(&self, row: usize) -> &[Self::Number];

    /// Numbers of a block; 16, 32, 64 or 128 where there are factors.
    fn block(&self) -> usize;

    /// The factor of a block of a row.
    fn factor(&self, row: usize, block: usize) -> R;
}

/// Numbers as they are.
#[derive(Clone, Copy)]
pub(super) struct Plain<'a, T> {
    pub numbers: &'a [T],
    pub width: usize,
}

impl<T> Plain<'_, T> {
    /// `count` pieces of each of `N` rows, from a row and a column on, each row in a slice of its own: what an inner loop
    /// can walk without asking where it is.
    #[inline(always)]
    pub fn lines<const N: usize, const L: usize>(
        &self,
        [row, column]: [usize; 2],
        count: usize,
    ) -> [&[[T; L]]; N] {
        let mut lines: [&[[T; L]]; N] = [&[]; N];
        for (i, line) in lines.iter_mut().enumerate() {
            let (pieces, _) = self.numbers[(row + i) * self.width + column..][..count * L].as_chunks();
            *line = &pieces[..count];
        }
        lines
    }
}

impl<R: Real, T: Number<R>> Stored<R> for Plain<'_, T> {
    type Number = T;
    const SCALED: bool = false;

    #[inline(always)]
    fn row(&self, row: usize) -> &[T] {
        &self.numbers[row * self.width..][..self.width]
    }

    #[inline(always)]
    fn block(&self) -> usize {
        self.width
    }

    #[inline(always)]
    fn factor(&self, _row: usize, _block: usize) -> R {
        R::ONE
    }
}

/// Integers with one factor for every block of a row's numbers.
#[derive(Clone, Copy)]
pub(super) struct Quantized<'a> {
    integers: Plain<'a, i8>,
    factors: &'a [f32],
    /// From a row's factors to the next row's, and from a block's to the next block's.
    strides: [usize; 2],
    block: usize,
}

impl Stored<f32> for Quantized<'_> {
    type Number = i8;
    const SCALED: bool = true;

    #[inline(always)]
    fn row(&self, row: usize) -> &[i8] {
        Stored::<f32>::row(&self.integers, row)
    }

    #[inline(always)]
    fn block(&self) -> usize {
        self.block
    }

    #[inline(always)]
    fn factor(&self, row: usize, block: usize) -> f32 {
        self.factors[row * self.strides[0] + block * self.strides[1]]
    }
}

/// A tensor in [`int8`] whose integers lie in memory as a product reads them: along its blocks. That is `[k n]` turned
/// for blocks of columns, and as it is for blocks of rows.
pub(super) struct AlongBlocks<'a> {
    integers: FlexTensor,
    factors: &'a [f32],
    block: usize,
    /// Whether the tensor is this turned.
    pub turned: bool,
}

impl<'a> AlongBlocks<'a> {
    pub fn of(tensor: &'a FlexQTensor) -> Self {
        let [rows, columns] = block_of(&scheme_of(tensor));
        let turned = rows > columns;
        let integers = if turned { tensor.tensor().transpose(0, 1) } else { tensor.tensor().clone() };
        let integers = integers.to_contiguous(); // as it is, if `quantize` made it
        Self { integers, factors: tensor.scales(), block: rows * columns, turned }
    }

    /// Rows and columns in memory.
    pub fn shape(&self) -> [usize; 2] {
        self.integers.layout().shape().dims()
    }

    pub fn matrix(&self) -> Quantized<'_> {
        let [height, width] = self.shape();
        Quantized {
            integers: Plain { numbers: self.integers.storage(), width },
            factors: self.factors,
            strides: if self.turned { [1, height] } else { [width / self.block, 1] },
            block: self.block,
        }
    }
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
    rows.min(columns) == 1 && [16, 32, 64, 128].contains(&numbers) && int8([rows, columns]) == scheme
}

fn scheme_of(tensor: &FlexQTensor) -> QuantScheme {
    use burn::backend::TensorMetadata;
    match tensor.dtype() {
        DType::QFloat(scheme) => scheme,
        dtype => panic!("a quantised tensor of {dtype:?}"),
    }
}

/// Whether the blocks of a dtype of [`int8`]'s are of columns.
pub(super) fn runs_down(dtype: DType) -> bool {
    matches!(dtype, DType::QFloat(scheme) if block_of(&scheme)[0] > 1)
}

fn sizes(scheme: &QuantScheme) -> [u8; 2] {
    scheme.block_size().as_ref().map_or([1, 1], BlockSize::as_dim)
}

fn block_of(scheme: &QuantScheme) -> [usize; 2] {
    sizes(scheme).map(usize::from)
}

/// The nearest integers in units of a 127th of each block's largest magnitude. Blocks lie in memory as [`AlongBlocks`]
/// reads them.
pub(super) fn quantize(weight: &FlexTensor, scheme: &QuantScheme) -> FlexQTensor {
    let [rows, columns] = block_of(scheme);
    let (turned, block) = (rows > columns, rows * columns);
    let weight = if turned { weight.transpose(0, 1) } else { weight.clone() }.to_contiguous();
    let [height, width]: [usize; 2] = weight.layout().shape().dims();
    let numbers: &[f32] = weight.storage();
    let mut integers = vec![0i8; numbers.len()];
    let lines = (CHUNK / width).max(1) * width;
    let parts = integers.chunks_mut(lines).zip(numbers.chunks(lines));
    let factors = map_parts(parts, |(integers, numbers)| {
        let blocks = integers.chunks_exact_mut(block).zip(numbers.chunks_exact(block));
        blocks.map(|(integers, numbers)| quantize_block(numbers, integers)).collect::<Vec<_>>()
    });
    let mut factors = factors.concat();
    let integers = FlexTensor::from_data(TensorData::new(integers, [height, width]));
    if !turned {
        return FlexQTensor::new(integers, *scheme, factors, None);
    }
    let across = width / block; // burn counts the blocks of the tensor as it is
    factors = (0..factors.len()).map(|i| factors[i % height * across + i / height]).collect();
    FlexQTensor::new(integers.transpose(0, 1), *scheme, factors, None)
}

/// The integers of a block, and what they are in units of.
fn quantize_block(numbers: &[f32], integers: &mut [i8]) -> f32 {
    let factor = numbers.iter().fold(0.0f32, |most, number| most.max(number.abs())) / 127.0;
    for (integer, number) in integers.iter_mut().zip(numbers) {
        *integer = if factor > 0.0 { (number / factor).round() as i8 } else { 0 };
    }
    factor
}

/// Writes numbers as what is computed in.
#[inline(always)]
pub(super) fn widen<N: Number<R>, R>(numbers: &[N], out: &mut [R]) {
    out.iter_mut().zip(numbers).for_each(|(out, number)| *out = number.wide());
}

/// Writes a row as what is computed in, times its factors.
#[inline(always)]
pub(super) fn read<R: Real, S: Stored<R>>(stored: S, row: usize, out: &mut [R]) {
    widen(stored.row(row), out);
    if S::SCALED {
        for (block, numbers) in out.chunks_exact_mut(stored.block()).enumerate() {
            let factor = stored.factor(row, block);
            numbers.iter_mut().for_each(|number| *number *= factor);
        }
    }
}

/// A stored matrix `[height width]` as numbers that a general product takes.
pub(super) fn expand<R: Real, S: Stored<R>>(stored: S, [height, width]: [usize; 2]) -> Vec<R> {
    let mut out = vec![R::default(); height * width];
    let rows = (CHUNK / width).max(1);
    each_part(out.chunks_mut(rows * width).enumerate(), |(part, out)| {
        vectorized(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(width).enumerate() {
                    read(stored, part * rows + i, out);
                }
            },
        );
    });
    out
}
