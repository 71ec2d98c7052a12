//! How close two models are on texts: the divergence of their predictions, and how often the likeliest token is the same.

use burn::tensor::{DType, Int, Tensor, TensorData};
use mamba_ssd::{Backbone, Divergence};
use serde::{Deserialize, Serialize};

/// Logits that are held at a time, of each model.
const LOGITS: usize = 1 << 25;

/// Two models over the same tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Sum of KL(reference ‖ model), in nats.
    pub nats: f64,
    /// Tokens whose likeliest next token is the same.
    pub same: usize,
    /// Compared tokens.
    pub tokens: usize,
}

impl Agreement {
    /// Of all texts together.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a Self>) -> Self {
        let add = |sum: Self, text: &Self| Self {
            nats: sum.nats + text.nats,
            same: sum.same + text.same,
            tokens: sum.tokens + text.tokens,
        };
        texts.into_iter().fold(Self::default(), add)
    }

    /// Mean of KL(reference ‖ model), in nats a token.
    pub fn kl(&self) -> f64 {
        self.nats / self.tokens.max(1) as f64
    }

    /// Share of tokens whose likeliest next token is the same.
    pub fn top1(&self) -> f64 {
        self.same as f64 / self.tokens.max(1) as f64
    }
}

/// How close `model` is to `reference` on every token of each of `texts`, each read alone.
///
/// # Panics
///
/// If the vocabularies differ.
pub fn agreement<M: Backbone, N: Backbone>(
    reference: &M,
    model: &N,
    texts: &[Vec<u32>],
    mut done: impl FnMut(usize),
) -> Vec<Agreement> {
    let (v, other) = (reference.vocab_size(), model.vocab_size());
    assert_eq!(v, other, "a vocabulary of {v} tokens beside one of {other}");
    let (reference, model) = (reference.valid(), model.valid());
    let device = reference.devices().remove(0);
    let mut compare = |text: &Vec<u32>| {
        let mut found = Agreement { tokens: text.len(), ..Agreement::default() };
        if text.is_empty() {
            return found;
        }
        let ids: Vec<i64> = text.iter().map(|&token| i64::from(token)).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, text.len()]), &device);
        let [ours, theirs] = [reference.hidden(ids.clone(), None), model.hidden(ids, None)];
        let together = (LOGITS / v).max(1);
        for start in (0..text.len()).step_by(together) {
            let count = together.min(text.len() - start);
            let want = reference.head(ours.clone().narrow(1, start, count));
            let got = model.head(theirs.clone().narrow(1, start, count));
            let same = want.clone().argmax(2).equal(got.clone().argmax(2)).int().sum();
            found.same += same.into_scalar::<i64>() as usize;
            let kl = Divergence::ForwardKl.per_token(got, want, 1.0);
            found.nats += kl.cast(DType::F32).sum().into_scalar::<f64>();
        }
        done(text.len());
        found
    };
    texts.iter().map(&mut compare).collect()
}
