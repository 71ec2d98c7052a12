//! A model into files that are either old or new, never half-written.
//!
//! A parameter becomes bytes only when its turn comes to be written: what lies in memory is the model and
//! one tensor.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::{Dtype, View};
use serde_json::{Value, json};

use super::names::Names;
use super::path::ModulePath;
use crate::{Model, ModelError};

/// What a model's folder holds besides its weights, and how these are written.
#[derive(Clone, Copy, Debug)]
pub struct SaveOptions<'a> {
    /// The tokenizer's `tokenizer.json`.
    pub tokenizer_json: Option<&'a [u8]>,
    /// The float type of the weights; their own when absent.
    pub dtype: Option<DType>,
    /// Weights of more bytes are written in several files with an index. A tensor is never cut.
    pub max_shard_bytes: usize,
}

impl Default for SaveOptions<'_> {
    fn default() -> Self {
        Self { tokenizer_json: None, dtype: None, max_shard_bytes: 5_000_000_000 }
    }
}

/// Tensors by their keys, as files hold them.
pub(super) type Unwritten = BTreeMap<String, FileTensor>;

/// The tensors of a model; weights keep their types unless `dtype` is given, those in 8-bit integers as f32.
pub(super) fn tensors(model: &Model, dtype: Option<DType>) -> Unwritten {
    let names = model.config().names();
    let mut collector = Collector { names, dtype, path: ModulePath::default(), tensors: BTreeMap::new() };
    model.visit(&mut collector);
    collector.tensors
}

/// The bytes of a safetensors file.
pub(crate) fn to_safetensors(model: &Model) -> Result<Vec<u8>, ModelError> {
    safetensors::serialize(tensors(model, None), Some(metadata()))
        .map_err(|error| ModelError::Unwritable(error.to_string()))
}

fn metadata() -> HashMap<String, String> {
    HashMap::from([("format".to_string(), "pt".to_string())]) // transformers insists
}

/// What a file is to hold.
pub(super) enum Content<'a> {
    Bytes(Cow<'a, [u8]>),
    Tensors(Vec<(&'a str, &'a FileTensor)>),
}

/// The files of the weights: one, or shards with their index.
pub(super) fn weight_files<'a>(tensors: &'a Unwritten, limit: usize) -> Vec<(String, Content<'a>)> {
    let mut shards: Vec<Vec<(&str, &FileTensor)>> = vec![Vec::new()];
    let mut held = 0;
    for (key, tensor) in tensors {
        if held > 0 && held + tensor.data_len() > limit {
            shards.push(Vec::new());
            held = 0;
        }
        held += tensor.data_len();
        shards.last_mut().expect("there is always one").push((key, tensor));
    }
    if shards.len() == 1 {
        return shards.into_iter().map(|shard| (SINGLE.to_string(), Content::Tensors(shard))).collect();
    }
    let count = shards.len();
    let name = |shard: usize| format!("model-{:05}-of-{count:05}.safetensors", shard + 1);
    let index = index(&shards, name);
    let shards = shards.into_iter().enumerate().map(|(i, shard)| (name(i), Content::Tensors(shard)));
    shards.chain([(INDEX.to_string(), Content::Bytes(index.into_bytes().into()))]).collect()
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn index(shards: &[Vec<(&str, &FileTensor)>], name: impl Fn(usize) -> String) -> String {
    let all = || shards.iter().enumerate().flat_map(|(i, shard)| shard.iter().map(move |tensor| (i, tensor)));
    let map: serde_json::Map<String, Value> =
        all().map(|(shard, (key, _))| (key.to_string(), json!(name(shard)))).collect();
    let total: usize = all().map(|(_, (_, tensor))| tensor.data_len()).sum();
    format!("{:#}\n", json!({"metadata": {"total_size": total}, "weight_map": map}))
}

/// Writes `files` into `dir`: all under temporary names first, then each renamed to its own. Files of a
/// model that was there before, which would be taken for this one's, are removed.
pub(super) fn write_all(dir: &Path, files: &[(String, Content)]) -> Result<(), ModelError> {
    std::fs::create_dir_all(dir).map_err(|source| write_error(dir, source))?;
    for (name, _) in files {
        refuse_folder(&dir.join(name))?;
    }
    let temporary = |name: &str| dir.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = files.iter().try_for_each(|(name, content)| write(&temporary(name), content));
    let renamed = written
        .and_then(|()| files.iter().try_for_each(|(name, _)| rename(&temporary(name), &dir.join(name))));
    if renamed.is_err() {
        for (name, _) in files {
            let _ = std::fs::remove_file(temporary(name)); // the first error is the one to report
        }
    }
    renamed?;
    let written = |name: &str| files.iter().any(|(file, _)| file == name);
    let entries = std::fs::read_dir(dir).map_err(|source| write_error(dir, source))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| is_of_a_model(name) && !written(name)).try_for_each(|name| remove(&dir.join(name)))
}

/// Writes a file of its own, whole or not at all.
pub(super) fn write_one(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let temporary = path.with_added_extension(format!("{}.tmp", std::process::id()));
    let written = write(&temporary, &Content::Bytes(bytes.into())).and_then(|()| rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary); // the first error is the one to report
    }
    written
}

/// Whether a file of this name would be read as part of the model in its folder.
fn is_of_a_model(name: &str) -> bool {
    let shard = name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors");
    shard || [SINGLE, INDEX, super::MAMBA_CONFIG].contains(&name)
}

/// Removes a file of the model that was there before, if there is one.
fn remove(path: &Path) -> Result<(), ModelError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(write_error(path, source)),
        _ => Ok(()),
    }
}

/// A folder in the way would be met after other files were already replaced.
fn refuse_folder(path: &Path) -> Result<(), ModelError> {
    if path.is_dir() {
        return Err(write_error(path, std::io::ErrorKind::IsADirectory.into()));
    }
    Ok(())
}

fn write(path: &Path, content: &Content) -> Result<(), ModelError> {
    let bytes = || match content {
        Content::Bytes(bytes) => {
            let mut file = File::create(path)?;
            file.write_all(bytes)?;
            file.sync_all()
        }
        Content::Tensors(tensors) => {
            let tensors = tensors.iter().copied();
            safetensors::serialize_to_file(tensors, Some(metadata()), path).map_err(std::io::Error::other)?;
            File::open(path)?.sync_all()
        }
    };
    bytes().map_err(|source| write_error(path, source))
}

fn rename(from: &Path, to: &Path) -> Result<(), ModelError> {
    std::fs::rename(from, to).map_err(|source| write_error(to, source))
}

fn write_error(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::Io { action: "write", path: PathBuf::from(path), source }
}

/// Gathers every parameter, to be read from its device when it is written.
struct Collector {
    names: &'static Names,
    dtype: Option<DType>,
    path: ModulePath,
    tensors: Unwritten,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (value, layout) = (param.val(), self.path.layout());
        let shape = layout.file_shape(value.shape().as_slice());
        let own = if matches!(value.dtype(), DType::QFloat(_)) { DType::F32 } else { value.dtype() };
        let wanted = self.dtype.unwrap_or(own);
        let tensor = self
            .tensors
            .entry(self.path.key(self.names))
            .or_insert_with(|| FileTensor::of_no_rows(&shape, wanted));
        let dtype = tensor.dtype;
        tensor.shape[0] += shape[0];
        tensor
            .parts
            .push(Box::new(move || layout.pack(value.clone().dequantize().into_data().convert_dtype(dtype))));
    }
}

/// Parameters that are rows of one tensor of a file, one under the other.
pub(super) struct FileTensor {
    dtype: DType,
    shape: Vec<usize>,
    parts: Vec<Box<dyn Fn() -> TensorData>>,
}

impl FileTensor {
    /// A tensor whose rows are of the given shape, without any.
    fn of_no_rows(shape: &[usize], dtype: DType) -> Self {
        let mut shape = shape.to_vec();
        shape[0] = 0;
        Self { dtype, shape, parts: Vec::new() }
    }
}

/// What a file calls the type of a tensor of floats.
pub(super) fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        _ => Dtype::F32, // flex32 is stored as f32; parameters and states have no other types
    }
}

impl View for FileTensor {
    fn dtype(&self) -> Dtype {
        file_dtype(self.dtype)
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        for part in &self.parts {
            bytes.extend_from_slice(part().as_bytes());
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

impl View for &FileTensor {
    fn dtype(&self) -> Dtype {
        View::dtype(*self)
    }

    fn shape(&self) -> &[usize] {
        View::shape(*self)
    }

    fn data(&self) -> Cow<'_, [u8]> {
        View::data(*self)
    }

    fn data_len(&self) -> usize {
        View::data_len(*self)
    }
}
