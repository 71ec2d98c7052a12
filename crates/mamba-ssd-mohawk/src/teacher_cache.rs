//! The teacher's predictions on disk: of every token the k likeliest next ones with their log-probabilities, and what all others
//! share. A run, or many runs of one teacher and one set of data, then ask the teacher once for each row.
//!
//! ```text
//! FOLDER/cache.json                                    what the cache is of
//! FOLDER/SEQ_LEN/0003/0003141.safetensors              ids u32 [t k], log_p f32 [t k], rest f32 [t]
//! ```
//!
//! A row is a file of its own, written under another name and renamed: a run that is killed finds what it had, and several
//! devices, or runs, may fill one cache. 4 + 8 k bytes a token: 51 GB for 100 million tokens at k = 64.
//!
//! Rows come again only if they are cut at the same places in every epoch, so with a cache they are
//! ([`Loader::aligned`](crate::data::Loader::aligned)). The k likeliest are found on the host.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use mamba_ssd::{Backbone, Segments};
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::data::{Batch, Dataset};
use crate::error::MohawkError;
use crate::files;
use crate::parameters::parameters;
use crate::predictions::piece;

const MANIFEST: &str = "cache.json";
/// Rows of a folder.
const SHARD: usize = 1000;

/// Where the teacher's predictions are kept, and how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheRecipe {
    /// A folder, which is made if it is not there.
    pub path: PathBuf,
    /// Likeliest next tokens that are kept of every token, k.
    pub top_k: usize,
}

/// The teacher's predictions for the tokens of a batch.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The likeliest next tokens, `[b t k]`.
    pub ids: Tensor<3, Int>,
    /// Their log-probabilities, `[b t k]`.
    pub log_p: Tensor<3>,
    /// The probability of all others together, `[b t]`.
    pub rest: Tensor<2>,
}

impl Kept {
    /// Tokens `at .. at + n` of all rows one after the other, as one row.
    pub(crate) fn piece(&self, at: usize, n: usize) -> Self {
        let [b, t, k] = self.ids.dims();
        Self {
            ids: self.ids.clone().reshape([1, b * t, k]).narrow(1, at, n),
            log_p: self.log_p.clone().reshape([1, b * t, k]).narrow(1, at, n),
            rest: self.rest.clone().reshape([1, b * t]).narrow(1, at, n),
        }
    }
}

/// What a cache is of: another teacher's predictions, or those on other data, are worse than none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    version: String,
    teacher: u64,
    data: u64,
    top_k: usize,
    vocabulary: usize,
}

/// An open cache.
#[derive(Clone, Debug)]
pub(crate) struct TeacherCache {
    folder: PathBuf,
    top_k: usize,
}

/// One row as it lies on disk.
struct Row {
    ids: Vec<u32>,
    log_p: Vec<f32>,
    rest: Vec<f32>,
}

impl TeacherCache {
    /// The cache of a teacher's predictions on some data.
    ///
    /// # Errors
    ///
    /// If there is one of others in the folder, or the folder cannot be used.
    pub fn open<T: Backbone>(recipe: &CacheRecipe, data: &Dataset, teacher: &T) -> Result<Self, MohawkError> {
        let vocabulary = teacher.vocab_size();
        let top_k = recipe.top_k.min(vocabulary);
        let manifest = Manifest {
            version: env!("CARGO_PKG_VERSION").to_string(),
            teacher: fingerprint(teacher),
            data: data.fingerprint(),
            top_k,
            vocabulary,
        };
        fs::create_dir_all(&recipe.path).map_err(MohawkError::io(&recipe.path))?;
        let path = recipe.path.join(MANIFEST);
        if !path.exists() {
            let json = serde_json::to_string(&manifest).expect("numbers and words are JSON");
            files::replace_beside_others(&path, |file| std::io::Write::write_all(file, json.as_bytes()))?;
        }
        // As it is there now: another run may have come first.
        let found = fs::read_to_string(&path).map_err(MohawkError::io(&path))?;
        let found: Option<Manifest> = serde_json::from_str(&found).ok();
        if found.as_ref() != Some(&manifest) {
            let what = found.map_or("is damaged", |found| difference(&found, &manifest));
            let advice = "choose another folder for this run's teacher_cache";
            let reason = format!("{what}; {advice}");
            return Err(MohawkError::Cache { path: recipe.path.clone(), reason });
        }
        Ok(Self { folder: recipe.path.clone(), top_k })
    }

    /// The predictions for a batch of aligned rows; those that are not there yet are asked for and kept.
    ///
    /// # Errors
    ///
    /// If a file cannot be written, or holds something else.
    pub fn of<T: Backbone>(&self, teacher: &T, batch: &Batch) -> Result<Kept, MohawkError> {
        let [b, t] = batch.tokens.dims();
        let paths: Vec<PathBuf> = batch.starts.iter().map(|&start| self.path(t, start / t)).collect();
        let rows = (0..b).map(|row| {
            if paths[row].exists() {
                return self.read(&paths[row], t);
            }
            let found = self.ask(teacher, batch, row);
            self.write(&paths[row], t, &found)?;
            Ok(found)
        });
        let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
        Ok(self.on_device(rows, [b, t], &batch.tokens.device()))
    }

    fn path(&self, seq_len: usize, row: usize) -> PathBuf {
        let shard = self.folder.join(seq_len.to_string()).join(format!("{:04}", row / SHARD));
        shard.join(format!("{row:07}.safetensors"))
    }

    /// What the teacher predicts for a row.
    fn ask<T: Backbone>(&self, teacher: &T, batch: &Batch, row: usize) -> Row {
        let [_, t] = batch.tokens.dims();
        let starts = batch.segments.as_ref().map(|segments| segments.starts().narrow(0, row, 1));
        let segments = starts.map(Segments::from_starts);
        let hidden = teacher.hidden(batch.tokens.clone().narrow(0, row, 1), segments.as_ref());
        let v = teacher.vocab_size();
        let piece = piece(v, t);
        let mut found = Row { ids: Vec::new(), log_p: Vec::new(), rest: Vec::new() };
        for at in (0..t).step_by(piece) {
            let n = piece.min(t - at);
            let logits = teacher.head(hidden.clone().narrow(1, at, n)).into_data().convert::<f32>();
            let logits: Vec<f32> = logits.try_into_vec().expect("converted to f32");
            let tokens: Vec<_> = logits.par_chunks(v).map(|logits| likeliest(logits, self.top_k)).collect();
            for (ids, log_p, rest) in tokens {
                found.ids.extend(ids);
                found.log_p.extend(log_p);
                found.rest.push(rest);
            }
        }
        found
    }

    fn write(&self, path: &Path, t: usize, row: &Row) -> Result<(), MohawkError> {
        let shard = path.parent().expect("a folder below the cache's");
        fs::create_dir_all(shard).map_err(MohawkError::io(shard))?;
        let view =
            |dtype, shape, bytes| TensorView::new(dtype, shape, bytes).expect("as many bytes as numbers");
        let [ids, log_p, rest] = [
            bytes(&row.ids, u32::to_le_bytes),
            bytes(&row.log_p, f32::to_le_bytes),
            bytes(&row.rest, f32::to_le_bytes),
        ];
        let tensors = [
            ("ids", view(Dtype::U32, vec![t, self.top_k], &ids)),
            ("log_p", view(Dtype::F32, vec![t, self.top_k], &log_p)),
            ("rest", view(Dtype::F32, vec![t], &rest)),
        ];
        let file = safetensors::serialize(tensors, None).expect("names and shapes");
        // Two writers of one row write the same, each under a name of its own.
        files::replace_beside_others(path, |out| std::io::Write::write_all(out, &file))
    }

    fn read(&self, path: &Path, t: usize) -> Result<Row, MohawkError> {
        let damaged = |reason: String| MohawkError::Cache {
            path: path.to_path_buf(),
            reason: format!("{reason}; remove the file, and it is made again"),
        };
        let file = fs::read(path).map_err(MohawkError::io(path))?;
        let tensors = SafeTensors::deserialize(&file).map_err(|error| damaged(error.to_string()))?;
        let part = |name: &str, dtype, count: usize| {
            let found = tensors.tensor(name).map_err(|error| damaged(error.to_string()))?;
            let numbers: usize = found.shape().iter().product();
            if (found.dtype(), numbers) != (dtype, count) {
                return Err(damaged(format!(
                    "{name} is {numbers} of {:?}, expected {count} of {dtype:?}",
                    found.dtype()
                )));
            }
            let words = found.data().chunks_exact(4);
            Ok(words.map(|word| [word[0], word[1], word[2], word[3]]).collect::<Vec<_>>())
        };
        Ok(Row {
            ids: part("ids", Dtype::U32, t * self.top_k)?.into_iter().map(u32::from_le_bytes).collect(),
            log_p: part("log_p", Dtype::F32, t * self.top_k)?.into_iter().map(f32::from_le_bytes).collect(),
            rest: part("rest", Dtype::F32, t)?.into_iter().map(f32::from_le_bytes).collect(),
        })
    }

    fn on_device(&self, rows: Vec<Row>, [b, t]: [usize; 2], device: &Device) -> Kept {
        let ids: Vec<i32> = rows.iter().flat_map(|row| &row.ids).map(|&id| id as i32).collect();
        let floats = |part: fn(&Row) -> &Vec<f32>| rows.iter().flat_map(part).copied().collect::<Vec<f32>>();
        let dtype = burn::tensor::DType::F32;
        let (log_p, rest) = (floats(|row| &row.log_p), floats(|row| &row.rest));
        Kept {
            ids: Tensor::from_data(TensorData::new(ids, [b, t, self.top_k]), device),
            log_p: Tensor::from_data(TensorData::new(log_p, [b, t, self.top_k]), (device, dtype)),
            rest: Tensor::from_data(TensorData::new(rest, [b, t]), (device, dtype)),
        }
    }
}

/// The k likeliest of a token's logits, the likeliest first: ids, log-probabilities, and the probability of the others.
fn likeliest(logits: &[f32], k: usize) -> (Vec<u32>, Vec<f32>, f32) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    let log_sum = sum.ln() + f64::from(largest);
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let descending = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k, descending);
        order.truncate(k);
    }
    order.sort_unstable_by(descending);
    let log_p: Vec<f64> = order.iter().map(|&id| f64::from(logits[id as usize]) - log_sum).collect();
    let rest = if k < logits.len() { 1.0 - log_p.iter().map(|log_p| log_p.exp()).sum::<f64>() } else { 0.0 };
    (order, log_p.iter().map(|&log_p| log_p as f32).collect(), rest.max(0.0) as f32)
}

fn bytes<T: Copy>(numbers: &[T], to: fn(T) -> [u8; 4]) -> Vec<u8> {
    numbers.iter().flat_map(|&number| to(number)).collect()
}

fn difference(found: &Manifest, expected: &Manifest) -> &'static str {
    match () {
        () if found.version != expected.version => "was written by another version",
        () if found.teacher != expected.teacher => "holds the predictions of another teacher",
        () if found.data != expected.data => "holds predictions on other data",
        () => "holds another number of likeliest tokens",
    }
}

/// A number that differs, almost surely, between different teachers: of some numbers of every parameter.
fn fingerprint<T: Backbone>(teacher: &T) -> u64 {
    const NUMBERS: usize = 64;
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for parameter in parameters(teacher) {
        let length = parameter.value.dims()[0];
        parameter.path.bytes().for_each(&mut add);
        let count = NUMBERS.min(length);
        for start in [0, (length - count) / 2, length - count] {
            let some = parameter.value.clone().narrow(0, start, count);
            some.into_data().bytes().iter().copied().for_each(&mut add);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_tokens_and_the_rest_are_a_distribution() {
        let logits: Vec<f32> = (0..50).map(|i| ((i * 37) % 50) as f32 / 10.0).collect();
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        for k in [1, 3, 49] {
            let (ids, log_p, rest) = likeliest(&logits, k);
            assert_eq!(ids.len(), k);
            assert!(ids.windows(2).all(|pair| logits[pair[0] as usize] > logits[pair[1] as usize]));
            assert_eq!(logits[ids[0] as usize], 4.9);
            for (id, log_p) in ids.iter().zip(&log_p) {
                assert!((f64::from(logits[*id as usize]) - sum.ln() - f64::from(*log_p)).abs() < 1e-6);
            }
            let kept: f64 = log_p.iter().map(|&x| f64::from(x).exp()).sum();
            assert!((kept + f64::from(rest) - 1.0).abs() < 1e-6);
        }
        assert_eq!(likeliest(&logits, 50).2, 0.0);
    }
}
