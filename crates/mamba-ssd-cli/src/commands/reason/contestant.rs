//! One model at work: its engine is kept full with attempts at all problems in turns, on a clock that runs while it computes.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::Device;
use mamba_ssd::{Backbone, State};
use mamba_ssd_models::{
    Completion, Engine, EngineOptions, Event, Model, Request, SampleId, Sampling, read_prompt,
};

use super::outcome::Memory;
use crate::args::{Budget, ReasonArgs, ScoreArg};
use crate::language_model::LanguageModel;

/// Tokens of a prompt that are read at once.
const CHUNK: usize = 512;

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
            sampling: Sampling {
                temperature: args.temperature as f32,
                top_p: args.top_p.map(|p| p as f32),
                min_p: args.min_p.map(|p| p as f32),
                ..Sampling::default()
            },
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
    /// When, on the clock.
    pub seconds: f64,
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
    /// Of each problem: what all but its last token left, once it was read.
    states: Vec<Option<State>>,
    /// Of each problem: attempts that are not asked for yet, the last first.
    open: Vec<Vec<usize>>,
    running: usize,
}

impl<'a> Contestant<'a> {
    /// A model that has spent so much, with these attempts still to make at each problem.
    pub fn new(
        model: &'a LanguageModel,
        prompts: &'a [Vec<u32>],
        terms: &'a Terms,
        [rows, flops]: [usize; 2],
        spent: Spent,
        mut open: Vec<Vec<usize>>,
    ) -> Self {
        open.iter_mut().for_each(|attempts| attempts.sort_unstable_by(|a, b| b.cmp(a)));
        Self {
            device: model.model.devices().remove(0),
            engine: engine(model, rows),
            states: vec![None; prompts.len()],
            asked: HashMap::new(),
            running: 0,
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
        let left = self.running > 0 || self.open.iter().any(|attempts| !attempts.is_empty());
        if left { self.spent.share(self.terms.budget, self.flops) } else { 1.0 }
    }

    /// Computes for so many seconds, or until the budget is spent or nothing is left; returns what ended. The budget is looked at
    /// after every step of the batch: that is what it may be overrun by.
    pub fn turn(&mut self, seconds: f64) -> Result<Vec<Ended>> {
        let (started, before) = (Instant::now(), self.spent.seconds);
        let mut ended = Vec::new();
        while self.share() < 1.0 && started.elapsed().as_secs_f64() < seconds {
            self.feed()?;
            let Some(event) = self.engine.next() else { break };
            self.spent.seconds = before + started.elapsed().as_secs_f64();
            match event {
                Event::Token { .. } => self.spent.tokens += 1.0,
                Event::Finished(completion) => ended.extend(self.end(completion)),
            }
        }
        self.spent.seconds = before + started.elapsed().as_secs_f64();
        Ok(ended)
    }

    fn end(&mut self, completion: Completion) -> Option<Ended> {
        let SampleId { request, sample } = completion.id;
        let [problem, first] = *self.asked.get(&request)?;
        self.running -= 1;
        Some(Ended { problem, attempt: first + sample, seconds: self.spent.seconds, completion })
    }

    /// Asks for attempts until all rows have work, and the next one waits.
    fn feed(&mut self) -> Result<()> {
        while self.running <= self.rows {
            // The problem with the fewest attempts so far: every problem has its first before any has its second.
            let fewest = |problem: &usize| self.open[*problem].last().copied();
            let open = (0..self.open.len()).filter(|problem| !self.open[*problem].is_empty());
            let Some(problem) = open.min_by_key(fewest) else { return Ok(()) };
            let first = self.open[problem].pop().context("an open attempt")?;
            let mut count = 1;
            let together = (self.rows / self.open.len()).clamp(4, 64);
            while count < together && self.open[problem].last() == Some(&(first + count)) {
                self.open[problem].pop();
                count += 1;
            }
            self.ask(problem, first, count).with_context(|| format!("problem {}", problem + 1))?;
        }
        Ok(())
    }

    fn ask(&mut self, problem: usize, first: usize, count: usize) -> Result<()> {
        let Some((&last, before)) = self.prompts[problem].split_last() else {
            anyhow::bail!("its prompt has no token");
        };
        let model = &self.model.model;
        let state = match self.states[problem].take() {
            Some(state) => state,
            None if before.is_empty() => model.init_state(1, &self.device),
            None => read_prompt(model, model.init_state(1, &self.device), before, CHUNK)?,
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
            ..Request::new(vec![last])
        };
        let number = self.engine.submit_after(state.clone(), request)?;
        if !self.open[problem].is_empty() {
            self.states[problem] = Some(state);
        }
        self.asked.insert(number, [problem, first]);
        self.running += count;
        Ok(())
    }

    /// What an attempt carries along.
    pub fn memory(&self) -> Memory {
        let state = self.model.model.init_state(1, &self.device);
        let prompt = self.prompts.iter().map(Vec::len).max().unwrap_or(0);
        let (state_bytes, bytes_per_token) = (state.bytes(), state.bytes_per_token());
        Memory { state_bytes, bytes_per_token, longest: prompt + self.terms.max_tokens }
    }

    /// After the device ran out of memory: half as many rows, and what was running is open again.
    pub fn halve(&mut self, done: &[Vec<usize>]) {
        self.rows = (self.rows / 2).max(1);
        self.engine = engine(self.model, self.rows);
        self.states = vec![None; self.prompts.len()];
        self.asked.clear();
        self.running = 0;
        self.open = open(done, self.terms.samples);
    }
}

/// Of each problem the attempts that are not done, the last first.
pub fn open(done: &[Vec<usize>], samples: usize) -> Vec<Vec<usize>> {
    done.iter().map(|done| (0..samples).rev().filter(|attempt| !done.contains(attempt)).collect()).collect()
}

fn engine(model: &LanguageModel, rows: usize) -> Engine<'_, Model> {
    let options = EngineOptions { max_rows: rows, prefill_chunk: CHUNK, ..EngineOptions::default() };
    Engine::new(&model.model, options).with_tokenizer(&model.tokenizer)
}
