//! A run in one file: weights, optimiser, schedule position and data cursor.
//!
//! `checkpoint.safetensors` holds `student/PATH`, `first/PATH` and `second/PATH` (AdamW's moments), and
//! `master/PATH` where the student is in half precision, by module path in their own dtype, and a JSON header under the metadata key `mohawk`. There is
//! no random state to save: the order of the data follows from (seed, epoch), what a student writes in a step from
//! (seed, stage, step) and its weights, and nothing else draws numbers. The file is replaced in one rename, so a run killed at any instant finds either
//! the previous checkpoint or the new one.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, Tensor, TensorData};
use mamba_ssd::optimize::AdamWState;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::data::{Cursor, Dataset};
use crate::error::MohawkError;
use crate::files;
use crate::loss::widen;
use crate::observer::StageReport;
use crate::optim::{AdamW, AdamWConfig};
use crate::parameters::{self, Parameter};
use crate::recipe::{Recipe, StageRecipe};

/// Name of the checkpoint in a run's folder.
pub const CHECKPOINT: &str = "checkpoint.safetensors";

const HEADER: &str = "mohawk";
const GROUPS: [&str; 4] = ["student", "first", "second", "master"];

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The current stage, counted from 0; the number of stages when all are done.
    pub stage: usize,
    /// Steps taken in it.
    pub step: usize,
    /// Tokens seen in it.
    pub tokens: usize,
    /// Seconds spent in its steps.
    pub seconds: f64,
    /// Loss of its first step.
    pub first_loss: f64,
    /// Loss of its last step.
    pub last_loss: f64,
    /// The next row of its data.
    pub cursor: Cursor,
    /// The stages that are done.
    pub completed: Vec<StageReport>,
}

/// What must be the same for a run to go on as if it had never stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity {
    seed: u64,
    stages: Vec<StageRecipe>,
    optimizer: AdamWConfig,
    data: u64,
    /// Likeliest tokens that a teacher cache keeps; rows are cut otherwise with one.
    #[serde(default)]
    kept: Option<usize>,
}

impl Identity {
    pub fn of(recipe: &Recipe, data: &Dataset) -> Self {
        let asks = recipe.stages.iter().any(StageRecipe::asks_for_predictions);
        Self {
            seed: recipe.seed,
            stages: recipe.stages.clone(),
            optimizer: recipe.optimizer,
            data: data.fingerprint(),
            kept: recipe.teacher_cache.as_ref().filter(|_| asks).map(|cache| cache.top_k),
        }
    }

    /// The first thing in which a checkpoint's identity differs from this one.
    fn difference(&self, other: &Self) -> Option<&'static str> {
        let rules = [
            (self.seed != other.seed, "seed"),
            (form_apart(&self.stages) != form_apart(&other.stages), "[[stage]]"),
            (self.optimizer != other.optimizer, "[optimizer]"),
            (self.data != other.data, "data"),
            (self.kept != other.kept, "[teacher_cache] top_k"),
        ];
        rules.iter().find(|rule| rule.0).map(|rule| rule.1)
    }
}

/// Stages without what decides but the form of a step.
fn form_apart(stages: &[StageRecipe]) -> Vec<StageRecipe> {
    stages.iter().map(StageRecipe::without_form).collect()
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    identity: Identity,
    progress: Progress,
    optimizer_steps: usize,
}

/// Writes a checkpoint in one rename.
pub(crate) fn save<S: Module>(
    path: &Path,
    identity: &Identity,
    progress: &Progress,
    student: &S,
    optimizer: &AdamW,
) -> Result<(), MohawkError> {
    let header =
        Header { identity: identity.clone(), progress: progress.clone(), optimizer_steps: optimizer.steps() };
    let header = serde_json::to_string(&header).expect("numbers and names are JSON");
    let entries = entries(student, optimizer);
    files::replace(path, |file| write_safetensors(file, &entries, header))
}

struct Entry {
    name: String,
    shape: Vec<usize>,
    value: Tensor<1>,
}

fn entries<S: Module>(student: &S, optimizer: &AdamW) -> Vec<Entry> {
    let mut entries = Vec::new();
    for Parameter { path, shape, value, .. } in parameters::parameters(student) {
        let mut add = |group: &str, value: Tensor<1>| {
            entries.push(Entry { name: format!("{group}/{path}"), shape: shape.clone(), value });
        };
        if let Some(state) = optimizer.states().get(&path) {
            add(GROUPS[1], state.first.clone());
            add(GROUPS[2], state.second.clone());
            if let Some(master) = &state.master {
                add(GROUPS[3], master.clone());
            }
        }
        add(GROUPS[0], value);
    }
    entries
}

/// The safetensors format, one tensor at a time: only one is on the host at once.
fn write_safetensors(file: &mut impl Write, entries: &[Entry], header: String) -> io::Result<()> {
    let mut index = serde_json::Map::new();
    index.insert("__metadata__".to_string(), serde_json::json!({ HEADER: header }));
    let mut offset = 0;
    for Entry { name, shape, value } in entries {
        let end = offset + value.shape().num_elements() * value.dtype().size();
        let dtype = dtype_name(value.dtype());
        let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] });
        index.insert(name.clone(), entry);
        offset = end;
    }
    let mut index = serde_json::to_vec(&index)?;
    index.resize(index.len().next_multiple_of(8), b' ');
    file.write_all(&(index.len() as u64).to_le_bytes())?;
    file.write_all(&index)?;
    entries.iter().try_for_each(|entry| file.write_all(entry.value.to_data().bytes()))
}

/// The weights are checked to be floats of one of these types before a run starts.
fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        other => panic!("no checkpoint of {other:?} parameters"),
    }
}

fn burn_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// What a checkpoint holds.
pub(crate) struct Restored<S> {
    pub progress: Progress,
    pub student: S,
    pub optimizer: AdamW,
}

/// Reads a checkpoint into a student of the same structure.
pub(crate) fn load<S: Module>(
    path: &Path,
    identity: &Identity,
    student: S,
) -> Result<Restored<S>, MohawkError> {
    let bytes = fs::read(path).map_err(MohawkError::io(path))?;
    let damaged = |error| MohawkError::checkpoint(path, format!("damaged ({error})"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let header = header(path, metadata.metadata().as_ref())?;
    if let Some(what) = header.identity.difference(identity) {
        let reason = format!("its {what} is another one, resume with the recipe and the data it began with");
        return Err(MohawkError::checkpoint(path, reason));
    }
    let mut store = Store::read(path, &SafeTensors::deserialize(&bytes).map_err(damaged)?)?;
    let student = store.student(path, student)?;
    let optimizer = store.optimizer(path, &student, identity.optimizer, header.optimizer_steps)?;
    store.check_empty(path)?;
    Ok(Restored { progress: header.progress, student, optimizer })
}

fn header(path: &Path, metadata: Option<&HashMap<String, String>>) -> Result<Header, MohawkError> {
    let text = metadata.and_then(|metadata| metadata.get(HEADER));
    let text = text.ok_or_else(|| MohawkError::checkpoint(path, "no MOHAWK checkpoint, expected one"))?;
    serde_json::from_str(text)
        .map_err(|error| MohawkError::checkpoint(path, format!("of another version ({error}), start anew")))
}

/// The tensors of a checkpoint that nobody has asked for yet.
struct Store(BTreeMap<String, Stored>);

/// A flat tensor of the file and the shape it stands for.
struct Stored {
    shape: Vec<usize>,
    data: TensorData,
}

impl Store {
    fn read(path: &Path, file: &SafeTensors<'_>) -> Result<Self, MohawkError> {
        let tensors = file.iter().map(|(name, view)| {
            let dtype = burn_dtype(view.dtype()).ok_or_else(|| {
                MohawkError::checkpoint(path, format!("{name} is {:?}, expected floats", view.dtype()))
            })?;
            let shape = view.shape().to_vec();
            let elements: usize = shape.iter().product();
            let data = TensorData::from_bytes_vec(view.data().to_vec(), [elements], dtype);
            Ok((name.to_string(), Stored { shape, data }))
        });
        tensors.collect::<Result<_, _>>().map(Self)
    }

    fn take(&mut self, group: &str, path: &str) -> Option<TensorData> {
        self.0.remove(&format!("{group}/{path}")).map(|stored| stored.data)
    }

    fn student<S: Module>(&mut self, file: &Path, student: S) -> Result<S, MohawkError> {
        for Parameter { path, shape, value, .. } in parameters::parameters(&student) {
            let name = format!("{}/{path}", GROUPS[0]);
            let expected = format!("{:?} {shape:?}", value.dtype());
            let found =
                self.0.get(&name).map(|stored| format!("{:?} {:?}", stored.data.dtype(), stored.shape));
            if found.as_ref() != Some(&expected) {
                let found = found.unwrap_or_else(|| "nothing".to_string());
                let reason = format!("found {found} for {path}, expected {expected}");
                return Err(MohawkError::checkpoint(file, reason));
            }
        }
        Ok(parameters::replace(student, |path, _, value| {
            self.take(GROUPS[0], path).map(|data| flat(data, &value))
        }))
    }

    fn optimizer<S: Module>(
        &mut self,
        file: &Path,
        student: &S,
        config: AdamWConfig,
        steps: usize,
    ) -> Result<AdamW, MohawkError> {
        let mut states = BTreeMap::new();
        for Parameter { path, value, .. } in parameters::parameters(student) {
            let mut take = |group| self.take(group, &path).map(|data| flat(data, &value));
            if let (Some(first), Some(second)) = (take(GROUPS[1]), take(GROUPS[2])) {
                let master = take(GROUPS[3]);
                if master.is_none() && widen(value.clone()).dtype() != value.dtype() {
                    let found = format!("found no {}/{path}, expected the weight in f32", GROUPS[3]);
                    return Err(MohawkError::checkpoint(file, found));
                }
                states.insert(path, AdamWState { master, first, second });
            }
        }
        Ok(AdamW::restore(config, steps, states))
    }

    fn check_empty(&self, file: &Path) -> Result<(), MohawkError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => {
                let reason =
                    format!("{name} has no place in this student, expected the student it began with");
                Err(MohawkError::checkpoint(file, reason))
            }
        }
    }
}

/// Stored numbers as a flat tensor in their own dtype, on the device of `like`.
fn flat(data: TensorData, like: &Tensor<1>) -> Tensor<1> {
    let dtype = data.dtype();
    Tensor::from_data(data, (&like.device(), dtype))
}
