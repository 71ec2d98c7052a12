//! Which attention layers a model needs most: each is silenced alone.
//!
//! Two things are held against the whole model: predictions on texts, by KL, and how much of random strings is still copied.
//! Layers that move predictions most are not those that find things again: in SmolLM2 the first is indispensable for any
//! text, while four in the middle do the copying. A hybrid's other layers can learn the former, and not the latter.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use burn::module::{ModuleMapper, Param};
use burn::tensor::Tensor;
use mamba_ssd::{Backbone, Mixer};
use serde::{Deserialize, Serialize};

use crate::agreement::{Agreement, agreement};
use crate::score::{Score, Scored, score};

/// What a model is without one of its attention layers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerImportance {
    /// The layer.
    pub layer: usize,
    /// Mean of KL(whole ‖ without it) over the texts, in nats a token.
    pub kl: f64,
    /// Share of the scored tokens of the strings that are still recalled.
    pub recall: f64,
}

/// What makes a layer important.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rank {
    /// How much of recall is lost without it, among layers whose absence leaves texts predictable ([`BROKEN`]); then the others by
    /// divergence.
    #[default]
    Recall,
    /// How much predictions change without it.
    Kl,
}

/// Nats a token from which on a model does not predict texts any more, so that what it recalls says nothing of recall.
pub const BROKEN: f64 = 1.0;

impl Rank {
    /// The layers, the most important first.
    pub fn order(self, mut layers: Vec<LayerImportance>) -> Vec<LayerImportance> {
        let by_kl = |a: &LayerImportance, b: &LayerImportance| b.kl.total_cmp(&a.kl);
        let by_recall = |a: &LayerImportance, b: &LayerImportance| {
            let broken = |layer: &LayerImportance| layer.kl >= BROKEN;
            match broken(a).cmp(&broken(b)) {
                Ordering::Equal if broken(a) => by_kl(a, b),
                Ordering::Equal => a.recall.total_cmp(&b.recall).then_with(|| by_kl(a, b)),
                order => order,
            }
        };
        match self {
            Self::Kl => layers.sort_by(by_kl),
            Self::Recall => layers.sort_by(by_recall),
        }
        layers
    }
}

/// What a model is without each of its attention layers, in their order; and the share of the scored tokens of `strings` that it
/// recalls as a whole. `done` hears of every layer.
pub fn importance<M: Backbone>(
    model: &M,
    texts: &[Vec<u32>],
    strings: &[Scored],
    mut done: impl FnMut(),
) -> (Vec<LayerImportance>, f64) {
    let recalled = |model: &M| {
        let scores: Vec<Score> = score(model, strings, |_| ());
        let right: usize = scores.iter().map(|score| score.right).sum();
        right as f64 / scores.iter().map(|score| score.tokens).sum::<usize>().max(1) as f64
    };
    let without = |layer| {
        let silent = silenced(model, layer)?;
        let kl = Agreement::of(&agreement(model, &silent, texts, |_| ())).kl();
        done();
        Some(LayerImportance { layer, kl, recall: recalled(&silent) })
    };
    ((0..model.n_layers()).filter_map(without).collect(), recalled(model))
}

/// The model with nothing coming out of a layer's attention, if it has one.
fn silenced<M: Backbone>(model: &M, layer: usize) -> Option<M> {
    let Mixer::Attention(attention) = model.mixer(layer) else { return None };
    let bias = attention.o_proj.bias.as_ref().map(|bias| bias.id.val());
    let ids = BTreeSet::from_iter([attention.o_proj.weight.id.val()].into_iter().chain(bias));
    Some(model.clone().map(&mut Zero(ids)))
}

struct Zero(BTreeSet<u64>);

impl ModuleMapper for Zero {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.0.contains(&param.id.val()) { param.map(|tensor| tensor.zeros_like()) } else { param }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_counts_among_layers_without_which_texts_are_still_predicted() {
        let layer = |(layer, kl, recall)| LayerImportance { layer, kl, recall };
        let layers: Vec<_> =
            [(0, 5.0, 0.0), (1, 0.1, 0.2), (2, 0.3, 0.9), (3, 0.2, 0.2), (4, 1.5, 0.0)].map(layer).into();
        let order = |rank: Rank| rank.order(layers.clone()).iter().map(|l| l.layer).collect::<Vec<_>>();
        assert_eq!(order(Rank::Recall), [3, 1, 2, 0, 4]);
        assert_eq!(order(Rank::Kl), [0, 4, 2, 3, 1]);
    }
}
