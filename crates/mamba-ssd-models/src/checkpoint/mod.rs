//! Models in folders: `config.json`, `model.safetensors`, `tokenizer.json`.
//!
//! Reading is strict: the tensors of the file are those of the model, no fewer, no more, each of its
//! shape; every difference is listed. One traversal of the module tree reads and another writes, and
//! a table of names per dialect ([`Names`]) turns paths into keys.

mod layout;
mod load;
mod names;
mod path;
mod save;
mod weights;

use std::path::Path;

use burn::tensor::{DType, Device};

pub(crate) use names::Names;
pub(crate) use save::to_safetensors;

use crate::{Model, ModelConfig, ModelError};
use weights::{Weights, read_error};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";

pub(crate) fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Model, ModelError> {
    let path = dir.join(CONFIG);
    let text = std::fs::read_to_string(&path).map_err(|source| read_error(&path, source))?;
    let config = parse_config(&text, &path)?;
    load::build(&config, Weights::open(dir)?, device, dtype)
}

pub(crate) fn from_bytes(
    config_json: &str,
    safetensors: &[u8],
    device: &Device,
    dtype: DType,
) -> Result<Model, ModelError> {
    let config = parse_config(config_json, Path::new(CONFIG))?;
    load::build(&config, Weights::from_bytes(safetensors, WEIGHTS)?, device, dtype)
}

pub(crate) fn save(
    model: &Model,
    dir: &Path,
    tokenizer_json: Option<&[u8]>,
    dtype: Option<DType>,
) -> Result<(), ModelError> {
    let config = model.config_json()?;
    let weights = to_safetensors(model, dtype)?;
    let mut files = vec![(WEIGHTS, weights.as_slice()), (CONFIG, config.as_bytes())];
    files.extend(tokenizer_json.map(|bytes| (TOKENIZER, bytes)));
    save::write_all(dir, &files)
}

fn parse_config(text: &str, path: &Path) -> Result<ModelConfig, ModelError> {
    ModelConfig::from_json(text).map_err(|reason| ModelError::Config { path: path.to_path_buf(), reason })
}
