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

    /// `count` pieces of each of `N` rows, from `column` of `row` on: shows `each` the place of the pieces that lie one
    /// below the other, and these. Rows begin at a multiple of `N`, which is at most 16.
    fn tiles<const N: usize, const L: usize>(
        &self,
        row: usize,
        column: usize,
        count: usize,
        each: impl FnMut(usize, &[[R; L]; N]),
    );
}

/// `count` pieces of each of `N` rows of a matrix, each row in a slice of its own: what an inner loop can walk without
/// asking where it is.
#[inline(always)]
fn lines<T, const N: usize, const L: usize>(
    numbers: &[T],
    width: usize,
    [row, column]: [usize; 2],
    count: usize,
) -> [&[[T; L]]; N] {
    let mut lines: [&[[T; L]]; N] = [&[]; N];
    for (i, line) in lines.iter_mut().enumerate() {
        let (pieces, _) = numbers[(row + i) * width + column..][..count * L].as_chunks();
        *line = &pieces[..count];
    }
    lines
}

/// Calls `each` with what `wide` makes of the pieces at every place.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "a place is one of every line")]
fn walk<T: Copy, R: Real, const N: usize, const L: usize>(
    lines: [&[[T; L]]; N],
    count: usize,
    mut wide: impl FnMut(usize, usize, &[T; L]) -> [R; L],
    mut each: impl FnMut(usize, &[[R; L]; N]),
) {
    let mut lines = lines;
    for line in &mut lines {
        *line = &line[..count];
    }
    for place in 0..count {
        let mut tile = [[R::default(); L]; N];
        for i in 0..N {
            tile[i] = wide(i, place, &lines[i][place]);
        }
        each(place, &tile);
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

    #[inline(always)]
    fn tiles<const N: usize, const L: usize>(
        &self,
        row: usize,
        column: usize,
        count: usize,
        each: impl FnMut(usize, &[[R; L]; N]),
    ) {
        let lines = lines(self.numbers, self.width, [row, column], count);
        walk(
            lines,
            count,
            #[inline(always)]
            |_, _, piece| *piece,
            each,
        );
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
        wide_halves(&array(self.numbers, row * self.width + column))
    }

    #[inline(always)]
    fn tiles<const N: usize, const L: usize>(
        &self,
        row: usize,
        column: usize,
        count: usize,
        each: impl FnMut(usize, &[[f32; L]; N]),
    ) {
        let lines = lines(self.numbers, self.width, [row, column], count);
        walk(
            lines,
            count,
            #[inline(always)]
            |_, _, piece| wide_halves(piece),
            each,
        );
    }
}

#[inline(always)]
fn wide_halves<const L: usize>(halves: &[bf16; L]) -> [f32; L] {
    let mut numbers = [0.0; L]; // by a loop: the closure of `map` would not be inlined
    for i in 0..L {
        numbers[i] = f32::from_bits(u32::from(halves[i].to_bits()) << 16);
    }
    numbers
}

/// Integers with one scale for every block of a row's, or `DOWN` of a column's, numbers: 16 of them or a larger power of
/// two.
#[derive(Clone, Copy)]
pub(super) struct Quantized<'a, const DOWN: bool> {
    numbers: &'a [i8],
    scales: &'a [f32],
    width: usize,
    /// Binary logarithm of the numbers in a block.
    shift: u32,
}

impl<'a, const DOWN: bool> Quantized<'a, DOWN> {
    pub fn of(tensor: &'a FlexQTensor) -> Self {
        let [_, width]: [usize; 2] = tensor.tensor().layout().shape().dims();
        let [rows, columns] = block_of(&scheme_of(tensor));
        let shift = (rows * columns).ilog2();
        Self { numbers: tensor.tensor().storage(), scales: tensor.scales(), width, shift }
    }
}

impl<const DOWN: bool> Stored<f32> for Quantized<'_, DOWN> {
    #[inline(always)]
    fn piece<const L: usize>(&self, row: usize, column: usize) -> [f32; L] {
        let scales = match DOWN {
            true => array(self.scales, (row >> self.shift) * self.width + column),
            false => [self.scales[row * (self.width >> self.shift) + (column >> self.shift)]; L],
        };
        scaled(&array(self.numbers, row * self.width + column), &scales)
    }

    #[inline(always)]
    fn tiles<const N: usize, const L: usize>(
        &self,
        row: usize,
        column: usize,
        count: usize,
        each: impl FnMut(usize, &[[f32; L]; N]),
    ) {
        let numbers = lines(self.numbers, self.width, [row, column], count);
        if DOWN {
            let [scales] = lines::<_, 1, L>(self.scales, self.width, [row >> self.shift, column], count);
            walk(
                numbers,
                count,
                #[inline(always)]
                |_, place, piece| scaled(piece, &scales[place]),
                each,
            );
        } else {
            let shift = self.shift;
            let scales = lines::<_, N, 1>(self.scales, self.width >> shift, [row, 0], self.width >> shift);
            walk(
                numbers,
                count,
                #[inline(always)]
                |i, place, piece| scaled(piece, &[scales[i][(column + place * L) >> shift][0]; L]),
                each,
            );
        }
    }
}

#[inline(always)]
fn scaled<const L: usize>(numbers: &[i8; L], scales: &[f32; L]) -> [f32; L] {
    let mut out = [0.0; L];
    for i in 0..L {
        out[i] = f32::from(numbers[i]) * scales[i];
    }
    out
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

/// Whether the blocks of a tensor in [`int8`] are of columns.
pub(super) fn is_down(tensor: &FlexQTensor) -> bool {
    block_of(&scheme_of(tensor))[1] == 1
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
