//! Packed documents: which tokens of a row belong together.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// Where the documents of a packed batch begin.
///
/// Several documents can share one row of a batch. Scan, convolution and attention all restart at
/// the first token of a document, so that a packed batch equals the documents run apart. The first
/// document of a row may continue an incoming state; the later ones never see it.
#[derive(Clone, Debug)]
pub struct Segments {
    starts: Tensor<2, Int>,
}

impl Segments {
    /// Segments from the document lengths of each row.
    ///
    /// # Panics
    ///
    /// If there is no row, or the lengths of two rows add up to different totals.
    pub fn from_lengths(rows: &[Vec<usize>], device: &Device) -> Self {
        let length: usize = rows.first().expect("at least one row").iter().sum();
        let mut starts = Vec::with_capacity(rows.len() * length);
        for row in rows {
            let total: usize = row.iter().sum();
            assert_eq!(total, length, "a row of {total} tokens in a batch of rows of {length}");
            let mut start = 0i64;
            for &document in row {
                starts.extend(std::iter::repeat_n(start, document));
                start += document as i64;
            }
        }
        let data = TensorData::new(starts, [rows.len(), length]);
        Self::from_starts(Tensor::from_data(data, device))
    }

    /// Segments from `starts [b t]`: the index of the first token of each token's document.
    pub fn from_starts(starts: Tensor<2, Int>) -> Self {
        Self { starts }
    }

    /// Index of the first token of the document that each token belongs to, `[b t]`.
    pub fn starts(&self) -> Tensor<2, Int> {
        self.starts.clone()
    }

    /// Position of each token in its document, `[b t]`.
    pub fn positions(&self) -> Tensor<2, Int> {
        let [_, t] = self.starts.dims();
        let index = Tensor::<1, Int>::arange(0..t as i64, &self.starts.device());
        index.unsqueeze::<2>().sub(self.starts.clone())
    }

    /// The first tokens of every document but a row's first, `[b t]`: where state is dropped.
    pub fn resets(&self) -> Tensor<2, Bool> {
        let first = self.positions().equal_scalar(0);
        first.bool_and(self.starts.clone().greater_scalar(0))
    }

    /// Tokens whose `shift`-th predecessor lies in an earlier document, `[b t]`.
    pub(crate) fn crosses(&self, shift: usize) -> Tensor<2, Bool> {
        let short = self.positions().lower_scalar(shift as i64);
        short.bool_and(self.starts.clone().greater_scalar(0))
    }

    /// How many predecessors of each token, up to `most`, lie in its document or before the row,
    /// `[b t]`.
    #[cfg(any(feature = "flex", feature = "cube"))]
    pub(crate) fn reach(&self, most: usize) -> Tensor<2, Int> {
        let later = self.starts.clone().greater_scalar(0);
        let all = Tensor::full(self.dims(), most as i64, &self.starts.device());
        all.mask_where(later, self.positions().clamp_max(most as i64))
    }

    /// The batch and length `[b t]` these segments describe.
    pub fn dims(&self) -> [usize; 2] {
        self.starts.dims()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_positions_and_resets_follow_the_lengths() {
        let segments = Segments::from_lengths(&[vec![2, 3], vec![5]], &Device::flex());
        let starts = segments.starts().into_data();
        let positions = segments.positions().into_data();
        let expected = TensorData::from([[0i64, 0, 2, 2, 2], [0, 0, 0, 0, 0]]);
        starts.assert_eq(&expected, false);
        positions.assert_eq(&TensorData::from([[0i64, 1, 0, 1, 2], [0, 1, 2, 3, 4]]), false);
        let resets = segments.resets().int().into_data();
        resets.assert_eq(&TensorData::from([[0i64, 0, 1, 0, 0], [0, 0, 0, 0, 0]]), false);
    }
}
