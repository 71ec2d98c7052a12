//! AdamW with decoupled weight decay on matrices only (Loshchilov and Hutter, arXiv 1711.05101).
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g      v ← β₂ v + (1 − β₂) g²
//! θ ← (1 − lr·λ) θ − lr · m̂ / (√v̂ + ε)         m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
//! ```
//!
//! λ acts on matrices (linear layers and embeddings), not on convolutions, norms, biases, D or any
//! other vector. Moments are kept by module path in f32 or wider, so that they are restored bit by
//! bit into a freshly built module; burn's own AdamW keys its state by parameter identity, which a
//! freshly built module does not share, and clips per tensor instead of by the global norm.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::gradients::GradientSum;
use crate::loss::widen;
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

impl AdamWConfig {
    /// What gradients of a global `norm` are multiplied by.
    pub fn clip_scale(&self, norm: f64) -> f64 {
        if self.clip > 0.0 && norm > self.clip { self.clip / norm } else { 1.0 }
    }
}

/// AdamW and its state.
#[derive(Clone, Debug)]
pub(crate) struct AdamW {
    config: AdamWConfig,
    steps: usize,
    moments: BTreeMap<String, Moments>,
}

/// Flat moments of one parameter.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    pub first: Tensor<1>,
    pub second: Tensor<1>,
}

/// The scalars of one step.
struct Rates {
    lr: f64,
    scale: f64,
    first_correction: f64,
    second_correction: f64,
}

impl AdamW {
    /// An optimiser that has seen nothing yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, steps: 0, moments: BTreeMap::new() }
    }

    pub(crate) fn restore(config: AdamWConfig, steps: usize, moments: BTreeMap<String, Moments>) -> Self {
        Self { config, steps, moments }
    }

    /// Number of steps taken.
    pub fn steps(&self) -> usize {
        self.steps
    }

    pub(crate) fn moments(&self) -> &BTreeMap<String, Moments> {
        &self.moments
    }

    /// Takes one step on every parameter that has a gradient, with the gradients times `scale`.
    pub(crate) fn step<M: Module>(
        &mut self,
        module: M,
        mut gradients: GradientSum,
        lr: f64,
        scale: f64,
    ) -> M {
        self.steps += 1;
        let t = self.steps as f64;
        let rates = Rates {
            lr,
            scale,
            first_correction: 1.0 - self.config.beta1.powf(t),
            second_correction: 1.0 - self.config.beta2.powf(t),
        };
        replace(module, |path, shape, value| {
            let gradient = gradients.take(path)?;
            let decay = if is_matrix(path, shape) { lr * self.config.weight_decay } else { 0.0 };
            let dtype = value.dtype();
            let delta = self.delta(path, widen(gradient), &rates);
            let value = widen(value);
            let value = if decay == 0.0 { value } else { value.mul_scalar(1.0 - decay) };
            Some((value - delta).cast(dtype))
        })
    }

    /// Updates the moments of a parameter and returns lr · m̂ / (√v̂ + ε).
    fn delta(&mut self, path: &str, gradient: Tensor<1>, rates: &Rates) -> Tensor<1> {
        let AdamWConfig { beta1, beta2, epsilon, .. } = self.config;
        let fresh_first = gradient.clone().mul_scalar((1.0 - beta1) * rates.scale);
        let fresh_second = gradient.square().mul_scalar((1.0 - beta2) * rates.scale * rates.scale);
        let (first, second) = match self.moments.remove(path) {
            Some(old) => {
                (old.first.mul_scalar(beta1) + fresh_first, old.second.mul_scalar(beta2) + fresh_second)
            }
            None => (fresh_first, fresh_second),
        };
        let root = second.clone().div_scalar(rates.second_correction).sqrt().add_scalar(epsilon);
        let delta = first.clone().mul_scalar(rates.lr / rates.first_correction) / root;
        self.moments.insert(path.to_string(), Moments { first, second });
        delta
    }
}

/// Whether a parameter is the matrix of a linear layer or an embedding.
fn is_matrix(path: &str, shape: &[usize]) -> bool {
    shape.len() >= 2 && !path.split('.').any(|module| module.starts_with("conv"))
}
