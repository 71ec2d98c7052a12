//! A module's parameters by path, whatever their rank: what optimiser, checkpoint, sentinel and
//! preflight share.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{GradientCheckpointingStrategy, Gradients, Tensor};

/// A parameter, flattened and off the autodiff tape.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub path: String,
    pub shape: Vec<usize>,
    pub value: Tensor<1>,
}

/// All floating-point parameters, in the module's order.
pub(crate) fn parameters<M: Module>(module: &M) -> Vec<Parameter> {
    let mut visitor = Collect::default();
    module.visit(&mut visitor);
    visitor.parameters
}

/// The identities of a module's floating-point parameters.
pub(crate) fn ids<M: Module>(module: &M) -> BTreeSet<u64> {
    let mut visitor = Ids::default();
    module.visit(&mut visitor);
    visitor.0
}

/// Lets exactly the parameters of `ids` require gradients.
pub(crate) fn train_only<M: Module>(module: M, ids: &BTreeSet<u64>) -> M {
    module.map(&mut TrainOnly(ids))
}

/// Replaces the parameters for which `update(path, shape, flat value)` returns a flat value.
/// Identity, shape, gradient requirement and checkpointing of the parameter stay.
pub(crate) fn replace<M: Module>(
    module: M,
    update: impl FnMut(&str, &[usize], Tensor<1>) -> Option<Tensor<1>>,
) -> M {
    module.map(&mut Replace { path: Path::default(), update })
}

/// Moves the gradients of `module` out of `gradients`, by path, flattened.
pub(crate) fn gradients<M: Module>(module: &M, gradients: Gradients) -> BTreeMap<String, Tensor<1>> {
    let mut visitor = TakeGradients { path: Path::default(), gradients, taken: BTreeMap::new() };
    module.visit(&mut visitor);
    visitor.taken
}

/// Where a visitor is in the module tree.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn join(&self) -> String {
        self.0.join(".")
    }
}

macro_rules! follow_path {
    () => {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.0.push(name.to_string());
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.0.pop();
        }
    };
}

#[derive(Default)]
struct Collect {
    path: Path,
    parameters: Vec<Parameter>,
}

impl ModuleVisitor for Collect {
    follow_path!();

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        self.parameters.push(Parameter {
            path: self.path.join(),
            shape: value.dims().to_vec(),
            value: flatten(value.inner()),
        });
    }
}

#[derive(Default)]
struct Ids(BTreeSet<u64>);

impl ModuleVisitor for Ids {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.insert(param.id.val());
    }
}

struct TrainOnly<'a>(&'a BTreeSet<u64>);

impl ModuleMapper for TrainOnly<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = self.0.contains(&param.id.val());
        param.set_require_grad(trained)
    }
}

struct TakeGradients {
    path: Path,
    gradients: Gradients,
    taken: BTreeMap<String, Tensor<1>>,
}

impl ModuleVisitor for TakeGradients {
    follow_path!();

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        if let Some(gradient) = param.val().grad_remove(&mut self.gradients) {
            self.taken.insert(self.path.join(), flatten(gradient));
        }
    }
}

struct Replace<F> {
    path: Path,
    update: F,
}

impl<F: FnMut(&str, &[usize], Tensor<1>) -> Option<Tensor<1>>> ModuleMapper for Replace<F> {
    follow_path!();

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join();
        let update = &mut self.update;
        param.map(|tensor| {
            let shape = tensor.dims();
            let tape = Tape::of(&tensor);
            match update(&path, &shape, flatten(tensor.clone().inner())) {
                Some(updated) => tape.put_back(updated.reshape(shape)),
                None => tensor,
            }
        })
    }
}

/// What autodiff knew of a parameter before it was replaced.
struct Tape {
    tracked: bool,
    trained: bool,
    checkpointing: Option<GradientCheckpointingStrategy>,
}

impl Tape {
    fn of<const D: usize>(tensor: &Tensor<D>) -> Self {
        Self {
            tracked: tensor.is_autodiff(),
            trained: tensor.is_require_grad(),
            checkpointing: tensor.gradient_checkpointing_strategy(),
        }
    }

    fn put_back<const D: usize>(self, value: Tensor<D>) -> Tensor<D> {
        if !self.tracked {
            return value;
        }
        let value = Tensor::from_inner(value);
        let value = match self.checkpointing {
            Some(strategy) => value.with_gradient_checkpointing_strategy(strategy),
            None => value,
        };
        value.set_require_grad(self.trained)
    }
}

fn flatten<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let elements = tensor.shape().num_elements();
    tensor.reshape([elements])
}
