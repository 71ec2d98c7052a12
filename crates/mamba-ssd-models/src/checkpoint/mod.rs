//! Models in files: one door for every format.
//!
//! A path is a folder, a file of weights, or an index of such files; what it is, is told from its
//! content:
//!
//! | found | weights | configuration | tokenizer |
//! |---|---|---|---|
//! | folder | `model.safetensors`, its index, `consolidated.safetensors`, `pytorch_model.bin`, its index, or the only file of a known kind | `config.json` or `params.json`, `mamba_config.json` | `tokenizer.json` |
//! | safetensors, PyTorch, index | the file | beside it | beside it |
//! | GGUF | the file | inside | inside |
//! | Llamba for MLX | the file | the shapes inside | beside it |
//!
//! Reading is strict: the tensors of the file are those of the model, no fewer, no more, each of its
//! shape; every difference is listed. Tensors are read one at a time, so that what lies in memory is
//! the model and one tensor. One traversal of the module tree reads and another writes; a table of
//! names per dialect ([`Names`]) turns paths into keys, and what other writers call or arrange
//! otherwise is brought into that form first.

mod dialect;
mod layout;
mod load;
mod names;
mod path;
mod reference;
mod save;
mod snapshot;
mod source;
mod stored;

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use mamba_ssd::WeightFormat;

pub(crate) use names::Names;
pub use reference::{Deviation, Reference};
pub use save::SaveOptions;
pub(crate) use save::to_safetensors;

use crate::{Model, ModelConfig, ModelError, Tokenizer};
use dialect::{gguf, mlx};
use save::Content;
use source::{Container, Gguf, read_error};
use stored::Tensors;

/// Files of weights in a folder, the preferred first.
const WEIGHTS: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "consolidated.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// Configurations in a folder, the preferred first.
const CONFIGS: [&str; 2] = ["config.json", "params.json"];
/// Beside the configuration of a Llama: a hybrid of MambaInLlama.
const MAMBA_CONFIG: &str = "mamba_config.json";
const TOKENIZER: &str = "tokenizer.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// A model in files, of which only the headers have been read.
pub struct Checkpoint {
    config: ModelConfig,
    format: &'static str,
    tensors: Tensors<'static>,
    /// A `tokenizer.json`, if there is one, or why what there is cannot be one.
    tokenizer: Result<Option<Vec<u8>>, String>,
    chat_template: Option<String>,
    note: Option<String>,
}

/// A tensor of a checkpoint, under the name that this crate gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its key in the dialect that [`Model::save`](crate::Model::save) writes.
    pub key: String,
    /// Its element type, as the file calls it.
    pub dtype: String,
    /// Its shape in that dialect.
    pub shape: Vec<usize>,
}

impl Checkpoint {
    /// Opens a folder, a file or an index, and reads what comes before the weights.
    ///
    /// # Errors
    ///
    /// If a file is missing, malformed or truncated, or the family is not covered.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let weights = weights_of(path)?;
        match Container::of(&weights)? {
            Container::Gguf => Self::open_gguf(&weights),
            container => Self::open_tensors(&weights, container),
        }
    }

    fn open_gguf(path: &Path) -> Result<Self, ModelError> {
        let gguf = Gguf::open(path)?;
        let config = gguf::config(&gguf)?;
        let beside = read_if_there(&beside(path, TOKENIZER))?;
        let tokenizer = beside.map_or_else(|| gguf::tokenizer(&gguf), |json| Ok(Some(json)));
        let beside = chat_template(path.parent().unwrap_or(Path::new("")))?;
        let chat_template = gguf::chat_template(&gguf).or(beside);
        let tensors = load::named(&config, gguf::canonical(gguf, &config)?)?;
        Ok(Self { config, format: "GGUF", tensors, tokenizer, chat_template, note: None })
    }

    fn open_tensors(path: &Path, container: Container) -> Result<Self, ModelError> {
        let (tensors, metadata) = source::read(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let tokenizer = Ok(read_if_there(&folder.join(TOKENIZER))?);
        let chat_template = chat_template(folder)?;
        if mlx::is_mlx(&tensors) {
            let (config, tensors) = mlx::open(tensors, &metadata)?;
            let tensors = load::named(&config, tensors)?;
            return Ok(Self { config, format: "MLX", tensors, tokenizer, chat_template, note: None });
        }
        let (config, note) = read_config(folder, &tensors)?;
        let tensors = dialect::canonical(tensors, &config)?;
        let tensors = load::named(&config, tensors)?;
        let format = match container {
            Container::PyTorch => "PyTorch",
            Container::Index => "shards",
            _ => "safetensors",
        };
        Ok(Self { config, format, tensors, tokenizer, chat_template, note })
    }

    /// Shapes of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What kind of file holds the weights.
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// The tensors, in the order of their keys.
    pub fn tensors(&self) -> Vec<TensorInfo> {
        let info = |(key, tensor): (&str, &stored::Stored)| TensorInfo {
            key: key.to_string(),
            dtype: tensor.dtype().to_string(),
            shape: tensor.shape().to_vec(),
        };
        self.tensors.iter().map(info).collect()
    }

    /// Why the tokenizer inside the weights cannot be used, if that is so.
    pub fn tokenizer_refusal(&self) -> Option<&str> {
        self.tokenizer.as_ref().err().map(String::as_str)
    }

    /// The tokenizer's `tokenizer.json`, if there is one beside or inside the weights.
    pub fn tokenizer_json(&self) -> Option<&[u8]> {
        self.tokenizer.as_ref().ok()?.as_deref()
    }

    /// The tokenizer beside or inside the weights.
    ///
    /// # Errors
    ///
    /// If there is none, or it is malformed.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        let path = beside(self.tensors.path(), TOKENIZER);
        match &self.tokenizer {
            Ok(Some(json)) => Tokenizer::parse(json, &path),
            Ok(None) => Err(read_error(&path, std::io::ErrorKind::NotFound.into())),
            Err(reason) => {
                let path = self.tensors.path().to_path_buf();
                Err(ModelError::Tokenizer { path, reason: reason.clone() })
            }
        }
    }

    /// The Jinja template that turns a conversation into a text, if there is one.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// What the configuration says otherwise than the tensors, where these decide.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The model, with weights of a float type.
    ///
    /// # Errors
    ///
    /// If the tensors are not exactly those of the configuration, or cannot be read.
    pub fn load(&self, device: &Device, dtype: DType) -> Result<Model, ModelError> {
        self.load_stored(device, dtype, WeightFormat::Full)
    }

    /// [`Checkpoint::load`] with the weights of linear layers and embeddings stored in a format, each as soon as it is
    /// read.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// For another format than [`WeightFormat::Full`], if it is not to be in f32 on the CPU.
    pub fn load_stored(
        &self,
        device: &Device,
        dtype: DType,
        format: WeightFormat,
    ) -> Result<Model, ModelError> {
        load::build(&self.config, &self.tensors, device, dtype, format)
    }

    /// Whether the tensors are exactly those of the configuration. Only a head that lies beside a tied
    /// embedding is read, to see that it is the same.
    ///
    /// # Errors
    ///
    /// If they are not; every difference is listed.
    pub fn check(&self, device: &Device) -> Result<(), ModelError> {
        load::check(&self.config, &self.tensors, device)
    }
}

/// The file of weights that a path stands for.
fn weights_of(path: &Path) -> Result<PathBuf, ModelError> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    if let Some(found) = WEIGHTS.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok(found);
    }
    let entries = std::fs::read_dir(path).map_err(|source| read_error(path, source))?;
    let files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut known: Vec<PathBuf> = files
        .filter(|file| file.is_file() && Container::of(file).is_ok_and(|kind| kind != Container::Index))
        .collect();
    known.sort();
    match known.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(ModelError::NoWeights {
            path: path.to_path_buf(),
            hint: "expected model.safetensors, pytorch_model.bin, an index of either, or one GGUF file"
                .into(),
        }),
        [first, second, ..] => Err(ModelError::NoWeights {
            path: path.to_path_buf(),
            hint: format!("{} and {} could both be meant; name the file", name_of(first), name_of(second)),
        }),
    }
}

/// Another file in the folder of one.
fn beside(file: &Path, name: &str) -> PathBuf {
    file.with_file_name(name)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The configuration in a folder as the tensors have it, and what it said otherwise.
fn read_config(folder: &Path, tensors: &Tensors) -> Result<(ModelConfig, Option<String>), ModelError> {
    let path = CONFIGS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let path = path.unwrap_or_else(|| folder.join(CONFIGS[0]));
    let text = std::fs::read_to_string(&path).map_err(|source| read_error(&path, source))?;
    let config = with_mamba(parse_config(&text, &path)?, folder)?;
    dialect::settled(config, &text, tensors).map_err(|reason| ModelError::Config { path, reason })
}

fn with_mamba(config: ModelConfig, folder: &Path) -> Result<ModelConfig, ModelError> {
    let path = folder.join(MAMBA_CONFIG);
    match read_if_there(&path)? {
        None => Ok(config),
        Some(bytes) => config
            .with_mamba_config(&String::from_utf8_lossy(&bytes))
            .map_err(|reason| ModelError::Config { path, reason }),
    }
}

fn parse_config(text: &str, path: &Path) -> Result<ModelConfig, ModelError> {
    ModelConfig::from_json(text).map_err(|reason| ModelError::Config { path: path.to_path_buf(), reason })
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, ModelError> {
    let read = || std::fs::read(path).map_err(|source| read_error(path, source));
    path.is_file().then(read).transpose()
}

/// transformers writes the template into a file of its own, and wrote it into the tokenizer's
/// configuration before.
fn chat_template(folder: &Path) -> Result<Option<String>, ModelError> {
    if let Some(bytes) = read_if_there(&folder.join(CHAT_TEMPLATE))? {
        return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
    }
    let path = folder.join(TOKENIZER_CONFIG);
    let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
    let json: serde_json::Value = serde_json::from_slice(&bytes)
        .map_err(|error| ModelError::Config { path, reason: format!("not JSON: {error}") })?;
    let template = &json["chat_template"]; // one, or a list of named ones
    let named = template.as_array().into_iter().flatten().find(|one| one["name"] == "default");
    Ok(named.map_or(template, |one| &one["template"]).as_str().map(str::to_string))
}

pub(crate) fn from_bytes(
    config_json: &str,
    safetensors: &[u8],
    device: &Device,
    dtype: DType,
) -> Result<Model, ModelError> {
    let config = parse_config(config_json, Path::new(CONFIGS[0]))?;
    let tensors = dialect::canonical(source::read_bytes(safetensors, WEIGHTS[0])?, &config)?;
    load::build(&config, &load::named(&config, tensors)?, device, dtype, WeightFormat::Full)
}

pub(crate) fn save(model: &Model, dir: &Path, options: &SaveOptions) -> Result<(), ModelError> {
    let config = model.config_json()?;
    let mamba = model.config().to_mamba_config().map_err(ModelError::Unwritable)?;
    let tensors = save::tensors(model, options.dtype);
    let text =
        |name: &str, text: &'_ str| (name.to_string(), Content::Bytes(text.as_bytes().to_vec().into()));
    let mut files = save::weight_files(&tensors, options.max_shard_bytes);
    files.push(text(CONFIGS[0], &config));
    files.extend(mamba.as_deref().map(|config| text(MAMBA_CONFIG, config)));
    files.extend(options.tokenizer_json.map(|bytes| (TOKENIZER.to_string(), Content::Bytes(bytes.into()))));
    save::write_all(dir, &files)
}
