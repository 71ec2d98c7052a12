//! What teacher and student read: texts to learn from, and texts and problems kept apart for examination.

use std::path::Path;

use anyhow::{Result, ensure};
use mamba_ssd_eval::problems::{Problem, Split, long_problem, problem};
use mamba_ssd_models::{ModelError, Tokenizer};
use mamba_ssd_mohawk::data::{Dataset, Document, Text, TextFormat, Texts, read_texts};
use mamba_ssd_mohawk::{DataRecipe, Recipe};
use rayon::prelude::*;

use crate::console::note;

/// One held-out text in so many, at most, when a file has to serve for both.
const HELD_OUT_SHARE: usize = 10;

/// Everything a run reads.
#[derive(Debug)]
pub struct Corpus {
    /// To learn from.
    pub training: Dataset,
    /// Kept apart: the tokens of each text, its end included.
    pub held_out: Vec<Vec<u32>>,
    /// Kept apart, with answers that can be checked; none when the texts come from a file.
    pub problems: Vec<Problem>,
}

impl Corpus {
    /// Reads the recipe's file, or draws problems where it names none.
    ///
    /// # Errors
    /// When the file is missing, malformed or too short.
    pub fn read(recipe: &Recipe, tokenizer: &Tokenizer, eos: u32) -> Result<Self> {
        let (training, held_out, problems) = match &recipe.data.path {
            Some(path) => from_file(recipe, path)?,
            None => generated(recipe),
        };
        let documents: Result<Vec<Document>, ModelError> =
            training.par_iter().map(|text| document(text, tokenizer)).collect();
        let held_out: Result<Vec<Vec<u32>>, ModelError> =
            held_out.par_iter().map(|text| closed(text, tokenizer, eos)).collect();
        Ok(Self { training: Dataset::from_documents(documents?, eos)?, held_out: held_out?, problems })
    }
}

type Parts = (Vec<Text>, Vec<Text>, Vec<Problem>);

fn from_file(recipe: &Recipe, path: &Path) -> Result<Parts> {
    let data = &recipe.data;
    let mut training = read_aloud(data, path, data.prompt_marker.as_deref(), data.prompt_field.as_deref())?;
    if let Some(path) = &recipe.eval.path {
        let mut held_out = read_aloud(data, path, None, None)?;
        held_out.truncate(recipe.eval.documents);
        return Ok((training, held_out, Vec::new()));
    }
    ensure!(
        training.len() > 1,
        "data: {} holds one document, expected at least two: one to learn from and one to be examined on",
        path.display()
    );
    let kept = recipe.eval.documents.min(training.len() / HELD_OUT_SHARE).max(1);
    let held_out = training.split_off(training.len() - kept);
    Ok((training, held_out, Vec::new()))
}

/// The texts of a file. Lines that were passed over are counted aloud.
fn read_aloud(
    data: &DataRecipe,
    path: &Path,
    marker: Option<&str>,
    prompt_field: Option<&str>,
) -> Result<Vec<Text>> {
    let skip_bad_lines = data.skip_bad_lines;
    let format = TextFormat { field: &data.field, marker, prompt_field, skip_bad_lines };
    let Texts { texts, skipped } = read_texts(path, format)?;
    if skipped.count > 0 {
        note(format_args!("{}: passed over {skipped}", path.display()));
    }
    Ok(texts)
}

fn generated(recipe: &Recipe) -> Parts {
    let one = if recipe.data.long { long_problem } else { problem };
    let draw = |split, count: usize| (0..count as u64).map(move |index| one(recipe.seed, split, index));
    let text = |problem: Problem| Text::new(problem.text(), recipe.data.prompt_marker.as_deref());
    let training = draw(Split::Train, recipe.data.documents).map(text).collect();
    let held_out = draw(Split::HeldOut, recipe.eval.documents).map(text).collect();
    (training, held_out, draw(Split::HeldOut, recipe.eval.problems).collect())
}

fn document(text: &Text, tokenizer: &Tokenizer) -> Result<Document, ModelError> {
    let prompt = tokenizer.encode(&text.text[..text.prompt])?.len();
    Ok(Document { tokens: tokenizer.encode(&text.text)?, prompt })
}

fn closed(text: &Text, tokenizer: &Tokenizer, eos: u32) -> Result<Vec<u32>, ModelError> {
    let mut tokens = tokenizer.encode(&text.text)?;
    tokens.push(eos);
    Ok(tokens)
}
