//! `completions.jsonl`: every attempt on a line, as it ends; what a run goes on from.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::contestant::Spent;
use crate::files;

const COMPLETIONS: &str = "completions.jsonl";
const RUN: &str = "run.json";
const SPENT: &str = "spent.json";

/// An attempt and its grade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Which of the models.
    pub model: usize,
    /// At which problem.
    pub problem: usize,
    /// Which attempt at it.
    pub attempt: usize,
    /// When it ended, in seconds of its model's clock.
    pub seconds: f64,
    /// Tokens that its model had written by then, in all attempts.
    pub written: f64,
    /// New tokens.
    pub tokens: usize,
    /// Why it ended.
    pub finish: String,
    /// Whether its answer is right.
    pub correct: bool,
    /// Its answer.
    pub answer: Option<String>,
    /// What the verdict rests on.
    pub reason: String,
    /// Its mean log-probability, where asked for.
    pub score: Option<f64>,
    /// What was written.
    pub text: String,
}

/// A folder with a run.
#[derive(Debug)]
pub struct Record {
    folder: PathBuf,
    file: File,
}

impl Record {
    /// Begins a run, which is what `run` says, or goes on with one; returns what it has so far, and what each of `models` models has
    /// spent.
    ///
    /// # Errors
    /// When the folder holds the run of something else, or cannot be used.
    pub fn open(
        folder: &Path,
        run: &str,
        models: usize,
        resume: bool,
    ) -> Result<(Self, Vec<Line>, Vec<Spent>)> {
        let path = folder.join(COMPLETIONS);
        let (mut lines, mut spent) = (vec![], vec![Spent::default(); models]);
        if resume {
            let before = files::read(&folder.join(RUN))
                .with_context(|| format!("{} holds no run to go on with", folder.display()))?;
            ensure!(
                before == run,
                "{} holds the run of other models, problems or settings; go on with the same command, or choose a new --out",
                folder.display()
            );
            if path.exists() {
                lines = whole_lines(&path)?;
            }
            if let Ok(text) = files::read(&folder.join(SPENT)) {
                spent = serde_json::from_str(&text).context("spent.json")?;
            }
            ensure!(spent.len() == models, "spent.json is of {} models, found {models}", spent.len());
            // A kill may have come between the attempts and the clock.
            for (model, spent) in spent.iter_mut().enumerate() {
                let of_model = || lines.iter().filter(|line| line.model == model);
                let last = of_model().map(|line| line.seconds).fold(0.0, f64::max);
                let tokens: usize = of_model().map(|line| line.tokens).sum();
                *spent = Spent { seconds: spent.seconds.max(last), tokens: spent.tokens.max(tokens as f64) };
            }
        } else {
            files::write(&folder.join(RUN), run)?;
        }
        let whole: String = lines.iter().map(Line::json).collect();
        files::write(&path, whole)?;
        let file = OpenOptions::new().append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok((Self { folder: folder.to_path_buf(), file }, lines, spent))
    }

    /// Adds attempts.
    pub fn write(&mut self, lines: &[Line]) -> Result<()> {
        let text: String = lines.iter().map(Line::json).collect();
        let written = self.file.write_all(text.as_bytes());
        written.with_context(|| format!("cannot write {}", self.folder.join(COMPLETIONS).display()))
    }

    /// Writes all attempts anew, now with scores.
    pub fn rewrite(&mut self, lines: &[Line]) -> Result<()> {
        let path = self.folder.join(COMPLETIONS);
        files::write(&path, lines.iter().map(Line::json).collect::<String>())?;
        let file = OpenOptions::new().append(true).open(&path);
        self.file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(())
    }

    /// Notes what was spent until now.
    pub fn note(&self, spent: &[Spent]) -> Result<()> {
        files::write(&self.folder.join(SPENT), serde_json::to_string(spent)?)
    }
}

/// The lines of a file, but for a last one that a kill cut off.
fn whole_lines(path: &Path) -> Result<Vec<Line>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = Vec::new();
    for (number, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        match serde_json::from_slice(line) {
            Ok(line) => lines.push(line),
            Err(_) if line.last() != Some(&b'\n') => break,
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("{}, line {}: no attempt; remove the line", path.display(), number + 1)
                });
            }
        }
    }
    Ok(lines)
}

impl Line {
    fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts are JSON") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(attempt: usize) -> Line {
        Line {
            model: 0,
            problem: 3,
            attempt,
            seconds: 1.5,
            written: 20.0,
            tokens: 7,
            finish: "eos".into(),
            correct: true,
            answer: Some("42".into()),
            reason: "the same number".into(),
            score: None,
            text: "6 * 7 = 42\n".into(),
        }
    }

    #[test]
    fn a_run_goes_on_from_its_whole_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut record, lines, spent) = Record::open(folder.path(), "run", 1, false).expect("a new run");
        assert!(lines.is_empty() && spent == [Spent::default()]);
        let now = Spent { seconds: 2.0, tokens: 14.0 };
        record.write(&[line(0), line(1)]).and_then(|()| record.note(&[now])).expect("room");
        // A kill in the middle of a letter of a later attempt, before the clock was noted.
        let later = Line { seconds: 3.0, text: "é".into(), ..line(2) };
        record.write(std::slice::from_ref(&later)).expect("room");
        let cut = &Line { text: "é".into(), ..line(3) }.json().into_bytes();
        let middle = cut.iter().position(|&byte| byte > 127).expect("a letter of two bytes") + 1;
        record.file.write_all(&cut[..middle]).expect("room");
        drop(record);
        let now = Spent { seconds: 3.0, tokens: 21.0 };
        assert!(Record::open(folder.path(), "other", 1, true).is_err());
        let (mut record, lines, spent) = Record::open(folder.path(), "run", 1, true).expect("the run");
        assert_eq!((lines, spent), (vec![line(0), line(1), later], vec![now]));
        record.write(&[line(4)]).expect("room");
        let (mut record, lines, _) = Record::open(folder.path(), "run", 1, true).expect("the run");
        assert_eq!(lines.len(), 4);
        record.file.write_all(b"{}\n").expect("room");
        let damaged = Record::open(folder.path(), "run", 1, true).expect_err("a line that is no attempt");
        assert!(format!("{damaged:#}").contains("line 5"), "{damaged:#}");
    }
}
