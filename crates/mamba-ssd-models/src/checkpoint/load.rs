//! Weights into a model, strictly.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::names::Names;
use super::path::ModulePath;
use super::stored::Tensors;
use crate::config::kind;
use crate::error::Mismatch;
use crate::{Model, ModelConfig, ModelError};

/// The model of a configuration with the weights of a file.
///
/// Random weights are never drawn: burn initialises parameters when they are first used, and here
/// each is replaced before.
pub(super) fn build(
    config: &ModelConfig,
    tensors: Tensors,
    device: &Device,
    dtype: DType,
) -> Result<Model, ModelError> {
    let names = config.names();
    let tensors = tensors.each_becomes(|key, tensor| match names.canonical(&key) {
        Some(name) => vec![(name.to_string(), tensor)],
        None => Vec::new(),
    })?;
    check_size(config, &tensors)?;
    check_layers(config, &tensors)?;
    let mut loader = Loader::new(names, tensors, dtype);
    let model = config.init(device).map(&mut loader);
    if config.tied() {
        loader.accept_tied_head(&names.key(&["embedding", "weight"]))?;
    }
    loader.finish(config.family())?;
    Ok(model)
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

struct Loader<'a> {
    names: &'static Names,
    tensors: Tensors<'a>,
    dtype: DType,
    path: ModulePath,
    used: BTreeSet<String>,
    mismatch: Mismatch,
    error: Option<ModelError>,
}

impl<'a> Loader<'a> {
    fn new(names: &'static Names, tensors: Tensors<'a>, dtype: DType) -> Self {
        let (path, used, mismatch) = (ModulePath::default(), BTreeSet::new(), Mismatch::default());
        Self { names, tensors, dtype, path, used, mismatch, error: None }
    }

    /// The tensor for a parameter, or nothing when the file does not hold it as it should be.
    fn tensor<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Result<Option<Tensor<D>>, ModelError> {
        let (key, layout) = (self.path.key(self.names), self.path.layout());
        let shape = param.lazy_shape().as_slice().to_vec();
        let expected = layout.file_shape(&shape);
        match self.tensors.get(&key).map(|tensor| tensor.shape().to_vec()) {
            None => self.mismatch.missing.push((key, expected)),
            Some(found) if found != expected => {
                self.used.insert(key.clone());
                self.mismatch.wrong_shape.push((key, found, expected));
            }
            Some(_) => {
                let data = layout.unpack(self.read(&key)?, &shape).convert_dtype(self.dtype);
                self.used.insert(key);
                return Ok(Some(Tensor::from_data(data, (&param.lazy_device(), self.dtype))));
            }
        }
        Ok(None)
    }

    /// The numbers of a tensor that is there.
    fn read(&self, key: &str) -> Result<TensorData, ModelError> {
        let tensor = self.tensors.get(key);
        let data = tensor.ok_or_else(|| self.tensors.malformed(format!("`{key}` is missing")))?.read()?;
        match data.dtype().is_float() {
            true => Ok(data),
            false => {
                Err(self.tensors.malformed(format!("`{key}` is {:?}, expected a float type", data.dtype())))
            }
        }
    }

    /// Tolerates a head beside a tied embedding if it is the same matrix.
    fn accept_tied_head(&mut self, embedding: &str) -> Result<(), ModelError> {
        const HEAD: &str = "lm_head.weight";
        if self.tensors.get(HEAD).is_none() || self.tensors.get(embedding).is_none() {
            return Ok(());
        }
        if self.read(HEAD)? != self.read(embedding)? {
            return Err(self.tensors.malformed(format!(
                "`{HEAD}` differs from `{embedding}`, but config.json ties them; untie them there"
            )));
        }
        self.used.insert(HEAD.to_string());
        Ok(())
    }

    fn finish(mut self, family: &'static str) -> Result<(), ModelError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let unused = self.tensors.iter().filter(|(key, _)| !self.used.contains(*key));
        self.mismatch.unexpected =
            unused.map(|(key, tensor)| (key.to_string(), tensor.shape().to_vec())).collect();
        if self.mismatch.is_empty() {
            return Ok(());
        }
        Err(ModelError::Mismatch { path: self.tensors.path().to_path_buf(), family, mismatch: self.mismatch })
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
            Ok(Some(tensor)) => {
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Ok(None) => param,
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}
