//! How close two models are on texts: the divergence of their predictions, and how often the likeliest token is the same.

use burn::tensor::{DType, Int, Tensor, TensorData};
use mamba_ssd::{Backbone, Divergence};

/// Logits that are held at a time, of each model.
const LOGITS: usize = 1 << 25;

/// Two models over the same tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Agreement {
    /// Mean of KL(reference ‖ model), in nats a token.
    pub kl: f64,
    /// Share of tokens whose likeliest next token is the same.
    pub top1: f64,
    /// Compared tokens.
    pub tokens: usize,
}

/// How close `model` is to `reference` on every token of `texts`, each read alone.
///
/// # Panics
///
/// If the vocabularies differ.
pub fn agreement<M: Backbone, N: Backbone>(
    reference: &M,
    model: &N,
    texts: &[Vec<u32>],
    mut done: impl FnMut(usize),
) -> Agreement {
    let (v, other) = (reference.vocab_size(), model.vocab_size());
    assert_eq!(v, other, "a vocabulary of {v} tokens beside one of {other}");
    let (reference, model) = (reference.valid(), model.valid());
    let device = reference.devices().remove(0);
    let (mut sum, mut same, mut tokens) = (0.0, 0, 0);
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let ids: Vec<i64> = text.iter().map(|&token| i64::from(token)).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, text.len()]), &device);
        let [ours, theirs] = [reference.hidden(ids.clone(), None), model.hidden(ids, None)];
        let together = (LOGITS / v).max(1);
        for start in (0..text.len()).step_by(together) {
            let count = together.min(text.len() - start);
            let want = reference.head(ours.clone().narrow(1, start, count));
            let got = model.head(theirs.clone().narrow(1, start, count));
            same +=
                want.clone().argmax(2).equal(got.clone().argmax(2)).int().sum().into_scalar::<i64>() as usize;
            let kl = Divergence::ForwardKl.per_token(got, want, 1.0);
            sum += kl.cast(DType::F32).sum().into_scalar::<f64>();
        }
        tokens += text.len();
        done(text.len());
    }
    let count = tokens.max(1) as f64;
    Agreement { kl: sum / count, top1: same as f64 / count, tokens }
}
