//! Output folders and files that are either whole or absent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A folder this command may fill. One that it made is removed again if it is still empty when this is dropped.
#[derive(Debug)]
pub struct OutputFolder {
    path: PathBuf,
    made: bool,
}

impl OutputFolder {
    /// Creates the folder, or takes an empty one, and makes sure that it can be written to.
    ///
    /// # Errors
    /// When it holds anything, or cannot be created or written to; `option` is how the user chooses another.
    pub fn claim(path: &Path, option: &str) -> Result<Self> {
        if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("output folder {} is not empty; choose a new one {option}", path.display());
        }
        let refuse = || format!("cannot write to output folder {}; choose another {option}", path.display());
        let made = !path.exists();
        fs::create_dir_all(path).with_context(refuse)?;
        let folder = Self { path: path.to_path_buf(), made };
        let probe = path.join(".writable");
        fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).with_context(refuse)?;
        Ok(folder)
    }
}

impl std::ops::Deref for OutputFolder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_dir(&self.path); // fails unless the folder is empty, as it should
        }
    }
}

/// Writes a file under a temporary name and renames it, so that no reader ever sees a part of it.
///
/// # Errors
/// When the folder cannot be written to.
pub fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<()> {
    let temporary = path.with_added_extension("tmp");
    let write = || -> io::Result<()> {
        fs::write(&temporary, contents.as_ref())?;
        fs::rename(&temporary, path)
    };
    let written = write().inspect_err(|_| drop(fs::remove_file(&temporary)));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a text file.
///
/// # Errors
/// When it is missing or not UTF-8.
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The first of `NAME-1`, `NAME-2` and so on that `parent` does not hold yet.
pub fn unused(parent: &Path, name: &str) -> PathBuf {
    let mut candidates = (1..).map(|number: usize| parent.join(format!("{name}-{number}")));
    candidates.find(|path| !path.exists()).unwrap_or_else(|| parent.join(name))
}
