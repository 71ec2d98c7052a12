//! From logits to a token.
//!
//! In the order of transformers: penalties, temperature, top-k, top-p, min-p, then a draw.
//! What is cut off becomes `-inf`.

use serde::{Deserialize, Serialize};

/// How a token is chosen. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits; 0 chooses the likeliest token.
    pub temperature: f32,
    /// Keeps the k likeliest tokens.
    pub top_k: Option<usize>,
    /// Keeps the likeliest tokens whose probabilities add up to p.
    pub top_p: Option<f32>,
    /// Keeps tokens at least p times as likely as the likeliest.
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens of the prompt and of the text so far; 1 does
    /// nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens of the text so far, prompt excluded, as in vLLM; 0 does nothing.
    pub presence_penalty: f32,
}

/// The tokens that penalties act on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen<'a> {
    /// Of the prompt.
    pub prompt: &'a [u32],
    /// Chosen since.
    pub new: &'a [u32],
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
        }
    }
}

impl Sampling {
    /// Sampling at a temperature, from the whole vocabulary.
    pub fn with_temperature(temperature: f32) -> Self {
        Self { temperature, ..Self::default() }
    }

    /// Chooses a token. `seen` is what the penalties act on, `unit` a number in [0, 1) that decides a draw.
    ///
    /// # Panics
    ///
    /// If there are no logits.
    pub fn choose(&self, logits: &mut [f32], seen: Seen, unit: f64) -> u32 {
        if self.repetition_penalty != 1.0 {
            repetition_penalty(logits, &[seen.prompt, seen.new].concat(), self.repetition_penalty);
        }
        if self.presence_penalty != 0.0 {
            presence_penalty(logits, seen.new, self.presence_penalty);
        }
        if self.temperature <= 0.0 {
            return argmax(logits);
        }
        logits.iter_mut().for_each(|logit| *logit /= self.temperature);
        if let Some(k) = self.top_k {
            top_k(logits, k, 1);
        }
        if let Some(p) = self.top_p {
            top_p(logits, p, 1);
        }
        if let Some(p) = self.min_p {
            min_p(logits, p, 1);
        }
        draw(logits, unit)
    }
}

/// The first of the likeliest tokens.
///
/// # Panics
///
/// If there are no logits.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, &logit) in logits.iter().enumerate() {
        if logit > logits[best] || logits[best].is_nan() {
            best = token;
        }
    }
    best as u32
}

/// Makes tokens that were seen less likely: positive logits are divided, negative multiplied.
pub fn repetition_penalty(logits: &mut [f32], seen: &[u32], penalty: f32) {
    change_each(logits, seen, |logit| if logit < 0.0 { logit * penalty } else { logit / penalty });
}

/// Makes tokens that were seen less likely, however often: `penalty` is subtracted once.
pub fn presence_penalty(logits: &mut [f32], seen: &[u32], penalty: f32) {
    change_each(logits, seen, |logit| logit - penalty);
}

/// Changes the logit of every token of `seen` once.
fn change_each(logits: &mut [f32], seen: &[u32], change: impl Fn(f32) -> f32) {
    let mut seen: Vec<usize> = seen.iter().map(|&token| token as usize).collect();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        let Some(logit) = logits.get_mut(token) else { continue };
        *logit = change(*logit);
    }
}

/// The log-probability of a token, `x - log Σ exp`, summed in f64.
///
/// # Panics
///
/// If there is no such token.
pub fn log_probability(logits: &[f32], token: u32) -> f32 {
    let largest = f64::from(logits[argmax(logits) as usize]);
    let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    (f64::from(logits[token as usize]) - largest - total.ln()) as f32
}

/// Keeps the `k` likeliest tokens, at least `min_keep`, and those as likely as the last of them.
pub fn top_k(logits: &mut [f32], k: usize, min_keep: usize) {
    let k = k.max(min_keep);
    if k == 0 || k >= logits.len() {
        return;
    }
    let mut sorted = logits.to_vec();
    let (_, &mut threshold, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    keep(logits, |logit| logit >= threshold);
}

/// Probabilities that add up to p but for rounding have reached it.
const ROUNDING: f64 = 1e-6;

/// Keeps the likeliest tokens until their probabilities reach `p`, at least `min_keep`.
pub fn top_p(logits: &mut [f32], p: f32, min_keep: usize) {
    if p >= 1.0 {
        return;
    }
    let probabilities = softmax(logits);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    let mut before = 0.0;
    for (rank, token) in order.into_iter().enumerate() {
        if rank >= min_keep.max(1) && before >= f64::from(p) - ROUNDING {
            logits[token] = f32::NEG_INFINITY;
        }
        before += probabilities[token];
    }
}

/// Keeps the tokens at least `p` times as likely as the likeliest, at least `min_keep`.
pub fn min_p(logits: &mut [f32], p: f32, min_keep: usize) {
    let largest = logits[argmax(logits) as usize];
    let mut sorted = logits.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let kept = sorted.get(min_keep.saturating_sub(1)).copied().unwrap_or(f32::NEG_INFINITY);
    let threshold = (largest + p.ln()).min(kept);
    keep(logits, |logit| logit >= threshold);
}

/// The token at the point `unit` of the cumulated probabilities.
pub fn draw(logits: &[f32], unit: f64) -> u32 {
    let mut left = unit;
    let mut last = argmax(logits);
    for (token, probability) in softmax(logits).into_iter().enumerate() {
        if probability > 0.0 {
            last = token as u32;
            left -= probability;
            if left < 0.0 {
                break;
            }
        }
    }
    last
}

fn keep(logits: &mut [f32], kept: impl Fn(f32) -> bool) {
    logits.iter_mut().filter(|logit| !kept(**logit)).for_each(|logit| *logit = f32::NEG_INFINITY);
}

/// Probabilities in f64, whose rounding no draw can notice.
fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = f64::from(logits[argmax(logits) as usize]);
    let mut weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
    weights
}
