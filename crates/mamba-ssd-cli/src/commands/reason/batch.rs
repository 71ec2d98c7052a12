//! How many attempts to write at the same time: as many as are fastest, tried before the run.

use anyhow::{Result, ensure};
use burn::module::Module;
use mamba_ssd::{Backbone, computes_on_host, gpu_memory};
use mamba_ssd_models::{Event, Request};
use serde::Serialize;
use std::time::Instant;

use super::contestant::{Terms, engine, works};
use crate::language_model::LanguageModel;
use crate::{memory, out_of_memory};

/// Tokens that a row writes in a trial, the first of which are not timed.
const TOKENS: usize = 64;
const UNTIMED: usize = 8;
/// Rows of the first trial on a GPU.
const FIRST: usize = 16;
/// What twice the rows must gain to be worth it.
const GAIN: f64 = 1.1;

/// A trial.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Trial {
    /// Attempts that were written at the same time.
    pub rows: usize,
    /// All their tokens.
    pub tokens_per_second: f64,
}

/// Trials of 1 (on GPUs 16), 2, 4 and so on rows of a prompt, until more of them twice gain less than a tenth, do not fit, or are more
/// than can be wanted. Attempts of their full length must fit into a quarter of what is free on the CPU, and on a GPU, where all models keep
/// theirs, into half of it over their number.
pub fn trials(
    model: &LanguageModel,
    terms: &Terms,
    prompt: &[u32],
    [most, models]: [usize; 2],
) -> Result<Vec<Trial>> {
    let device = model.model.devices().remove(0);
    let on_host = computes_on_host(&device);
    let available = match on_host {
        true => memory::available().map_or(usize::MAX, |bytes| bytes / 4),
        // Caches have room for half as many tokens again, and are there twice while they are copied into it.
        false => {
            gpu_memory(&device).map_or(usize::MAX, |[all, held]| all.saturating_sub(held) / (2 * models))
        }
    };
    let state = model.model.init_state(1, &device);
    let each = state.bytes() + state.bytes_per_token() * (prompt.len() + terms.max_tokens);
    let (mut trials, mut in_vain): (Vec<Trial>, usize) = (Vec::new(), 0);
    let mut rows = if on_host { 1 } else { FIRST.min(available / each.max(1)).max(1) }.min(most);
    while rows.saturating_mul(each) <= available {
        let trial = out_of_memory::fits(|| better_of_two(model, terms, prompt, rows))?;
        device.memory_cleanup(); // what a pool keeps of a batch fits no other
        let Some(trial) = trial else {
            ensure!(
                works(model, prompt)?,
                "{}: {rows} attempts do not fit; give a smaller --batch",
                model.name
            );
            if trials.is_empty() && rows > 1 {
                rows /= 2;
                continue;
            }
            break;
        };
        // One trial may be slow by chance: it takes two that gain nothing over what was best.
        let best = trials.iter().map(|trial| trial.tokens_per_second).fold(0.0, f64::max);
        in_vain = if trial.tokens_per_second > GAIN * best { 0 } else { in_vain + 1 };
        trials.push(trial);
        if in_vain == 2 || rows >= most {
            break;
        }
        rows = (2 * rows).min(most);
    }
    Ok(trials)
}

/// The fewest rows that are within a tenth of the fastest.
pub fn fastest(trials: &[Trial]) -> Option<usize> {
    let best = trials.iter().map(|trial| trial.tokens_per_second).fold(0.0, f64::max);
    trials.iter().find(|trial| GAIN * trial.tokens_per_second >= best).map(|trial| trial.rows)
}

/// The faster of two trials, the first of which may compile.
fn better_of_two(model: &LanguageModel, terms: &Terms, prompt: &[u32], rows: usize) -> Result<Trial> {
    let (one, other) = (trial(model, terms, prompt, rows)?, trial(model, terms, prompt, rows)?);
    Ok(if one.tokens_per_second > other.tokens_per_second { one } else { other })
}

/// As many rows of one prompt, chosen as in the run, none of which ends early.
pub fn trial(model: &LanguageModel, terms: &Terms, prompt: &[u32], rows: usize) -> Result<Trial> {
    let mut engine = engine(model, rows);
    engine.submit(Request {
        samples: rows,
        max_new_tokens: TOKENS,
        sampling: terms.sampling,
        log_probabilities: terms.scores,
        ..Request::new(prompt.to_vec())
    })?;
    let (mut tokens, mut started) = (0usize, Instant::now());
    for event in &mut engine {
        tokens += usize::from(matches!(event, Event::Token { .. }));
        if tokens == UNTIMED * rows {
            started = Instant::now();
        }
    }
    let timed = tokens.saturating_sub(UNTIMED * rows);
    Ok(Trial { rows, tokens_per_second: timed as f64 / started.elapsed().as_secs_f64() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_batch_is_taken_where_it_is_as_fast() {
        let trials = [(1, 100.0), (2, 190.0), (4, 300.0), (8, 310.0)];
        let trials = trials.map(|(rows, tokens_per_second)| Trial { rows, tokens_per_second });
        assert_eq!(fastest(&trials), Some(4));
        assert_eq!(fastest(&trials[..1]), Some(1));
        assert_eq!(fastest(&[]), None);
    }
}
