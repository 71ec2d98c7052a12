//! What was measured before, by the bytes of the model's files and of what it read.

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use twox_hash::XxHash64;

use crate::files;

/// A folder of files, one for every model, task and setting.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache in a folder, which is made if it is not there.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// What is under a key, if it is there, whole and as much as expected.
    pub fn get<T: DeserializeOwned>(&self, key: &impl Hash, count: usize) -> Option<Vec<T>> {
        let found: Vec<T> = serde_json::from_slice(&fs::read(self.path(key)).ok()?).ok()?;
        (found.len() == count).then_some(found)
    }

    /// Keeps what was found.
    pub fn put<T: Serialize>(&self, key: &impl Hash, found: &[T]) -> Result<()> {
        files::write(&self.path(key), serde_json::to_vec(found)?)
    }

    fn path(&self, key: &impl Hash) -> PathBuf {
        let mut hash = XxHash64::default();
        env!("CARGO_PKG_VERSION").hash(&mut hash);
        key.hash(&mut hash);
        self.folder.join(format!("{:016x}.json", hash.finish()))
    }
}

/// A number that differs, almost surely, between different models: of all bytes of a file, or of a folder's files.
///
/// # Errors
/// When a file cannot be read.
pub fn hash(model: &Path) -> Result<u64> {
    let mut files = vec![model.to_path_buf()];
    // An index names the files beside it.
    let index = model.extension().is_some_and(|end| end == "json");
    let folder = if index { model.parent() } else { Some(model).filter(|model| model.is_dir()) };
    if let Some(folder) = folder {
        let folder = if folder == Path::new("") { Path::new(".") } else { folder };
        let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        files = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .with_context(|| format!("cannot read {}", model.display()))?;
        files.retain(|path| path.is_file());
        files.sort();
    }
    let mut hash = XxHash64::default();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        path.file_name().hash(&mut hash);
        let mut file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        loop {
            let count = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
            if count == 0 {
                break;
            }
            hash.write(&buffer[..count]);
        }
    }
    Ok(hash.finish())
}

#[cfg(test)]
mod tests {
    use mamba_ssd_eval::items::Verdict;

    use super::*;

    #[test]
    fn a_model_is_known_by_every_byte_of_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), vec![1; 3_000_000]).expect("a file");
        fs::write(path("b"), b"xyz").expect("a file");
        let whole = hash(folder.path()).expect("a hash");
        assert_eq!(whole, hash(folder.path()).expect("a hash"));
        let mut changed = vec![1; 3_000_000];
        changed[2_999_999] = 2;
        fs::write(path("a"), changed).expect("a file");
        assert_ne!(whole, hash(folder.path()).expect("a hash"));
        assert_ne!(hash(&path("a")).expect("a hash"), hash(&path("b")).expect("a hash"));
        assert!(hash(&path("c")).is_err());
        fs::write(path("model.safetensors.index.json"), b"{}").expect("a file");
        let index = hash(&path("model.safetensors.index.json")).expect("a hash");
        fs::write(path("b"), b"abc").expect("a file");
        assert_ne!(
            index,
            hash(&path("model.safetensors.index.json")).expect("a hash"),
            "a file that an index may name"
        );
    }

    #[test]
    fn what_was_put_is_found_and_damage_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::open(folder.path()).expect("a cache");
        let verdict = Verdict { chosen: [1, 0], right: [true, false], nats: 0.1, tokens: 2, bytes: 3 };
        cache.put(&(1, "x"), &[verdict]).expect("room");
        assert_eq!(cache.get(&(1, "x"), 1), Some(vec![verdict]));
        assert_eq!(cache.get::<Verdict>(&(1, "x"), 2), None);
        assert_eq!(cache.get::<Verdict>(&(2, "x"), 1), None);
        let file = fs::read_dir(folder.path()).expect("a folder").next().expect("a file").expect("a file");
        fs::write(file.path(), "[{").expect("a file");
        assert_eq!(cache.get::<Verdict>(&(1, "x"), 1), None);
    }
}
