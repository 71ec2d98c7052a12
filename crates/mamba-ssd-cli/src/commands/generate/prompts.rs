//! Prompts from the command line and from files, and the form that a model wants them in.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::args::GenerateArgs;
use crate::files;
use crate::language_model::LanguageModel;

/// The field of a line of JSON that holds the prompt.
const FIELD: &str = "prompt";

/// All prompts, those of the command line first.
pub fn read(args: &GenerateArgs) -> Result<Vec<String>> {
    let alone = args.prompts.is_none() && args.prompt.len() == 1;
    ensure!(!alone || !args.prompt[0].is_empty(), "--prompt is empty; give it a text to continue");
    let mut prompts = args.prompt.clone();
    if let Some(path) = &args.prompts {
        prompts.extend(of_file(path)?);
    }
    Ok(prompts)
}

/// One prompt a line; empty lines are none. A line of a file named `.jsonl` is an object.
fn of_file(path: &Path) -> Result<Vec<String>> {
    let text = files::read(path)?;
    let json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let prompt = |(index, line): (usize, &str)| match json {
        true => of_json(line).with_context(|| format!("{}, line {}", path.display(), index + 1)),
        false => Ok(line.to_string()),
    };
    let prompts: Vec<String> = lines.map(prompt).collect::<Result<_>>()?;
    ensure!(!prompts.is_empty(), "{}: no prompt; write one a line", path.display());
    Ok(prompts)
}

fn of_json(line: &str) -> Result<String> {
    let value: serde_json::Value =
        serde_json::from_str(line).context("not JSON, expected {\"prompt\": \"...\"}")?;
    match value.get(FIELD).and_then(serde_json::Value::as_str) {
        Some(prompt) => Ok(prompt.to_string()),
        None => bail!("no text in the field \"{FIELD}\", expected {{\"{FIELD}\": \"...\"}}"),
    }
}

/// The tokens of a prompt. A chat template writes the tokens that begin a text itself.
pub fn tokens(args: &GenerateArgs, prompt: &str, model: &LanguageModel) -> Result<Vec<u32>> {
    ensure!(!prompt.is_empty(), "the prompt is empty; give it a text to continue");
    if args.chat {
        let text = model.conversation(args.system.as_deref(), prompt)?;
        return Ok(model.tokenizer.encode(&text)?);
    }
    if args.state.is_some() {
        return Ok(model.tokenizer.encode(prompt)?); // in the middle of a text
    }
    let formed = if args.raw { None } else { model.formed(prompt) };
    Ok(model.tokenizer.encode_with_special(formed.as_deref().unwrap_or(prompt))?)
}
