//! `eval`: how good models are, side by side: multiple choice, perplexity, recall, and agreement with the first.

mod cache;
mod print;
mod tasks;

use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::DType;
use indicatif::{ProgressBar, ProgressStyle};
use mamba_ssd_eval::items::{Estimate, Item, TaskResult, Verdict};
use mamba_ssd_eval::{Agreement, RECALLS, Recall, Score, Scored, agreement, score, standard_error, windows};
use mamba_ssd_mohawk::data::{TextFormat, read_texts};
use rayon::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use twox_hash::XxHash64;

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
    /// Tasks that are predicted, and not answered.
    predicted: Vec<String>,
    models: Vec<ModelResults>,
}

/// What one model was measured at.
#[derive(Debug, Default, Serialize)]
struct ModelResults {
    model: String,
    tasks: BTreeMap<String, TaskResult>,
    /// Mean over tasks of accuracy, by characters where that is usual, less chance; tasks that are but predicted do not count.
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
    word_perplexity: Estimate,
    bits_per_byte: Estimate,
}

#[derive(Debug, Serialize)]
struct RecallResult {
    kind: &'static str,
    length: usize,
    acc: Estimate,
}

#[derive(Debug, Serialize)]
struct AgreementResult {
    kl: Estimate,
    top1: Estimate,
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
    hash: u64,
}

/// A window of a text: what a model made of it, and its share of the text.
struct Window {
    score: Score,
    words: f64,
    bytes: f64,
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
    let predicted = examination.tasks.iter().filter(|task| !task.is_graded());
    let mut results = Results {
        version: env!("CARGO_PKG_VERSION"),
        device: args.device.to_string(),
        dtype: format!("{dtype:?}").to_lowercase(),
        predicted: predicted.map(|task| task.name.clone()).collect(),
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
        let graded = self.tasks.iter().filter(|task| task.is_graded());
        results.above_chance = above_chance(graded.map(|task| (task, &results.tasks[&task.name])));
        if let Some(texts) = &self.texts {
            results.texts = Some(self.predict(candidate, texts)?);
        }
        for &length in &self.args.recall {
            results.recall.extend(self.recall(candidate, length)?);
        }
        if let (true, Some(reference), Some(texts)) = (self.args.agreement, reference, &self.texts) {
            results.agreement = Some(self.agree(candidate, reference, texts)?);
        }
        results.seconds = started.elapsed().as_secs_f64();
        Ok(results)
    }

    /// What `measure` finds, or the cache has found before; `of` tells apart what is read and how.
    fn kept<T: Serialize + DeserializeOwned>(
        &self,
        candidate: &Candidate,
        of: impl Hash,
        count: usize,
        measure: impl FnOnce() -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        let Some(cache) = &self.cache else { return measure() };
        let form = format!("{:?} {}", self.args.dtype, self.args.device);
        let key = (candidate.hash, of, self.args.window, form);
        if let Some(found) = cache.get(&key, count) {
            return Ok(found);
        }
        let found = measure()?;
        if let Err(error) = cache.put(&key, &found) {
            note(format_args!(
                "{error:#}; going on without keeping what {} was found to be",
                candidate.model.name
            ));
        }
        Ok(found)
    }

    /// The verdicts on a task's items.
    fn verdicts(&self, candidate: &Candidate, task: &Task) -> Result<Vec<Verdict>> {
        self.kept(candidate, ("task", task.hash()), task.items.len(), || {
            let model = &candidate.model;
            let eos = model.eos[0];
            let choices: Vec<_> = task.items.iter().flat_map(|item| &item.choices).collect();
            let scored: Result<Vec<Scored>, _> = choices
                .par_iter()
                .map(|choice| choice.encode(|text| model.tokenizer.encode(text), eos, self.args.window))
                .collect();
            let scores = scores(candidate, &task.name, &scored?);
            let mut rest = scores.as_slice();
            let verdict = |item: &Item| {
                let (own, others) = rest.split_at(item.choices.len());
                rest = others;
                Verdict::of(item, own)
            };
            Ok(task.items.iter().map(verdict).collect())
        })
    }

    fn predict(&self, candidate: &Candidate, texts: &Texts) -> Result<TextResult> {
        let (window, stride) = (self.args.window, self.args.stride.unwrap_or(self.args.window));
        let documents = texts.encode(&candidate.model)?;
        let by_document: Vec<Vec<Scored>> =
            documents.iter().map(|document| windows(document, window, stride)).collect();
        let scored = by_document.concat();
        let scores = self.kept(candidate, ("texts", texts.hash, stride), scored.len(), || {
            Ok(scores(candidate, "texts", &scored))
        })?;
        let all = texts.windows(&by_document, &scores);
        let tokens = scores.iter().map(|score| score.tokens).sum();
        ensure!(tokens > 0, "the texts hold no two tokens, there is nothing to predict");
        let nats = |sample: &[&Window]| sample.iter().map(|window| window.score.nats).sum::<f64>();
        let sum = |sample: &[&Window], of: &dyn Fn(&Window) -> f64| {
            sample.iter().map(|window| of(window)).sum::<f64>()
        };
        let predicted = |window: &Window| window.score.tokens as f64;
        Ok(TextResult {
            documents: documents.len(),
            tokens,
            bytes: texts.bytes(),
            words: texts.words(),
            perplexity: estimate(&all, |sample| (nats(sample) / sum(sample, &predicted)).exp()),
            word_perplexity: estimate(&all, |sample| {
                (nats(sample) / sum(sample, &|window| window.words)).exp()
            }),
            bits_per_byte: estimate(&all, |sample| nats(sample) / LN_2 / sum(sample, &|window| window.bytes)),
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
        let of = ("agreement", reference.hash, texts.hash);
        let found = self.kept(candidate, of, pieces.len(), || {
            let bar = bar("agreement", pieces.iter().map(Vec::len).sum());
            let found = agreement(&reference.model.model, &candidate.model.model, &pieces, |tokens| {
                bar.inc(tokens as u64)
            });
            bar.finish_and_clear();
            Ok(found)
        })?;
        let together = |sample: &[&Agreement]| Agreement::of(sample.iter().copied());
        Ok(AgreementResult {
            kl: estimate(&found, |sample| together(sample).kl()),
            top1: estimate(&found, |sample| together(sample).top1()),
            tokens: Agreement::of(&found).tokens,
        })
    }

    /// Share of tokens that a model recalls, of each kind.
    fn recall(&self, candidate: &Candidate, length: usize) -> Result<Vec<RecallResult>> {
        let model = &candidate.model;
        let size = model.tokenizer.vocab_size() as u32;
        let words = size / 10..size / 10 * 9; // special tokens stand at either end
        if words.len() < length {
            bail!("--recall {length}: {} has {size} tokens, too few to draw different ones from", model.name);
        }
        let of_kind = |kind: Recall| {
            let of = ("recall", kind.name(), length, RECALL_TEXTS, SEED);
            let found = self.kept(candidate, of, RECALL_TEXTS as usize, || {
                let text = |index| kind.text(length, &words, model.eos[0], SEED, index);
                let texts: Vec<Scored> = (0..RECALL_TEXTS).map(text).collect();
                Ok(scores(candidate, kind.name(), &texts))
            })?;
            let acc = estimate(&found, |sample: &[&Score]| {
                let right: usize = sample.iter().map(|score| score.right).sum();
                right as f64 / sample.iter().map(|score| score.tokens).sum::<usize>() as f64
            });
            Ok(RecallResult { kind: kind.name(), length, acc })
        };
        RECALLS.into_iter().map(of_kind).collect()
    }
}

/// A figure over all items, with its standard error.
fn estimate<T>(items: &[T], statistic: impl Fn(&[&T]) -> f64) -> Estimate {
    let all: Vec<&T> = items.iter().collect();
    Estimate { value: statistic(&all), error: standard_error(items, SEED, statistic) }
}

impl Texts {
    fn read(path: &Path, args: &EvalArgs) -> Result<Self> {
        let texts = read_texts(path, TextFormat::new(&args.field))?.texts;
        let limit = args.limit.unwrap_or(usize::MAX);
        let texts: Vec<String> = texts.into_iter().take(limit).map(|text| text.text).collect();
        let mut hash = XxHash64::default();
        texts.hash(&mut hash);
        Ok(Self { texts, hash: hash.finish() })
    }

    fn words(&self) -> usize {
        self.texts.iter().map(|text| words(text)).sum()
    }

    fn bytes(&self) -> usize {
        self.texts.iter().map(String::len).sum()
    }

    /// Every window with its share of its text's words and bytes, by predicted tokens.
    fn windows(&self, by_document: &[Vec<Scored>], scores: &[Score]) -> Vec<Window> {
        let mut rest = scores.iter();
        let of_document = |(text, windows): (&String, &Vec<Scored>)| {
            let scores: Vec<Score> = rest.by_ref().take(windows.len()).copied().collect();
            let tokens: usize = scores.iter().map(|score| score.tokens).sum();
            let (words, bytes) = (words(text) as f64, text.len() as f64);
            let window = |score: Score| {
                let share = if tokens > 0 { score.tokens as f64 / tokens as f64 } else { 1.0 };
                Window { score, words: words * share, bytes: bytes * share }
            };
            scores.into_iter().map(window).collect::<Vec<_>>()
        };
        self.texts.iter().zip(by_document).flat_map(of_document).collect()
    }

    fn encode(&self, model: &LanguageModel) -> Result<Vec<Vec<u32>>> {
        let tokens: Result<Vec<_>, _> =
            self.texts.par_iter().map(|text| model.tokenizer.encode(text)).collect();
        tokens.context("the texts")
    }
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
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

fn above_chance<'a>(tasks: impl Iterator<Item = (&'a Task, &'a TaskResult)>) -> Option<f64> {
    let above = |(task, result): (&Task, &TaskResult)| {
        let normed = result.acc_norm.filter(|_| task.is_normed());
        normed.unwrap_or(result.acc).value - result.chance
    };
    let above: Vec<f64> = tasks.map(above).collect();
    (!above.is_empty()).then(|| above.iter().sum::<f64>() / above.len() as f64)
}
