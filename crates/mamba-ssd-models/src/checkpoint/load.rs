//! Weights into a model, strictly.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::names::Names;
use super::path::ModulePath;
use super::stored::Tensors;
use crate::config::kind;
use crate::error::Mismatch;
use crate::{Model, ModelConfig, ModelError};

/// The tensors by the names of the configuration's dialect.
pub(super) fn named<'a>(config: &ModelConfig, tensors: Tensors<'a>) -> Result<Tensors<'a>, ModelError> {
    let names = config.names();
    tensors.each_becomes(|key, tensor| match names.canonical(&key) {
        Some(name) => vec![(name.to_string(), tensor)],
        None => Vec::new(),
    })
}

/// An error unless the tensors are exactly those of the configuration. Reads no weights, but the head
/// that a tied embedding may have beside it.
pub(super) fn check(config: &ModelConfig, tensors: &Tensors, device: &Device) -> Result<(), ModelError> {
    check_size(config, tensors)?;
    check_layers(config, tensors)?;
    let expected = Expected::of(config, device);
    let mut mismatch = Mismatch::default();
    for (key, shape) in &expected.shapes {
        match tensors.get(key).map(|tensor| tensor.shape()) {
            None => mismatch.missing.push((key.clone(), shape.clone())),
            Some(found) if found != shape => {
                mismatch.wrong_shape.push((key.clone(), found.to_vec(), shape.clone()));
            }
            Some(_) => {}
        }
    }
    let tied_head = config.tied() && tensors.get(HEAD).is_some();
    let known = |key: &str| expected.shapes.contains_key(key) || (tied_head && key == HEAD);
    let unknown = tensors.iter().filter(|(key, _)| !known(key));
    mismatch.unexpected = unknown.map(|(key, tensor)| (key.to_string(), tensor.shape().to_vec())).collect();
    if !mismatch.is_empty() {
        let (path, family) = (tensors.path().to_path_buf(), config.family());
        return Err(ModelError::Mismatch { path, family, mismatch });
    }
    if tied_head { check_tied_head(config, tensors) } else { Ok(()) }
}

const HEAD: &str = "lm_head.weight";

/// A head beside a tied embedding must be the same matrix.
fn check_tied_head(config: &ModelConfig, tensors: &Tensors) -> Result<(), ModelError> {
    let embedding = config.names().key(&["embedding", "weight"]);
    if read(HEAD, tensors)? == read(&embedding, tensors)? {
        return Ok(());
    }
    let reason = format!("`{HEAD}` differs from `{embedding}`, but config.json ties them; untie them there");
    Err(tensors.malformed(reason))
}

/// The numbers of a tensor that is there.
fn read(key: &str, tensors: &Tensors) -> Result<TensorData, ModelError> {
    let tensor = tensors.get(key).ok_or_else(|| tensors.malformed(format!("`{key}` is missing")))?;
    let data = tensor.read()?;
    match data.dtype().is_float() {
        true => Ok(data),
        false => Err(tensors.malformed(format!("`{key}` is {:?}, expected a float type", data.dtype()))),
    }
}

/// The model of a configuration with the weights of a file, which were checked.
///
/// Random weights are never drawn: burn initialises parameters when they are first used, and here
/// each is replaced before.
pub(super) fn build(
    config: &ModelConfig,
    tensors: &Tensors,
    device: &Device,
    dtype: DType,
) -> Result<Model, ModelError> {
    check(config, tensors, device)?;
    let path = ModulePath::default();
    let mut loader = Loader { names: config.names(), tensors, dtype, path, error: None };
    let model = config.init(device).map(&mut loader);
    match loader.error {
        None => Ok(model),
        Some(error) => Err(error),
    }
}

/// The keys of a model's parameters in a file, with their shapes there.
struct Expected {
    names: &'static Names,
    path: ModulePath,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Expected {
    fn of(config: &ModelConfig, device: &Device) -> Self {
        let mut expected =
            Self { names: config.names(), path: ModulePath::default(), shapes: BTreeMap::new() };
        config.init(device).visit(&mut expected);
        expected
    }
}

impl ModuleVisitor for Expected {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = self.path.layout().file_shape(param.lazy_shape().as_slice());
        self.shapes.insert(self.path.key(self.names), shape);
    }
}

/// An error if the weights are far too few for the configuration: no memory is taken for it then.
fn check_size(config: &ModelConfig, tensors: &Tensors) -> Result<(), ModelError> {
    const SLACK: usize = 1 << 20; // so that a few missing tensors are listed by name
    let held = tensors.iter().map(|(_, tensor)| tensor.shape().iter().product::<usize>());
    let (held, described) = (held.sum::<usize>(), config.n_params());
    if described / 2 <= held + SLACK {
        return Ok(());
    }
    Err(tensors.malformed(format!(
        "the weights hold {held} numbers, but the configuration describes {described} parameters; they do not belong together"
    )))
}

/// An error if the weights of a layer are plainly those of another mixer than the configuration's.
fn check_layers(config: &ModelConfig, tensors: &Tensors) -> Result<(), ModelError> {
    let names = config.names();
    for (layer, mixer) in config.mixers().iter().enumerate() {
        let found = found_mixer(names, layer, tensors);
        if found.is_some_and(|found| found != kind(mixer)) {
            let (found, expected) = (found.unwrap_or_default(), kind(mixer));
            let reason = format!(
                "layer {layer} holds {found}, but config.json says {expected}; use the config.json that belongs to these weights"
            );
            return Err(tensors.malformed(reason));
        }
    }
    Ok(())
}

/// What the keys of a layer say its mixer is.
fn found_mixer(names: &Names, layer: usize, tensors: &Tensors) -> Option<&'static str> {
    let prefix = names.layer(layer);
    let has = |key: &str| {
        tensors.keys().any(|found| found.strip_prefix(&prefix).is_some_and(|rest| rest.starts_with(key)))
    };
    if has("self_attn.q_proj") || has("mixer.self_attn.q_proj") {
        Some("attention")
    } else if has("mixer.dt_bias") {
        Some("a Mamba-2 mixer")
    } else if has("mixer.in_proj") {
        Some("a discrete Mamba-2 mixer")
    } else {
        None
    }
}

/// Replaces every parameter by the tensor of its key.
struct Loader<'a> {
    names: &'static Names,
    tensors: &'a Tensors<'a>,
    dtype: DType,
    path: ModulePath,
    error: Option<ModelError>,
}

impl Loader<'_> {
    fn tensor<const D: usize>(&self, param: &Param<Tensor<D>>) -> Result<Tensor<D>, ModelError> {
        let data = read(&self.path.key(self.names), self.tensors)?;
        let shape = param.lazy_shape();
        let data = self.path.layout().unpack(data, shape.as_slice()).convert_dtype(self.dtype);
        Ok(Tensor::from_data(data, (&param.lazy_device(), self.dtype)))
    }
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        match self.tensor(&param) {
            Ok(tensor) => {
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}
