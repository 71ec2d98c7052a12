//! Decoding with a state against the whole forward pass, and generation.

mod common;

use burn::tensor::Device;
use common::{GOLDENS, Golden, difference, golden_model, llama, tokens, zoo};
use mamba_ssd::Backbone;
use mamba_ssd_models::{GenerateOptions, Model, Sampling, generate, generate_one};

/// Logits of a prefill of `split` tokens and a step for each of the rest, against one forward pass.
fn prefill_then_step(model: &Model, tokens: burn::tensor::Tensor<2, burn::tensor::Int>, split: usize) -> f32 {
    let [rows, length] = tokens.dims();
    let expected = model.forward(tokens.clone(), None);
    let state = model.init_state(rows, &Device::flex());
    let (logits, mut state) = model.prefill(tokens.clone().narrow(1, 0, split), state);
    let mut worst = difference(logits, expected.clone().narrow(1, 0, split));
    for position in split..length {
        let (logits, next) = model.step(tokens.clone().narrow(1, position, 1).squeeze_dim(1), state);
        worst = worst.max(difference(logits, expected.clone().narrow(1, position, 1).squeeze_dim(1)));
        state = next;
    }
    worst
}

#[test]
fn prefill_then_step_is_the_forward_pass() {
    for family in GOLDENS {
        let (model, golden) = (golden_model(family), Golden::open(family));
        for split in [1, 3, 20] {
            let error = prefill_then_step(&model, golden.input_ids(), split);
            assert!(error < 1e-5, "{family}, split at {split}: {error}"); // measured 8.3e-7
        }
    }
    for (name, model) in zoo() {
        for (rows, split) in [(1, 2), (3, 9)] {
            let error = prefill_then_step(&model, tokens(rows, 15), split);
            assert!(error < 1e-5, "{name}, {rows} rows, split at {split}: {error}");
        }
    }
}

#[test]
fn greedy_generation_repeats_the_forward_pass() {
    for (name, model) in zoo() {
        let prompt = vec![5, 9, 1, 7];
        let options = GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() };
        let mut sequence = prompt.clone();
        for _ in 0..6 {
            let row: Vec<i64> = sequence.iter().map(|&token| i64::from(token)).collect();
            let length = row.len();
            let row = burn::tensor::TensorData::new(row, [1, length]);
            let logits = model.forward(burn::tensor::Tensor::from_data(row, &Device::flex()), None);
            let last: i64 =
                logits.narrow(1, length - 1, 1).argmax(2).into_data().iter().next().expect("a token");
            sequence.push(last as u32);
        }
        assert_eq!(generate(&model, &[prompt], &options), [&sequence[4..]], "{name}");
    }
}

fn sampled(first_stream: u64) -> GenerateOptions {
    let sampling = Sampling { temperature: 1.0, top_p: Some(0.95), ..Sampling::default() };
    GenerateOptions { sampling, max_new_tokens: 12, seed: 3, first_stream, ..GenerateOptions::default() }
}

#[test]
fn a_ragged_batch_is_its_rows_run_apart() {
    let prompts = [vec![4, 8], vec![1, 2, 3, 4, 5, 6, 7, 8, 9], vec![30], vec![6, 6, 6, 6]];
    for (name, model) in zoo() {
        let together = generate(&model, &prompts, &sampled(0));
        for (row, prompt) in prompts.iter().enumerate() {
            let alone = generate(&model, std::slice::from_ref(prompt), &sampled(row as u64));
            assert_eq!(alone[0], together[row], "{name}, row {row}");
        }
    }
}

#[test]
fn seeds_and_streams_decide_the_draws() {
    let model = llama("mm");
    let prompts = vec![vec![4, 8]; 3];
    let first = generate(&model, &prompts, &sampled(0));
    assert_eq!(first, generate(&model, &prompts, &sampled(0)));
    assert_ne!(first[0], first[1]);
    assert_eq!(first[1..], generate(&model, &prompts[1..], &sampled(1)));
    assert_ne!(first, generate(&model, &prompts, &GenerateOptions { seed: 4, ..sampled(0) }));
}

#[test]
fn a_row_ends_at_an_end_of_text_and_its_neighbours_go_on() {
    let model = llama("mam");
    let prompts = [vec![4, 8, 2], vec![7, 7, 7]];
    let free = generate(&model, &prompts, &sampled(0));
    let eos = free[0][3];
    let ended = generate(&model, &prompts, &GenerateOptions { eos: vec![eos], ..sampled(0) });
    for (ended, free) in ended.iter().zip(&free) {
        let expected: Vec<u32> = free.iter().copied().take_while(|&token| token != eos).collect();
        assert_eq!(*ended, expected);
    }
}

#[test]
fn a_stream_hands_over_every_token_and_can_be_stopped() {
    let model = llama("mm");
    let mut streamed = Vec::new();
    let all = generate_one(&model, &[4, 8], &sampled(0), |token| {
        streamed.push(token);
        true
    });
    assert_eq!((all.len(), &all), (12, &streamed));
    let mut left = 3;
    let stopped = generate_one(&model, &[4, 8], &sampled(0), |_| {
        left -= 1;
        left > 0
    });
    assert_eq!(stopped, all[..3]);
}

#[test]
fn nothing_comes_of_no_prompts_or_no_tokens() {
    let model = llama("mm");
    assert!(generate(&model, &[], &sampled(0)).is_empty());
    let none = GenerateOptions { max_new_tokens: 0, ..sampled(0) };
    assert_eq!(generate(&model, &[vec![1]], &none), [Vec::<u32>::new()]);
}

#[test]
fn generation_takes_a_model_that_is_being_trained() {
    let model = llama("mm");
    let options = GenerateOptions { max_new_tokens: 4, ..GenerateOptions::default() };
    let training = burn::module::Module::train(model.clone());
    assert_eq!(generate(&training, &[vec![4, 8]], &options), generate(&model, &[vec![4, 8]], &options));
}
