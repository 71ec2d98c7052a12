use mamba_ssd::AttentionConfig;
use mamba_ssd::rope::RotaryConfig;

use super::*;
use crate::LlamaConfig;

/// Tokens of all samples of 20 requests of one to seven tokens; how many rows were stepped at a time.
fn run(parts: usize, options: EngineOptions) -> (Vec<Vec<u32>>, Vec<usize>) {
    let device = Device::flex();
    device.seed(5);
    let attention = AttentionConfig::new(32, 4, 2, 8, RotaryConfig::new(8));
    let model = LlamaConfig::transformer(100, 2, attention, 64).init(&device);
    let mut engine = Engine::new(&model, options);
    engine.parts = parts;
    for first in 0..20 {
        let max_new_tokens = 1 + first as usize % 7;
        engine.submit(Request { max_new_tokens, ..Request::new(vec![first, 2, 3]) }).expect("served");
    }
    let (mut completions, mut stepped) = (vec![], vec![]);
    while let Some(events) = engine.advance() {
        stepped.push(engine.usage().decoded_tokens);
        completions.extend(events.into_iter().filter_map(|event| match event {
            Event::Finished(completion) => Some(completion),
            Event::Token { .. } => None,
        }));
    }
    completions.sort_by_key(|completion| completion.id);
    let steps = stepped.windows(2).map(|pair| pair[1] - pair[0]).collect();
    (completions.into_iter().map(|completion| completion.tokens).collect(), steps)
}

#[test]
fn rows_that_are_replaced_some_at_a_time_write_the_same() {
    let options = EngineOptions { max_rows: 8, ..EngineOptions::default() };
    let (expected, at_once) = run(usize::MAX, options);
    let (found, by_halves) = run(2, options);
    assert_eq!(found, expected);
    assert!(by_halves.len() > at_once.len(), "{by_halves:?} waits for four free rows, {at_once:?} for none");
}

#[test]
fn a_budget_of_few_rows_is_kept_full() {
    // Of 1,024 rows memory allows for five or so: it is they of which a thirty-second is to be free.
    let options = EngineOptions { max_rows: 1024, max_state_bytes: Some(10_000), ..EngineOptions::default() };
    let (expected, at_once) = run(usize::MAX, options);
    let (found, in_parts) = run(32, options);
    assert!(at_once.iter().max() < Some(&12), "{at_once:?}: the budget does not bind");
    assert_eq!((found, in_parts), (expected, at_once));
}
