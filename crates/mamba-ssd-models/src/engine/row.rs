//! One sample on its way.

use std::sync::Arc;

use super::{Completion, Event, Finish, Request, SampleId};
use crate::sampling::{Seen, log_probability};
use crate::text_stream::{StopStrings, TextStream};
use crate::{Tokenizer, uniform};

/// A request with its number.
#[derive(Debug)]
pub(super) struct Job {
    pub number: usize,
    pub request: Request,
    /// Tokens of a sample that attention has positions for, the last of which is not fed.
    pub room: usize,
}

impl Job {
    /// Tokens of the prompt and of its longest sample.
    pub fn longest(&self) -> usize {
        self.request.prompt.len() + self.request.max_new_tokens.min(self.room)
    }
}

/// A sample: what it has so far, and what decides its next token.
#[derive(Debug)]
pub(super) struct Row {
    pub job: Arc<Job>,
    sample: usize,
    tokens: Vec<u32>,
    log_probabilities: Vec<f32>,
    text: String,
    stream: TextStream,
    stops: StopStrings,
}

impl Row {
    pub fn new(job: Arc<Job>, sample: usize) -> Self {
        let stream = TextStream::after(&job.request.prompt);
        let stops = StopStrings::new(&job.request.stop_strings);
        Self { job, sample, tokens: vec![], log_probabilities: vec![], text: String::new(), stream, stops }
    }

    pub fn id(&self) -> SampleId {
        SampleId { request: self.job.number, sample: self.sample }
    }

    /// The token to feed.
    pub fn last(&self) -> u32 {
        *self.tokens.last().expect("a row that is stepped has chosen a token")
    }

    /// Chooses the next token from its logits `[v]`, which it may change; tells what ended it, if anything did.
    pub fn choose(
        &mut self,
        logits: &mut [f32],
        tokenizer: Option<&Tokenizer>,
        events: &mut impl Extend<Event>,
    ) -> Option<Finish> {
        let Request { sampling, seed, first_stream, eos, prompt, .. } = &self.job.request;
        let position = self.tokens.len();
        if let Some(at) = logits.iter().position(|logit| logit.is_nan()) {
            return Some(Finish::Failed(format!(
                "the logit of token {at} is not a number after {position} tokens"
            )));
        }
        let unit = uniform(*seed, first_stream.wrapping_add(self.sample as u64), position as u64);
        let raw = self.job.request.log_probabilities.then(|| logits.to_vec());
        let token = sampling.choose(logits, Seen { prompt, new: &self.tokens }, unit);
        if eos.contains(&token) {
            return Some(Finish::Eos(token));
        }
        self.log_probabilities.extend(raw.map(|logits| log_probability(&logits, token)));
        self.tokens.push(token);
        let (text, finish) = self.shown(token, tokenizer);
        self.text += &text;
        events.extend([Event::Token { id: self.id(), token, text }]);
        finish.or_else(|| self.full())
    }

    /// The text that a token completes, and whether it ends the sample.
    fn shown(&mut self, token: u32, tokenizer: Option<&Tokenizer>) -> (String, Option<Finish>) {
        let Some(tokenizer) = tokenizer else { return (String::new(), None) };
        match self.stream.push(token, tokenizer) {
            Ok(piece) => {
                let passed = self.stops.push(&piece);
                (passed.text, passed.stopped.map(Finish::StopString))
            }
            Err(error) => (String::new(), Some(Finish::Failed(error.to_string()))),
        }
    }

    fn full(&self) -> Option<Finish> {
        let (count, asked) = (self.tokens.len(), self.job.request.max_new_tokens);
        if count >= asked {
            return Some(Finish::Length);
        }
        (count >= self.job.room).then_some(Finish::Positions)
    }

    /// The ended sample, with the text that was held back.
    pub fn into_completion(self, finish: Finish, tokenizer: Option<&Tokenizer>) -> Completion {
        let (id, mut text) = (self.id(), self.text);
        if !matches!(finish, Finish::StopString(_)) {
            let rest = tokenizer.and_then(|tokenizer| self.stream.finish(tokenizer).ok()).unwrap_or_default();
            let mut stops = self.stops;
            let passed = stops.push(&rest);
            text += &passed.text;
            if passed.stopped.is_none() {
                text += &stops.finish();
            }
        }
        Completion { id, tokens: self.tokens, log_probabilities: self.log_probabilities, text, finish }
    }
}
