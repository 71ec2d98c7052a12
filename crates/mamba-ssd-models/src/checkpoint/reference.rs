//! What another implementation computed of the same weights, and how far this one is from it.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use mamba_ssd::Backbone;

use super::source;
use crate::ModelError;

/// Tokens, and what a reference implementation made of them.
///
/// A safetensors file of `input_ids [b t]` and any of
///
/// | tensor | shape | what it is |
/// |---|---|---|
/// | `logits` | `[b t v]` | |
/// | `hidden_states.0` | `[b t d]` | the output of the embedding |
/// | `hidden_states.i` | `[b t d]` | the output of block i, counted from 1, before the final norm |
/// | `attentions.i` | `[b h t t]` | the mixing matrix of block i, counted from 0 |
#[derive(Debug)]
pub struct Reference {
    path: PathBuf,
    input_ids: TensorData,
    values: Vec<(Place, TensorData)>,
}

/// Which tensor of a model a value is; in the order in which a model computes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Hidden(usize),
    Matrix(usize),
    Logits,
}

/// How far one tensor of a model is from the reference.
#[derive(Clone, Debug)]
pub struct Deviation {
    /// The tensor, as the file calls it.
    pub name: String,
    /// The layer, counted from 0, that computed it; nothing for embedding and head.
    pub layer: Option<usize>,
    /// Largest absolute difference.
    pub largest: f64,
    /// L2 norm of the difference over that of the reference.
    pub relative: f64,
}

const TOKENS: &str = "input_ids";

impl Place {
    fn parse(name: &str) -> Option<Self> {
        let index = |prefix: &str| name.strip_prefix(prefix)?.parse().ok();
        match name {
            "logits" => Some(Self::Logits),
            _ => index("hidden_states.").map(Self::Hidden).or_else(|| index("attentions.").map(Self::Matrix)),
        }
    }

    /// The order in which a model computes them: a layer's matrix before its output.
    fn order(self) -> (usize, usize) {
        match self {
            Self::Hidden(index) => (index, 1),
            Self::Matrix(layer) => (layer.saturating_add(1), 0),
            Self::Logits => (usize::MAX, 0),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Hidden(index) => format!("hidden_states.{index}"),
            Self::Matrix(layer) => format!("attentions.{layer}"),
            Self::Logits => "logits".into(),
        }
    }

    fn layer(self) -> Option<usize> {
        match self {
            Self::Hidden(index) => index.checked_sub(1),
            Self::Matrix(layer) => Some(layer),
            Self::Logits => None,
        }
    }
}

impl Reference {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read, lacks `input_ids`, or holds a tensor of another name.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let (tensors, _) = source::read(path)?;
        let mut values = Vec::new();
        for (key, tensor) in tensors.iter().filter(|(key, _)| *key != TOKENS) {
            let place = Place::parse(key).ok_or_else(|| {
                tensors.malformed(format!(
                    "holds `{key}`, expected {TOKENS} and any of logits, hidden_states.i, attentions.i"
                ))
            })?;
            values.push((place, tensor.read()?));
        }
        values.sort_by_key(|(place, _)| place.order());
        let input_ids = tensors.get(TOKENS).filter(|tensor| tensor.shape().len() == 2);
        let input_ids =
            input_ids.ok_or_else(|| tensors.malformed(format!("lacks `{TOKENS}` [b t]")))?.read()?;
        if values.is_empty() || input_ids.shape().num_elements() == 0 {
            return Err(tensors.malformed("holds nothing to compare with"));
        }
        Ok(Self { path: path.to_path_buf(), input_ids, values })
    }

    /// The deviation of every tensor of the file, in the order in which the model computes them.
    ///
    /// # Errors
    ///
    /// If the tokens are none of the model's, or a tensor has another shape than the model's.
    pub fn compare<M: Backbone + Module>(
        &self,
        model: &M,
        device: &Device,
    ) -> Result<Vec<Deviation>, ModelError> {
        let hidden = model.hidden_states(self.tokens(model.vocab_size(), device)?, None);
        let mut deviations = Vec::new();
        for (place, expected) in &self.values {
            let found = match *place {
                Place::Hidden(index) => hidden.get(index).map(|state| state.clone().into_data()),
                Place::Matrix(layer) if layer < model.n_layers() => {
                    Some(model.mixing_matrix(layer, hidden[layer].clone(), None).into_data())
                }
                Place::Matrix(_) => None,
                Place::Logits => hidden.last().map(|state| model.head(state.clone()).into_data()),
            };
            let name = place.name();
            let found = found.ok_or_else(|| {
                self.wrong(format!("`{name}`, but the model has {} layers", model.n_layers()))
            })?;
            if found.shape() != expected.shape() {
                let (ours, theirs) =
                    (found.shape().as_slice().to_vec(), expected.shape().as_slice().to_vec());
                return Err(self.wrong(format!("`{name}` is {theirs:?}, the model's is {ours:?}")));
            }
            let (largest, relative) = distance(found, expected.clone());
            deviations.push(Deviation { name, layer: place.layer(), largest, relative });
        }
        Ok(deviations)
    }

    fn tokens(&self, vocab_size: usize, device: &Device) -> Result<Tensor<2, Int>, ModelError> {
        let shape = self.input_ids.shape().as_slice().to_vec();
        let ids: Vec<i64> = self.input_ids.clone().convert_dtype(DType::I64).try_to_vec().unwrap_or_default();
        match ids.iter().find(|&&id| id < 0 || id as usize >= vocab_size) {
            Some(id) => Err(self.wrong(format!("token {id}, but the model knows 0 to {}", vocab_size - 1))),
            None => Ok(Tensor::from_data(TensorData::new(ids, shape), device)),
        }
    }

    fn wrong(&self, reason: String) -> ModelError {
        ModelError::Weights { path: self.path.clone(), reason: format!("holds {reason}") }
    }
}

/// Largest absolute difference, and the L2 norm of all over that of the expected.
fn distance(found: TensorData, expected: TensorData) -> (f64, f64) {
    let wide =
        |data: TensorData| -> Vec<f64> { data.convert_dtype(DType::F64).try_to_vec().unwrap_or_default() };
    let (mut largest, mut difference, mut size) = (0.0f64, 0.0, 0.0);
    for (found, expected) in wide(found).into_iter().zip(wide(expected)) {
        let error = (found - expected).abs();
        largest = if error.is_nan() { f64::NAN } else { largest.max(error) };
        difference += error * error;
        size += expected * expected;
    }
    let relative = if difference == 0.0 { 0.0 } else { (difference / size).sqrt() };
    (largest, relative)
}
