//! A model into bytes, and bytes into files that are either old or new, never half-written.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::{Dtype, View};

use super::names::Names;
use super::path::ModulePath;
use crate::{Model, ModelError};

/// The bytes of a safetensors file; weights keep their types unless `dtype` is given.
pub(crate) fn to_safetensors(model: &Model, dtype: Option<DType>) -> Result<Vec<u8>, ModelError> {
    let config = model.config();
    let mut collector =
        Collector { names: config.names(), dtype, path: ModulePath::default(), tensors: BTreeMap::new() };
    model.visit(&mut collector);
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]); // transformers insists
    safetensors::serialize(collector.tensors, Some(metadata))
        .map_err(|error| ModelError::Unwritable(error.to_string()))
}

/// Writes `files` into `dir`: all under temporary names first, then each renamed to its own.
pub(super) fn write_all(dir: &Path, files: &[(&str, &[u8])]) -> Result<(), ModelError> {
    std::fs::create_dir_all(dir).map_err(|source| write_error(dir, source))?;
    for (name, _) in files {
        refuse_folder(&dir.join(name))?;
    }
    let temporary = |name: &str| dir.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = files.iter().try_for_each(|(name, bytes)| write(&temporary(name), bytes));
    let renamed = written
        .and_then(|()| files.iter().try_for_each(|(name, _)| rename(&temporary(name), &dir.join(name))));
    if renamed.is_err() {
        for (name, _) in files {
            let _ = std::fs::remove_file(temporary(name)); // the first error is the one to report
        }
    }
    renamed
}

/// Removes a file of the model that was there before, if there is one.
pub(super) fn remove(path: &Path) -> Result<(), ModelError> {
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

fn write(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| write_error(path, source))
}

fn rename(from: &Path, to: &Path) -> Result<(), ModelError> {
    std::fs::rename(from, to).map_err(|source| write_error(to, source))
}

fn write_error(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::Io { action: "write", path: PathBuf::from(path), source }
}

/// Gathers every parameter as it lies in a file.
struct Collector {
    names: &'static Names,
    dtype: Option<DType>,
    path: ModulePath,
    tensors: BTreeMap<String, FileTensor>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let data = param.val().into_data();
        let dtype = self.dtype.unwrap_or(data.dtype());
        let data = self.path.layout().pack(data.convert_dtype(dtype));
        match self.tensors.entry(self.path.key(self.names)) {
            Entry::Vacant(entry) => drop(entry.insert(FileTensor(data))),
            Entry::Occupied(mut entry) => entry.get_mut().append(data),
        }
    }
}

struct FileTensor(TensorData);

impl FileTensor {
    /// Adds rows below those that are there.
    fn append(&mut self, rows: TensorData) {
        let (dtype, mut shape) = (self.0.dtype(), self.0.shape().as_slice().to_vec());
        shape[0] += rows.shape()[0];
        let bytes = [self.0.as_bytes(), rows.convert_dtype(dtype).as_bytes()].concat();
        self.0 = TensorData::from_bytes_vec(bytes, shape, dtype);
    }
}

impl View for FileTensor {
    fn dtype(&self) -> Dtype {
        match self.0.dtype() {
            DType::F64 => Dtype::F64,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            _ => Dtype::F32, // flex32 is stored as f32; parameters have no other types
        }
    }

    fn shape(&self) -> &[usize] {
        self.0.shape().as_slice()
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.0.as_bytes().into()
    }

    fn data_len(&self) -> usize {
        self.0.as_bytes().len()
    }
}
