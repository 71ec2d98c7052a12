//! How good a model is: perplexity of held-out texts, and the share of held-out problems it solves greedily.

use anyhow::Result;
use burn::module::Module;
use mamba_ssd_eval::problems::Problem;
use mamba_ssd_eval::{answer_accuracy, perplexity};
use mamba_ssd_models::{GenerateOptions, Model, ModelError, Tokenizer, generate};
use mamba_ssd_mohawk::recipe::EvalRecipe;

use super::corpus::Corpus;
use super::folder::Examination;
use crate::language_model::LanguageModel;
use crate::progress::during;
use crate::summary::Quality;

/// Prompts decoded together.
const BATCH: usize = 64;
/// Answers kept as text.
const SAMPLES: usize = 3;

/// The examination that teacher and student sit.
#[derive(Debug)]
pub struct Examiner {
    held_out: Vec<Vec<u32>>,
    problems: Vec<Problem>,
    tokenizer: Tokenizer,
    options: GenerateOptions,
}

impl Examiner {
    /// An examination on the corpus's held-out part.
    pub fn new(corpus: &Corpus, teacher: &LanguageModel, eval: &EvalRecipe) -> Self {
        let options = GenerateOptions {
            max_new_tokens: eval.max_new_tokens,
            eos: teacher.eos.clone(),
            ..GenerateOptions::default()
        };
        let (held_out, problems) = (corpus.held_out.clone(), corpus.problems.clone());
        Self { held_out, problems, tokenizer: teacher.tokenizer.clone(), options }
    }

    /// Examines `model`; `who` is shown meanwhile.
    ///
    /// # Errors
    /// When a problem or an answer cannot be tokenised.
    pub fn examine(&self, who: &str, model: &Model) -> Result<Examination> {
        let model = model.valid();
        let ppl = during(&format!("{who}: perplexity of {} texts", self.held_out.len()), || {
            perplexity(&model, &self.held_out)
        });
        let asked = format!("{who}: answers to {} problems", self.problems.len());
        let report = during(&asked, || {
            answer_accuracy(&self.problems, BATCH, |prompts| self.answer(&model, prompts))
        })?;
        let accuracy = (report.total > 0).then(|| report.accuracy());
        let answers = report.completions.into_iter().take(SAMPLES).collect();
        Ok(Examination { quality: Quality { ppl, accuracy }, answers })
    }

    fn answer(&self, model: &Model, prompts: &[String]) -> Result<Vec<String>, ModelError> {
        let prompts: Vec<Vec<u32>> =
            prompts.iter().map(|prompt| self.tokenizer.encode(prompt)).collect::<Result<_, _>>()?;
        let answers = generate(model, &prompts, &self.options);
        answers.iter().map(|tokens| self.tokenizer.decode(tokens)).collect()
    }
}
