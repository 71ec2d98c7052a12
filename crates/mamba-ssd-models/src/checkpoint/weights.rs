//! Safetensors files, read tensor by tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::ModelError;

/// The tensors of one or several files. Their data stay where they are until asked for.
pub(super) struct Weights<'a> {
    /// What messages name.
    path: PathBuf,
    shards: Vec<Shard<'a>>,
    tensors: BTreeMap<String, Entry>,
}

/// Where a tensor lies.
struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    start: u64,
    end: u64,
}

struct Shard<'a> {
    path: PathBuf,
    source: Source<'a>,
}

enum Source<'a> {
    Bytes(&'a [u8]),
    File(File),
}

/// Bytes in front of a header, which hold its length.
const PREFIX: u64 = 8;
/// A header longer than this is no header: the limit of the reference implementation.
const LONGEST_HEADER: u64 = 100_000_000;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl<'a> Weights<'a> {
    /// The weights in a folder: one file, or the shards that an index names.
    pub(super) fn open(dir: &Path) -> Result<Self, ModelError> {
        let single = dir.join(SINGLE);
        let index = dir.join(INDEX);
        if single.is_file() {
            Self::from_shards(single.clone(), vec![Shard::open(single)?])
        } else if index.is_file() {
            Self::open_index(dir, index)
        } else {
            Err(ModelError::NoWeights { path: dir.to_path_buf(), hint: missing_hint(dir) })
        }
    }

    /// The weights in the bytes of a file.
    pub(super) fn from_bytes(bytes: &'a [u8], name: &str) -> Result<Self, ModelError> {
        let path = PathBuf::from(name);
        Self::from_shards(path.clone(), vec![Shard { path, source: Source::Bytes(bytes) }])
    }

    fn open_index(dir: &Path, index: PathBuf) -> Result<Self, ModelError> {
        let malformed =
            |reason: &str| ModelError::Weights { path: index.clone(), reason: reason.to_string() };
        let text = std::fs::read_to_string(&index).map_err(|source| read_error(&index, source))?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| malformed(&format!("not JSON: {error}")))?;
        let map = json["weight_map"]
            .as_object()
            .ok_or_else(|| malformed("`weight_map` is missing, expected an object of file names"))?;
        let names: BTreeSet<&str> = map.values().filter_map(|name| name.as_str()).collect();
        if names.iter().any(|name| name.contains(['/', '\\'])) {
            return Err(malformed("`weight_map` names a file outside the folder"));
        }
        let shards = names.iter().map(|name| Shard::open(dir.join(name))).collect::<Result<_, _>>()?;
        let weights = Self::from_shards(index.clone(), shards)?;
        match map.keys().find(|key| !weights.tensors.contains_key(*key)) {
            None => Ok(weights),
            Some(key) => Err(malformed(&format!("`{key}` is in no shard; download the shards again"))),
        }
    }

    fn from_shards(path: PathBuf, shards: Vec<Shard<'a>>) -> Result<Self, ModelError> {
        let mut weights = Self { path, shards, tensors: BTreeMap::new() };
        for index in 0..weights.shards.len() {
            let (base, metadata) = weights.shards[index].read_header()?;
            for (key, info) in metadata.tensors() {
                let (start, end) = (base + info.data_offsets.0 as u64, base + info.data_offsets.1 as u64);
                let entry = Entry { shard: index, dtype: info.dtype, shape: info.shape.clone(), start, end };
                weights.tensors.insert(key, entry);
            }
        }
        Ok(weights)
    }

    /// What messages name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The keys, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Calls every tensor what `name` calls it, and leaves out those that it does not name.
    pub(super) fn rename(&mut self, name: impl Fn(&str) -> Option<&str>) {
        let tensors = std::mem::take(&mut self.tensors);
        let renamed = tensors.into_iter().filter_map(|(key, entry)| Some((name(&key)?.to_string(), entry)));
        self.tensors = renamed.collect();
    }

    /// The shape of a tensor, if it is there.
    pub(super) fn shape(&self, key: &str) -> Option<&[usize]> {
        self.tensors.get(key).map(|entry| entry.shape.as_slice())
    }

    /// Reads a tensor that is there.
    pub(super) fn read(&mut self, key: &str) -> Result<TensorData, ModelError> {
        let entry = &self.tensors[key];
        let shard = &mut self.shards[entry.shard];
        let dtype = float(entry.dtype).ok_or_else(|| {
            shard.malformed(format!(
                "`{key}` is {:?}, expected F64, F32, F16 or BF16; quantised weights are not covered",
                entry.dtype
            ))
        })?;
        let bytes = shard.read(entry.start, entry.end)?;
        Ok(TensorData::from_bytes_vec(bytes, entry.shape.clone(), dtype))
    }
}

impl Shard<'_> {
    fn open(path: PathBuf) -> Result<Self, ModelError> {
        let file = File::open(&path).map_err(|source| read_error(&path, source))?;
        Ok(Self { path, source: Source::File(file) })
    }

    /// Where the data begin, and what is where.
    fn read_header(&mut self) -> Result<(u64, Metadata), ModelError> {
        let total = self.len()?;
        if total < PREFIX {
            return Err(self.malformed(format!("{total} bytes are no safetensors file; download it again")));
        }
        let prefix = self.read(0, PREFIX)?;
        let length = prefix.iter().rev().fold(0u64, |length, &byte| length << 8 | u64::from(byte));
        if length > LONGEST_HEADER.min(total - PREFIX) {
            return Err(self.malformed(format!("the header is said to have {length} bytes in a file of {total}; this is no safetensors file, or a truncated one")));
        }
        let base = PREFIX + length;
        let header = self.read(PREFIX, base)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| self.malformed(format!("malformed header: {error}")))?;
        let expected = base + metadata.data_len() as u64;
        if expected != total {
            return Err(self.malformed(format!("{total} bytes, but the header describes {expected}; the file is truncated or damaged, download it again")));
        }
        Ok((base, metadata))
    }

    fn len(&self) -> Result<u64, ModelError> {
        match &self.source {
            Source::Bytes(bytes) => Ok(bytes.len() as u64),
            Source::File(file) => {
                file.metadata().map(|data| data.len()).map_err(|source| read_error(&self.path, source))
            }
        }
    }

    fn read(&mut self, start: u64, end: u64) -> Result<Vec<u8>, ModelError> {
        match &mut self.source {
            Source::Bytes(bytes) => Ok(bytes[start as usize..end as usize].to_vec()),
            Source::File(file) => {
                read_range(file, start, end).map_err(|source| read_error(&self.path, source))
            }
        }
    }

    fn malformed(&self, reason: String) -> ModelError {
        ModelError::Weights { path: self.path.clone(), reason }
    }
}

fn read_range(file: &mut File, start: u64, end: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; (end - start) as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn read_error(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::Io { action: "read", path: path.to_path_buf(), source }
}

fn missing_hint(dir: &Path) -> &'static str {
    match dir.join("pytorch_model.bin").is_file() {
        true => {
            "expected model.safetensors, found pytorch_model.bin; convert it with the safetensors package"
        }
        false => "expected model.safetensors or model.safetensors.index.json",
    }
}

fn float(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}
