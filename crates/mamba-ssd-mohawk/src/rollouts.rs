//! On-policy distillation: the student writes, the teacher judges what it wrote (Agarwal et al., arXiv 2306.13649).
//!
//! ```text
//! prompts of the data ─► Author, as the student ─► prompt + text ─► rows ─► divergence from the teacher, prompts masked
//! ```
//!
//! The prompts of a step, and the seed of its draws, follow from (seed, stage, step): a step's texts depend on them and on the
//! student's weights alone, so there is nothing to save. As in the paper, no gradient goes through the draws.

use std::fmt::Debug;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::data::{Cursor, Dataset, Document, Loader};
use crate::error::MohawkError;
use crate::recipe::{Recipe, RolloutRecipe, StageRecipe};

/// Lets a student write: what this crate, which knows no generation, is given for stages with rollouts.
pub trait Author<S>: Debug + Sync {
    /// A text behind every prompt, in their order, without the prompt and without an end token. A run that is resumed goes on
    /// as if it had never stopped where texts follow from the arguments alone.
    ///
    /// # Errors
    ///
    /// One line that says why there is no text.
    fn write(
        &self,
        student: &S,
        prompts: &[Vec<u32>],
        assignment: &Assignment,
    ) -> Result<Vec<Vec<u32>>, String>;
}

/// How texts are to be written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assignment {
    /// Most tokens of a text.
    pub max_tokens: usize,
    /// Temperature that tokens are drawn at.
    pub temperature: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Random stream of the first prompt; prompt i has stream `first_stream + i`.
    pub first_stream: u64,
}

/// The rollouts of a stage.
pub(crate) struct Rollouts<'a, S> {
    author: &'a dyn Author<S>,
    recipe: RolloutRecipe,
    prompts: Vec<&'a [u32]>,
    eos: u32,
    seed: u64,
    /// Counted from 0.
    stage: usize,
    seq_len: usize,
    tokens_per_step: usize,
}

/// What the student wrote for a step.
pub(crate) struct Texts {
    data: Dataset,
    seq_len: usize,
    seed: u64,
}

impl<'a, S> Rollouts<'a, S> {
    /// Those of a stage, counted from 0; nothing if it has none.
    ///
    /// # Errors
    ///
    /// If nobody writes them, or the data has no prompt for them.
    pub fn of(
        recipe: &Recipe,
        stage: usize,
        data: &'a Dataset,
        author: Option<&'a dyn Author<S>>,
    ) -> Result<Option<Self>, MohawkError> {
        let StageRecipe { rollouts, seq_len, .. } = recipe.stages[stage];
        let Some(rollouts) = rollouts else { return Ok(None) };
        let prompts = prompts(data, stage, seq_len)?;
        let Some(author) = author else {
            let found = format!("stage {}: rollouts and no author", stage + 1);
            let advice = "give one to the run (Distillation::written_by), or remove rollouts";
            return Err(MohawkError::Preflight(format!("{found}; {advice}")));
        };
        Ok(Some(Self {
            author,
            recipe: rollouts,
            prompts,
            eos: data.eos(),
            seed: recipe.seed,
            stage,
            seq_len,
            tokens_per_step: recipe.stages[stage].tokens_per_step(),
        }))
    }

    /// Lets the student write the texts of a step, counted from 0: as many as its tokens take.
    ///
    /// # Errors
    ///
    /// If the author fails.
    pub fn texts(&self, student: &S, step: usize) -> Result<Texts, MohawkError> {
        let mut rng = numbers([self.seed, self.stage as u64, step as u64]);
        let [draws, order] = [rng.next_u64(), rng.next_u64()];
        let mut documents: Vec<Document> = Vec::new();
        let (mut tokens, mut written) = (0, 0);
        while tokens < self.tokens_per_step {
            let length = match documents.len() {
                0 => self.recipe.max_tokens,
                texts => usize::div_ceil(written, texts),
            };
            let prompts = self.draw(self.tokens_per_step - tokens, length, &mut rng);
            let assignment = Assignment {
                max_tokens: self.recipe.max_tokens,
                temperature: self.recipe.temperature,
                seed: draws,
                first_stream: documents.len() as u64,
            };
            let texts = self.author.write(student, &prompts, &assignment);
            let texts = texts.and_then(|texts| one_each(texts, prompts.len()));
            let texts = texts.map_err(|reason| self.failed(step, reason))?;
            for (mut tokens_of, text) in prompts.into_iter().zip(texts) {
                let prompt = tokens_of.len();
                written += text.len();
                tokens += prompt + text.len() + 1;
                tokens_of.extend(text);
                documents.push(Document { tokens: tokens_of, prompt });
            }
        }
        let data = Dataset::from_documents(documents, self.eos)?;
        Ok(Texts { data, seq_len: self.seq_len, seed: order })
    }

    /// Prompts that fill `tokens` with texts of so many tokens behind them and end tokens.
    fn draw(&self, tokens: usize, length: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<u32>> {
        let (mut prompts, mut filled) = (Vec::new(), 0);
        while filled < tokens {
            let prompt = self.prompts[rng.random_range(0..self.prompts.len() as u64) as usize];
            filled += prompt.len() + length + 1;
            prompts.push(prompt.to_vec());
        }
        prompts
    }

    fn failed(&self, step: usize, reason: String) -> MohawkError {
        MohawkError::Rollout { stage: self.stage + 1, step: step + 1, reason }
    }
}

impl Texts {
    /// Their rows: at least as many as a step takes.
    pub fn rows(&self) -> Loader<'_> {
        Loader::new(&self.data, self.seq_len, self.seed, Cursor::default())
    }
}

/// The prompts of the data that leave room in a row; `stage` is counted from 0.
///
/// # Errors
///
/// If there is none.
pub(crate) fn prompts(data: &Dataset, stage: usize, seq_len: usize) -> Result<Vec<&[u32]>, MohawkError> {
    let found = |reason: String| MohawkError::Preflight(format!("stage {}: {reason}", stage + 1));
    let Some(shortest) = data.prompts().map(<[u32]>::len).min() else {
        let advice = "set prompt_field or prompt_marker in [data]";
        return Err(found(format!("rollouts, and no document of the data has a prompt; {advice}")));
    };
    if shortest >= seq_len {
        let expected = format!("expected fewer than seq_len = {seq_len}");
        return Err(found(format!(
            "rollouts, and the shortest prompt has {shortest} tokens, {expected}; raise seq_len"
        )));
    }
    Ok(data.prompts().filter(|prompt| prompt.len() < seq_len).collect())
}

fn one_each(texts: Vec<Vec<u32>>, prompts: usize) -> Result<Vec<Vec<u32>>, String> {
    match texts.len() {
        found if found == prompts => Ok(texts),
        found => Err(format!("the author wrote {found} texts, expected one for each of {prompts} prompts")),
    }
}

/// Random numbers that belong to three others.
fn numbers(owner: [u64; 3]) -> ChaCha8Rng {
    let mut seed = [0; 32];
    for (part, number) in seed.chunks_exact_mut(8).zip(owner) {
        part.copy_from_slice(&number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(seed)
}

#[cfg(test)]
mod tests;
