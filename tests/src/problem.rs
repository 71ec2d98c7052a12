//! Random problems: an input and cotangents from sizes and a seed, in the precision under test.

use burn::tensor::{DType, TensorData};

use crate::device::state_dtype;
use crate::oracle::{Gradients, Input, Output, Shape};
use crate::rng::Rng;

/// How log decays are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decay {
    /// `-softplus(2 z + bias)` with `z` normal: what the mixers produce. The bias sets the memory.
    Softplus(f64),
    /// Log-uniform between -60 and -1e-7, token by token.
    Extreme,
}

/// Sizes, seed and variant of one problem.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Sizes.
    pub shape: Shape,
    /// Lengths of the documents of each row.
    pub documents: Option<Vec<Vec<usize>>>,
    /// Whether there is an incoming state.
    pub state: bool,
    /// Distribution of the log decays.
    pub decay: Decay,
    /// Seed of every number.
    pub seed: u64,
}

/// An input with random cotangents of its outputs.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The input, exactly representable in the dtype it was drawn for.
    pub input: Input,
    /// Cotangents of `y` and of the final state.
    pub cotangent: Output,
}

impl Spec {
    /// Draws the problem, rounded to `dtype` (states to the dtype that states are kept in), so that
    /// only the evaluation's own error is seen.
    pub fn draw(&self, dtype: DType) -> Problem {
        let shape = self.shape;
        let mut rng = Rng::new(self.seed);
        let mut normals = |count: usize, dtype: DType| round(rng.normals(count), dtype);
        let x = normals(size(shape.x()), dtype);
        let b = normals(size(shape.bc()), dtype);
        let c = normals(size(shape.bc()), dtype);
        let state = normals(size(shape.state()), state_dtype(dtype));
        let cotangent = Output {
            y: normals(size(shape.x()), dtype),
            state: normals(size(shape.state()), state_dtype(dtype)),
        };
        let log_a = (0..size(shape.log_a())).map(|_| self.decay.draw(&mut rng)).collect();
        let input = Input {
            shape,
            x,
            log_a: round(log_a, dtype),
            b,
            c,
            state: self.state.then_some(state),
            documents: self.documents.clone(),
        };
        Problem { input, cotangent }
    }
}

impl Decay {
    fn draw(self, rng: &mut Rng) -> f64 {
        match self {
            Self::Softplus(bias) => -(2.0 * rng.normal() + bias).exp().ln_1p(),
            Self::Extreme => {
                let (low, high) = (1e-7f64.ln(), 60f64.ln());
                -(low + (high - low) * rng.uniform()).exp()
            }
        }
    }
}

impl Problem {
    /// What the oracle says, and the magnitudes its errors are judged against.
    pub fn expected(&self) -> Expected {
        let magnitude = self.input.magnitude();
        Expected {
            output: self.input.forward(),
            gradients: self.input.backward(&self.cotangent),
            output_magnitude: magnitude.forward(),
            gradients_magnitude: magnitude.backward(&self.cotangent.magnitude()),
        }
    }
}

/// The oracle's answer.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Outputs and final state.
    pub output: Output,
    /// Gradients.
    pub gradients: Gradients,
    /// The same for absolute values of every factor.
    pub output_magnitude: Output,
    /// The same for absolute values of every factor.
    pub gradients_magnitude: Gradients,
}

fn size<const D: usize>(shape: [usize; D]) -> usize {
    shape.iter().product()
}

/// Rounds to the nearest value of `dtype`.
pub fn round(values: Vec<f64>, dtype: DType) -> Vec<f64> {
    let shape = [values.len()];
    let data = TensorData::new(values, shape).convert_dtype(dtype).convert::<f64>();
    data.try_to_vec().expect("f64 data")
}
