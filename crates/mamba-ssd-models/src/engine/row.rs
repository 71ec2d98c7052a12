//! One sample on its way.

use std::sync::Arc;

use mamba_ssd::State;

use super::{Completion, Event, Finish, Request, SampleId};
use crate::device_sampling::Draw;
use crate::sampling::{Seen, log_probability, wrong_logit};
use crate::text_stream::{StopStrings, TextStream};
use crate::{Tokenizer, uniform};

/// A request with its number.
#[derive(Debug)]
pub(super) struct Job {
    pub number: usize,
    pub request: Request,
    /// What the prompt goes on from; nothing at the beginning of a text.
    pub state: Option<State>,
    /// Which row of it; of a state of one row the first.
    pub row: usize,
    /// What the state has in common with those of texts that were read together.
    pub reading: Option<u64>,
    /// Tokens that caches of that state hold, but those of the prompt.
    pub before: usize,
    /// After the prompt, where the state holds it already.
    pub logits: Option<Arc<[f32]>>,
    /// Tokens of a sample that attention has positions for, the last of which is not fed.
    pub room: usize,
}

impl Job {
    /// Tokens of the prompt and of its longest sample, and those before.
    pub fn longest(&self) -> usize {
        let read = self.before.saturating_add(self.request.prompt.len());
        read.saturating_add(self.request.max_new_tokens.min(self.room))
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
        if let Some(wrong) = wrong_logit(logits) {
            return self.take(Err(wrong), None, tokenizer, events);
        }
        let Draw { sampling, unit } = self.draw();
        let raw = self.job.request.log_probabilities.then(|| logits.to_vec());
        let seen = Seen { prompt: &self.job.request.prompt, new: &self.tokens };
        let token = sampling.choose(logits, seen, unit);
        let log_probability = raw.map(|logits| log_probability(&logits, token));
        self.take(Ok(token), log_probability, tokenizer, events)
    }

    /// Whether its next token follows from the logits and its own [`Row::draw`] alone.
    pub fn draws_by_itself(&self) -> bool {
        let Request { sampling, log_probabilities, .. } = &self.job.request;
        !log_probabilities && sampling.repetition_penalty == 1.0 && sampling.presence_penalty == 0.0
    }

    /// How its next token is chosen, and the number that decides a draw.
    pub fn draw(&self) -> Draw {
        let Request { sampling, seed, first_stream, .. } = &self.job.request;
        let stream = first_stream.wrapping_add(self.sample as u64);
        Draw { sampling: *sampling, unit: uniform(*seed, stream, self.tokens.len() as u64) }
    }

    /// Takes the chosen token, or why there is none; tells what ended it, if anything did.
    pub fn take(
        &mut self,
        token: Result<u32, String>,
        log_probability: Option<f32>,
        tokenizer: Option<&Tokenizer>,
        events: &mut impl Extend<Event>,
    ) -> Option<Finish> {
        let token = match token {
            Ok(token) => token,
            Err(wrong) => return Some(Finish::Failed(format!("{wrong} after {} tokens", self.tokens.len()))),
        };
        if self.job.request.eos.contains(&token) {
            return Some(Finish::Eos(token));
        }
        self.log_probabilities.extend(log_probability);
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
