//! What a model thinks of the tokens of texts: their log-probabilities, and which it would have written itself.
//!
//! Texts are packed into rows whose [`Segments`] keep them apart, so that every text scores as it does alone, and only
//! the hidden states in front of scored tokens go through the head.

use std::ops::Range;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use mamba_ssd::{Backbone, Segments, next_token_loss};
use serde::{Deserialize, Serialize};

/// Length of a row, if no text is longer.
const ROW: usize = 512;

/// Tokens of the rows that run together, if one row does not hold more.
const BATCH: usize = 8192;

/// Logits that are held at a time.
const LOGITS: usize = 1 << 25;

/// A text, and which of its tokens are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scored {
    /// The whole text.
    pub tokens: Vec<u32>,
    /// Places of the tokens to score, in order. The first token of a text has nothing in front of it, so 0 is none.
    pub places: Vec<usize>,
}

impl Scored {
    /// A text whose tokens in `range` are scored.
    pub fn range(tokens: Vec<u32>, range: Range<usize>) -> Self {
        Self { tokens, places: range.collect() }
    }

    /// A text of which all tokens but the first are scored.
    pub fn whole(tokens: Vec<u32>) -> Self {
        let range = 1..tokens.len().max(1);
        Self::range(tokens, range)
    }
}

/// What a model made of a text's scored tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Scored tokens.
    pub tokens: usize,
    /// −Σ log p, in nats.
    pub nats: f64,
    /// Tokens that were the likeliest in their place.
    pub right: usize,
}

impl Score {
    /// Whether greedy decoding would have written every scored token.
    pub fn is_greedy(&self) -> bool {
        self.right == self.tokens
    }
}

/// Scores texts; `done` hears how many tokens were read since it was last called.
///
/// # Panics
///
/// If a place is 0 or beyond the end of its text.
pub fn score<M: Backbone>(model: &M, texts: &[Scored], mut done: impl FnMut(usize)) -> Vec<Score> {
    let model = model.valid();
    let device = model.devices().remove(0);
    for text in texts {
        let inside = |place: &usize| (1..text.tokens.len()).contains(place);
        assert!(text.places.iter().all(inside), "places {:?} of {} tokens", text.places, text.tokens.len());
    }
    let mut scores = vec![Score::default(); texts.len()];
    for rows in batches(pack(texts)) {
        for (index, nats, right) in score_rows(&model, texts, &rows, &device) {
            scores[index].tokens += 1;
            scores[index].nats += nats;
            scores[index].right += usize::from(right);
        }
        done(rows.iter().flat_map(|row| &row.texts).map(|&index| texts[index].tokens.len()).sum());
    }
    scores
}

/// Texts side by side, by their index, and padding.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    length: usize,
    free: usize,
    texts: Vec<usize>,
}

/// Puts whole texts into rows, long ones first; rows are no longer than they must be. Texts without a scored token
/// are left out.
fn pack(texts: &[Scored]) -> Vec<Row> {
    let mut order: Vec<usize> = (0..texts.len()).filter(|&index| !texts[index].places.is_empty()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(texts[index].tokens.len()));
    let mut rows: Vec<Row> = Vec::new();
    for index in order {
        let length = texts[index].tokens.len();
        match rows.last_mut().filter(|row| row.free >= length) {
            Some(row) => {
                row.free -= length;
                row.texts.push(index);
            }
            None => {
                let row = length.max(ROW);
                rows.push(Row { length: row, free: row - length, texts: vec![index] });
            }
        }
    }
    rows
}

/// Rows of one length, no more than [`BATCH`] tokens of them where that is more than one.
fn batches(rows: Vec<Row>) -> Vec<Vec<Row>> {
    let mut batches: Vec<Vec<Row>> = Vec::new();
    for row in rows {
        match batches.last_mut() {
            Some(batch) if batch[0].length == row.length && (batch.len() + 1) * row.length <= BATCH => {
                batch.push(row);
            }
            _ => batches.push(vec![row]),
        }
    }
    batches
}

/// Of every scored token its text, −log p, and whether it was the likeliest.
fn score_rows<M: Backbone>(
    model: &M,
    texts: &[Scored],
    rows: &[Row],
    device: &Device,
) -> Vec<(usize, f64, bool)> {
    let (batch, length) = (rows.len(), rows[0].length);
    let [mut tokens, mut before, mut targets] = [Vec::with_capacity(batch * length), Vec::new(), Vec::new()];
    let mut owners = Vec::new();
    for row in rows {
        for &index in &row.texts {
            let text = &texts[index];
            for &place in &text.places {
                before.push((tokens.len() + place - 1) as i64);
                targets.push(i64::from(text.tokens[place]));
                owners.push(index);
            }
            tokens.extend(text.tokens.iter().map(|&token| i64::from(token)));
        }
        tokens.resize(tokens.len() + row.free, 0);
    }
    let lengths: Vec<Vec<usize>> = rows
        .iter()
        .map(|row| row.texts.iter().map(|&index| texts[index].tokens.len()).chain([row.free]).collect())
        .collect();
    let segments = Segments::from_lengths(&lengths, device);
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [batch, length]), device);
    let hidden = model.hidden(tokens, Some(&segments)).reshape([batch * length, model.d_model()]);

    let together = (LOGITS / model.vocab_size()).max(1);
    let mut scored = Vec::with_capacity(owners.len());
    for ((before, targets), owners) in
        before.chunks(together).zip(targets.chunks(together)).zip(owners.chunks(together))
    {
        let ints = |values: &[i64]| {
            Tensor::<1, Int>::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
        };
        let logits = model.head(hidden.clone().select(0, ints(before)).unsqueeze()); // 1 n v
        let nats = next_token_loss(logits.clone(), ints(targets).unsqueeze()).cast(DType::F32).into_data();
        let likeliest = logits.argmax(2).into_data();
        let likeliest = likeliest.iter::<i64>().zip(targets).map(|(likeliest, target)| likeliest == *target);
        scored.extend(
            owners
                .iter()
                .copied()
                .zip(nats.iter::<f64>())
                .zip(likeliest)
                .map(|((owner, nats), right)| (owner, nats, right)),
        );
    }
    scored
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lengths: &[usize]) -> Vec<Scored> {
        lengths.iter().map(|&length| Scored::whole(vec![1; length])).collect()
    }

    #[test]
    fn texts_stay_whole_long_ones_first() {
        let rows = pack(&texts(&[300, 200, 1, 100, 500, 700]));
        let of = |length, free, texts: &[usize]| Row { length, free, texts: texts.to_vec() };
        assert_eq!(rows, [of(700, 0, &[5]), of(512, 12, &[4]), of(512, 12, &[0, 1]), of(512, 412, &[3])]);
    }

    #[test]
    fn only_rows_of_one_length_run_together() {
        let lengths: Vec<usize> = [700].into_iter().chain([400; 20]).collect();
        let sizes: Vec<usize> = batches(pack(&texts(&lengths))).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 16, 4]);
    }
}
