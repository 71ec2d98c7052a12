//! AdamW with decoupled weight decay on matrices only (Loshchilov and Hutter, arXiv 1711.05101).
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g      v ← β₂ v + (1 − β₂) g²
//! θ ← (1 − lr·λ) θ − lr · m̂ / (√v̂ + ε)         m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
//! ```
//!
//! λ acts on matrices (linear layers and embeddings), not on convolutions, norms, biases, D or any
//! other vector. Moments are kept by module path in f32 or wider, and so is a parameter that the model
//! itself holds in half precision, so that they are restored bit by bit into a freshly built module; burn's own AdamW keys its state by parameter identity, which a
//! freshly built module does not share, and clips per tensor instead of by the global norm.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use mamba_ssd::optimize::{AdamWRates, AdamWState, adamw};
use serde::{Deserialize, Serialize};

use crate::gradients::GradientSum;
use crate::parameters::replace;

/// Constants of AdamW; the defaults are the papers', `clip` excepted, which they do not give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// β₁, decay of the first moment.
    pub beta1: f64,
    /// β₂, decay of the second moment.
    pub beta2: f64,
    /// ε, added to the root of the second moment.
    pub epsilon: f64,
    /// λ, weight decay of matrices.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; a larger one is scaled down to it. 0 turns it off.
    pub clip: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip: 1.0 }
    }
}

/// AdamW and its state.
#[derive(Clone, Debug)]
pub(crate) struct AdamW {
    config: AdamWConfig,
    steps: usize,
    states: BTreeMap<String, AdamWState>,
}

impl AdamW {
    /// An optimiser that has seen nothing yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, steps: 0, states: BTreeMap::new() }
    }

    pub(crate) fn restore(config: AdamWConfig, steps: usize, states: BTreeMap<String, AdamWState>) -> Self {
        Self { config, steps, states }
    }

    /// The same with its state on another device.
    pub fn to_device(&self, device: &Device) -> Self {
        let moved = |(path, state): (&String, &AdamWState)| {
            let AdamWState { master, first, second } = state.clone();
            let move_one = |tensor: Tensor<1>| tensor.to_device(device);
            let state =
                AdamWState { master: master.map(move_one), first: move_one(first), second: move_one(second) };
            (path.clone(), state)
        };
        Self { states: self.states.iter().map(moved).collect(), ..*self }
    }

    /// Number of steps taken.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Moments and masters by path.
    pub(crate) fn states(&self) -> &BTreeMap<String, AdamWState> {
        &self.states
    }

    /// Takes one step on every parameter that has a gradient, with the gradients times `scale [1]`.
    pub(crate) fn step<M: Module>(
        &mut self,
        module: M,
        mut gradients: GradientSum,
        lr: f64,
        scale: &Tensor<1>,
    ) -> M {
        self.steps += 1;
        let AdamWConfig { beta1, beta2, epsilon, weight_decay, .. } = self.config;
        let t = self.steps as f64;
        let rates = AdamWRates {
            betas: [beta1, beta2],
            epsilon,
            rate: lr / (1.0 - beta1.powf(t)),
            correction: 1.0 - beta2.powf(t),
            decay: 0.0,
        };
        replace(module, |path, shape, value| {
            let gradient = gradients.take(path)?;
            let decay = if is_matrix(path, shape) { lr * weight_decay } else { 0.0 };
            let state = self.states.remove(path).unwrap_or_else(|| AdamWState::new(&value));
            let (value, state) = adamw(value, gradient, scale, state, &AdamWRates { decay, ..rates });
            self.states.insert(path.to_string(), state);
            Some(value)
        })
    }
}

/// Whether a parameter is the matrix of a linear layer or an embedding.
fn is_matrix(path: &str, shape: &[usize]) -> bool {
    shape.len() >= 2 && !path.split('.').any(|module| module.starts_with("conv"))
}
