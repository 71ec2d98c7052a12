//! States in files: a prompt that was read once, kept for later.
//!
//! A safetensors file with one tensor for each part of each layer's state. Its metadata names the model by a
//! fingerprint of its configuration and of its weights, so that no other model goes on from it, the same one before or
//! after more training included. Tensors are kept as they are, so that a restored state is the saved one bit for bit.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use mamba_ssd::{Backbone, KvCache, State, StateMap};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors, View};

use super::save::{self, file_dtype};
use super::source::{read_error, tensor_dtype};
use crate::{Model, ModelError};

const FORMAT: &str = "format";
const KIND: &str = "mamba-ssd state";
const FINGERPRINT: &str = "fingerprint";
const MODEL: &str = "model";

impl Model {
    /// Names this model's configuration and its weights, by name, shape and value: 16 hexadecimal digits for what it is
    /// and 16 for its values. Reads every weight once.
    pub fn fingerprint(&self) -> String {
        let tensors: Vec<_> = save::tensors(self, None).into_iter().collect();
        let shapes = tensors.iter().map(|(name, tensor)| format!("{name}{:?}", View::shape(tensor)));
        let config = self.config().to_json().unwrap_or_else(|_| format!("{:?}", self.config()));
        let text = shapes.fold(config, |text, shape| text + &shape);
        let values: Vec<u8> =
            tensors.iter().flat_map(|(_, tensor)| hash_of_values(&tensor.data()).to_le_bytes()).collect();
        format!("{:016x}{:016x}", fnv1a(text.as_bytes()), fnv1a(&values))
    }

    /// Writes a state of this model.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn save_state(&self, path: &Path, state: &State) -> Result<(), ModelError> {
        let mut writer = Writer { layer: 0, tensors: Vec::new(), metadata: HashMap::new() };
        for (layer, state) in state.layers.iter().enumerate() {
            writer.layer = layer;
            state.clone().map(&mut writer);
        }
        let own = [(FORMAT, KIND.into()), (FINGERPRINT, self.fingerprint()), (MODEL, described(self))];
        writer.metadata.extend(own.map(|(key, value)| (key.to_string(), value)));
        let bytes = safetensors::serialize(writer.tensors, Some(writer.metadata));
        save::write_one(path, &bytes.map_err(|error| ModelError::Unwritable(error.to_string()))?)
    }

    /// Reads a state of this model, on this model's device.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, holds no state, or one of another model.
    pub fn load_state(&self, path: &Path) -> Result<State, ModelError> {
        let bytes = std::fs::read(path).map_err(|source| read_error(path, source))?;
        let refuse = |reason| ModelError::State { path: path.to_path_buf(), reason };
        self.parse_state(&bytes).map_err(refuse)
    }

    fn parse_state(&self, bytes: &[u8]) -> Result<State, String> {
        let malformed =
            |error| format!("no safetensors file ({error}); expected one that a state was saved to");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        if metadata.get(FORMAT).is_none_or(|kind| kind != KIND) {
            return Err("a safetensors file of something else; expected one that a state was saved to".into());
        }
        let (found, expected) = (metadata.get(FINGERPRINT).cloned().unwrap_or_default(), self.fingerprint());
        if found != expected {
            let same_shape = found.get(..16) == expected.get(..16);
            let other = if same_shape { "a model of this shape with other weights" } else { "another model" };
            return Err(format!(
                "the state of {other}: found {} ({found}), expected {} ({expected}); \
                 load it with the model that it was saved with",
                metadata.get(MODEL).map_or("one without a name", String::as_str),
                described(self)
            ));
        }
        let file = SafeTensors::deserialize(bytes).map_err(malformed)?;
        let device = self.devices().remove(0);
        let mut reader =
            Reader { file, metadata, device: device.clone(), layer: 0, batch: None, wrong: None };
        let mut layers = Vec::with_capacity(self.n_layers());
        for (layer, empty) in self.init_state(1, &device).layers.into_iter().enumerate() {
            reader.layer = layer;
            layers.push(empty.map(&mut reader));
        }
        match reader.wrong {
            Some(wrong) => Err(format!("{wrong}; the file is damaged, save the state again")),
            None => Ok(State { layers }),
        }
    }
}

fn described(model: &Model) -> String {
    let config = model.config();
    format!("{} of {} layers, width {}", config.family(), model.n_layers(), config.d_model())
}

/// Fowler, Noll and Vo's hash, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The hash of the hashes of pieces, which all threads share.
fn hash_of_values(bytes: &[u8]) -> u64 {
    const PIECE: usize = 1 << 20;
    let pieces: Vec<u64> = bytes.par_chunks(PIECE).map(hash_of_words).collect();
    pieces
        .into_iter()
        .fold(fnv1a(&[]), |hash, piece| (hash ^ piece).wrapping_mul(0x0100_0000_01b3).rotate_left(29))
}

/// A hash like [`fnv1a`], of words of eight bytes.
fn hash_of_words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &word| {
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
    });
    (hash ^ fnv1a(rest)).wrapping_mul(0x0100_0000_01b3)
}

fn key(layer: usize, part: &str) -> String {
    format!("layers.{layer}.{part}")
}

/// Gathers the parts of a state.
struct Writer {
    layer: usize,
    tensors: Vec<(String, Part)>,
    metadata: HashMap<String, String>,
}

/// A tensor on its way to a file.
struct Part(TensorData);

impl View for Part {
    fn dtype(&self) -> Dtype {
        file_dtype(self.0.dtype())
    }

    fn shape(&self) -> &[usize] {
        self.0.shape().as_slice()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.0.as_bytes().into()
    }

    fn data_len(&self) -> usize {
        self.0.as_bytes().len()
    }
}

impl StateMap for Writer {
    fn tensor<const D: usize>(&mut self, name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
        self.tensors.push((key(self.layer, name), Part(tensor.clone().into_data())));
        tensor
    }

    fn cache(&mut self, cache: KvCache) -> KvCache {
        self.tensor("k", cache.k.clone());
        self.tensor("v", cache.v.clone());
        let padding: Vec<String> = cache.padding.iter().map(usize::to_string).collect();
        self.metadata.insert(key(self.layer, "padding"), padding.join(","));
        cache
    }
}

/// Fills a state of one row without tokens with what a file holds. The first thing that is wrong is kept.
struct Reader<'a> {
    file: SafeTensors<'a>,
    metadata: HashMap<String, String>,
    device: Device,
    layer: usize,
    batch: Option<usize>,
    wrong: Option<String>,
}

impl Reader<'_> {
    /// A tensor of the shape and dtype of `like` but for its batch, and for the axis `free`.
    fn read<const D: usize>(&mut self, name: &str, like: Tensor<D>, free: Option<usize>) -> Tensor<D> {
        let read = self.try_read(name, &like, free);
        read.unwrap_or_else(|wrong| {
            self.wrong.get_or_insert(wrong);
            like
        })
    }

    fn try_read<const D: usize>(
        &mut self,
        name: &str,
        like: &Tensor<D>,
        free: Option<usize>,
    ) -> Result<Tensor<D>, String> {
        let name = key(self.layer, name);
        let view = self.file.tensor(&name).map_err(|_| format!("`{name}` is missing"))?;
        let (found, dtype) = (view.shape().to_vec(), tensor_dtype(view.dtype()));
        let mut expected = like.dims().to_vec();
        expected[0] = *self.batch.get_or_insert(found.first().copied().unwrap_or(0));
        if let Some(axis) = free {
            expected[axis] = found.get(axis).copied().unwrap_or(0);
        }
        if found != expected || dtype != Some(like.dtype()) || expected[0] == 0 {
            let dtype = like.dtype();
            return Err(format!("`{name}` is {:?} {found:?}, expected {dtype:?} {expected:?}", view.dtype()));
        }
        let data = TensorData::from_bytes_vec(view.data().to_vec(), found, like.dtype());
        Ok(Tensor::from_data(data, (&self.device, like.dtype())))
    }

    fn padding(&self, rows: usize, columns: usize) -> Result<Vec<usize>, String> {
        let name = key(self.layer, "padding");
        let text = self.metadata.get(&name).map_or("", String::as_str);
        let padding: Option<Vec<usize>> = text.split(',').map(|number| number.parse().ok()).collect();
        let fits = |padding: &Vec<usize>| padding.len() == rows && padding.iter().all(|&p| p <= columns);
        padding.filter(fits).ok_or_else(|| {
            format!("`{name}` is {text:?}, expected a number of at most {columns} for each of {rows} rows")
        })
    }
}

impl StateMap for Reader<'_> {
    fn tensor<const D: usize>(&mut self, name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
        self.read(name, tensor, None)
    }

    fn cache(&mut self, cache: KvCache) -> KvCache {
        let k = self.read("k", cache.k, Some(2));
        let v = self.read("v", cache.v, Some(2));
        let [rows, _, columns, _] = k.dims();
        if v.dims() != k.dims() {
            self.wrong.get_or_insert(format!(
                "keys of layer {} are {:?}, values {:?}",
                self.layer,
                k.dims(),
                v.dims()
            ));
        }
        let padding = self.padding(rows, columns).unwrap_or_else(|wrong| {
            self.wrong.get_or_insert(wrong);
            Vec::new() // a damaged file may speak of any number of rows
        });
        KvCache { k, v, padding }
    }
}
