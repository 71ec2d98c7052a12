//! AdamW on f32 masters of parameters in half precision, with the gradient clipped by the norm of all of it. Nothing here waits for the
//! device.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use mamba_ssd::optimize::{AdamWRates, AdamWState, Squares, adamw};

const BETAS: [f64; 2] = [0.9, 0.95];

/// AdamW and its state, by parameter.
#[derive(Default)]
pub struct Optimizer {
    steps: i32,
    states: BTreeMap<u64, AdamWState>,
}

impl Optimizer {
    /// A step; matrices decay, norms do not.
    pub fn step<M: Module>(&mut self, module: M, gradients: Gradients, lr: f64, decay: f64, clip: f64) -> M {
        self.steps += 1;
        let mut taken = Take { gradients, taken: BTreeMap::new() };
        module.visit(&mut taken);
        let scale = Squares::of(taken.taken.values()).clip(clip);
        let rates = AdamWRates {
            betas: BETAS,
            epsilon: 1e-8,
            rate: lr / (1.0 - BETAS[0].powi(self.steps)),
            correction: 1.0 - BETAS[1].powi(self.steps),
            decay: 0.0,
        };
        module.map(&mut Step { optimizer: self, gradients: taken.taken, scale, rates, decay: lr * decay })
    }
}

/// Moves the gradients out, flat.
struct Take {
    gradients: Gradients,
    taken: BTreeMap<u64, Tensor<1>>,
}

impl ModuleVisitor for Take {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if let Some(gradient) = value.grad_remove(&mut self.gradients) {
            let count = value.shape().num_elements();
            self.taken.insert(param.id.val(), gradient.reshape([count]));
        }
    }
}

struct Step<'a> {
    optimizer: &'a mut Optimizer,
    gradients: BTreeMap<u64, Tensor<1>>,
    scale: Tensor<1>,
    rates: AdamWRates,
    /// Of matrices.
    decay: f64,
}

impl ModuleMapper for Step<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove(&param.id.val()) else { return param };
        let (id, states) = (param.id.val(), &mut self.optimizer.states);
        let rates = AdamWRates { decay: if D >= 2 { self.decay } else { 0.0 }, ..self.rates };
        param.map(|value| {
            let (shape, recorded) = (value.shape(), value.is_require_grad());
            let flat = value.inner().reshape([shape.num_elements()]);
            let state = states.remove(&id).unwrap_or_else(|| AdamWState::new(&flat));
            let (flat, state) = adamw(flat, gradient, &self.scale, state, &rates);
            states.insert(id, state);
            Tensor::from_inner(flat.reshape(shape)).set_require_grad(recorded)
        })
    }
}
