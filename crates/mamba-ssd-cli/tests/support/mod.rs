//! Starting the program as a user would.
#![allow(dead_code, reason = "each file of tests uses some of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

pub fn program(args: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mamba-ssd"));
    command.args(args).current_dir(folder).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

pub fn run(args: &[&str], folder: &Path) -> Output {
    program(args, folder).output().expect("the program starts")
}

pub fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Fails with code 1, and says why in one line that holds all of `parts`.
pub fn assert_refused(args: &[&str], folder: &Path, parts: &[&str]) {
    let output = run(args, folder);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?} ended with {error}");
    assert!(error.starts_with("error: ") && error.trim_end().lines().count() == 1, "not one line: {error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

/// A copy of the bundled teacher, to be spoilt.
pub fn teacher(folder: &Path) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/teacher");
    let to = folder.join("teacher");
    fs::create_dir(&to).expect("a new folder");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(from.join(name), to.join(name)).expect("the bundled teacher");
    }
    to
}

pub fn succeeded(args: &[&str], folder: &Path) -> String {
    let output = run(args, folder);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}
