//! `metrics.jsonl`: one [`StepReport`] a line.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::MohawkError;
use crate::files;
use crate::observer::StepReport;

/// Reads a metrics file. A last line that a kill cut short is left out.
///
/// # Errors
///
/// If the file cannot be read.
pub fn read_metrics(path: &Path) -> Result<Vec<StepReport>, MohawkError> {
    let text = fs::read_to_string(path).map_err(MohawkError::io(path))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// An open metrics file.
#[derive(Debug)]
pub(crate) struct Metrics {
    file: File,
    path: PathBuf,
}

impl Metrics {
    /// Starts an empty file.
    pub fn create(path: &Path) -> Result<Self, MohawkError> {
        let file = File::create(path).map_err(MohawkError::io(path))?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    /// Continues a file after the lines up to `step` of `stage`, both counted from 1. Later lines
    /// belong to steps that the resumed run takes again.
    pub fn resume(path: &Path, stage: usize, step: usize) -> Result<Self, MohawkError> {
        let text = match path.exists() {
            true => fs::read_to_string(path).map_err(MohawkError::io(path))?,
            false => String::new(),
        };
        let mut kept = text.lines().filter(|line| is_up_to(line, stage, step));
        files::replace(path, |file| kept.try_for_each(|line| writeln!(file, "{line}")))?;
        let file = OpenOptions::new().append(true).open(path).map_err(MohawkError::io(path))?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    /// Appends a line.
    pub fn append(&mut self, report: &StepReport) -> Result<(), MohawkError> {
        self.file.write_all(line(report).as_bytes()).map_err(MohawkError::io(&self.path))
    }

    /// Waits until all lines are on disk.
    pub fn sync(&self) -> Result<(), MohawkError> {
        self.file.sync_data().map_err(MohawkError::io(&self.path))
    }
}

fn is_up_to(line: &str, stage: usize, step: usize) -> bool {
    let report: Option<StepReport> = serde_json::from_str(line).ok();
    report.is_some_and(|report| (report.stage, report.step) <= (stage, step))
}

fn line(report: &StepReport) -> String {
    let json = serde_json::to_string(report).expect("numbers and names are JSON");
    json + "\n"
}
