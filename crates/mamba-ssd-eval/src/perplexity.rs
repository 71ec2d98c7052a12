//! Token perplexity, `exp(mean over predicted tokens of −log p(token | earlier tokens of its document))`.
//!
//! Documents are packed into rows; [`Segments`] keep them apart, so that the result is that of the
//! documents run one by one. A document's first token is never predicted; its last is, so close the
//! documents with an end token to score that too.

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use mamba_ssd::{Backbone, Segments};

/// Length of a row, if no document is longer.
const ROW: usize = 512;

/// Longer documents are cut into pieces of this length, each scored on its own.
const MAX_ROW: usize = 2048;

/// Rows are batched until their logits reach this many numbers.
const MAX_LOGITS: usize = 1 << 22;

/// The perplexity of `documents`, given as tokens.
///
/// # Panics
///
/// If no document has two tokens.
pub fn perplexity<M: Backbone>(model: &M, documents: &[Vec<u32>]) -> f64 {
    let model = model.valid();
    let device = model.devices().remove(0);
    let rows = pack(documents);
    let predicted: usize = rows.iter().map(Row::predicted).sum();
    assert!(predicted > 0, "no document has two tokens, there is nothing to predict");
    let length = rows[0].length;
    let batch = (MAX_LOGITS / (length * model.vocab_size())).max(1);
    let surprise: f64 = rows.chunks(batch).map(|rows| surprise(&model, rows, &device)).sum();
    (surprise / predicted as f64).exp()
}

/// Whole documents side by side, and padding.
struct Row<'a> {
    length: usize,
    documents: Vec<&'a [u32]>,
}

/// Puts documents into rows of one length, in order, without cutting what fits into a row.
fn pack(documents: &[Vec<u32>]) -> Vec<Row<'_>> {
    let longest = documents.iter().map(Vec::len).max().unwrap_or(0);
    let length = longest.clamp(ROW, MAX_ROW);
    let mut rows: Vec<Row> = Vec::new();
    for document in documents.iter().flat_map(|document| document.chunks(length)) {
        match rows.last_mut().filter(|row| row.padding() >= document.len()) {
            Some(row) => row.documents.push(document),
            None => rows.push(Row { length, documents: vec![document] }),
        }
    }
    rows
}

impl Row<'_> {
    fn padding(&self) -> usize {
        self.length - self.documents.iter().map(|document| document.len()).sum::<usize>()
    }

    fn predicted(&self) -> usize {
        self.documents.iter().map(|document| document.len() - 1).sum()
    }

    /// Tokens, then zeros.
    fn tokens(&self) -> impl Iterator<Item = i64> {
        let tokens =
            self.documents.iter().flat_map(|document| document.iter().map(|&token| i64::from(token)));
        tokens.chain(std::iter::repeat_n(0, self.padding()))
    }

    /// The token after each, and zeros where there is none to predict.
    fn targets(&self) -> impl Iterator<Item = i64> {
        self.tokens().skip(1).chain([0])
    }

    /// 1 where the next token belongs to the same document, else 0.
    fn mask(&self) -> impl Iterator<Item = f32> {
        let document = |document: &&[u32]| std::iter::repeat_n(1.0, document.len() - 1).chain([0.0]);
        self.documents.iter().flat_map(document).chain(std::iter::repeat_n(0.0, self.padding()))
    }

    /// Lengths of the documents, the padding being one.
    fn lengths(&self) -> Vec<usize> {
        let documents = self.documents.iter().map(|document| document.len());
        documents.chain([self.padding()]).collect()
    }
}

/// Sum of −log p over the predicted tokens of some rows.
fn surprise<M: Backbone>(model: &M, rows: &[Row], device: &Device) -> f64 {
    let shape = [rows.len(), rows[0].length];
    let tokens = ints(rows.iter().flat_map(Row::tokens).collect(), shape, device);
    let targets = ints(rows.iter().flat_map(Row::targets).collect(), shape, device);
    let mask: Vec<f32> = rows.iter().flat_map(Row::mask).collect();
    let mask = Tensor::<2>::from_data(TensorData::new(mask, shape), device).cast(DType::F32);
    let lengths: Vec<Vec<usize>> = rows.iter().map(Row::lengths).collect();
    let segments = Segments::from_lengths(&lengths, device);

    let logits = model.forward(tokens, Some(&segments)).cast(DType::F32); // b t v
    let chosen = log_softmax(logits, 2).gather(2, targets.unsqueeze_dim(2)).squeeze_dim::<2>(2); // b t
    -f64::from((chosen * mask).sum().into_scalar::<f32>())
}

fn ints(values: Vec<i64>, shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_stay_whole_and_in_order() {
        let documents: Vec<Vec<u32>> = [300, 200, 100, 500].iter().map(|&length| vec![1; length]).collect();
        let lengths: Vec<Vec<usize>> = pack(&documents).iter().map(Row::lengths).collect();
        assert_eq!(lengths, [vec![300, 200, 12], vec![100, 412], vec![500, 12]]);
    }

    #[test]
    fn a_document_longer_than_any_row_is_cut() {
        let lengths: Vec<Vec<usize>> = pack(&[vec![1; 5000]]).iter().map(Row::lengths).collect();
        assert_eq!(lengths, [vec![2048, 0], vec![2048, 0], vec![904, 1144]]);
    }

    #[test]
    fn only_the_next_token_of_the_same_document_is_predicted() {
        let row = Row { length: 7, documents: vec![&[5, 6, 7], &[8], &[9, 4]] };
        assert_eq!(row.tokens().collect::<Vec<_>>(), [5, 6, 7, 8, 9, 4, 0]);
        assert_eq!(row.targets().collect::<Vec<_>>(), [6, 7, 8, 9, 4, 0, 0]);
        assert_eq!(row.mask().collect::<Vec<_>>(), [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(row.predicted(), 3);
    }
}
