//! The tensors of a file: named, shaped, and read when they are asked for.
//!
//! What a dialect stores in another arrangement, [`Stored`] rearranges on the way: rows of a fused
//! matrix, matrices to be fused, rows permuted for another rotation, groups of small integers. Each is
//! again a tensor that is read when asked for, so that no more than one lies in memory at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use burn::tensor::{DType, TensorData};

use crate::ModelError;

/// A tensor that has not been read.
#[derive(Clone)]
pub(super) struct Stored<'a> {
    /// The element type, as the file calls it.
    dtype: String,
    shape: Vec<usize>,
    read: Rc<dyn Fn() -> Result<TensorData, ModelError> + 'a>,
}

impl<'a> Stored<'a> {
    /// A tensor of the given shape, and how to read it.
    pub(super) fn new(
        dtype: impl Into<String>,
        shape: Vec<usize>,
        read: impl Fn() -> Result<TensorData, ModelError> + 'a,
    ) -> Self {
        Self { dtype: dtype.into(), shape, read: Rc::new(read) }
    }

    pub(super) fn dtype(&self) -> &str {
        &self.dtype
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn read(&self) -> Result<TensorData, ModelError> {
        (self.read)()
    }

    /// The same numbers, rearranged into another shape when they are read.
    fn map(self, shape: Vec<usize>, change: impl Fn(TensorData) -> TensorData + 'a) -> Self {
        let read = self.read;
        Self { dtype: self.dtype, shape, read: Rc::new(move || Ok(change(read()?))) }
    }

    /// Bytes of one index of the first axis over the size of an element.
    fn row(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Some rows of the first axis.
    pub(super) fn rows(&self, range: Range<usize>) -> Self {
        if range == (0..self.shape[0]) {
            return self.clone();
        }
        let (mut shape, row) = (self.shape.clone(), self.row());
        shape[0] = range.len();
        let new = shape.clone();
        self.clone().map(shape, move |data| {
            let (dtype, size) = (data.dtype(), row * data.dtype().size());
            let bytes = &data.as_bytes()[range.start * size..range.end * size];
            TensorData::from_bytes_vec(bytes.to_vec(), new.clone(), dtype)
        })
    }

    /// Equal parts of the first axis, or nothing if it does not divide.
    pub(super) fn parts<const N: usize>(&self) -> Option<[Self; N]> {
        let rows = self.shape.first().copied()?;
        let part = rows / N;
        rows.is_multiple_of(N).then(|| std::array::from_fn(|i| self.rows(i * part..(i + 1) * part)))
    }

    /// The first axis taken as `[outer a b inner]` with a and b exchanged. Nothing if it does not divide.
    pub(super) fn exchanged(self, a: usize, b: usize, inner: usize) -> Option<Self> {
        let (rows, block) = (self.shape.first().copied()?, a * b * inner);
        if block == 0 || !rows.is_multiple_of(block) {
            return None;
        }
        let (shape, unit) = (self.shape.clone(), inner * self.row());
        Some(self.map(shape.clone(), move |data| {
            let (dtype, size) = (data.dtype(), unit * data.dtype().size());
            let bytes = data.as_bytes();
            let from = |to: usize| to / (a * b) * (a * b) + to % a * b + to % (a * b) / a;
            let moved = (0..rows / inner).flat_map(|to| &bytes[from(to) * size..][..size]).copied();
            TensorData::from_bytes_vec(moved.collect(), shape.clone(), dtype)
        }))
    }

    /// Tensors of equal rows on top of each other, as the type of the first.
    pub(super) fn stack(parts: Vec<Self>) -> Option<Self> {
        let first = parts.first()?;
        if parts.iter().any(|part| part.shape.is_empty() || part.shape[1..] != first.shape[1..]) {
            return None;
        }
        let (dtype, mut shape) = (first.dtype.clone(), first.shape.clone());
        shape[0] = parts.iter().map(|part| part.shape[0]).sum();
        let new = shape.clone();
        Some(Self::new(dtype, shape, move || {
            let mut bytes = Vec::new();
            let mut dtype = None;
            for part in &parts {
                let data = part.read()?;
                let dtype = *dtype.get_or_insert(data.dtype());
                bytes.extend_from_slice(data.convert_dtype(dtype).as_bytes());
            }
            let dtype = dtype.unwrap_or(DType::F32);
            Ok(TensorData::from_bytes_vec(bytes, new.clone(), dtype))
        }))
    }

    /// The same elements under another shape of as many.
    pub(super) fn reshaped(self, shape: Vec<usize>) -> Option<Self> {
        if shape.iter().product::<usize>() != self.shape.iter().product::<usize>() {
            return None;
        }
        let new = shape.clone();
        Some(self.map(shape, move |data| {
            let dtype = data.dtype();
            TensorData::from_bytes(data.into_bytes(), new.clone(), dtype)
        }))
    }
}

/// The tensors of one or several files, by their keys.
pub(super) struct Tensors<'a> {
    /// What messages name.
    path: PathBuf,
    map: BTreeMap<String, Stored<'a>>,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, map: BTreeMap::new() }
    }

    /// What messages name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a tensor, unless its key is taken.
    pub(super) fn insert(&mut self, key: String, tensor: Stored<'a>) -> Result<(), ModelError> {
        if self.map.contains_key(&key) {
            return Err(self.malformed(format!("`{key}` is there twice; download the files again")));
        }
        self.map.insert(key, tensor);
        Ok(())
    }

    /// Takes a tensor out.
    pub(super) fn take(&mut self, key: &str) -> Option<Stored<'a>> {
        self.map.remove(key)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Stored<'a>> {
        self.map.get(key)
    }

    /// The keys, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// Keys and tensors, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Stored<'a>)> {
        self.map.iter().map(|(key, tensor)| (key.as_str(), tensor))
    }

    /// Every tensor replaced by those that it stands for: none, itself under another key, or several.
    pub(super) fn each_becomes(
        mut self,
        change: impl Fn(String, Stored<'a>) -> Vec<(String, Stored<'a>)>,
    ) -> Result<Self, ModelError> {
        for (key, tensor) in std::mem::take(&mut self.map) {
            for (key, tensor) in change(key, tensor) {
                self.insert(key, tensor)?;
            }
        }
        Ok(self)
    }

    /// An error about these files.
    pub(super) fn malformed(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Weights { path: self.path.clone(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(shape: &[usize]) -> Stored<'static> {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| i as f32).collect();
        let data = TensorData::new(values, shape.to_vec());
        Stored::new("F32", shape.to_vec(), move || Ok(data.clone()))
    }

    fn read(tensor: &Stored) -> Vec<f32> {
        let data = tensor.read().expect("in memory");
        assert_eq!(data.shape().as_slice(), tensor.shape(), "the shape is that of the data");
        data.try_to_vec().expect("f32")
    }

    #[test]
    fn rows_and_parts_are_slices_of_the_first_axis() {
        let tensor = numbers(&[6, 2]);
        assert_eq!(read(&tensor.rows(1..3)), [2.0, 3.0, 4.0, 5.0]);
        let [a, b, c] = tensor.parts().expect("thirds");
        assert_eq!([read(&a), read(&b), read(&c)].concat(), read(&tensor));
        assert!(tensor.parts::<4>().is_none());
        let whole = Stored::stack(vec![a, b, c]).expect("equal rows");
        assert_eq!(read(&whole), read(&tensor));
        assert!(Stored::stack(vec![tensor, numbers(&[6, 3])]).is_none());
    }

    #[test]
    fn exchanged_axes_are_a_transposition_inside_the_rows() {
        let tensor = numbers(&[12, 1]).exchanged(2, 3, 1).expect("two outer blocks");
        assert_eq!(read(&tensor), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 6.0, 9.0, 7.0, 10.0, 8.0, 11.0]);
        let back = tensor.exchanged(3, 2, 1).expect("two outer blocks");
        assert_eq!(read(&back), read(&numbers(&[12, 1])));
        let pairs = numbers(&[8, 1]).exchanged(2, 2, 2).expect("one outer block");
        assert_eq!(read(&pairs), [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
        assert!(numbers(&[12, 1]).exchanged(5, 2, 1).is_none());
    }
}
