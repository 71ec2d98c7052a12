//! Right attempts as training texts: rejection sampling.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::record::Line;
use crate::files;

/// Their file, in the run's folder.
pub const FILE: &str = "traces.jsonl";

/// Writes the first `most` different right attempts that ended by themselves, of each problem and from all models; `asked` has every
/// model's prompts. Returns how many there are.
pub fn write(folder: &Path, lines: &[Line], asked: &[Vec<String>], most: usize) -> Result<usize> {
    let mut of_problem: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    let mut ordered: Vec<&Line> =
        lines.iter().filter(|line| line.correct && ["eos", "stop"].contains(&line.finish.as_str())).collect();
    ordered.sort_by_key(|line| (line.problem, line.model, line.attempt));
    let mut traces = String::new();
    let mut count = 0;
    for line in ordered {
        let known = of_problem.entry(line.problem).or_default();
        if known.len() < most && known.insert(&line.text) {
            let prompt = &asked[line.model][line.problem];
            let text = format!("{prompt}{}", line.text);
            traces += &format!("{}\n", json!({"text": text, "prompt": prompt, "completion": line.text}));
            count += 1;
        }
    }
    files::write(&folder.join(FILE), traces)?;
    Ok(count)
}
