//! Files that are either the old ones or the new ones, never half of either.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;

use crate::error::MohawkError;

/// Replaces `path` by what `write` writes: to a temporary neighbour, onto the disk, and only then
/// under the name.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), MohawkError> {
    replace_through(path, ".tmp", write)
}

/// [`replace`] where other threads or programs may replace the same file.
pub(crate) fn replace_beside_others(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), MohawkError> {
    let own = format!(".{}-{:?}.tmp", std::process::id(), std::thread::current().id());
    replace_through(path, &own.replace(['(', ')'], ""), write)
}

fn replace_through(
    path: &Path,
    end: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), MohawkError> {
    let mut name = path.as_os_str().to_os_string();
    name.push(end);
    let temporary = Path::new(&name);
    let written = write_synced(temporary, write);
    written.inspect_err(|_| drop(fs::remove_file(temporary))).map_err(MohawkError::io(temporary))?;
    fs::rename(temporary, path).and_then(|()| sync_folder(path)).map_err(MohawkError::io(path))
}

fn write_synced(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    write(&mut file)?;
    file.into_inner()?.sync_all()
}

/// A rename is durable once its folder is; only Unix lets a folder be synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) && folder != Path::new("") => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}
