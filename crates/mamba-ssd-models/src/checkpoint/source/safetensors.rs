//! safetensors: the length of a header, the header as JSON, the data.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use burn::tensor::{DType, TensorData};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::super::stored::{Stored, Tensors};
use super::read_error;
use crate::ModelError;

/// Bytes in front of a header, which hold its length.
const PREFIX: u64 = 8;
/// A header longer than this is no header: the limit of the reference implementation.
const LONGEST_HEADER: u64 = 100_000_000;

/// Adds the tensors of a file, and returns the strings that its header holds beside them.
pub(super) fn read_file(path: &Path, tensors: &mut Tensors) -> Result<Vec<(String, String)>, ModelError> {
    let file = File::open(path).map_err(|source| read_error(path, source))?;
    add(Source::File(path.to_path_buf(), file), tensors)
}

/// Adds the tensors in the bytes of a file.
pub(super) fn read_bytes<'a>(bytes: &'a [u8], tensors: &mut Tensors<'a>) -> Result<(), ModelError> {
    add(Source::Bytes(tensors.path().to_path_buf(), bytes), tensors).map(drop)
}

fn add<'a>(source: Source<'a>, tensors: &mut Tensors<'a>) -> Result<Vec<(String, String)>, ModelError> {
    let (base, metadata) = source.header()?;
    let source = Rc::new(source);
    for (key, info) in metadata.tensors() {
        let (dtype, shape) = (readable(info.dtype), info.shape.clone());
        let range = (base + info.data_offsets.0 as u64, base + info.data_offsets.1 as u64);
        let (source, name, found) = (source.clone(), key.clone(), info.dtype);
        let read = move || {
            let dtype = dtype.ok_or_else(|| source.quantised(&name, found))?;
            Ok(TensorData::from_bytes_vec(source.read(range.0, range.1)?, shape.clone(), dtype))
        };
        tensors.insert(key, Stored::new(format!("{:?}", info.dtype), info.shape.clone(), read))?;
    }
    let strings = metadata.metadata().iter().flatten();
    Ok(strings.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// Where a file's bytes are, and what messages call it.
enum Source<'a> {
    Bytes(PathBuf, &'a [u8]),
    File(PathBuf, File),
}

impl Source<'_> {
    /// Where the data begin, and what is where.
    fn header(&self) -> Result<(u64, Metadata), ModelError> {
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

    fn path(&self) -> &Path {
        match self {
            Self::Bytes(path, _) | Self::File(path, _) => path,
        }
    }

    fn len(&self) -> Result<u64, ModelError> {
        match self {
            Self::Bytes(_, bytes) => Ok(bytes.len() as u64),
            Self::File(path, file) => {
                file.metadata().map(|data| data.len()).map_err(|source| read_error(path, source))
            }
        }
    }

    fn read(&self, start: u64, end: u64) -> Result<Vec<u8>, ModelError> {
        match self {
            Self::Bytes(_, bytes) => Ok(bytes[start as usize..end as usize].to_vec()),
            Self::File(path, file) => read_range(file, start, end).map_err(|source| read_error(path, source)),
        }
    }

    fn quantised(&self, key: &str, dtype: Dtype) -> ModelError {
        self.malformed(format!(
            "`{key}` is {dtype:?}, expected F64, F32, F16 or BF16; this quantisation is not covered"
        ))
    }

    fn malformed(&self, reason: String) -> ModelError {
        ModelError::Weights { path: self.path().to_path_buf(), reason }
    }
}

fn read_range(mut file: &File, start: u64, end: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; (end - start) as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The types that are read: floats, MLX's packed integers, and tokens.
pub(in crate::checkpoint) fn readable(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::U32 => Some(DType::U32),
        Dtype::I32 => Some(DType::I32),
        Dtype::I64 => Some(DType::I64),
        _ => None,
    }
}
