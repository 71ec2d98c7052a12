//! Decoding token by token, one prompt or several, by an [`Engine`] that takes all at once.
//!
//! The random numbers of a row depend on the seed, the row's stream and the position alone, and rows do not see
//! each other, so a row's tokens do not depend on its neighbours.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::Tensor;
use mamba_ssd::{Backbone, State, computes_on_host};

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
    Ok(prefill(&model.valid(), state, &[prompt], chunk).1)
}

/// A text that a model has read: what [`Engine::submit_read`](crate::Engine::submit_read) goes on from, as often as wanted.
#[derive(Clone, Debug)]
pub struct ReadText {
    pub(crate) tokens: Vec<u32>,
    /// Of texts that were read together.
    pub(crate) state: State,
    /// The one of this text.
    pub(crate) row: usize,
    /// A number that texts which were read together have in common.
    pub(crate) reading: u64,
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
    Ok(read_texts(model, &[prompt], chunk)?.remove(0))
}

/// How often prompts were read.
static READINGS: AtomicU64 = AtomicU64::new(0);

/// [`read_text`] of several prompts of one length: on GPUs at once, for a short prompt leaves one waiting for launches; on the CPU one
/// by one, to the last bit as alone. What was read at once is held until all of it is dropped.
///
/// # Errors
///
/// As there, of the first that cannot be read.
///
/// # Panics
///
/// If lengths differ, or a chunk has no token.
pub fn read_texts<M: Backbone>(
    model: &M,
    prompts: &[&[u32]],
    chunk: usize,
) -> Result<Vec<ReadText>, RequestError> {
    let on_host = computes_on_host(&model.devices().remove(0));
    read_in_groups(model, prompts, chunk, if on_host { 1 } else { prompts.len().max(1) })
}

/// [`read_texts`], so many at once.
fn read_in_groups<M: Backbone>(
    model: &M,
    prompts: &[&[u32]],
    chunk: usize,
    together: usize,
) -> Result<Vec<ReadText>, RequestError> {
    let length = prompts.first().map_or(0, |prompt| prompt.len());
    assert!(prompts.iter().all(|prompt| prompt.len() == length), "prompts of one length");
    let positions = model.max_positions().unwrap_or(usize::MAX);
    prompts.iter().try_for_each(|prompt| check_prompt(prompt, 0, model.vocab_size(), positions))?;
    let model = model.valid();
    let device = model.devices().remove(0);
    let mut texts = Vec::with_capacity(prompts.len());
    for prompts in prompts.chunks(together) {
        let (last, state) = prefill(&model, model.init_state(prompts.len(), &device), prompts, chunk);
        let last = last.expect("prompts of at least one token");
        let logits = floats(model.head(last).squeeze_dim(1));
        let logits = logits.chunks(model.vocab_size());
        let reading = READINGS.fetch_add(1, Ordering::Relaxed);
        let text = |(row, (prompt, logits)): (usize, (&&[u32], &[f32]))| ReadText {
            tokens: prompt.to_vec(),
            state: state.clone(),
            row,
            reading,
            logits: logits.into(),
        };
        texts.extend(prompts.iter().zip(logits).enumerate().map(text));
    }
    Ok(texts)
}

/// What the last layer gives for the last token `[b 1 d]`, and the state behind the prompts, which are of one length.
pub(crate) fn prefill<M: Backbone>(
    model: &M,
    mut state: State,
    prompts: &[&[u32]],
    chunk: usize,
) -> (Option<Tensor<3>>, State) {
    let device = model.devices().remove(0);
    let mut last = None;
    let length = prompts.first().map_or(0, |prompt| prompt.len());
    for start in (0..length).step_by(chunk) {
        let end = length.min(start + chunk);
        let tokens: Vec<u32> = prompts.iter().flat_map(|prompt| &prompt[start..end]).copied().collect();
        let tokens = ints(&tokens, &device).reshape([prompts.len(), end - start]);
        let (hidden, after) = model.prefill_hidden(tokens, state);
        (last, state) = (Some(hidden.narrow(1, end - start - 1, 1)), after);
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use mamba_ssd::rope::RotaryConfig;
    use mamba_ssd::{AttentionConfig, DiscreteMamba2Config, MixerConfig};

    use super::*;
    use crate::{Completion, LlamaConfig};

    /// An attention and an SSM layer.
    fn hybrid() -> crate::Llama {
        let device = Device::flex();
        device.seed(3);
        let attention = AttentionConfig::new(32, 4, 2, 8, RotaryConfig::new(8));
        let mut config = LlamaConfig::transformer(100, 2, attention, 64);
        config.mixers[1] = MixerConfig::DiscreteMamba2(DiscreteMamba2Config::new(32, 4, 8));
        config.init(&device)
    }

    /// Tokens of each text, by request and sample.
    fn continued(texts: &[ReadText], model: &crate::Llama, max_rows: usize) -> Vec<Vec<u32>> {
        let mut engine = Engine::new(model, EngineOptions { max_rows, ..EngineOptions::default() });
        for (text, samples) in texts.iter().zip([2, 1, 3, 1, 2]) {
            let request = Request { samples, max_new_tokens: 6, ..Request::new(text.tokens.clone()) };
            engine.submit_read(text, request).expect("served");
        }
        engine.complete().into_iter().map(|Completion { tokens, .. }| tokens).collect()
    }

    #[test]
    fn texts_that_were_read_together_join_together_and_go_on_each_from_its_own() {
        let model = hybrid();
        let prompts: [&[u32]; 5] = [&[1, 2, 3], &[50, 4, 9], &[7, 7, 7], &[80, 30, 2], &[11, 99, 5]];
        let read = |together| read_in_groups(&model, &prompts, 2, together).expect("read");
        let alone = continued(&read(1), &model, 1);
        assert!(alone[2] != alone[0] && alone[3] != alone[2], "texts go on differently: {alone:?}");
        for (together, max_rows) in [(5, 16), (5, 2), (3, 4), (2, 16)] {
            let found = continued(&read(together), &model, max_rows);
            assert_eq!(found, alone, "{together} read at once, {max_rows} rows");
        }
    }
}
