//! AdamW, and clipping by the norm of all gradients together. Nothing here waits for the device.

use burn::module::{Module, ModuleVisitor, Param, ParamGroup};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;

/// AdamW (0.9, 0.95); weight decay on everything but the norms.
pub fn adamw(weight_decay: f32) -> ModuleOptimizer {
    let config = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8);
    let norms = config.clone().with_weight_decay(0.0).build();
    config.with_weight_decay(weight_decay).init().with_group(ParamGroup::from_predicate("norm"), norms, None)
}

/// Scales all gradients by one factor, so that their global norm is at most `limit`.
pub fn clip_global_norm<M: Module>(gradients: GradientsParams, module: &M, limit: f64) -> GradientsParams {
    let mut norm = SquaredNorm { gradients: &gradients, sum: None };
    module.visit(&mut norm);
    let Some(squared) = norm.sum else { return gradients };
    let factor = (squared.sqrt().add_scalar(1e-6).recip() * limit).clamp_max(1.0);
    let mut scale = Scale { gradients, factor };
    module.visit(&mut scale);
    scale.gradients
}

struct SquaredNorm<'a> {
    gradients: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for SquaredNorm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let square = gradient.square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
}

struct Scale {
    gradients: GradientsParams,
    factor: Tensor<1>,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let scaled = gradient * self.factor.clone().unsqueeze();
            self.gradients.register(param.id, scaled);
        }
    }
}
