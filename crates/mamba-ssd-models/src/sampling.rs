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

    /// What is wrong with these numbers, and what was expected.
    pub(crate) fn check(&self) -> Result<(), String> {
        let share = |p: Option<f32>| p.is_none_or(|p| p > 0.0 && p <= 1.0);
        let fits = [
            (
                "temperature",
                self.temperature,
                self.temperature.is_finite() && self.temperature >= 0.0,
                "of at least 0",
            ),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty.is_normal() && self.repetition_penalty > 0.0,
                "above 0",
            ),
            ("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), "that is finite"),
            ("top_p", self.top_p.unwrap_or(1.0), share(self.top_p), "above 0 and at most 1"),
            ("min_p", self.min_p.unwrap_or(1.0), share(self.min_p), "above 0 and at most 1"),
        ];
        match fits.into_iter().find(|(_, _, fits, _)| !fits) {
            Some((name, found, _, expected)) => {
                Err(format!("{name} is {found}, expected a number {expected}"))
            }
            None => Ok(()),
        }
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
        let likeliest = argmax(logits);
        if self.temperature <= 0.0 || !(logits[likeliest as usize] / self.temperature).is_finite() {
            return likeliest;
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

/// Why no token can be chosen by these logits, if none can: one is not a number or too large for one, or all are `-inf`.
pub(crate) fn wrong_logit(logits: &[f32]) -> Option<String> {
    let wrong = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
    if let Some(token) = logits.iter().position(wrong) {
        let what = if logits[token].is_nan() { "not a number" } else { "infinite" };
        return Some(format!("the logit of token {token} is {what}"));
    }
    logits.iter().all(|logit| *logit == f32::NEG_INFINITY).then(|| "no token has a finite logit".into())
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
    // All that are less likely than this add up to less than 1 - p: none of them is kept, and few are sorted.
    let least = (1.0 - f64::from(p)) / logits.len() as f64;
    let all = 0..logits.len();
    let mut order: Vec<usize> = all.clone().filter(|&token| probabilities[token] >= least).collect();
    if order.len() < min_keep {
        order = all.collect();
    }
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    let (mut before, mut kept) = (0.0, 0);
    for token in &order {
        if kept >= min_keep.max(1) && before >= f64::from(p) - ROUNDING {
            break;
        }
        before += probabilities[*token];
        kept += 1;
    }
    let mut is_kept = vec![false; logits.len()];
    order[..kept].iter().for_each(|&token| is_kept[token] = true);
    let cut = logits.iter_mut().zip(is_kept).filter(|(_, kept)| !kept);
    cut.for_each(|(logit, _)| *logit = f32::NEG_INFINITY);
}

/// Keeps the tokens at least `p` times as likely as the likeliest, at least `min_keep`.
pub fn min_p(logits: &mut [f32], p: f32, min_keep: usize) {
    let largest = logits[argmax(logits) as usize];
    let mut threshold = (largest + p.ln()).min(largest);
    if min_keep > 1 {
        let mut sorted = logits.to_vec();
        let place = min_keep.min(sorted.len()) - 1;
        let (_, &mut kept, _) = sorted.select_nth_unstable_by(place, |a, b| b.total_cmp(a));
        threshold = threshold.min(kept);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_that_choose_nothing_are_told_apart() {
        let (infinity, nothing) = (f32::INFINITY, f32::NEG_INFINITY);
        assert_eq!(wrong_logit(&[0.0, nothing]), None);
        let said = |logits: &[f32]| wrong_logit(logits).expect("wrong");
        assert!(said(&[0.0, infinity]).contains("token 1 is infinite"));
        assert!(said(&[f32::NAN, 0.0]).contains("token 0 is not a number"));
        assert!(said(&[nothing, nothing]).contains("no token"));
    }

    #[test]
    fn a_temperature_near_nothing_takes_the_likeliest() {
        let cold = Sampling::with_temperature(1e-39);
        assert_eq!(cold.choose(&mut [1.0, 3.0, 2.0], Seen::default(), 0.0), 1);
    }
}
