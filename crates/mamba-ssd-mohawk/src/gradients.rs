//! Gradients summed over backward passes, and the one look at them that the host takes per step.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{DType, Gradients, Tensor};
use mamba_ssd::optimize::Squares;

use crate::error::MohawkError;
use crate::loss::widen;
use crate::parameters;
use crate::replica::Replica;

/// The sum of several backward passes, by parameter path, flattened.
///
/// Weight every loss by its share of the step (its tokens over the tokens of all micro-batches)
/// before its backward pass, and the sum is the gradient of the mean over all of them.
#[derive(Debug, Default)]
pub(crate) struct GradientSum(BTreeMap<String, Tensor<1>>);

impl GradientSum {
    /// Adds the gradients that `module`'s parameters received.
    pub fn add<M: Module>(&mut self, module: &M, gradients: Gradients) {
        for (path, gradient) in parameters::gradients(module, gradients) {
            let sum = match self.0.remove(&path) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            self.0.insert(path, sum);
        }
    }

    /// The sum over all replicas, in f32 or wider, rounded once where a gradient is in half precision.
    ///
    /// # Errors
    ///
    /// If a replica is gone.
    pub fn sum_over(self, replica: &Replica) -> Result<Self, MohawkError> {
        if replica.is_alone() {
            return Ok(self);
        }
        let mut sums = BTreeMap::new();
        for (dtype, gradients) in self.by_dtype() {
            let parts = gradients.iter().map(|(_, gradient)| widen(gradient.clone()));
            let sum = replica.sum(Tensor::cat(parts.collect(), 0))?;
            let mut at = 0;
            for (path, gradient) in gradients {
                let length = gradient.dims()[0];
                sums.insert(path, sum.clone().narrow(0, at, length).cast(dtype));
                at += length;
            }
        }
        Ok(Self(sums))
    }

    /// The gradients of each dtype, always in the same order.
    fn by_dtype(self) -> Vec<(DType, Vec<(String, Tensor<1>)>)> {
        let mut groups: Vec<(DType, Vec<_>)> = Vec::new();
        for (path, gradient) in self.0 {
            let dtype = gradient.dtype();
            match groups.iter_mut().find(|(of, _)| *of == dtype) {
                Some((_, group)) => group.push((path, gradient)),
                None => groups.push((dtype, vec![(path, gradient)])),
            }
        }
        groups
    }

    /// Moves the gradient of a parameter out.
    pub fn take(&mut self, path: &str) -> Option<Tensor<1>> {
        self.0.remove(path)
    }

    /// Squares of all of them, still on the device.
    pub fn squared(&self) -> Squared {
        Squared { paths: self.paths().map(str::to_string).collect(), squares: Squares::of(self.0.values()) }
    }

    /// The paths that have a gradient.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// The squares of a step's gradients, and whose they are.
#[derive(Debug)]
pub(crate) struct Squared {
    paths: Vec<String>,
    squares: Squares,
}

impl Squared {
    /// What the gradients are multiplied by, so that their global norm is at most `largest`.
    pub fn clip(&self, largest: f64) -> Tensor<1> {
        self.squares.clip(largest)
    }
}

/// The losses of a step and the norm of its gradient, on the host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// Every term of the loss, weighted.
    pub terms: Vec<f64>,
    /// Global norm of the gradient.
    pub norm: f64,
}

/// Where in the run a reading was taken, for the sentinel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub stage: usize,
    pub step: usize,
}

impl Reading {
    /// The loss of the step: the sum of its terms.
    pub fn loss(&self) -> f64 {
        self.terms.iter().sum()
    }

    /// Reads all terms `[1]` and the squared norm of every gradient in a single transfer.
    ///
    /// # Errors
    ///
    /// If a term or a gradient is not finite; names come from `name(term)` and the parameter path.
    pub fn take(
        terms: Vec<Tensor<1>>,
        gradients: &Squared,
        place: Place,
        name: impl Fn(usize) -> String,
    ) -> Result<Self, MohawkError> {
        let count = terms.len();
        let dtype = terms.first().expect("a loss of at least one term").dtype();
        let Squared { paths, squares } = gradients;
        let all = terms.into_iter().chain([squares.parts.clone().cast(dtype)]).collect();
        let mut values: Vec<f64> = Tensor::cat(all, 0).into_data().iter::<f64>().collect();
        let squares = squares.sums(&values.split_off(count));
        let named_terms = values.iter().enumerate().map(|(term, &value)| (name(term), value));
        let named_squares = paths.iter().zip(&squares);
        let named_squares = named_squares.map(|(path, &value)| (format!("the gradient of {path}"), value));
        check_finite(named_terms.chain(named_squares), place)?;
        Ok(Self { terms: values, norm: squares.iter().sum::<f64>().sqrt() })
    }
}

fn check_finite(mut values: impl Iterator<Item = (String, f64)>, place: Place) -> Result<(), MohawkError> {
    match values.find(|(_, value)| !value.is_finite()) {
        Some((what, value)) => {
            Err(MohawkError::NotFinite { what, value, stage: place.stage, step: place.step })
        }
        None => Ok(()),
    }
}
