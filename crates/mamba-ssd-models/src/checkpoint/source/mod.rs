//! Containers of tensors, told apart by their first bytes and not by their names.

mod gguf;
mod pytorch;
mod safetensors;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::stored::Tensors;
use crate::ModelError;

pub(super) use gguf::{Gguf, Value};
pub(super) use safetensors::readable as tensor_dtype;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    /// Hugging Face's safetensors.
    Safetensors,
    /// What `torch.save` writes.
    PyTorch,
    /// llama.cpp's format.
    Gguf,
    /// JSON that names the file of every tensor.
    Index,
}

/// Bytes that tell containers apart.
const MAGIC: usize = 9;

impl Container {
    /// What the file at `path` is, by its content.
    pub(super) fn of(path: &Path) -> Result<Self, ModelError> {
        let mut start = Vec::new();
        let file = File::open(path).map_err(|source| read_error(path, source))?;
        file.take(MAGIC as u64).read_to_end(&mut start).map_err(|source| read_error(path, source))?;
        match start.as_slice() {
            [b'G', b'G', b'U', b'F', ..] => Ok(Self::Gguf),
            [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => Ok(Self::PyTorch),
            [_, _, _, _, _, _, _, _, b'{'] => Ok(Self::Safetensors), // the length of a header, and the header
            [b'{' | b' ' | b'\n' | b'\r' | b'\t', ..] => Ok(Self::Index),
            _ => Err(ModelError::Weights {
                path: path.to_path_buf(),
                reason:
                    "no weights: expected a safetensors, PyTorch or GGUF file, or a JSON index of such files"
                        .into(),
            }),
        }
    }
}

/// The tensors of a file that is not GGUF, or of the files that an index names, and the metadata of a
/// single safetensors file.
pub(super) fn read(path: &Path) -> Result<(Tensors<'static>, Vec<(String, String)>), ModelError> {
    let mut tensors = Tensors::new(path.to_path_buf());
    let mut metadata = Vec::new();
    match Container::of(path)? {
        Container::Safetensors => metadata = safetensors::read_file(path, &mut tensors)?,
        Container::PyTorch => pytorch::read_file(path, &mut tensors)?,
        Container::Index => read_index(path, &mut tensors)?,
        Container::Gguf => return Err(tensors.malformed("a GGUF file cannot be part of another model")),
    }
    Ok((tensors, metadata))
}

/// The tensors in the bytes of a safetensors file.
pub(super) fn read_bytes<'a>(bytes: &'a [u8], name: &str) -> Result<Tensors<'a>, ModelError> {
    let mut tensors = Tensors::new(PathBuf::from(name));
    safetensors::read_bytes(bytes, &mut tensors)?;
    Ok(tensors)
}

fn read_index(path: &Path, tensors: &mut Tensors) -> Result<(), ModelError> {
    let text = std::fs::read_to_string(path).map_err(|source| read_error(path, source))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| tensors.malformed(format!("not JSON: {error}")))?;
    let map = json["weight_map"].as_object();
    let map =
        map.ok_or_else(|| tensors.malformed("`weight_map` is missing, expected an object of file names"))?;
    let names: Option<BTreeSet<&str>> = map.values().map(|name| name.as_str()).collect();
    let names =
        names.ok_or_else(|| tensors.malformed("`weight_map` holds something other than file names"))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for name in names {
        if name.contains(['/', '\\']) || name == ".." {
            return Err(tensors.malformed(format!("`weight_map` names a file outside the folder: {name}")));
        }
        let shard = folder.join(name);
        match Container::of(&shard)? {
            Container::Safetensors => drop(safetensors::read_file(&shard, tensors)?),
            Container::PyTorch => pytorch::read_file(&shard, tensors)?,
            _ => return Err(tensors.malformed(format!("`weight_map` names {name}, which holds no tensors"))),
        }
    }
    match map.keys().find(|key| tensors.get(key).is_none()) {
        None => Ok(()),
        Some(key) => Err(tensors.malformed(format!("`{key}` is in no shard; download the shards again"))),
    }
}

pub(super) fn read_error(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::Io { action: "read", path: path.to_path_buf(), source }
}
