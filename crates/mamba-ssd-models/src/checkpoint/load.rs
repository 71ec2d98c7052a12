//! Weights into a model, strictly.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::names::Names;
use super::path::ModulePath;
use super::stored::{Stored, Tensors};
use mamba_ssd::WeightFormat;

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

/// An error unless the tensors are exactly those of the configuration. Of the weights only the head that
/// a tied embedding may have beside it is read, and the embedding.
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
    let whole = |key: &str| read(key, stored(key, tensors)?, tensors);
    if whole(HEAD)? == whole(&embedding)? {
        return Ok(());
    }
    let reason = format!("`{HEAD}` differs from `{embedding}`, but config.json ties them; untie them there");
    Err(tensors.malformed(reason))
}

/// A tensor that must be there.
fn stored<'a, 'b>(key: &str, tensors: &'b Tensors<'a>) -> Result<&'b Stored<'a>, ModelError> {
    tensors.get(key).ok_or_else(|| tensors.malformed(format!("`{key}` is missing")))
}

/// The numbers of the tensor of a key, or of some of its rows.
fn read(key: &str, tensor: &Stored, tensors: &Tensors) -> Result<TensorData, ModelError> {
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
    format: WeightFormat,
) -> Result<Model, ModelError> {
    check(config, tensors, device)?;
    let path = ModulePath::default();
    let rows = BTreeMap::new();
    let mut loader = Loader { names: config.names(), tensors, dtype, format, path, rows, error: None };
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
        match self.shapes.entry(self.path.key(self.names)) {
            Entry::Vacant(entry) => drop(entry.insert(shape)),
            Entry::Occupied(mut entry) => entry.get_mut()[0] += shape[0],
        }
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
            let files = match found {
                "a Mamba-1 mixer" => "the config.json and the mamba_config.json that belong",
                _ => "the configuration that belongs",
            };
            return Err(tensors.malformed(format!(
                "layer {layer} holds {found}, but the configuration says {expected}; put {files} to these weights beside them"
            )));
        }
    }
    Ok(())
}

/// Beginnings of keys in a layer, and what its mixer is; the first that is found decides.
const SIGNS: [(&str, &str); 12] = [
    ("mixer1.", "SSM and attention heads side by side"),
    ("self_attn.q_proj", "attention"),
    ("mixer.self_attn.q_proj", "attention"),
    ("mha.in_proj", "attention"),
    ("mamba.dt_proj", "a Mamba-1 mixer"),
    ("mamba.dt_bias", "a Mamba-2 mixer"),
    ("mixer.dt_bias", "a Mamba-2 mixer"),
    ("mixer.A_log", "a Mamba-2 mixer"),
    ("mixer.z_bias", "a discrete Mamba-2 mixer"),
    ("mixer.D", "a discrete Mamba-2 mixer"),
    ("mixer.conv1d", "attention with a convolution"),
    ("mixer.in_proj", "attention"),
];

/// What the keys of a layer say its mixer is.
fn found_mixer(names: &Names, layer: usize, tensors: &Tensors) -> Option<&'static str> {
    let prefix = names.layer(layer);
    let has = |key: &str| {
        tensors.keys().any(|found| found.strip_prefix(&prefix).is_some_and(|rest| rest.starts_with(key)))
    };
    SIGNS.iter().find(|(key, _)| has(key)).map(|&(_, kind)| kind)
}

/// Replaces every parameter by the tensor of its key.
struct Loader<'a> {
    names: &'static Names,
    tensors: &'a Tensors<'a>,
    dtype: DType,
    format: WeightFormat,
    path: ModulePath,
    /// Rows of each tensor that have found their parameters.
    rows: BTreeMap<String, usize>,
    error: Option<ModelError>,
}

impl Loader<'_> {
    fn tensor<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Result<Tensor<D>, ModelError> {
        let (key, layout, shape) = (self.path.key(self.names), self.path.layout(), param.lazy_shape());
        let rows = self.next_rows(&key, layout.file_shape(shape.as_slice())[0]);
        let tensor = stored(&key, self.tensors)?.rows(rows);
        let data = read(&key, &tensor, self.tensors)?;
        let data = layout.unpack(data, shape.as_slice(), self.dtype);
        let tensor = Tensor::from_data(data, (&param.lazy_device(), self.dtype));
        let (name, container) = self.path.last();
        Ok(self.format.store_parameter(tensor, container, name))
    }

    /// The rows of a tensor that belong to the next of its parameters.
    fn next_rows(&mut self, key: &str, count: usize) -> Range<usize> {
        let first = self.rows.entry(key.to_string()).or_default();
        let rows = *first..*first + count;
        *first = rows.end;
        rows
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
