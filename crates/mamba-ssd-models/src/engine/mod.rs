//! Many prompts, many samples, one batch: continuous batching over states that fork.
//!
//! ```text
//! submit ─► waiting ─► prefill, chunk by chunk ─► fork, once for each sample ─► rows of the batch ─► finished
//! ```
//!
//! A prompt is prefilled once, alone or with others that [`read_texts`](crate::read_texts) took together, and its state forked into as many
//! rows as are free; a row that has ended makes room for the next. Rows may have any lengths and are never padded where a sum could see it, so a sample
//! is a function of its request and of [`EngineOptions::prefill_chunk`] alone. On the CPU, in f32 and f64, that holds
//! to the last bit.
//!
//! On GPUs tokens are drawn where the logits are (`device_sampling.rs`), unless a row wants penalties or log-probabilities, and rows that
//! have ended are replaced once they are a thirty-second of all.
//!
//! A long prompt does not stop the batch: while rows are decoded, a step prefills one chunk of it. Of short ones it prefills as many as
//! have a chunk's tokens.

mod budget;
mod options;
mod request;
mod row;
mod usage;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use mamba_ssd::{Backbone, State, computes_on_host};
use rayon::prelude::*;

use budget::Budget;
pub use options::{EngineOptions, Forks};
pub(crate) use request::check_prompt;
pub use request::{Completion, Event, Finish, Request, RequestError, SampleId};
use row::{Job, Row};
pub use usage::Usage;

use crate::device_sampling::{self, Draw};
use crate::{ReadText, Tokenizer};

/// On GPUs a thirty-second of the rows joins at a time: one row costs as many launches as they.
const PARTS: usize = 32;

/// A model that continues many prompts at a time. Its iterator runs it, and ends when nothing is left to do.
///
/// # Example
///
/// ```
/// # use burn::tensor::Device;
/// # use mamba_ssd::{AttentionConfig, rope::RotaryConfig};
/// # use mamba_ssd_models::{Engine, EngineOptions, Event, LlamaConfig, ModelConfig, Request};
/// # let attention = AttentionConfig::new(32, 4, 2, 8, RotaryConfig::new(8));
/// # let model = ModelConfig::Llama(LlamaConfig::transformer(100, 2, attention, 64)).init(&Device::flex());
/// let mut engine = Engine::new(&model, EngineOptions::default());
/// engine.submit(Request { samples: 3, max_new_tokens: 5, ..Request::new(vec![1, 2, 3]) })?;
/// engine.submit(Request { max_new_tokens: 5, ..Request::new(vec![4]) })?;
/// for event in &mut engine {
///     if let Event::Finished(completion) = event {
///         println!("{:?}: {:?}", completion.id, completion.tokens);
///     }
/// }
/// # Ok::<(), mamba_ssd_models::RequestError>(())
/// ```
pub struct Engine<'a, M: Backbone> {
    model: M,
    device: Device,
    tokenizer: Option<&'a Tokenizer>,
    options: EngineOptions,
    /// The part of the rows that is to be free before others take their places, while any run, is one over this.
    parts: usize,
    budget: Budget,
    submitted: usize,
    waiting: VecDeque<Arc<Job>>,
    /// Requests for no tokens, and how many of their samples have ended.
    empty: VecDeque<(Arc<Job>, usize)>,
    prompt: Option<Prompt>,
    rows: Vec<Row>,
    /// Of the rows; nothing without rows.
    state: Option<State>,
    events: VecDeque<Event>,
    usage: Usage,
}

/// Rows that join, of one state.
struct Joining {
    state: State,
    /// Of texts that were read together.
    reading: Option<u64>,
    /// Which row of the state each goes on from.
    rows: Vec<usize>,
}

/// The one prompt that is being prefilled, or forked.
struct Prompt {
    job: Arc<Job>,
    state: State,
    /// Tokens in the state.
    done: usize,
    /// After the last token, `[v]`.
    logits: Vec<f32>,
    /// Samples that are rows, or were.
    started: usize,
}

impl<'a, M: Backbone> Engine<'a, M> {
    /// An engine of a model, without gradients.
    ///
    /// # Panics
    ///
    /// If there is no row, or a chunk has no token.
    pub fn new(model: &M, options: EngineOptions) -> Self {
        assert!(
            options.max_rows > 0 && options.prefill_chunk > 0,
            "at least one row and one token: {options:?}"
        );
        let model = model.valid();
        let device = model.devices().remove(0);
        let budget = Budget::new(&model.init_state(1, &device), options.max_state_bytes);
        let parts = if computes_on_host(&device) { usize::MAX } else { PARTS };
        Self {
            model,
            device,
            tokenizer: None,
            parts,
            options,
            budget,
            submitted: 0,
            waiting: VecDeque::new(),
            empty: VecDeque::new(),
            prompt: None,
            rows: Vec::new(),
            state: None,
            events: VecDeque::new(),
            usage: Usage::default(),
        }
    }

    /// The engine, which now also gives text and knows stop strings.
    pub fn with_tokenizer(mut self, tokenizer: &'a Tokenizer) -> Self {
        self.tokenizer = Some(tokenizer);
        self
    }

    /// Takes a request, and returns its number. It starts when the iterator is next asked.
    ///
    /// # Errors
    ///
    /// If the request cannot be served. Others are not affected.
    pub fn submit(&mut self, request: Request) -> Result<usize, RequestError> {
        self.submit_behind(None, request)
    }

    /// [`Engine::submit`], the prompt going on from a state of one row. Penalties see the prompt alone. The budget does not
    /// count the state itself, of which the engine holds a handle.
    ///
    /// # Errors
    ///
    /// If the request cannot be served, or that is no state of one row of such a model.
    pub fn submit_after(&mut self, state: State, request: Request) -> Result<usize, RequestError> {
        let rows = state.batch();
        if rows != 1 || !state.is_like(&self.model.init_state(1, &self.device)) {
            return Err(RequestError::State { rows });
        }
        self.submit_behind(Some(state), request)
    }

    /// [`Engine::submit`] of a request whose prompt was read before: its samples start without a pass of the model.
    ///
    /// # Errors
    ///
    /// If the request cannot be served, or the text is not its prompt, or was read by another kind of model.
    pub fn submit_read(&mut self, text: &ReadText, request: Request) -> Result<usize, RequestError> {
        let like = text.state.is_like(&self.model.init_state(1, &self.device));
        if text.tokens != request.prompt || !like {
            return Err(RequestError::Text { read: text.tokens.len(), prompt: request.prompt.len() });
        }
        check_prompt(&request.prompt, 0, self.model.vocab_size(), self.positions())?;
        let mut job = self.job(None, request);
        (job.state, job.row, job.reading) = (Some(text.state.clone()), text.row, Some(text.reading));
        job.logits = Some(text.logits.clone());
        self.enqueue(job)
    }

    fn submit_behind(&mut self, state: Option<State>, request: Request) -> Result<usize, RequestError> {
        let before = state.as_ref().map_or(0, State::columns);
        check_prompt(&request.prompt, before, self.model.vocab_size(), self.positions())?;
        let job = self.job(state, request);
        self.enqueue(job)
    }

    fn enqueue(&mut self, job: Job) -> Result<usize, RequestError> {
        let job = self.checked(job)?;
        let number = job.number;
        self.submitted += 1;
        if job.request.samples > 0 {
            match job.request.max_new_tokens {
                0 => self.empty.push_back((job, 0)),
                _ => self.waiting.push_back(job),
            }
        }
        Ok(number)
    }

    /// What the samples of a request would hold, before any of it is allocated.
    pub fn forks(&self, request: &Request) -> Forks {
        self.forks_behind(None, request)
    }

    /// [`Engine::forks`] of a request that goes on from a state.
    pub fn forks_after(&self, state: &State, request: &Request) -> Forks {
        self.forks_behind(Some(state.clone()), request)
    }

    fn forks_behind(&self, state: Option<State>, request: &Request) -> Forks {
        let tokens = self.job(state, request.clone()).longest();
        let rows = self.options.max_rows.min(self.budget.rows(tokens)).min(request.samples);
        Forks { rows, tokens, row_bytes: self.budget.row(tokens) }
    }

    fn positions(&self) -> usize {
        self.options.max_positions.or(self.model.max_positions()).unwrap_or(usize::MAX)
    }

    fn job(&self, state: Option<State>, request: Request) -> Job {
        let before = state.as_ref().map_or(0, State::columns);
        let read = before.saturating_add(request.prompt.len());
        let room = self.positions().saturating_sub(read).saturating_add(1);
        Job { number: self.submitted, request, state, row: 0, reading: None, before, logits: None, room }
    }

    fn checked(&self, job: Job) -> Result<Arc<Job>, RequestError> {
        job.request.sampling.check().map_err(RequestError::Sampling)?;
        if !job.request.stop_strings.is_empty() && self.tokenizer.is_none() {
            return Err(RequestError::StopStrings);
        }
        self.budget.check(job.longest())?;
        Ok(Arc::new(job))
    }

    /// Ends a sample that runs; false if it does not. It has no more tokens than its events have told of.
    pub fn cancel(&mut self, id: SampleId) -> bool {
        let Some(at) = self.rows.iter().position(|row| row.id() == id) else { return false };
        self.leave(vec![(at, Finish::Cancelled)]);
        true
    }

    /// What has been done so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// The events of one step of the batch, all of which happened by now; nothing once all requests are served.
    pub fn advance(&mut self) -> Option<Vec<Event>> {
        let first = self.next()?;
        Some(std::iter::once(first).chain(self.events.drain(..)).collect())
    }

    /// Bytes of the states of all rows now.
    pub fn state_bytes(&self) -> usize {
        self.state.as_ref().map_or(0, State::bytes)
            + self.prompt.as_ref().map_or(0, |prompt| prompt.state.bytes())
    }

    /// Runs to the end and returns all samples, in the order of their requests.
    pub fn complete(&mut self) -> Vec<Completion> {
        let mut all: Vec<Completion> = self
            .filter_map(|event| match event {
                Event::Finished(completion) => Some(completion),
                Event::Token { .. } => None,
            })
            .collect();
        all.sort_by_key(|completion| completion.id);
        all
    }

    /// One token for every row; then chunks of prompts, and the first token of new rows. No row gets two.
    fn step(&mut self) {
        let started = Instant::now();
        self.decode();
        let decoded = Instant::now();
        self.admit();
        self.usage.decode += decoded - started;
        self.usage.prefill += decoded.elapsed();
    }

    /// Fills free rows from the prompt at hand and those that wait, until as many tokens as a chunk has were prefilled.
    fn admit(&mut self) {
        let next = self.prompt.as_ref().map(|prompt| &prompt.job).or(self.waiting.front());
        let too_few = |job: &Arc<Job>| self.free_rows(job) < (self.most_rows(job) / self.parts).max(1);
        if !self.rows.is_empty() && next.is_some_and(too_few) {
            return;
        }
        let (mut read, mut joining) = (0, None);
        while let Some(mut prompt) = self.prompt.take().or_else(|| self.next_prompt()) {
            if prompt.done < prompt.job.request.prompt.len() {
                read += self.prefill(&mut prompt);
            }
            if prompt.done == prompt.job.request.prompt.len() {
                joining = self.fork(&mut prompt, joining);
            }
            if prompt.started < prompt.job.request.samples {
                self.prompt = Some(prompt);
                break;
            }
            if read >= self.options.prefill_chunk {
                break;
            }
        }
        self.join(joining);
    }

    fn next_prompt(&mut self) -> Option<Prompt> {
        if self.free_rows(self.waiting.front()?) == 0 {
            return None;
        }
        let job = self.waiting.pop_front()?;
        let state = job.state.clone().unwrap_or_else(|| self.model.init_state(1, &self.device));
        let logits = job.logits.as_ref().map(|logits| logits.to_vec());
        let done = if logits.is_some() { job.request.prompt.len() } else { 0 };
        Some(Prompt { job, state, done, logits: logits.unwrap_or_default(), started: 0 })
    }

    /// Rows that may be added for samples of `job`.
    fn free_rows(&self, job: &Job) -> usize {
        self.most_rows(job).saturating_sub(self.rows.len())
    }

    /// Rows that there may be, samples of `job` among them.
    fn most_rows(&self, job: &Job) -> usize {
        let longest = self.rows.iter().map(|row| row.job.longest()).max().unwrap_or(0).max(job.longest());
        self.options.max_rows.min(self.budget.rows(longest))
    }

    /// Prefills a chunk; returns its length.
    fn prefill(&mut self, prompt: &mut Prompt) -> usize {
        let tokens = &prompt.job.request.prompt[prompt.done..];
        let chunk = &tokens[..tokens.len().min(self.options.prefill_chunk)];
        let tokens = ints(chunk, &self.device).unsqueeze::<2>();
        let state = std::mem::replace(&mut prompt.state, State { layers: Vec::new() }); // a clone would be copied
        let (hidden, state) = self.model.prefill_hidden(tokens, state);
        prompt.state = state;
        prompt.done += chunk.len();
        self.usage.prompt_tokens += chunk.len();
        if prompt.done == prompt.job.request.prompt.len() {
            let last = hidden.narrow(1, chunk.len() - 1, 1);
            prompt.logits = floats(self.model.head(last).squeeze_dim(1));
        }
        chunk.len()
    }

    /// Turns as many samples of a prompt into rows as are free, which join with those before if they were read with them. One that
    /// ends with its first token needs none.
    fn fork(&mut self, prompt: &mut Prompt, before: Option<Joining>) -> Option<Joining> {
        let free = self.free_rows(&prompt.job);
        let until = prompt.job.request.samples.min(prompt.started.saturating_add(free));
        let rows = self.rows.len();
        while prompt.started < until {
            let mut row = Row::new(prompt.job.clone(), prompt.started);
            prompt.started += 1;
            match row.choose(&mut prompt.logits.clone(), self.tokenizer, &mut self.events) {
                Some(finish) => self.end(row, finish),
                None => self.rows.push(row),
            }
        }
        let more = vec![prompt.job.row; self.rows.len() - rows];
        let reading = prompt.job.reading;
        match before {
            Some(mut joining) if joining.reading.is_some() && joining.reading == reading => {
                joining.rows.extend(more);
                Some(joining)
            }
            before => {
                self.join(before);
                Some(Joining { state: prompt.state.clone(), reading, rows: more })
            }
        }
    }

    /// Puts the states of rows that join behind those of the others.
    fn join(&mut self, joining: Option<Joining>) {
        let Some(Joining { state, rows, .. }) = joining.filter(|joining| !joining.rows.is_empty()) else {
            return;
        };
        let started = Instant::now();
        let forked = state.select(&rows);
        self.state = Some(match self.state.take() {
            Some(state) => State::concat(vec![state, forked]),
            None => forked,
        });
        self.usage.joining += started.elapsed();
    }

    /// Feeds every row its last token and lets it choose the next.
    fn decode(&mut self) {
        let Some(state) = self.state.take() else { return };
        let tokens: Vec<u32> = self.rows.iter().map(Row::last).collect();
        let (logits, state) = self.model.step(ints(&tokens, &self.device), state);
        self.state = Some(state);
        self.usage.decoded_tokens += tokens.len();
        self.usage.steps += 1;
        let started = Instant::now();
        let mut ended = Vec::new();
        for (at, (events, finish)) in self.choose(logits).into_iter().enumerate() {
            self.events.extend(events);
            ended.extend(finish.map(|finish| (at, finish)));
        }
        let chosen = Instant::now();
        self.leave(ended);
        self.usage.choosing += chosen - started;
        self.usage.leaving += chosen.elapsed();
    }

    /// Lets every row choose its next token: where the logits are, unless that is the host or a row wants to see them.
    fn choose(&mut self, logits: Tensor<2>) -> Vec<(Vec<Event>, Option<Finish>)> {
        let tokenizer = self.tokenizer;
        if !computes_on_host(&self.device) && self.rows.iter().all(Row::draws_by_itself) {
            let draws: Vec<Draw> = self.rows.iter().map(Row::draw).collect();
            let tokens = device_sampling::choose(logits, &draws);
            let take = |(row, token): (&mut Row, Result<u32, String>)| {
                let mut events = Vec::new();
                let finish = row.take(token, None, tokenizer, &mut events);
                (events, finish)
            };
            return self.rows.par_iter_mut().zip(tokens).map(take).collect();
        }
        let vocabulary = logits.dims()[1];
        let mut logits = floats(logits);
        let choose = |(row, logits): (&mut Row, &mut [f32])| {
            let mut events = Vec::new();
            let finish = row.choose(logits, tokenizer, &mut events);
            (events, finish)
        };
        self.rows.par_iter_mut().zip(logits.par_chunks_mut(vocabulary)).map(choose).collect()
    }

    /// Takes ended rows, in ascending order, out of the batch. The last ones take their places.
    fn leave(&mut self, ended: Vec<(usize, Finish)>) {
        if ended.is_empty() {
            return;
        }
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        for &(at, _) in ended.iter().rev() {
            order.swap_remove(at);
        }
        self.state = self.state.take().filter(|_| !order.is_empty()).map(|state| state.select(&order));
        let mut left = Vec::with_capacity(ended.len());
        for (at, finish) in ended.into_iter().rev() {
            left.push((self.rows.swap_remove(at), finish));
        }
        for (row, finish) in left.into_iter().rev() {
            self.end(row, finish);
        }
    }

    fn end_an_empty_sample(&mut self) {
        let Some((job, sample)) = self.empty.pop_front() else { return };
        self.end(Row::new(job.clone(), sample), Finish::Length);
        if sample + 1 < job.request.samples {
            self.empty.push_front((job, sample + 1));
        }
    }

    fn end(&mut self, row: Row, finish: Finish) {
        self.events.push_back(Event::Finished(row.into_completion(finish, self.tokenizer)));
    }

    fn is_idle(&self) -> bool {
        self.rows.is_empty() && self.prompt.is_none() && self.waiting.is_empty()
    }
}

impl<M: Backbone> Iterator for Engine<'_, M> {
    type Item = Event;

    /// The next event; nothing once all requests are served.
    fn next(&mut self) -> Option<Event> {
        while self.events.is_empty() && !(self.is_idle() && self.empty.is_empty()) {
            self.step();
            if self.events.is_empty() {
                self.end_an_empty_sample();
            }
        }
        self.events.pop_front()
    }
}

pub(crate) fn ints(tokens: &[u32], device: &Device) -> Tensor<1, Int> {
    let tokens: Vec<i64> = tokens.iter().copied().map(i64::from).collect();
    let length = tokens.len();
    Tensor::from_data(TensorData::new(tokens, [length]), device)
}

pub(crate) fn floats(logits: Tensor<2>) -> Vec<f32> {
    logits.into_data_as::<f32>().try_into_vec().expect("converted to f32")
}

#[cfg(test)]
mod tests;
