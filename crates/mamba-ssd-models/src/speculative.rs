//! Speculative decoding: a small model drafts, the large one verifies several tokens in one pass.
//!
//! ```text
//! draft     t d1 d2 d3          one step each
//! verifier  t d1 d2 d3          one prefill, which chooses c0 c1 c2 c3
//! taken     while c_i = d_{i+1}, and the first c_i that differs
//! ```
//!
//! Every token is one that the verifier chose: the text is its own greedy text, but for rounding where its two
//! likeliest tokens are equally likely to the last digits, since a prefill sums in another order than a step. What
//! was drafted in vain is rolled back: the draft by its [`History`], the verifier by cutting its caches or, where
//! layers carry a state, by reading the taken tokens again.
//!
//! Leviathan et al., "Fast Inference from Transformers via Speculative Decoding" (2023), for temperature 0.

use std::time::{Duration, Instant};

use burn::tensor::Device;
use mamba_ssd::{Backbone, History, State};

use crate::engine::{check_prompt, floats, ints};
use crate::generate::prefill;
use crate::sampling::{argmax, wrong_logit};
use crate::{Finish, RequestError};

/// What to write, and how far ahead to draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeculateOptions {
    /// Most tokens to write.
    pub max_new_tokens: usize,
    /// Any of these ends the text, and is not part of it.
    pub eos: Vec<u32>,
    /// Tokens that are drafted before the verifier looks; at least 1.
    pub draft_tokens: usize,
    /// Tokens of the prompt that are prefilled at once.
    pub prefill_chunk: usize,
    /// Positions that the text may take; those that the attention of either model has learnt when absent.
    pub max_positions: Option<usize>,
}

impl Default for SpeculateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            eos: Vec::new(),
            draft_tokens: 4,
            prefill_chunk: 512,
            max_positions: None,
        }
    }
}

/// What was written, and what it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speculated {
    /// New tokens.
    pub tokens: Vec<u32>,
    /// Tokens that were drafted.
    pub drafted: usize,
    /// Those that the verifier chose too.
    pub accepted: usize,
    /// Passes of the verifier, the prompt's not counted.
    pub passes: usize,
    /// Why it ended; [`Finish::Cancelled`] by `on_token`, [`Finish::Failed`] where a model's logits choose no token.
    pub finish: Finish,
    /// Time that both models took to read the prompt.
    pub prefill: Duration,
}

impl Speculated {
    /// Share of the drafted tokens that were accepted; nothing where none was drafted.
    pub fn accepted_rate(&self) -> Option<f64> {
        (self.drafted > 0).then(|| self.accepted as f64 / self.drafted as f64)
    }
}

/// The verifier's greedy continuation of a prompt, drafted by a model of the same vocabulary. `on_token` gets each
/// token, and stops by returning `false`.
///
/// # Errors
///
/// If the prompt is empty, too long, or has a token that one of the models does not know.
///
/// # Panics
///
/// If no token is to be drafted, or a chunk has none.
pub fn speculate<V: Backbone, D: Backbone>(
    verifier: &V,
    draft: &D,
    prompt: &[u32],
    options: &SpeculateOptions,
    mut on_token: impl FnMut(u32) -> bool,
) -> Result<Speculated, RequestError> {
    let (ahead, chunk) = (options.draft_tokens, options.prefill_chunk);
    assert!(ahead > 0 && chunk > 0, "{ahead} tokens ahead and chunks of {chunk}; expected at least 1");
    let learnt = [verifier.max_positions(), draft.max_positions()].into_iter().flatten().min();
    let positions = options.max_positions.or(learnt).unwrap_or(usize::MAX);
    check_prompt(prompt, 0, verifier.vocab_size().min(draft.vocab_size()), positions)?;
    let room = positions.saturating_sub(prompt.len()).saturating_add(1);
    let most = options.max_new_tokens.min(room);
    let full = if room < options.max_new_tokens { Finish::Positions } else { Finish::Length };
    let mut written = Speculated {
        tokens: Vec::new(),
        drafted: 0,
        accepted: 0,
        passes: 0,
        finish: full,
        prefill: Duration::ZERO,
    };
    if most == 0 {
        return Ok(written);
    }
    let started = Instant::now();
    let (mut verifier, choice) = Side::read(verifier, prompt, chunk);
    let (draft, _) = Side::read(draft, prompt, chunk);
    let mut drafter = Drafter { side: draft, history: History::new(ahead) };
    let mut chosen = vec![choice];
    written.prefill = started.elapsed();
    loop {
        for token in chosen {
            let token = match token {
                Ok(token) => token,
                Err(wrong) => {
                    let why = format!("{wrong} after {} tokens", written.tokens.len());
                    return Ok(Speculated { finish: Finish::Failed(why), ..written });
                }
            };
            if options.eos.contains(&token) {
                return Ok(Speculated { finish: Finish::Eos(token), ..written });
            }
            written.tokens.push(token);
            if !on_token(token) {
                return Ok(Speculated { finish: Finish::Cancelled, ..written });
            }
            if written.tokens.len() == most {
                return Ok(written);
            }
        }
        let last = *written.tokens.last().expect("one was chosen");
        let drafts = drafter.propose(last, ahead.min(most - written.tokens.len() - 1));
        let known = |token: Choice| token.ok().filter(|&token| (token as usize) < verifier.vocabulary);
        let drafts: Vec<u32> = drafts.into_iter().map_while(known).collect();
        chosen = verifier.verify(last, &drafts);
        let accepted = chosen.len() - 1;
        drafter.keep(last, &drafts[..accepted]);
        written.drafted += drafts.len();
        written.accepted += accepted;
        written.passes += 1;
    }
}

/// The likeliest token, or why there is none.
type Choice = Result<u32, String>;

fn choice(logits: &[f32]) -> Choice {
    match wrong_logit(logits) {
        Some(wrong) => Err(wrong),
        None => Ok(argmax(logits)),
    }
}

/// A model and the state of one row.
struct Side<M> {
    model: M,
    device: Device,
    state: State,
    vocabulary: usize,
}

impl<M: Backbone> Side<M> {
    /// A model that has read the prompt, and the likeliest token after it.
    fn read(model: &M, prompt: &[u32], chunk: usize) -> (Self, Choice) {
        let model = model.valid();
        let device = model.devices().remove(0);
        let (state, vocabulary) = (model.init_state(1, &device), model.vocab_size());
        let (hidden, state) = prefill(&model, state, &[prompt], chunk);
        let hidden = hidden.expect("a prompt has a token");
        let chosen = choice(&floats(model.head(hidden).squeeze_dim(1)));
        (Self { model, device, state, vocabulary }, chosen)
    }

    fn step(&mut self, token: u32) -> Choice {
        let (logits, state) = self.model.step(ints(&[token], &self.device), self.state.clone());
        self.state = state;
        choice(&floats(logits))
    }

    /// The likeliest token after each of `tokens`.
    fn choices(&mut self, tokens: &[u32]) -> Vec<Choice> {
        let (logits, state) = self.model.prefill(ints(tokens, &self.device).unsqueeze(), self.state.clone());
        self.state = state;
        floats(logits.squeeze_dim(0)).chunks(self.vocabulary).map(choice).collect()
    }

    /// The drafts that the model chooses too, and what it chooses after them. Its state is then behind the last
    /// of them.
    fn verify(&mut self, last: u32, drafts: &[u32]) -> Vec<Choice> {
        if drafts.is_empty() {
            return vec![self.step(last)];
        }
        let tokens = [&[last], drafts].concat();
        let before = self.state.clone();
        let mut choices = self.choices(&tokens);
        let accepted =
            drafts.iter().zip(&choices).take_while(|(draft, choice)| Ok(**draft) == **choice).count();
        let in_vain = drafts.len() - accepted;
        if in_vain > 0 {
            self.state = self.state.clone().without_last(in_vain).unwrap_or_else(|| {
                self.model.prefill_hidden(ints(&tokens[..=accepted], &self.device).unsqueeze(), before).1
            });
        }
        choices.truncate(accepted + 1);
        choices
    }
}

/// The model that drafts, and the way back.
struct Drafter<M> {
    side: Side<M>,
    history: History,
}

impl<M: Backbone> Drafter<M> {
    /// Its greedy continuation behind `last`, as far as it can choose. It has then fed all but the last token of it.
    fn propose(&mut self, last: u32, count: usize) -> Vec<Choice> {
        let mut chosen: Vec<Choice> = Vec::with_capacity(count);
        while chosen.len() < count {
            let Some(Ok(token)) = chosen.last().cloned().or(Some(Ok(last))) else { break };
            self.history.push(&self.side.state);
            chosen.push(self.side.step(token));
        }
        chosen
    }

    /// Goes on behind `last` and the drafts that were accepted.
    fn keep(&mut self, last: u32, accepted: &[u32]) {
        let fed = self.history.depth();
        let wanted = accepted.len() + 1;
        if wanted <= fed {
            self.side.state = self.history.rollback(fed - wanted, self.side.state.clone());
        } else {
            let _ = self.side.step(accepted.last().copied().unwrap_or(last)); // what it would choose is asked for again
        }
        self.history = History::new(self.history.window());
    }
}
