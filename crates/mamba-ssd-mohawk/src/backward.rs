//! The backward passes of a step.

use burn::tensor::Tensor;
use mamba_ssd::Backbone;

use crate::data::{Batch, Counts};
use crate::error::MohawkError;
use crate::gradients::{GradientSum, Place, Reading, Squared};
use crate::replica::Replica;
use crate::stage::Objective;

/// What is minimised, and how its gradient is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    pub objective: Objective,
    /// Stage 3 with the activations of one layer at a time.
    pub checkpointing: bool,
}

impl Pass {
    /// Every term's backward pass over all micro-batches, each with what there is in it on all devices. What is computed here
    /// weighs its share of the step: the sum over all devices is the mean over all of them, however the tokens are split.
    pub fn backward<T: Backbone, S: Backbone>(
        &self,
        teacher: &T,
        student: &S,
        batches: Vec<(Batch, Counts)>,
    ) -> (Terms, GradientSum) {
        let weight = |counts: Counts, layer| self.objective.weight(counts, layer);
        let total = |layer| batches.iter().map(|(_, all)| weight(*all, layer)).sum::<usize>().max(1);
        let mut terms = Terms::default();
        let mut gradients = GradientSum::default();
        for (batch, _) in &batches {
            let share = |layer| weight(batch.counts, layer) as f64 / total(layer) as f64;
            let by_layers = match self.objective {
                Objective::Logits(loss) if self.checkpointing => Some(loss),
                _ => None,
            };
            if let Some(loss) = by_layers {
                let add = |of_piece| gradients.add(student, of_piece);
                terms.push(None, loss.backward_by_layers(teacher, student, batch, share(None), add));
            }
            let whole = |layer: Option<usize>, term: Tensor<1>| {
                let term = term.mul_scalar(share(layer));
                gradients.add(student, term.backward());
                terms.push(layer, term.inner());
            };
            match by_layers {
                Some(loss) => loss.for_each_mixer(teacher, student, batch, whole),
                None => self.objective.for_each_term(teacher, student, batch, whole),
            }
        }
        (terms, gradients)
    }
}

/// The weighted terms of a step's loss, still on the device, and the layers they belong to.
#[derive(Default)]
pub(crate) struct Terms {
    layers: Vec<Option<usize>>,
    values: Vec<Tensor<1>>,
}

impl Terms {
    fn push(&mut self, layer: Option<usize>, term: Tensor<1>) {
        self.layers.push(layer);
        self.values.push(term);
    }

    /// The sum over all replicas.
    pub fn sum_over(self, replica: &Replica) -> Result<Self, MohawkError> {
        if replica.is_alone() {
            return Ok(self);
        }
        let sum = replica.sum(Tensor::cat(self.values, 0))?;
        let values = (0..self.layers.len()).map(|term| sum.clone().narrow(0, term, 1)).collect();
        Ok(Self { layers: self.layers, values })
    }

    /// All terms and gradients at once, on the host.
    pub fn read(&self, gradients: &Squared, place: Place) -> Result<Reading, MohawkError> {
        Reading::take(self.values.clone(), gradients, place, |term| match self.layers[term] {
            Some(layer) => format!("the loss of layer {layer}"),
            None => "the loss".to_string(),
        })
    }

    /// The loss of each layer; empty where the loss has no layers.
    pub fn by_layer(&self, reading: &Reading, n_layers: usize) -> Vec<Option<f64>> {
        if self.layers.iter().all(Option::is_none) {
            return Vec::new();
        }
        let mut layers = vec![None; n_layers];
        for (layer, term) in self.layers.iter().zip(&reading.terms) {
            if let Some(layer) = layer {
                *layers[*layer].get_or_insert(0.0) += term;
            }
        }
        layers
    }
}
