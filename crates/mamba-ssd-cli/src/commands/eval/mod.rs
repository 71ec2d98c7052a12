//! `eval`: how good models are, side by side: multiple choice, perplexity, recall, and agreement with the first.

mod cache;
mod print;
mod tasks;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::DType;
use indicatif::{ProgressBar, ProgressStyle};
use mamba_ssd_eval::items::{Estimate, TaskResult, Verdict};
use mamba_ssd_eval::{RECALLS, Score, Scored, Surprise, agreement, score, standard_error, windows};
use mamba_ssd_mohawk::data::{TextFormat, read_texts};
use rayon::prelude::*;
use serde::Serialize;

use crate::args::EvalArgs;
use crate::console::{note, say};
use crate::language_model::LanguageModel;
use crate::{files, hub};
use cache::Cache;
use tasks::Task;

/// Seed of resampling and of recall's texts.
const SEED: u64 = 0;

/// Texts of every kind and length of recall.
const RECALL_TEXTS: u64 = 64;

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Results {
    version: &'static str,
    device: String,
    dtype: String,
    models: Vec<ModelResults>,
}

/// What one model was measured at.
#[derive(Debug, Default, Serialize)]
struct ModelResults {
    model: String,
    tasks: BTreeMap<String, TaskResult>,
    /// Mean over tasks of accuracy, normalised where there is one, less chance.
    above_chance: Option<f64>,
    texts: Option<TextResult>,
    recall: Vec<RecallResult>,
    /// With the first model.
    agreement: Option<AgreementResult>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct TextResult {
    documents: usize,
    tokens: usize,
    bytes: usize,
    words: usize,
    perplexity: Estimate,
    word_perplexity: f64,
    bits_per_byte: f64,
}

#[derive(Debug, Serialize)]
struct RecallResult {
    kind: &'static str,
    length: usize,
    acc: Estimate,
}

#[derive(Debug, Serialize)]
struct AgreementResult {
    kl: f64,
    top1: f64,
    tokens: usize,
}

/// A model, and what is known of it.
struct Candidate {
    model: LanguageModel,
    hash: u64,
}

/// Texts to predict.
struct Texts {
    texts: Vec<String>,
    words: usize,
    bytes: usize,
}

/// Examines the models and prints tables or JSON.
pub fn run(args: &EvalArgs) -> Result<()> {
    check(args)?;
    let tasks = tasks::read(args)?;
    let texts = args.texts.as_deref().map(|path| Texts::read(path, args)).transpose()?;
    let cache = args.cache.as_deref().map(Cache::open).transpose()?;
    let dtype = DType::from(args.dtype);
    let device = args.device.open_in(args.dtype.into())?;
    let mut candidates = Vec::new();
    for path in &args.models {
        let path = hub::local(path)?;
        let hash = if cache.is_some() { cache::hash(&path)? } else { 0 };
        candidates.push(Candidate { model: LanguageModel::load_in(&path, &device, dtype)?, hash });
    }
    let examination = Examination { args, tasks, texts, cache };
    let mut results = Results {
        version: env!("CARGO_PKG_VERSION"),
        device: args.device.to_string(),
        dtype: format!("{dtype:?}").to_lowercase(),
        models: Vec::new(),
    };
    for (index, candidate) in candidates.iter().enumerate() {
        let reference = (index > 0).then_some(&candidates[0]);
        results.models.push(examination.of(candidate, reference)?);
    }
    let json = serde_json::to_string_pretty(&results)? + "\n";
    if args.json {
        say(json.trim_end());
    } else {
        print::print(&results);
    }
    // Last, so that a full disk costs no measurement.
    args.out.as_ref().map_or(Ok(()), |path| files::write(path, &json))
}

fn check(args: &EvalArgs) -> Result<()> {
    ensure!(args.window > 1, "--window is {}, expected at least 2", args.window);
    let stride = args.stride.unwrap_or(args.window);
    ensure!(
        (1..=args.window).contains(&stride),
        "--stride is {stride}, expected 1 to {} as --window",
        args.window
    );
    ensure!(args.recall.iter().all(|&length| length >= 8), "--recall holds a length below 8");
    if args.agreement {
        ensure!(args.texts.is_some(), "--agreement compares models on --texts, which is not given");
        ensure!(args.models.len() > 1, "--agreement compares with the first MODEL, and there is but one");
    }
    Ok(())
}

struct Examination<'a> {
    args: &'a EvalArgs,
    tasks: Vec<Task>,
    texts: Option<Texts>,
    cache: Option<Cache>,
}

impl Examination<'_> {
    fn of(&self, candidate: &Candidate, reference: Option<&Candidate>) -> Result<ModelResults> {
        let started = Instant::now();
        let mut results = ModelResults { model: candidate.model.name.clone(), ..Default::default() };
        for task in &self.tasks {
            let verdicts = self.verdicts(candidate, task)?;
            results.tasks.insert(task.name.clone(), TaskResult::of(&task.items, &verdicts, SEED));
        }
        results.above_chance = above_chance(results.tasks.values());
        if let Some(texts) = &self.texts {
            results.texts = Some(self.predict(candidate, texts)?);
        }
        for &length in &self.args.recall {
            results.recall.extend(recall(candidate, length)?);
        }
        if let (true, Some(reference), Some(texts)) = (self.args.agreement, reference, &self.texts) {
            results.agreement = Some(self.agree(candidate, reference, texts)?);
        }
        results.seconds = started.elapsed().as_secs_f64();
        Ok(results)
    }

    /// The verdicts on a task's items, from the cache where it has them.
    fn verdicts(&self, candidate: &Candidate, task: &Task) -> Result<Vec<Verdict>> {
        let key = || {
            (
                candidate.hash,
                task.hash(),
                self.args.window,
                format!("{:?} {}", self.args.dtype, self.args.device),
            )
        };
        if let Some(cache) = &self.cache
            && let Some(verdicts) = cache.get(&key(), task.items.len())
        {
            return Ok(verdicts);
        }
        let model = &candidate.model;
        let eos = model.eos[0];
        let choices: Vec<_> = task.items.iter().flat_map(|item| &item.choices).collect();
        let scored: Result<Vec<Scored>, _> = choices
            .par_iter()
            .map(|choice| choice.encode(|text| model.tokenizer.encode(text), eos, self.args.window))
            .collect();
        let scores = scores(candidate, &task.name, &scored?);
        let mut rest = scores.as_slice();
        let verdicts: Vec<Verdict> = task
            .items
            .iter()
            .map(|item| {
                let (own, others) = rest.split_at(item.choices.len());
                rest = others;
                Verdict::of(item, own)
            })
            .collect();
        if let Some(cache) = &self.cache
            && let Err(error) = cache.put(&key(), &verdicts)
        {
            note(format_args!("{error:#}; going on without keeping what {} was found to be", task.name));
        }
        Ok(verdicts)
    }

    fn predict(&self, candidate: &Candidate, texts: &Texts) -> Result<TextResult> {
        let (window, stride) = (self.args.window, self.args.stride.unwrap_or(self.args.window));
        let documents = texts.encode(&candidate.model)?;
        let scored: Vec<Scored> =
            documents.iter().flat_map(|document| windows(document, window, stride)).collect();
        let scores = scores(candidate, "texts", &scored);
        let all = Surprise::of(&scores);
        ensure!(all.tokens > 0, "the texts hold no two tokens, there is nothing to predict");
        let mean = |sample: &[&Score]| {
            let scores: Vec<Score> = sample.iter().map(|&&score| score).collect();
            let sum = Surprise::of(&scores);
            sum.perplexity(sum.tokens)
        };
        Ok(TextResult {
            documents: documents.len(),
            tokens: all.tokens,
            bytes: texts.bytes,
            words: texts.words,
            perplexity: Estimate {
                value: all.perplexity(all.tokens),
                error: standard_error(&scores, SEED, mean),
            },
            word_perplexity: all.perplexity(texts.words),
            bits_per_byte: all.bits_per_byte(texts.bytes),
        })
    }

    fn agree(&self, candidate: &Candidate, reference: &Candidate, texts: &Texts) -> Result<AgreementResult> {
        ensure!(
            candidate.model.tokenizer.same_vocabulary(&reference.model.tokenizer),
            "{} and {} have different vocabularies, so their predictions cannot be compared; leave out --agreement",
            reference.model.name,
            candidate.model.name
        );
        let documents = texts.encode(&candidate.model)?;
        let pieces: Vec<Vec<u32>> = documents
            .iter()
            .flat_map(|document| document.chunks(self.args.window).map(<[u32]>::to_vec))
            .collect();
        let bar = bar("agreement", pieces.iter().map(Vec::len).sum());
        let found = agreement(&reference.model.model, &candidate.model.model, &pieces, |tokens| {
            bar.inc(tokens as u64)
        });
        bar.finish_and_clear();
        Ok(AgreementResult { kl: found.kl, top1: found.top1, tokens: found.tokens })
    }
}

impl Texts {
    fn read(path: &Path, args: &EvalArgs) -> Result<Self> {
        let texts = read_texts(path, TextFormat::new(&args.field))?.texts;
        let limit = args.limit.unwrap_or(usize::MAX);
        let texts: Vec<String> = texts.into_iter().take(limit).map(|text| text.text).collect();
        let words = texts.iter().map(|text| text.split_whitespace().count()).sum();
        let bytes = texts.iter().map(String::len).sum();
        Ok(Self { texts, words, bytes })
    }

    fn encode(&self, model: &LanguageModel) -> Result<Vec<Vec<u32>>> {
        let tokens: Result<Vec<_>, _> =
            self.texts.par_iter().map(|text| model.tokenizer.encode(text)).collect();
        tokens.context("the texts")
    }
}

/// Share of tokens that a model recalls, of each kind.
fn recall(candidate: &Candidate, length: usize) -> Result<Vec<RecallResult>> {
    let model = &candidate.model;
    let size = model.tokenizer.vocab_size() as u32;
    let words = size / 10..size / 10 * 9; // special tokens stand at either end
    if words.len() < length {
        bail!("--recall {length}: {} has {size} tokens, too few to draw different ones from", model.name);
    }
    let of_kind = |kind: mamba_ssd_eval::Recall| {
        let text = |index| kind.text(length, &words, model.eos[0], SEED, index);
        let texts: Vec<Scored> = (0..RECALL_TEXTS).map(text).collect();
        let scores = scores(candidate, kind.name(), &texts);
        let share = |sample: &[&Score]| {
            let right: usize = sample.iter().map(|score| score.right).sum();
            right as f64 / sample.iter().map(|score| score.tokens).sum::<usize>() as f64
        };
        let all: Vec<&Score> = scores.iter().collect();
        let acc = Estimate { value: share(&all), error: standard_error(&scores, SEED, share) };
        RecallResult { kind: kind.name(), length, acc }
    };
    Ok(RECALLS.map(of_kind).into())
}

/// Scores with a bar.
fn scores(candidate: &Candidate, what: &str, texts: &[Scored]) -> Vec<Score> {
    let bar = bar(what, texts.iter().map(|text| text.tokens.len()).sum());
    let scores = score(&candidate.model.model, texts, |tokens| bar.inc(tokens as u64));
    bar.finish_and_clear();
    scores
}

fn bar(what: &str, tokens: usize) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{prefix:<14} {bar:20.cyan/dim} {percent:>3} %  {human_pos} of {human_len} tokens  {eta} left",
    );
    let bar = ProgressBar::new(tokens as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_prefix(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn above_chance<'a>(tasks: impl Iterator<Item = &'a TaskResult>) -> Option<f64> {
    let above: Vec<f64> = tasks.map(|task| task.acc_norm.unwrap_or(task.acc).value - task.chance).collect();
    (!above.is_empty()).then(|| above.iter().sum::<f64>() / above.len() as f64)
}
