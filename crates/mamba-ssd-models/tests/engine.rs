//! The engine: what a sample is does not depend on what runs beside it, and nothing that goes wrong spreads.

mod common;

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor};
use common::{llama, zoo};
use mamba_ssd::Backbone;
use mamba_ssd_models::sampling::{Seen, log_probability};
use mamba_ssd_models::{
    Completion, Engine, EngineOptions, Event, Finish, Forks, Model, Request, RequestError, SampleId,
    Sampling, Tokenizer, read_text, uniform,
};

fn request(prompt: &[u32], seed: u64) -> Request {
    let sampling = Sampling { temperature: 1.0, top_p: Some(0.95), ..Sampling::default() };
    Request { sampling, seed, max_new_tokens: 9, log_probabilities: true, ..Request::new(prompt.to_vec()) }
}

/// Prompts of any lengths, several samples of some, ends at different times.
fn requests() -> Vec<Request> {
    let long: Vec<u32> = (0..23).map(|i| (i * 7 + 1) % 31).collect();
    vec![
        Request { samples: 3, ..request(&[4, 8], 1) },
        request(&long, 2),
        Request { max_new_tokens: 2, ..request(&[30], 3) },
        Request { samples: 2, sampling: Sampling::default(), ..request(&[6, 6, 6, 6], 4) },
        Request { max_new_tokens: 1, samples: 2, ..request(&[5, 9], 5) },
        Request { eos: vec![3, 7, 11, 12], ..request(&long[..9], 6) },
    ]
}

fn complete(model: &Model, requests: &[Request], options: EngineOptions) -> Vec<Completion> {
    let mut engine = Engine::new(model, options);
    for request in requests {
        engine.submit(request.clone()).expect("a request that can be served");
    }
    engine.complete()
}

/// What a sample says, and the bits of its log-probabilities.
fn bits(completion: &Completion) -> (Vec<u32>, Vec<u32>, Finish) {
    let log_probabilities = completion.log_probabilities.iter().map(|value| value.to_bits()).collect();
    (completion.tokens.clone(), log_probabilities, completion.finish.clone())
}

#[test]
fn a_sample_is_the_same_alone_and_in_any_batch_bit_for_bit() {
    let mut early = 0;
    for (name, model) in zoo() {
        let options = |max_rows| EngineOptions { max_rows, prefill_chunk: 5, ..EngineOptions::default() };
        let mut alone = BTreeMap::new();
        for (number, request) in requests().into_iter().enumerate() {
            for sample in 0..request.samples {
                let one = Request { samples: 1, first_stream: sample as u64, ..request.clone() };
                alone.insert(
                    SampleId { request: number, sample },
                    bits(&complete(&model, &[one], options(1))[0]),
                );
            }
        }
        early += alone.values().filter(|(.., finish)| matches!(finish, Finish::Eos(_))).count();
        for max_rows in [1, 2, 3, 16] {
            let together: BTreeMap<_, _> = complete(&model, &requests(), options(max_rows))
                .iter()
                .map(|completion| (completion.id, bits(completion)))
                .collect();
            assert_eq!(together, alone, "{name}, at most {max_rows} rows");
        }
    }
    assert!(early > 3, "rows that end early: {early}");
}

#[test]
fn a_prompt_that_was_read_is_continued_as_one_that_was_not() {
    for (name, model) in zoo() {
        let options = EngineOptions { max_rows: 3, prefill_chunk: 5, ..EngineOptions::default() };
        let expected: Vec<_> = complete(&model, &requests(), options).iter().map(bits).collect();
        let mut engine = Engine::new(&model, options);
        for request in requests() {
            let text = read_text(&model, &request.prompt, 5).expect("read");
            engine.submit_read(&text, request).expect("served");
        }
        let found: Vec<_> = engine.complete().iter().map(bits).collect();
        assert_eq!(found, expected, "{name}");
        assert_eq!(engine.usage().prompt_tokens, 0, "nothing is read again");

        let text = read_text(&model, &[1, 2], 5).expect("read");
        let other = engine.submit_read(&text, Request::new(vec![1, 3]));
        assert_eq!(other, Err(RequestError::Text { read: 2, prompt: 2 }));
    }
}

#[test]
fn short_prompts_enter_together_and_a_steps_events_come_together() {
    let model = llama("mam");
    let options = EngineOptions { max_rows: 6, prefill_chunk: 8, ..EngineOptions::default() };
    let mut engine = Engine::new(&model, options);
    for first in 0..6 {
        engine.submit(Request { max_new_tokens: 2, ..Request::new(vec![first, 1]) }).expect("served");
    }
    let steps: Vec<usize> = std::iter::from_fn(|| engine.advance().map(|events| events.len())).collect();
    // Four prompts have a chunk's tokens; then four rows take their second token and end, while two others begin.
    assert_eq!(steps, [4, 4 + 4 + 2, 2 + 2]);
}

#[test]
fn a_request_that_comes_later_takes_a_free_row_and_disturbs_no_other() {
    let model = llama("mam");
    let options = EngineOptions { max_rows: 2, ..EngineOptions::default() };
    let expected: Vec<_> = requests()
        .iter()
        .map(|request| bits(&complete(&model, std::slice::from_ref(request), options)[0]))
        .collect();
    let mut engine = Engine::new(&model, options);
    let mut later = requests().into_iter().map(|request| Request { samples: 1, ..request });
    engine.submit(later.next().expect("six")).expect("served");
    let mut found = Vec::new();
    while let Some(event) = engine.next() {
        if let Some(request) = later.next() {
            engine.submit(request).expect("served");
        }
        if let Event::Finished(completion) = event {
            found.push(completion);
        }
    }
    found.sort_by_key(|completion| completion.id);
    assert_eq!(found.iter().map(bits).collect::<Vec<_>>(), expected);
}

#[test]
fn samples_of_a_prompt_share_its_prefill_and_differ() {
    let model = llama("mam");
    let mut engine = Engine::new(&model, EngineOptions { max_rows: 4, ..EngineOptions::default() });
    engine.submit(Request { samples: 10, ..request(&[4, 8, 2], 1) }).expect("served");
    let samples = engine.complete();
    assert_eq!(engine.usage().prompt_tokens, 3, "ten samples, one prefill");
    assert_eq!(engine.usage().decoded_tokens, 10 * 8, "the last token of nine is not fed");
    let mut texts: Vec<_> = samples.into_iter().map(|sample| sample.tokens).collect();
    texts.sort();
    texts.dedup();
    assert!(texts.len() > 5, "{texts:?}");
}

/// The draw of a token is that of its seed, stream and position.
#[test]
fn tokens_and_log_probabilities_are_those_of_the_forward_pass() {
    let model = llama("mm");
    let asked = Request { first_stream: 5, ..request(&[4, 8, 2], 1) };
    let sample = &complete(&model, std::slice::from_ref(&asked), EngineOptions::default())[0];
    let all: Vec<i64> = asked.prompt.iter().chain(&sample.tokens).map(|&token| i64::from(token)).collect();
    let all = Tensor::<1, Int>::from_data(all.as_slice(), &Device::flex());
    let logits = model.forward(all.unsqueeze(), None).narrow(1, 2, sample.tokens.len());
    let logits: Vec<f32> = logits.into_data().try_into_vec().expect("f32");
    for (at, logits) in logits.chunks(31).enumerate() {
        let seen = Seen { prompt: &asked.prompt, new: &sample.tokens[..at] };
        let token = asked.sampling.choose(&mut logits.to_vec(), seen, uniform(1, 5, at as u64));
        assert_eq!(token, sample.tokens[at]);
        let (found, expected) = (sample.log_probabilities[at], log_probability(logits, token));
        assert!((found - expected).abs() < 1e-5, "{found} and {expected} at {at}");
    }
}

#[test]
fn a_request_that_cannot_be_served_is_refused_alone_and_says_why() {
    let model = llama("mam");
    let row = model.init_state(1, &Device::flex()).bytes()
        + 12 * model.init_state(1, &Device::flex()).bytes_per_token();
    let options =
        EngineOptions { max_positions: Some(24), max_state_bytes: Some(2 * row), ..EngineOptions::default() };
    let mut engine = Engine::new(&model, options);
    let mut refused = |request: Request| {
        let error = engine.submit(request).expect_err("refused");
        assert!(!error.to_string().contains('\n'), "{error}");
        error
    };
    assert_eq!(refused(request(&[], 0)), RequestError::Empty);
    let unknown = refused(request(&[1, 31], 0));
    assert_eq!(unknown, RequestError::Vocabulary { token: 31, position: 1, vocabulary: 31 });
    assert_eq!(refused(request(&[1; 25], 0)), RequestError::TooLong { found: 25, before: 0, positions: 24 });
    assert!(matches!(refused(request(&[1; 4], 0)), RequestError::Memory { tokens: 13, .. }));
    let stops = Request { stop_strings: vec!["x".into()], ..request(&[1], 0) };
    assert_eq!(refused(stops), RequestError::StopStrings);
    for sampling in [
        Sampling::with_temperature(f32::NAN),
        Sampling { top_p: Some(0.0), ..Sampling::default() },
        Sampling { presence_penalty: f32::INFINITY, ..Sampling::default() },
        Sampling { repetition_penalty: 1e-50_f64 as f32, ..Sampling::default() },
    ] {
        let error = refused(Request { sampling, ..request(&[1], 0) });
        assert!(
            matches!(&error, RequestError::Sampling(why) if why.contains("expected a number")),
            "{error}"
        );
    }
    engine.submit(request(&[4, 8], 1)).expect("the others were refused, this one is served");
    let alone = complete(&model, &[request(&[4, 8], 1)], EngineOptions::default());
    assert_eq!(engine.complete(), alone);
}

#[test]
fn a_budget_of_memory_limits_the_rows_and_is_kept() {
    let model = llama("amma");
    let state = model.init_state(1, &Device::flex());
    let budget = 4 * (state.bytes() + 11 * state.bytes_per_token());
    let mut engine =
        Engine::new(&model, EngineOptions { max_state_bytes: Some(budget), ..EngineOptions::default() });
    let twelve = Request { samples: 12, ..request(&[4, 8], 1) };
    let row_bytes = state.bytes() + 11 * state.bytes_per_token();
    assert_eq!(engine.forks(&twelve), Forks { rows: 3, tokens: 11, row_bytes }, "and the prompt's own state");
    engine.submit(twelve).expect("served");
    let (mut most, mut ended) = (0, 0);
    while let Some(event) = engine.next() {
        most = most.max(engine.state_bytes());
        ended += usize::from(matches!(event, Event::Finished(_)));
    }
    assert_eq!(ended, 12);
    assert!(most <= budget && most > budget / 2, "{most} bytes of {budget}");
}

#[test]
fn a_sample_ends_at_the_last_position_of_attention() {
    let model = llama("am");
    let options = EngineOptions { max_positions: Some(6), ..EngineOptions::default() };
    let ended = &complete(&model, &[request(&[4, 8, 2, 1], 1)], options)[0];
    assert_eq!((ended.tokens.len(), &ended.finish), (3, &Finish::Positions)); // positions 4 and 5, and what follows
    assert_eq!(model.config().max_positions(), Some(512));
    assert_eq!(llama("mm").config().max_positions(), None, "a state space model has no last position");
}

#[test]
fn a_row_that_goes_wrong_ends_alone() {
    for poison in [f32::NAN, f32::INFINITY] {
        a_poisoned_row_ends_alone(poison);
    }
}

fn a_poisoned_row_ends_alone(poison: f32) {
    use burn::module::{Module, ModuleMapper, Param};
    struct Poison(f32);
    impl ModuleMapper for Poison {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (embedding, poison) = (param.dims()[0] == 31, self.0);
            param.map(|weight| match embedding {
                true => weight.slice_fill(burn::tensor::s![7..8], poison),
                false => weight,
            })
        }
    }
    let sound = llama("mam"); // three layers: the head is a matrix of its own
    let model = sound.clone().map(&mut Poison(poison));
    let found = complete(&model, &[request(&[4, 7], 1), request(&[4, 8], 1)], EngineOptions::default());
    let Finish::Failed(why) = &found[0].finish else { panic!("{:?}", found[0].finish) };
    assert!(why.contains("not a number") && !why.contains('\n'), "{why}");
    let mut neighbour = complete(&sound, &[request(&[4, 8], 1)], EngineOptions::default()).remove(0);
    neighbour.id.request = 1;
    let until = neighbour.tokens.iter().position(|&token| token == 7).unwrap_or(neighbour.tokens.len());
    assert_eq!(found[1].tokens[..until], neighbour.tokens[..until]);
}

#[test]
fn a_prompt_goes_on_from_a_state() {
    for (name, model) in zoo() {
        let options = EngineOptions { prefill_chunk: 4, ..EngineOptions::default() };
        let long = &requests()[1];
        let expected = complete(&model, std::slice::from_ref(long), options).remove(0).tokens;
        let (before, rest) = long.prompt.split_at(8);
        let before: Vec<i64> = before.iter().map(|&token| i64::from(token)).collect();
        let before = Tensor::<1, Int>::from_data(before.as_slice(), &Device::flex()).unsqueeze();
        let state = model.prefill_hidden(before, model.init_state(1, &Device::flex())).1;
        let mut engine = Engine::new(&model, options);
        let rest = Request { prompt: rest.to_vec(), ..long.clone() };
        let error = engine.submit_after(state.clone().fork(2), rest.clone()).expect_err("two rows");
        assert!(error.to_string().contains("2 rows"), "{error}");
        engine.submit_after(state, rest).expect("served");
        assert_eq!(engine.complete()[0].tokens, expected, "{name}");
    }
}

#[test]
fn what_a_state_holds_takes_positions() {
    let model = llama("am");
    let state =
        model.prefill_hidden(Tensor::zeros([1, 4], &Device::flex()), model.init_state(1, &Device::flex())).1;
    assert_eq!((state.columns(), llama("mm").init_state(1, &Device::flex()).columns()), (4, 0));
    let mut engine =
        Engine::new(&model, EngineOptions { max_positions: Some(6), ..EngineOptions::default() });
    let error =
        engine.submit_after(state.clone(), request(&[1, 2, 3], 1)).expect_err("four and three of six");
    assert_eq!(error, RequestError::TooLong { found: 3, before: 4, positions: 6 });
    assert!(error.to_string().contains("3 tokens behind 4 others"), "{error}");
    let of_another = llama("mm").init_state(1, &Device::flex());
    let error = engine.submit_after(of_another, request(&[1], 1)).expect_err("no cache");
    assert_eq!(error, RequestError::State { rows: 1 });
    engine.submit_after(state, request(&[1], 1)).expect("served");
    let ended = engine.complete().remove(0);
    assert_eq!((ended.tokens.len(), ended.finish), (2, Finish::Positions));
}

#[test]
fn samples_without_tokens_end_one_by_one() {
    let mut engine = Engine::new(&llama("mam"), EngineOptions::default());
    let nothing = Request { samples: usize::MAX, max_new_tokens: 0, ..request(&[4, 8], 1) };
    engine.submit(nothing).expect("served");
    for (sample, event) in (&mut engine).take(3).enumerate() {
        let Event::Finished(completion) = event else { panic!("{event:?}") };
        assert_eq!((completion.id.sample, completion.finish), (sample, Finish::Length));
    }
    engine.submit(request(&[4, 8], 1)).expect("served");
    let written = (&mut engine).take(40).filter(|event| matches!(event, Event::Token { .. })).count();
    assert_eq!(written, 9, "they keep no other from running");
    let mut engine = Engine::new(&llama("mam"), EngineOptions { max_rows: 4, ..EngineOptions::default() });
    let one = Request { samples: usize::MAX, max_new_tokens: 1, ..request(&[4, 8], 1) };
    engine.submit(one).expect("served");
    assert_eq!((&mut engine).take(100).count(), 100, "nor do samples of one token, four at a time");
}

#[test]
fn a_cancelled_sample_leaves_and_the_others_stay() {
    let model = llama("mam");
    let expected = complete(&model, &requests(), EngineOptions::default());
    let mut engine = Engine::new(&model, EngineOptions::default());
    for request in requests() {
        engine.submit(request).expect("served");
    }
    let id = SampleId { request: 0, sample: 1 };
    let mut found = Vec::new();
    while let Some(event) = engine.next() {
        match event {
            Event::Token { id: of, .. } if of == id => assert!(engine.cancel(id), "it runs"),
            Event::Token { .. } => {}
            Event::Finished(completion) => found.push(completion),
        }
    }
    found.sort_by_key(|completion| completion.id);
    assert!(!engine.cancel(id), "it has ended");
    for (found, expected) in found.iter().zip(&expected) {
        match found.id == id {
            true => assert_eq!((found.tokens.len(), &found.finish), (1, &Finish::Cancelled)),
            false => assert_eq!(found, expected),
        }
    }
}

/// The bundled teacher, which writes text.
fn teacher() -> (Model, Tokenizer) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../mamba-ssd-cli/assets/teacher");
    let model = Model::load(&folder, &Device::flex()).expect("a model");
    (model, Tokenizer::from_file(&folder.join("tokenizer.json")).expect("a tokenizer"))
}

#[test]
fn text_streams_in_whole_characters_and_ends_before_a_stop_string() {
    let (model, tokenizer) = teacher();
    let prompt = tokenizer.encode("Mia has 34 shells. She finds 12 more.").expect("tokens");
    let ask = |stop_strings: Vec<String>| {
        let mut engine = Engine::new(&model, EngineOptions::default()).with_tokenizer(&tokenizer);
        let request = Request { max_new_tokens: 24, samples: 2, stop_strings, ..request(&prompt, 1) };
        engine.submit(request).expect("served");
        let (mut streamed, mut pieces) = ([String::new(), String::new()], [0, 0]);
        let mut ended = Vec::new();
        for event in engine {
            match event {
                Event::Token { id, text, .. } => {
                    streamed[id.sample] += &text;
                    pieces[id.sample] += usize::from(!text.is_empty());
                }
                Event::Finished(completion) => ended.push(completion),
            }
        }
        ended.sort_by_key(|completion| completion.id);
        for (completion, streamed) in ended.iter().zip(&streamed) {
            assert!(completion.text.starts_with(streamed.as_str()), "{streamed:?} of {:?}", completion.text);
            let held = completion.text.len() - streamed.len();
            assert!(
                held <= 7 && pieces[completion.id.sample] > completion.text.len() / 8,
                "{streamed:?} of {:?}",
                completion.text
            );
        }
        ended
    };
    let free = ask(Vec::new());
    assert!(free.iter().all(|completion| completion.finish == Finish::Length && completion.text.len() > 20));
    // From the middle of a token to the middle of a later one.
    let stop: String = free[0].text.chars().skip(9).take(7).collect();
    for (stopped, free) in ask(vec![stop.clone()]).iter().zip(&free) {
        match free.text.find(&stop) {
            Some(at) => {
                assert_eq!(
                    (stopped.text.as_str(), &stopped.finish),
                    (&free.text[..at], &Finish::StopString(stop.clone()))
                );
                assert!(stopped.tokens.len() < 24);
            }
            None => assert_eq!(stopped, free),
        }
    }
}
