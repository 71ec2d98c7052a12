//! Decoding, one prompt or a batch of prompts of different lengths.
//!
//! A batch is exact without padding: all rows are prefilled up to the length of the shortest prompt,
//! then stepped together, each row fed its own prompt until that ends and its own choices after. When
//! half of the rows have ended, the batch shrinks to the others. SSM
//! layers carry a state of constant size; attention layers a cache.
//!
//! The random numbers of a row depend on the seed, the row's stream and the position alone, so a
//! row's tokens do not depend on its neighbours.

use burn::tensor::{Device, Int, Tensor, TensorData};
use mamba_ssd::{Backbone, MixerState, State};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Sampling;

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
/// met an end-of-text token.
///
/// # Panics
///
/// If a prompt is empty.
pub fn generate<M: Backbone>(model: &M, prompts: &[Vec<u32>], options: &GenerateOptions) -> Vec<Vec<u32>> {
    decode(model, prompts, options, |_| true)
}

/// Continues one prompt, handing each new token to `on_token`, which stops by returning `false`.
///
/// # Panics
///
/// If the prompt is empty.
pub fn generate_one<M: Backbone>(
    model: &M,
    prompt: &[u32],
    options: &GenerateOptions,
    on_token: impl FnMut(u32) -> bool,
) -> Vec<u32> {
    decode(model, &[prompt.to_vec()], options, on_token).remove(0)
}

fn decode<M: Backbone>(
    model: &M,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    mut on_token: impl FnMut(u32) -> bool,
) -> Vec<Vec<u32>> {
    let Some(shortest) = prompts.iter().map(Vec::len).min() else { return Vec::new() };
    assert!(shortest > 0, "a prompt is empty; begin it with a token, such as the one that begins a text");
    let model = model.valid();
    let device = model.devices().remove(0);
    let mut outputs = vec![Vec::new(); prompts.len()];
    let mut rows: Vec<Row> =
        prompts.iter().enumerate().map(|(index, prompt)| Row::new(prompt, index, options)).collect();
    let (mut logits, mut state) = prefill(&model, prompts, shortest, &device);
    for position in shortest.. {
        advance(&mut rows, logits, position, &mut on_token);
        if 2 * rows.iter().filter(|row| row.done).count() >= rows.len() {
            (rows, state) = without_finished(rows, state, &mut outputs, &device);
        }
        if rows.is_empty() {
            break;
        }
        let tokens = rows.iter().map(|row| row.token_at(position)).collect();
        (logits, state) = model.step(ints(tokens, &device), state);
    }
    outputs
}

/// Moves what finished rows wrote to `outputs`, and shrinks the batch to the others.
fn without_finished<'a>(
    rows: Vec<Row<'a>>,
    state: State,
    outputs: &mut [Vec<u32>],
    device: &Device,
) -> (Vec<Row<'a>>, State) {
    let kept: Vec<u32> = (0..rows.len()).filter(|&row| !rows[row].done).map(|row| row as u32).collect();
    let (done, rows): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.done);
    for row in done {
        let index = row.index;
        outputs[index] = row.into_new();
    }
    if kept.is_empty() {
        return (rows, state);
    }
    let kept = ints(kept, device);
    let layers = state.layers.into_iter().map(|layer| select(layer, &kept)).collect();
    (rows, State { layers })
}

fn select(state: MixerState, rows: &Tensor<1, Int>) -> MixerState {
    match state {
        MixerState::Attention { k, v, conv } => MixerState::Attention {
            k: k.select(0, rows.clone()),
            v: v.select(0, rows.clone()),
            conv: conv.map(|conv| conv.select(0, rows.clone())),
        },
        MixerState::Ssm { conv, ssm } => {
            MixerState::Ssm { conv: conv.select(0, rows.clone()), ssm: ssm.select(0, rows.clone()) }
        }
        MixerState::Parallel { ssm, attention } => MixerState::Parallel {
            ssm: Box::new(select(*ssm, rows)),
            attention: Box::new(select(*attention, rows)),
        },
    }
}

/// Logits `[b v]` after the first `length` tokens of every prompt. The head sees the last token only.
fn prefill<M: Backbone>(
    model: &M,
    prompts: &[Vec<u32>],
    length: usize,
    device: &Device,
) -> (Tensor<2>, State) {
    let tokens = prompts.iter().flat_map(|prompt| prompt[..length].iter().copied());
    let tokens = ints(tokens.collect(), device).reshape([prompts.len(), length]);
    let mut hidden = model.embed(tokens);
    let mut layers = Vec::with_capacity(model.n_layers());
    for (layer, state) in model.init_state(prompts.len(), device).layers.into_iter().enumerate() {
        let (output, state) = model.layer_prefill(layer, hidden, state);
        hidden = output;
        layers.push(state);
    }
    let last = hidden.narrow(1, length - 1, 1);
    (model.head(last).squeeze_dim(1), State { layers })
}

fn ints(tokens: Vec<u32>, device: &Device) -> Tensor<1, Int> {
    let tokens: Vec<i64> = tokens.into_iter().map(i64::from).collect();
    let length = tokens.len();
    Tensor::from_data(TensorData::new(tokens, [length]), device)
}

/// Lets every row whose prompt has ended choose the token at `position`.
fn advance(rows: &mut [Row], logits: Tensor<2>, position: usize, on_token: &mut impl FnMut(u32) -> bool) {
    let vocab = logits.dims()[1];
    let mut logits: Vec<f32> = logits.into_data_as::<f32>().try_into_vec().expect("converted to f32");
    for (row, logits) in rows.iter_mut().zip(logits.chunks_mut(vocab)) {
        if row.tokens.len() == position && !row.done {
            row.choose(logits, on_token);
        }
    }
}

/// A prompt and what follows it.
struct Row<'a> {
    index: usize,
    options: &'a GenerateOptions,
    rng: ChaCha8Rng,
    tokens: Vec<u32>,
    prompt: usize,
    done: bool,
}

impl<'a> Row<'a> {
    fn new(prompt: &[u32], index: usize, options: &'a GenerateOptions) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        rng.set_stream(options.first_stream + index as u64);
        let done = options.max_new_tokens == 0;
        Self { index, options, rng, tokens: prompt.to_vec(), prompt: prompt.len(), done }
    }

    fn choose(&mut self, logits: &mut [f32], on_token: &mut impl FnMut(u32) -> bool) {
        let unit: f64 = self.rng.random();
        let token = self.options.sampling.choose(logits, &self.tokens, unit);
        if self.options.eos.contains(&token) {
            self.done = true;
            return;
        }
        self.tokens.push(token);
        let full = self.tokens.len() - self.prompt >= self.options.max_new_tokens;
        self.done = !on_token(token) || full;
    }

    /// The token to feed; for a row that is done, its last one, whose effect nobody sees.
    fn token_at(&self, position: usize) -> u32 {
        self.tokens[position.min(self.tokens.len() - 1)]
    }

    fn into_new(mut self) -> Vec<u32> {
        self.tokens.split_off(self.prompt)
    }
}
