//! What the model can do with problems it never saw: perplexity, and answers found greedily.

use anyhow::{Context, Result};
use mamba_ssd::Backbone;
use mamba_ssd_eval::problems::{Problem, Split};
use mamba_ssd_eval::{answer_accuracy, perplexity};
use mamba_ssd_models::{GenerateOptions, Tokenizer, generate};

use crate::args::{Args, Draw};

/// Prompts decoded together.
const BATCH: usize = 256;

/// Longest answer, in tokens, of eight steps.
const MAX_NEW_TOKENS: usize = 160;

/// The held-out problems of a seed.
pub struct Exam {
    pub tokenizer: Tokenizer,
    pub eos: u32,
    seed: u64,
    draw: Draw,
}

/// How an exam went.
pub struct ExamResult {
    pub problems: usize,
    pub accuracy: f64,
    pub perplexity: f64,
    /// The first problem with what the model wrote.
    pub sample: String,
}

impl Exam {
    pub fn new(args: &Args, tokenizer: Tokenizer) -> Result<Self> {
        let eos =
            tokenizer.eos_ids().first().copied().context("the tokenizer has no token that ends a text")?;
        Ok(Self { tokenizer, eos, seed: args.seed, draw: args.draw() })
    }

    /// Examines a model on the first `count` problems.
    pub fn sit<M: Backbone>(&self, model: &M, count: usize) -> Result<ExamResult> {
        let problems: Vec<Problem> =
            (0..count as u64).map(|index| (self.draw)(self.seed, Split::HeldOut, index)).collect();
        let documents: Vec<Vec<u32>> =
            problems.iter().map(|problem| self.document(problem)).collect::<Result<_>>()?;
        let report = answer_accuracy(&problems, BATCH, |prompts| self.answers(model, prompts))?;
        let sample = problems[0].prompt() + report.completions[0].trim_end();
        let perplexity = perplexity(model, &documents);
        Ok(ExamResult { problems: count, accuracy: report.accuracy(), perplexity, sample })
    }

    fn document(&self, problem: &Problem) -> Result<Vec<u32>> {
        let mut tokens = self.tokenizer.encode(&problem.text())?;
        tokens.push(self.eos);
        Ok(tokens)
    }

    fn answers<M: Backbone>(&self, model: &M, prompts: &[String]) -> Result<Vec<String>> {
        let prompts: Vec<Vec<u32>> =
            prompts.iter().map(|prompt| self.tokenizer.encode(prompt)).collect::<Result<_, _>>()?;
        let options =
            GenerateOptions { max_new_tokens: MAX_NEW_TOKENS, eos: vec![self.eos], ..Default::default() };
        let answers = generate(model, &prompts, &options);
        Ok(answers.iter().map(|tokens| self.tokenizer.decode(tokens)).collect::<Result<_, _>>()?)
    }
}
