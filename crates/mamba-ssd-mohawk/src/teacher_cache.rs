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
//! ([`Loader::aligned`](crate::data::Loader::aligned)). The k likeliest are found on the host; of logits on a GPU it reads
//! the k pieces of the vocabulary that hold them, and no others.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use mamba_ssd::{Backbone, Segments, computes_on_host};
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
            let logits = teacher.head(hidden.clone().narrow(1, at, n)).reshape([n, v]);
            let in_pieces = !computes_on_host(&logits.device()) && self.top_k * PIECE < v;
            let tokens = if in_pieces { of_pieces(logits, self.top_k) } else { of_all(logits, self.top_k) };
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
        let dtype = DType::F32;
        let (log_p, rest) = (floats(|row| &row.log_p), floats(|row| &row.rest));
        Kept {
            ids: Tensor::from_data(TensorData::new(ids, [b, t, self.top_k]), device),
            log_p: Tensor::from_data(TensorData::new(log_p, [b, t, self.top_k]), (device, dtype)),
            rest: Tensor::from_data(TensorData::new(rest, [b, t]), (device, dtype)),
        }
    }
}

/// Of a token: the k likeliest, the likeliest first, their log-probabilities, and the probability of the others.
type Likeliest = (Vec<u32>, Vec<f32>, f32);

/// The k likeliest of every row of `logits [n v]`.
fn of_all(logits: Tensor<2>, k: usize) -> Vec<Likeliest> {
    let [_, v] = logits.dims();
    let of_row = |logits: &[f32]| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
        let candidates = (0..).zip(logits.iter().copied()).collect();
        likeliest(candidates, sum.ln() + f64::from(largest), k, v)
    };
    floats(logits).par_chunks(v).map(of_row).collect()
}

/// Tokens of a piece of the vocabulary.
const PIECE: usize = 64;

/// The same. The k likeliest lie in the k pieces with the largest logits, so that the host reads one number of every piece
/// and then those pieces.
fn of_pieces(logits: Tensor<2>, k: usize) -> Vec<Likeliest> {
    let logits = logits.cast(DType::F32);
    let ([n, v], device) = (logits.dims(), logits.device());
    let largest = logits.clone().max_dim(1);
    let log_sums = floats((logits.clone() - largest.clone()).exp().sum_dim(1).log() + largest);
    let count = v.div_ceil(PIECE);
    let whole = match count * PIECE - v {
        0 => logits,
        missing => {
            let padding = Tensor::full([n, missing], f32::NEG_INFINITY, (&device, DType::F32));
            Tensor::cat(vec![logits, padding], 1)
        }
    };
    let pieces = whole.reshape([n * count, PIECE]);
    let tops = floats(pieces.clone().max_dim(1));
    let of_token = |(token, tops): (usize, &[f32])| {
        let mut order: Vec<usize> = (0..count).collect();
        order.select_nth_unstable_by(k, |&a, &b| tops[b].total_cmp(&tops[a]).then(a.cmp(&b)));
        order[..k].iter().map(|piece| (token * count + piece) as i32).collect::<Vec<_>>()
    };
    let chosen: Vec<i32> = tops.par_chunks(count).enumerate().flat_map_iter(of_token).collect();
    let index = Tensor::<1, Int>::from_data(TensorData::new(chosen.clone(), [n * k]), &device);
    let found = floats(pieces.select(0, index));
    let rows = found.par_chunks(k * PIECE).zip(chosen.par_chunks(k)).zip(&log_sums);
    let of_row = |((logits, pieces), &log_sum): ((&[f32], &[i32]), &f32)| {
        let ids = pieces.iter().flat_map(|&piece| {
            let first = piece as usize % count * PIECE;
            (first..first + PIECE).map(|id| id as u32)
        });
        let candidates = ids.zip(logits.iter().copied()).filter(|(id, _)| (*id as usize) < v);
        likeliest(candidates.collect(), f64::from(log_sum), k, v)
    };
    rows.map(of_row).collect()
}

fn floats(numbers: Tensor<2>) -> Vec<f32> {
    numbers.into_data().convert::<f32>().try_into_vec().expect("converted to f32")
}

/// The k likeliest of `v` tokens, of which these may be among them.
fn likeliest(mut candidates: Vec<(u32, f32)>, log_sum: f64, k: usize, v: usize) -> Likeliest {
    let descending = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, descending);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(descending);
    let log_p: Vec<f64> = candidates.iter().map(|&(_, logit)| f64::from(logit) - log_sum).collect();
    let rest = if k < v { 1.0 - log_p.iter().map(|log_p| log_p.exp()).sum::<f64>() } else { 0.0 };
    let ids = candidates.into_iter().map(|(id, _)| id).collect();
    (ids, log_p.iter().map(|&log_p| log_p as f32).collect(), rest.max(0.0) as f32)
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

    fn row(logits: &[f32]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(logits.to_vec(), [1, logits.len()]), &Device::flex())
    }

    #[test]
    fn the_likeliest_tokens_and_the_rest_are_a_distribution() {
        let logits: Vec<f32> = (0..50).map(|i| ((i * 37) % 50) as f32 / 10.0).collect();
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        for k in [1, 3, 49] {
            let (ids, log_p, rest) = of_all(row(&logits), k).remove(0);
            assert_eq!(ids.len(), k);
            assert!(ids.windows(2).all(|pair| logits[pair[0] as usize] > logits[pair[1] as usize]));
            assert_eq!(logits[ids[0] as usize], 4.9);
            for (id, log_p) in ids.iter().zip(&log_p) {
                assert!((f64::from(logits[*id as usize]) - sum.ln() - f64::from(*log_p)).abs() < 1e-6);
            }
            let kept: f64 = log_p.iter().map(|&x| f64::from(x).exp()).sum();
            assert!((kept + f64::from(rest) - 1.0).abs() < 1e-6);
        }
        assert_eq!(of_all(row(&logits), 50).remove(0).2, 0.0);
    }

    #[test]
    fn pieces_of_the_vocabulary_hold_the_likeliest_of_all() {
        let number = |i: usize| ((i * 2_654_435_761) % 1_000_003) as f32 / 5e4 - 10.0;
        for (v, k) in [(1001, 1), (1001, 5), (1001, 14), (960, 7)] {
            let logits: Vec<f32> = (0..7 * v).map(number).collect();
            let logits = Tensor::<2>::from_data(TensorData::new(logits, [7, v]), &Device::flex());
            for (got, want) in of_pieces(logits.clone(), k).into_iter().zip(of_all(logits.clone(), k)) {
                assert_eq!(got.0, want.0);
                let apart = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
                assert!(
                    got.1.iter().zip(&want.1).all(apart) && apart((&got.2, &want.2)),
                    "{got:?}, {want:?}"
                );
            }
        }
    }
}
