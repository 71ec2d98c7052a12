//! What sampling keeps, against transformers' own tests.

mod common;

use common::read_text;
use mamba_ssd_models::sampling::{
    Seen, argmax, draw, log_probability, min_p, presence_penalty, repetition_penalty, top_k, top_p,
};
use mamba_ssd_models::{Sampling, uniform};
use serde_json::Value;

fn cases(name: &str) -> Vec<Value> {
    let json: Value = serde_json::from_str(&read_text("sampling.json")).expect("JSON");
    json[name].as_array().expect("cases").clone()
}

fn floats(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .expect("numbers")
        .iter()
        .map(|number| number.as_f64().expect("a number") as f32)
        .collect()
}

fn kept(logits: &[f32]) -> Vec<usize> {
    (0..logits.len()).filter(|&token| logits[token].is_finite()).collect()
}

#[test]
fn top_p_keeps_what_transformers_keeps() {
    for case in cases("top_p") {
        let p = case["p"].as_f64().expect("p") as f32;
        let min_keep = case["min_keep"].as_u64().unwrap_or(1) as usize;
        if let Some(expected) = case["n_kept"].as_u64() {
            let mut logits = floats(&case["logits"]);
            top_p(&mut logits, p, min_keep);
            assert_eq!(kept(&logits).len() as u64, expected, "{case}");
        } else {
            let mut logits: Vec<f32> =
                floats(&case["probs"]).iter().map(|probability| probability.ln()).collect();
            top_p(&mut logits, p, min_keep);
            let expected = floats(&case["kept"]);
            let expected: Vec<usize> = (0..expected.len()).filter(|&token| expected[token] > 0.0).collect();
            assert_eq!(kept(&logits), expected, "{case}");
        }
    }
}

#[test]
fn top_k_keeps_what_transformers_keeps() {
    for case in cases("top_k") {
        let mut logits = floats(&case["logits"]);
        let min_keep = case["min_keep"].as_u64().unwrap_or(1) as usize;
        top_k(&mut logits, case["k"].as_u64().expect("k") as usize, min_keep);
        match case["n_kept"].as_u64() {
            Some(expected) => assert_eq!(kept(&logits).len() as u64, expected, "{case}"),
            None => {
                let expected: Vec<usize> =
                    floats(&case["kept_idx"]).iter().map(|&token| token as usize).collect();
                assert_eq!(kept(&logits), expected, "{case}");
            }
        }
    }
}

#[test]
fn repetition_penalty_changes_what_transformers_changes() {
    for case in cases("repetition_penalty") {
        let mut logits = floats(&case["logits"]);
        let seen: Vec<u32> = floats(&case["seen"]).iter().map(|&token| token as u32).collect();
        let mut expected = logits.clone();
        for (token, value) in case["expected"].as_object().expect("values") {
            expected[token.parse::<usize>().expect("a token")] = value.as_f64().expect("a number") as f32;
        }
        repetition_penalty(&mut logits, &seen, case["penalty"].as_f64().expect("a number") as f32);
        assert_eq!(logits, expected, "{case}");
    }
}

/// transformers' own cases of `MinPLogitsWarper`: at 0.1, [0.9, 0.0274, 0.047, 0.0274] keeps the
/// first alone; [0.15, 0.3, 0.3, 0.25] keeps all.
#[test]
fn min_p_keeps_what_is_likely_enough() {
    let keep = |probabilities: [f32; 4], min_keep| {
        let mut logits = probabilities.map(f32::ln);
        min_p(&mut logits, 0.1, min_keep);
        kept(&logits)
    };
    assert_eq!(keep([0.9, 0.0274, 0.047, 0.0274], 1), [0]);
    assert_eq!(keep([0.15, 0.3, 0.3, 0.25], 1), [0, 1, 2, 3]);
    assert_eq!(keep([0.9, 0.0274, 0.047, 0.0256], 2), [0, 2]);
}

#[test]
fn draws_follow_the_probabilities() {
    let logits = [0.2f32, 0.5, 0.3].map(f32::ln);
    let points = [0.0, 0.19, 0.21, 0.69, 0.71, 0.999999];
    assert_eq!(points.map(|unit| draw(&logits, unit)), [0, 0, 1, 1, 2, 2]);
    assert_eq!(draw(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], 0.999999999), 1);
}

#[test]
fn greedy_takes_the_first_of_the_likeliest() {
    assert_eq!(argmax(&[0.0, 2.0, 2.0, -1.0]), 1);
    assert_eq!(Sampling::default().choose(&mut [0.0, 2.0, 2.0, -1.0], Seen::default(), 0.9), 1);
    let penalised = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
    let seen = |prompt, new| Seen { prompt, new };
    assert_eq!(penalised.choose(&mut [0.0, 2.0, 1.5], seen(&[1], &[]), 0.0), 2);
    assert_eq!(penalised.choose(&mut [0.0, 2.0, 1.5], seen(&[], &[1]), 0.0), 2);
    let present = Sampling { presence_penalty: 1.0, ..Sampling::default() };
    assert_eq!(present.choose(&mut [0.0, 2.0, 1.5], seen(&[1], &[]), 0.0), 1, "the prompt is not the text");
    assert_eq!(present.choose(&mut [0.0, 2.0, 1.5], seen(&[], &[1, 1]), 0.0), 2);
}

#[test]
fn presence_costs_the_same_however_often() {
    let mut logits = [1.0, 2.0, -3.0];
    presence_penalty(&mut logits, &[2, 0, 2, 2, 9], 0.5);
    assert_eq!(logits, [0.5, 2.0, -3.5]);
}

#[test]
fn log_probabilities_are_those_of_the_softmax() {
    let logits = [0.2f32, 0.5, 0.3].map(|p| p.ln() + 700.0);
    for (token, probability) in [0.2f32, 0.5, 0.3].into_iter().enumerate() {
        assert!((log_probability(&logits, token as u32) - probability.ln()).abs() < 1e-4); // 700 has 6e-5 of rounding
    }
}

/// Pearson's statistic of `draws` tokens against their probabilities, over tokens that can be drawn.
fn chi_square(sampling: Sampling, logits: &[f32], expected: &[f64], draws: u64) -> f64 {
    let mut counts = vec![0u64; logits.len()];
    for position in 0..draws {
        // Streams, seeds and positions all vary: what they name must be independent.
        let unit = uniform(position % 7, position % 11, position);
        counts[sampling.choose(&mut logits.to_vec(), Seen::default(), unit) as usize] += 1;
    }
    let term = |(count, p): (u64, f64)| {
        let mean = p * draws as f64;
        assert!(p > 0.0 || count == 0, "a token was drawn that cannot be");
        if p > 0.0 { (count as f64 - mean).powi(2) / mean } else { 0.0 }
    };
    counts.into_iter().zip(expected.iter().copied()).map(term).sum()
}

/// 0.1 % quantiles of the chi-square distribution from above: scipy 1.17, `chi2.isf(1e-3, degrees)`.
#[test]
fn draws_have_the_distribution_of_their_probabilities() {
    let probabilities = [0.4f64, 0.05, 0.25, 0.2, 0.07, 0.03];
    let logits = probabilities.map(|p| p.ln() as f32);
    let plain = Sampling::with_temperature(1.0);
    assert!(chi_square(plain, &logits, &probabilities, 20_000) < 20.515); // 5 degrees
    let squared: f64 = probabilities.iter().map(|p| p * p).sum();
    let cold = probabilities.map(|p| p * p / squared);
    assert!(chi_square(Sampling::with_temperature(0.5), &logits, &cold, 20_000) < 20.515);
    let three = [0.4, 0.0, 0.25, 0.2, 0.0, 0.0].map(|p| p / 0.85);
    let limits = [
        Sampling { top_k: Some(3), ..plain },
        Sampling { top_p: Some(0.8), ..plain },
        Sampling { min_p: Some(0.3), ..plain },
    ];
    for sampling in limits {
        assert!(chi_square(sampling, &logits, &three, 20_000) < 13.816, "{sampling:?}"); // 2 degrees
    }
}
