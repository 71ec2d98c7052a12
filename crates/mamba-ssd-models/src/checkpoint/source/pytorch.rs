//! PyTorch's files, read by the crate `pytorch-reader`, each tensor in its own type.

use std::path::Path;

use burn::tensor::{DType, TensorData};
use pytorch_reader::PytorchReader;

use super::super::stored::{Stored, Tensors};
use super::read_error;
use crate::ModelError;

/// Adds the tensors of a state dict.
pub(super) fn read_file(path: &Path, tensors: &mut Tensors) -> Result<(), ModelError> {
    let malformed = |reason: String| ModelError::Weights { path: path.to_path_buf(), reason };
    let size = std::fs::metadata(path).map_err(|source| read_error(path, source))?.len();
    let reader = PytorchReader::new(path)
        .map_err(|error| malformed(format!("not a state dict that can be read: {error}")))?;
    for (key, tensor) in reader.tensors() {
        let bytes = tensor.byte_len() as u64;
        if bytes > size {
            return Err(malformed(format!("`{key}` is said to have {bytes} bytes in a file of {size}")));
        }
        let (shape, dtype, found) = (tensor.shape().to_vec(), float(tensor.dtype()), tensor.dtype());
        let (tensor, name, path) = (tensor.clone(), key.clone(), path.to_path_buf());
        let read = move || {
            let malformed = |reason| ModelError::Weights { path: path.clone(), reason };
            let dtype = dtype
                .ok_or_else(|| malformed(format!("`{name}` is {found:?}, expected F64, F32, F16 or BF16")))?;
            let bytes = tensor.read().map_err(|error| malformed(error.to_string()))?;
            Ok(TensorData::from_bytes_vec(bytes, tensor.shape().to_vec(), dtype))
        };
        tensors.insert(key.clone(), Stored::new(format!("{found:?}"), shape, read))?;
    }
    Ok(())
}

fn float(dtype: pytorch_reader::DType) -> Option<DType> {
    match dtype {
        pytorch_reader::DType::F64 => Some(DType::F64),
        pytorch_reader::DType::F32 => Some(DType::F32),
        pytorch_reader::DType::F16 => Some(DType::F16),
        pytorch_reader::DType::BF16 => Some(DType::BF16),
        _ => None,
    }
}
