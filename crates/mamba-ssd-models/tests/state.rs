//! States are rows: repeated, chosen, joined and rolled back without a bit changing, and built by any chunks.

mod common;

use burn::tensor::{Device, Int, Tensor, TensorData};
use common::{difference, llama, tokens, zoo};
use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{
    AttentionConfig, Backbone, DiscreteMamba2Config, History, Mamba1Config, Mamba2Config, MixerConfig, State,
};
use mamba_ssd_models::{LlamaConfig, Model, ModelConfig, PhiConfig, SpecialTokens};

const PROMPTS: [&[i64]; 4] = [&[4, 8], &[1, 2, 3, 4, 5, 6, 7, 8, 9], &[30], &[6, 6, 6, 6]];
const NEXT: [[i64; 4]; 5] = [[3, 5, 7, 11], [13, 17, 19, 23], [29, 0, 1, 2], [4, 4, 4, 4], [9, 8, 7, 6]];

fn ints(values: &[i64]) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &Device::flex())
}

fn prefilled(model: &Model, prompt: &[i64]) -> State {
    let state = model.init_state(1, &Device::flex());
    model.prefill(ints(prompt).unsqueeze(), state).1
}

fn bits<const D: usize>(tensor: Tensor<D>) -> Vec<u32> {
    let values: Vec<f32> = tensor.into_data().try_into_vec().expect("f32");
    values.into_iter().map(f32::to_bits).collect()
}

/// The bits of the logits of a row, token after token.
fn alone(model: &Model, mut state: State, next: impl Iterator<Item = i64>) -> Vec<Vec<u32>> {
    let step = |token| {
        let (logits, after) = model.step(ints(&[token]), state.clone());
        state = after;
        bits(logits)
    };
    next.map(step).collect()
}

#[test]
fn rows_of_any_lengths_in_one_batch_are_the_rows_alone_bit_for_bit() {
    for (name, model) in zoo() {
        let states: Vec<State> = PROMPTS.iter().map(|prompt| prefilled(&model, prompt)).collect();
        let mut together = State::concat(states.clone());
        let expected: Vec<_> = states
            .into_iter()
            .enumerate()
            .map(|(row, state)| alone(&model, state, NEXT.iter().map(|next| next[row])))
            .collect();
        for (at, next) in NEXT.iter().enumerate() {
            let (logits, after) = model.step(ints(next), together);
            together = after;
            for (row, expected) in expected.iter().enumerate() {
                let logits = logits.clone().narrow(0, row, 1);
                assert_eq!(bits(logits), expected[at], "{name}, row {row}, step {at}");
            }
        }
    }
}

/// One model of each mixer, with sums longer than a block of a general product (512).
fn wide() -> Vec<(&'static str, Model)> {
    let rotary = || RotaryConfig::new(32);
    let attention = || AttentionConfig::new(520, 8, 2, 65, rotary());
    let llama = |mixer: MixerConfig| {
        let mixers = vec![mixer, MixerConfig::Attention(attention())];
        ModelConfig::Llama(LlamaConfig { mixers, ..LlamaConfig::transformer(300, 1, attention(), 1100) })
    };
    let phi = || PhiConfig {
        vocab_size: 300,
        d_model: 520,
        d_mlp: 1100,
        mixers: vec![MixerConfig::Attention(attention().with_qkv_bias(true).with_out_bias(true))],
        norm_epsilon: 1e-5,
        max_position: None,
        tokens: SpecialTokens::default(),
    };
    let discrete = DiscreteMamba2Config::new(520, 8, 48);
    let grouped = Mamba2Config::new(520).with_d_state(40).with_headdim(65).with_ngroups(2);
    vec![
        ("discrete Mamba-2", llama(MixerConfig::DiscreteMamba2(discrete))),
        ("Mamba-2", llama(MixerConfig::Mamba2(grouped))),
        ("Mamba-1", llama(MixerConfig::Mamba1(Mamba1Config::new(520, 520, 104).with_d_state(8)))),
        ("Phi", ModelConfig::Phi(phi())),
    ]
    .into_iter()
    .map(|(name, config)| (name, config.init(&Device::flex())))
    .collect()
}

/// Also rows by the dozen, and a cache longer than a small case of a general product.
#[test]
fn neighbours_change_no_bit_of_a_wide_model_with_a_long_cache() {
    let long: Vec<i64> = (0..150).map(|i| (i * 7 + 1) % 31).collect();
    for (name, model) in wide() {
        let [short, long] = [prefilled(&model, PROMPTS[1]), prefilled(&model, &long)];
        let expected = alone(&model, short.clone(), NEXT[..3].iter().map(|next| next[0]));
        for copies in [1, 6, 40] {
            let mut together = State::concat(vec![long.clone().fork(copies), short.clone()]);
            for (next, expected) in NEXT.iter().zip(&expected) {
                let tokens: Vec<i64> =
                    (0..copies as i64).map(|row| (next[1] + row) % 31).chain([next[0]]).collect();
                let (logits, after) = model.step(ints(&tokens), together);
                together = after;
                assert_eq!(bits(logits.narrow(0, copies, 1)), *expected, "{name} beside {copies}");
            }
        }
    }
}

#[test]
fn a_row_does_not_notice_that_others_leave_and_join() {
    for (name, model) in zoo() {
        let next = |row: usize| NEXT.iter().map(move |next| next[row]);
        let expected = alone(&model, prefilled(&model, PROMPTS[0]), next(0));
        let mut state = State::concat(vec![prefilled(&model, PROMPTS[1]), prefilled(&model, PROMPTS[0])]);
        for (at, token) in next(0).enumerate() {
            if at == 2 {
                state = state.select(&[1]); // the longest row leaves: its columns are cut off
                assert_eq!(state.bytes(), alone_bytes(&model, at), "{name}");
                state = State::concat(vec![state, prefilled(&model, PROMPTS[2])]).select(&[1, 0]);
            }
            let (logits, after) = model.step(ints(&[NEXT[at][1], token]), state);
            state = after;
            assert_eq!(bits(logits.narrow(0, 1, 1)), expected[at], "{name}, step {at}");
        }
    }
}

/// Bytes of the first prompt's state, `steps` later.
fn alone_bytes(model: &Model, steps: usize) -> usize {
    let longer: Vec<i64> = PROMPTS[0].iter().copied().chain(NEXT.iter().map(|next| next[0])).collect();
    prefilled(model, &longer[..PROMPTS[0].len() + steps]).bytes()
}

#[test]
fn a_fork_repeats_rows_and_costs_what_was_said() {
    for (name, model) in zoo() {
        let pair = State::concat(vec![prefilled(&model, PROMPTS[0]), prefilled(&model, PROMPTS[1])]);
        let (said, forked) = (pair.fork_bytes(3), pair.clone().fork(3));
        assert_eq!((forked.bytes(), forked.batch()), (said, 6), "{name}");
        let pairs = model.step(ints(&[5, 9]), pair).0;
        let forks = model.step(ints(&[5, 5, 5, 9, 9, 9]), forked).0;
        for row in 0..6 {
            let [fork, parent] =
                [(&forks, row), (&pairs, row / 3)].map(|(x, row)| x.clone().narrow(0, row, 1));
            assert_eq!(bits(fork), bits(parent), "{name}, row {row}");
        }
    }
}

/// Every way to cut 7 tokens, and a few of 15.
fn partitions() -> Vec<Vec<usize>> {
    let cut = |mask: usize| {
        let mut parts = vec![1];
        for at in 0..6 {
            match mask >> at & 1 {
                1 => parts.push(1),
                _ => *parts.last_mut().expect("one") += 1,
            }
        }
        parts
    };
    let longer = [vec![15], vec![8, 7], vec![1, 14], vec![14, 1], vec![3, 9, 3]];
    (0..64).map(cut).chain(longer).collect()
}

#[test]
fn any_partition_of_a_prompt_gives_the_logits_of_the_whole() {
    for (name, model) in zoo() {
        for (rows, partition) in
            [1, 3].into_iter().flat_map(|rows| partitions().into_iter().map(move |p| (rows, p)))
        {
            let all = tokens(rows, partition.iter().sum());
            let expected = model.forward(all.clone(), None);
            let (mut at, mut state) = (0, model.init_state(rows, &Device::flex()));
            for part in &partition {
                let (logits, after) = model.prefill(all.clone().narrow(1, at, *part), state);
                let error = difference(logits, expected.clone().narrow(1, at, *part));
                assert!(error < 1e-5, "{name}, {rows} rows in {partition:?}: {error} at {at}"); // measured 1.6e-6
                (at, state) = (at + part, after);
            }
        }
    }
}

#[test]
fn any_partition_goes_on_from_rows_of_different_lengths() {
    for (name, model) in zoo() {
        let states = [0, 1].map(|row| prefilled(&model, PROMPTS[row]));
        let both = tokens(2, 7);
        let rows = (0..2).map(|row| model.prefill(both.clone().narrow(0, row, 1), states[row].clone()).0);
        let expected = Tensor::cat(rows.collect(), 0);
        for partition in partitions().into_iter().filter(|parts| parts.iter().sum::<usize>() == 7) {
            let (mut at, mut state) = (0, State::concat(states.to_vec()));
            for part in &partition {
                let (logits, after) = model.prefill(both.clone().narrow(1, at, *part), state);
                let error = difference(logits, expected.clone().narrow(1, at, *part));
                assert!(error < 1e-5, "{name} in {partition:?}: {error} at {at}");
                (at, state) = (at + part, after);
            }
        }
    }
}

#[test]
fn a_rollback_is_the_state_that_was() {
    for (name, model) in zoo() {
        let mut state = State::concat(vec![prefilled(&model, PROMPTS[0]), prefilled(&model, PROMPTS[1])]);
        let mut history = History::new(3);
        let mut expected = Vec::new();
        for next in NEXT {
            history.push(&state);
            let (logits, after) = model.step(ints(&next[..2]), state);
            expected.push(bits(logits));
            state = after;
        }
        assert_eq!(history.depth(), 3, "{name}");
        for (back, at) in [(0, 5), (1, 4), (2, 2)] {
            state = history.rollback(back, state);
            if at < NEXT.len() {
                let logits = model.step(ints(&NEXT[at][..2]), state.clone()).0;
                assert_eq!(bits(logits), expected[at], "{name}, {back} back to {at}");
            }
        }
        assert_eq!(history.depth(), 0, "{name}");
    }
}

#[test]
#[should_panic(expected = "rows [2] of a state of 2")]
fn a_row_that_is_not_there_is_not_selected() {
    let _ = llama("mam").init_state(2, &Device::flex()).select(&[2]);
}
