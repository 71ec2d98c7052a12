//! Decoding token by token, one prompt or several, by an [`Engine`] that takes all at once.
//!
//! The random numbers of a row depend on the seed, the row's stream and the position alone, and rows do not see
//! each other, so a row's tokens do not depend on its neighbours.

use std::sync::Arc;

use burn::tensor::Tensor;
use mamba_ssd::{Backbone, State};

use crate::engine::{check_prompt, floats, ints};
use crate::{Engine, EngineOptions, Event, Request, RequestError, Sampling};

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Most tokens to generate for a prompt.
    pub max_new_tokens: usize,
    /// Any of these ends a row, and is not part of what is returned.
    pub eos: Vec<u32>,
    /// Seed of the draws.
    pub seed: u64,
    /// Random stream of the first row; row r has stream `first_stream + r`.
    pub first_stream: u64,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { sampling: Sampling::default(), max_new_tokens: 128, eos: Vec::new(), seed: 0, first_stream: 0 }
    }
}

/// Continues every prompt, and returns the new tokens of each. A row of fewer than `max_new_tokens`
/// met an end-of-text token, or the last position that the model's attention has learnt.
///
/// # Panics
///
/// If a prompt is empty, longer than these positions, or has a token that the model does not know, or if no token can be
/// chosen with the numbers of `sampling`. An [`Engine`] returns errors.
pub fn generate<M: Backbone>(model: &M, prompts: &[Vec<u32>], options: &GenerateOptions) -> Vec<Vec<u32>> {
    let completions = engine(model, prompts, options).complete();
    completions.into_iter().map(|completion| completion.tokens).collect()
}

/// Continues one prompt, handing each new token to `on_token`, which stops by returning `false`.
///
/// # Panics
///
/// As [`generate()`].
pub fn generate_one<M: Backbone>(
    model: &M,
    prompt: &[u32],
    options: &GenerateOptions,
    mut on_token: impl FnMut(u32) -> bool,
) -> Vec<u32> {
    let mut tokens = Vec::new();
    for event in engine(model, &[prompt.to_vec()], options) {
        if let Event::Token { token, .. } = event {
            tokens.push(token);
            if !on_token(token) {
                break;
            }
        }
    }
    tokens
}

/// The state behind a prompt that goes on from another state, prefilled in chunks, without gradients.
///
/// # Errors
///
/// If the prompt is empty, has a token that the model does not know, or is longer than the positions that its attention
/// has left.
///
/// # Panics
///
/// If a chunk has no token.
pub fn read_prompt<M: Backbone>(
    model: &M,
    state: State,
    prompt: &[u32],
    chunk: usize,
) -> Result<State, RequestError> {
    let positions = model.max_positions().unwrap_or(usize::MAX);
    check_prompt(prompt, state.columns(), model.vocab_size(), positions)?;
    Ok(prefill(&model.valid(), state, prompt, chunk).1)
}

/// A text that a model has read: what [`Engine::submit_read`](crate::Engine::submit_read) goes on from, as often as wanted.
#[derive(Clone, Debug)]
pub struct ReadText {
    pub(crate) tokens: Vec<u32>,
    pub(crate) state: State,
    /// After the last token, `[v]`.
    pub(crate) logits: Arc<[f32]>,
}

/// [`read_prompt`] from the beginning, with what is predicted behind the prompt.
///
/// # Errors
///
/// As there.
///
/// # Panics
///
/// If a chunk has no token.
pub fn read_text<M: Backbone>(model: &M, prompt: &[u32], chunk: usize) -> Result<ReadText, RequestError> {
    check_prompt(prompt, 0, model.vocab_size(), model.max_positions().unwrap_or(usize::MAX))?;
    let model = model.valid();
    let start = model.init_state(1, &model.devices().remove(0));
    let (last, state) = prefill(&model, start, prompt, chunk);
    let last = last.expect("a prompt of at least one token");
    let logits = floats(model.head(last).squeeze_dim(1)).into();
    Ok(ReadText { tokens: prompt.to_vec(), state, logits })
}

/// What the last layer gives for the last token `[b 1 d]`, and the state behind the prompt.
pub(crate) fn prefill<M: Backbone>(
    model: &M,
    mut state: State,
    prompt: &[u32],
    chunk: usize,
) -> (Option<Tensor<3>>, State) {
    let device = model.devices().remove(0);
    let mut last = None;
    for tokens in prompt.chunks(chunk) {
        let (hidden, after) = model.prefill_hidden(ints(tokens, &device).unsqueeze(), state);
        (last, state) = (Some(hidden.narrow(1, tokens.len() - 1, 1)), after);
    }
    (last, state)
}

fn engine<M: Backbone>(model: &M, prompts: &[Vec<u32>], options: &GenerateOptions) -> Engine<'static, M> {
    let max_rows = prompts.len().max(1);
    let mut engine = Engine::new(model, EngineOptions { max_rows, ..EngineOptions::default() });
    for (prompt, row) in prompts.iter().zip(0..) {
        let request = Request {
            sampling: options.sampling,
            max_new_tokens: options.max_new_tokens,
            eos: options.eos.clone(),
            seed: options.seed,
            first_stream: options.first_stream.wrapping_add(row),
            ..Request::new(prompt.clone())
        };
        engine.submit(request).unwrap_or_else(|error| panic!("prompt {row}: {error}"));
    }
    engine
}
