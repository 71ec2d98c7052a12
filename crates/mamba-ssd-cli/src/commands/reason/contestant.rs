//! One model at work: its engine is kept full with attempts at all problems in turns, on a clock that runs while it computes.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::Device;
use mamba_ssd::{Backbone, computes_on_host};
use mamba_ssd_models::{
    Completion, Engine, EngineOptions, Event, Model, ReadText, Request, SampleId, Sampling, Usage, read_texts,
};

use super::outcome::{Memory, Times};
use crate::args::{Budget, ReasonArgs, ScoreArg};
use crate::language_model::LanguageModel;
use crate::out_of_memory;

/// Tokens of a prompt that are read at once.
const CHUNK: usize = 512;
/// Tokens of prompts that are read together.
const TOKENS_READ: usize = 8192;
/// Attempts at a problem that are asked for together, at least: rows that join one by one cost a copy each.
const TOGETHER: usize = 4;

/// What a contestant's attempts have in common.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Of an attempt at most.
    pub max_tokens: usize,
    /// Of each problem at most.
    pub samples: usize,
    /// Of the draws.
    pub seed: u64,
    /// What ends an attempt.
    pub stop: Vec<String>,
    /// Whether attempts are scored.
    pub scores: bool,
    /// For all problems.
    pub budget: Budget,
}

impl Terms {
    /// As the command line says.
    pub fn of(args: &ReasonArgs, problems: usize) -> Self {
        Self {
            sampling: args.truncation.at(args.temperature),
            max_tokens: args.max_tokens,
            samples: args.samples,
            seed: args.seed,
            stop: args.stop.clone(),
            scores: args.score == Some(ScoreArg::Own),
            budget: if args.per_problem { args.budget.times(problems) } else { args.budget },
        }
    }
}

/// An attempt that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// At which problem.
    pub problem: usize,
    /// Which attempt at it.
    pub attempt: usize,
    /// What its model had spent by then.
    pub spent: Spent,
    /// What was written.
    pub completion: Completion,
}

/// What a contestant has spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spent {
    /// Seconds of computing.
    pub seconds: f64,
    /// Tokens written, those of attempts that did not end among them.
    pub tokens: f64,
}

impl Spent {
    /// The share of a budget, of a model that takes `flops` a token.
    pub fn share(self, budget: Budget, flops: f64) -> f64 {
        match budget {
            Budget::Seconds(seconds) => self.seconds / seconds,
            Budget::Tokens(tokens) => self.tokens / tokens,
            Budget::Flops(most) => self.tokens * flops / most,
        }
    }
}

/// A model at work.
pub struct Contestant<'a> {
    model: &'a LanguageModel,
    device: Device,
    prompts: &'a [Vec<u32>],
    terms: &'a Terms,
    /// Operations of the products of a token.
    flops: f64,
    /// Attempts that are written at the same time.
    pub rows: usize,
    /// So far.
    pub spent: Spent,
    engine: Engine<'a, Model>,
    /// The problem and first attempt of each request.
    asked: HashMap<usize, [usize; 2]>,
    /// Prompts that were read and will be wanted again, as many as rows at most.
    texts: HashMap<usize, ReadText>,
    /// Of each problem: attempts that are not asked for yet, the last first.
    open: Vec<Vec<usize>>,
    running: usize,
    /// Attempts that ended in the turn, for [`Contestant::take`].
    ended: Vec<Ended>,
    /// Seconds of reading prompts.
    reading: f64,
    /// Of engines before this one.
    before: Usage,
    /// When the turn began, and what the clock said then.
    turn: Option<(Instant, f64)>,
    /// Whether it can go on at all.
    pub retired: bool,
}

impl<'a> Contestant<'a> {
    /// A model that has spent so much, with these attempts still to make at each problem, the last first.
    pub fn new(
        model: &'a LanguageModel,
        prompts: &'a [Vec<u32>],
        terms: &'a Terms,
        [rows, flops]: [usize; 2],
        spent: Spent,
        open: Vec<Vec<usize>>,
    ) -> Self {
        Self {
            device: model.model.devices().remove(0),
            engine: engine(model, rows),
            texts: HashMap::new(),
            asked: HashMap::new(),
            running: 0,
            ended: Vec::new(),
            reading: 0.0,
            before: Usage::default(),
            turn: None,
            retired: false,
            flops: flops as f64,
            model,
            prompts,
            terms,
            rows,
            spent,
            open,
        }
    }

    /// Its part of the budget that is spent, at least 1 when it is over.
    pub fn share(&self) -> f64 {
        let done = self.retired || self.is_done();
        if done { 1.0 } else { self.spent.share(self.terms.budget, self.flops) }
    }

    /// Whether all attempts were made.
    pub fn is_done(&self) -> bool {
        self.running == 0 && self.open.iter().all(Vec::is_empty)
    }

    /// Computes for so many seconds, or until the budget is spent or nothing is left. The budget is looked at after every prompt that
    /// is read and every step of the batch: the longer of these is what it may be overrun by.
    pub fn turn(&mut self, seconds: f64) -> Result<()> {
        self.turn = Some((Instant::now(), self.spent.seconds));
        let end = self.spent.seconds + seconds;
        while self.share() < 1.0 && self.spent.seconds < end {
            self.feed()?;
            let Some(events) = self.engine.advance() else { break };
            self.tick();
            for event in events {
                match event {
                    Event::Token { .. } => self.spent.tokens += 1.0,
                    Event::Finished(completion) => self.end(completion),
                }
            }
        }
        self.tick();
        self.turn = None;
        Ok(())
    }

    /// What ended since it was last asked.
    pub fn take(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }

    /// Sets the clock.
    fn tick(&mut self) {
        if let Some((started, before)) = self.turn {
            self.spent.seconds = before + started.elapsed().as_secs_f64();
        }
    }

    fn end(&mut self, completion: Completion) {
        let SampleId { request, sample } = completion.id;
        if let Some(&[problem, first]) = self.asked.get(&request) {
            self.running -= 1;
            self.ended.push(Ended { problem, attempt: first + sample, spent: self.spent, completion });
        }
    }

    /// Asks for attempts until all rows have work, and some wait.
    fn feed(&mut self) -> Result<()> {
        while self.running <= self.rows && self.share() < 1.0 {
            // The problem with the fewest attempts so far; prompts of one length are read, and join, together.
            let fewest =
                |problem: &usize| (self.open[*problem].last().copied(), self.prompts[*problem].len());
            let open = (0..self.open.len()).filter(|problem| !self.open[*problem].is_empty());
            let Some(problem) = open.min_by_key(fewest) else { return Ok(()) };
            let first = self.open[problem].pop().context("an open attempt")?;
            let mut count = 1;
            let together = (self.rows / self.open.len()).clamp(TOGETHER, 64).min(self.rows);
            while count < together && self.open[problem].last() == Some(&(first + count)) {
                self.open[problem].pop();
                count += 1;
            }
            self.ask(problem, first, count).with_context(|| format!("problem {}", problem + 1))?;
            self.tick();
        }
        Ok(())
    }

    fn ask(&mut self, problem: usize, first: usize, count: usize) -> Result<()> {
        let prompt = &self.prompts[problem];
        let text = match self.texts.remove(&problem) {
            Some(text) => text,
            None => self.read(problem)?,
        };
        let request = Request {
            sampling: self.terms.sampling,
            max_new_tokens: self.terms.max_tokens,
            eos: self.model.eos.clone(),
            stop_strings: self.terms.stop.clone(),
            samples: count,
            seed: self.terms.seed,
            first_stream: ((problem as u64) << 32) + first as u64,
            log_probabilities: self.terms.scores,
            ..Request::new(prompt.clone())
        };
        let number = self.engine.submit_read(&text, request)?;
        if !self.open[problem].is_empty() && self.texts.len() < self.rows {
            self.texts.insert(problem, text);
        }
        self.asked.insert(number, [problem, first]);
        self.running += count;
        Ok(())
    }

    /// Reads a prompt, and on GPUs others of its length with it that will be wanted.
    fn read(&mut self, problem: usize) -> Result<ReadText> {
        let length = self.prompts[problem].len();
        let room = self.rows.saturating_sub(self.texts.len() + 1).min(TOKENS_READ / length.max(1));
        let wanted = |other: &usize| {
            *other != problem && self.prompts[*other].len() == length && !self.texts.contains_key(other)
        };
        let open = |other: &usize| !self.open[*other].is_empty();
        let behind = (problem..self.open.len()).chain(0..problem).filter(wanted).filter(open);
        let others: Vec<usize> = match computes_on_host(&self.device) {
            true => vec![],
            false => behind.take(room).collect(),
        };
        let prompts: Vec<&[u32]> =
            [problem].iter().chain(&others).map(|&problem| &self.prompts[problem][..]).collect();
        let started = Instant::now();
        let mut texts = read_texts(&self.model.model, &prompts, CHUNK)?;
        self.reading += started.elapsed().as_secs_f64();
        self.texts.extend(others.into_iter().zip(texts.drain(1..)));
        Ok(texts.remove(0))
    }

    /// What an attempt carries along.
    pub fn memory(&self) -> Memory {
        let state = self.model.model.init_state(1, &self.device);
        let prompt = self.prompts.iter().map(Vec::len).max().unwrap_or(0);
        let (state_bytes, bytes_per_token) = (state.bytes(), state.bytes_per_token());
        let positions = self.model.model.max_positions().unwrap_or(usize::MAX);
        let longest = (prompt + self.terms.max_tokens).min(positions);
        Memory { state_bytes, bytes_per_token, longest }
    }

    /// What its seconds went into, of this session.
    pub fn times(&self) -> Times {
        let usage = self.before + self.engine.usage();
        let [choosing, leaving, joining] =
            [usage.choosing, usage.leaving, usage.joining].map(|time| time.as_secs_f64());
        let stepping = usage.decode.as_secs_f64() - choosing - leaving;
        Times { steps: usage.steps, reading: self.reading, stepping, choosing, leaving, joining }
    }

    /// After the device ran out of memory: half as many rows, and what was running is open again. With one row there is no half: it
    /// retires.
    pub fn halve(&mut self, done: &[Vec<usize>]) {
        self.tick();
        self.turn = None;
        self.retired = self.rows == 1;
        self.rows = (self.rows / 2).max(1);
        self.before = self.before + self.engine.usage();
        self.engine = engine(self.model, self.rows);
        self.texts.clear();
        self.asked.clear();
        self.running = 0;
        self.open = open(done, self.terms.samples);
    }
}

/// Whether a model still computes after memory ran out: a device may take its weights for lost.
pub fn works(model: &LanguageModel, prompt: &[u32]) -> Result<bool> {
    model.model.devices().iter().for_each(Device::memory_cleanup);
    let read = out_of_memory::fits(|| Ok(read_texts(&model.model, &[prompt], CHUNK)?))?;
    Ok(read.is_some())
}

/// Of each problem the attempts that are not done, the last first.
pub fn open(done: &[Vec<usize>], samples: usize) -> Vec<Vec<usize>> {
    let of_problem = |done: &Vec<usize>| {
        let done: HashSet<usize> = done.iter().copied().collect();
        (0..samples).rev().filter(|attempt| !done.contains(attempt)).collect()
    };
    done.iter().map(of_problem).collect()
}

/// An engine of a model.
pub fn engine(model: &LanguageModel, rows: usize) -> Engine<'_, Model> {
    let options = EngineOptions { max_rows: rows, prefill_chunk: CHUNK, ..EngineOptions::default() };
    Engine::new(&model.model, options).with_tokenizer(&model.tokenizer)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::collections::BTreeMap;

    use mamba_ssd_eval::problems::{Split, problem};

    use super::*;

    fn terms(budget: Budget) -> Terms {
        let sampling = Sampling::with_temperature(0.9);
        Terms { sampling, max_tokens: 40, samples: 3, seed: 4, stop: vec![], scores: false, budget }
    }

    fn prompts(model: &LanguageModel) -> Vec<Vec<u32>> {
        let prompt = |index| problem(0, Split::HeldOut, index).prompt();
        (0..6).map(|index| model.tokenizer.encode(&prompt(index)).expect("tokens")).collect()
    }

    /// Texts of all attempts; after a step of the batch memory may have run out, and the batch is halved.
    fn all(model: &LanguageModel, rows: usize, halved_after: &[usize]) -> BTreeMap<[usize; 2], String> {
        let (terms, prompts) = (terms(Budget::Tokens(1e9)), prompts(model));
        let mut done = vec![vec![]; prompts.len()];
        let open = open(&done, terms.samples);
        let mut contestant = Contestant::new(model, &prompts, &terms, [rows, 1], Spent::default(), open);
        let mut texts = BTreeMap::new();
        for step in 0.. {
            contestant.turn(1e-9).expect("a step");
            for ended in contestant.take() {
                done[ended.problem].push(ended.attempt);
                let known = texts.insert([ended.problem, ended.attempt], ended.completion.text);
                assert!(known.is_none(), "an attempt was made twice");
            }
            if contestant.share() >= 1.0 {
                break;
            }
            if halved_after.contains(&step) {
                contestant.halve(&done);
            }
        }
        assert!(!contestant.retired && contestant.is_done());
        texts
    }

    #[test]
    fn every_attempt_is_made_once_whatever_the_batch_and_when_memory_runs_out() {
        let model = LanguageModel::bundled(&Device::flex()).expect("the teacher");
        let expected = all(&model, 1, &[]);
        assert_eq!(expected.len(), 6 * 3);
        assert_eq!(all(&model, 7, &[]), expected);
        assert_eq!(all(&model, 8, &[3, 40, 60]), expected);
    }

    #[test]
    fn a_budget_is_spent_to_the_step_and_problems_are_treated_alike() {
        let model = LanguageModel::bundled(&Device::flex()).expect("the teacher");
        let (terms, prompts) = (terms(Budget::Tokens(250.0)), prompts(&model));
        let open = open(&vec![vec![]; 6], 3);
        let mut contestant = Contestant::new(&model, &prompts, &terms, [4, 1], Spent::default(), open);
        contestant.turn(1e9).expect("the budget");
        let tokens = contestant.spent.tokens;
        assert!((250.0..254.0).contains(&tokens), "{tokens} tokens, a step has four");
        assert!(contestant.share() >= 1.0 && !contestant.is_done());
        let first = contestant.take().into_iter().filter(|ended| ended.problem == 0).count();
        assert!(first <= 3);
        contestant.rows = 1;
        contestant.halve(&vec![vec![]; 6]);
        assert!(contestant.retired && contestant.share() >= 1.0);
    }
}
