//! Speculative decoding writes what the verifier writes, whoever drafts.

mod common;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Int, Tensor};
use common::{llama, mamba2, phi, zoo};
use mamba_ssd_models::{
    Finish, GenerateOptions, Model, RequestError, SpeculateOptions, Speculated, generate, speculate,
};

const PROMPT: [u32; 5] = [5, 9, 1, 7, 3];

fn greedy(model: &Model, eos: &[u32]) -> Vec<u32> {
    let options = GenerateOptions { max_new_tokens: 17, eos: eos.to_vec(), ..GenerateOptions::default() };
    generate(model, &[PROMPT.to_vec()], &options).remove(0)
}

fn options(draft_tokens: usize) -> SpeculateOptions {
    SpeculateOptions { max_new_tokens: 17, draft_tokens, prefill_chunk: 2, ..SpeculateOptions::default() }
}

fn drafted(verifier: &Model, draft: &Model, options: &SpeculateOptions) -> Speculated {
    let mut told = Vec::new();
    let written = speculate(verifier, draft, &PROMPT, options, |token| {
        told.push(token);
        true
    });
    let written = written.expect("a prompt that both know");
    assert_eq!(told, written.tokens);
    written
}

#[test]
fn the_text_is_the_verifiers_own_whoever_drafts() {
    let drafts = [("llama mam", llama("mam")), ("phi aa", phi("aa")), ("mamba2", mamba2(true))];
    for (name, verifier) in zoo() {
        let expected = greedy(&verifier, &[]);
        for (draft_name, draft) in &drafts {
            for ahead in [1, 3, 8] {
                let written = drafted(&verifier, draft, &options(ahead));
                assert_eq!(written.tokens, expected, "{name}, drafted by {draft_name}, {ahead} ahead");
                assert!(written.accepted <= written.drafted && written.passes < 17);
            }
        }
    }
}

#[test]
fn a_model_accepts_its_own_drafts() {
    for (name, model) in zoo() {
        let written = drafted(&model, &model, &options(3));
        assert_eq!(written.accepted_rate(), Some(1.0), "{name}");
        assert_eq!((written.passes, written.drafted), (4, 12), "{name}: four tokens a pass after the first");
        assert_eq!(written.tokens, greedy(&model, &[]), "{name}");
    }
}

/// A number that is none ends the text where the verifier has it, and only the drafts where the draft has it.
#[test]
fn numbers_that_are_none_are_not_taken_for_tokens() {
    struct Poison;
    impl ModuleMapper for Poison {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|weight| weight * f32::NAN)
        }
    }
    let (sound, poisoned) = (llama("mam"), llama("mam").map(&mut Poison));
    let written = drafted(&poisoned, &sound, &options(3));
    assert!(matches!(&written.finish, Finish::Failed(why) if why.contains("not a number")), "{written:?}");
    assert!(written.tokens.is_empty());
    let written = drafted(&sound, &poisoned, &options(3));
    assert_eq!((written.tokens, written.drafted), (greedy(&sound, &[]), 0));
}

#[test]
fn a_text_ends_where_it_would() {
    let (verifier, draft) = (llama("amma"), llama("mm"));
    let free = greedy(&verifier, &[]);
    for &eos in &free {
        let asked = SpeculateOptions { eos: vec![eos], ..options(4) };
        let written = drafted(&verifier, &draft, &asked);
        assert_eq!((written.tokens, written.finish), (greedy(&verifier, &[eos]), Finish::Eos(eos)));
    }
    for max_new_tokens in 0..6 {
        let asked = SpeculateOptions { max_new_tokens, ..options(4) };
        let written = drafted(&verifier, &draft, &asked);
        assert_eq!((written.tokens.as_slice(), written.finish), (&free[..max_new_tokens], Finish::Length));
    }
    let asked = SpeculateOptions { max_positions: Some(8), ..options(4) };
    let written = drafted(&verifier, &draft, &asked);
    assert_eq!((written.tokens.as_slice(), written.finish), (&free[..4], Finish::Positions));
    let stopped =
        speculate(&verifier, &draft, &PROMPT, &options(4), |token| token != free[2]).expect("served");
    let until = free.iter().position(|&token| token == free[2]).expect("it is there");
    assert_eq!((stopped.tokens.as_slice(), stopped.finish), (&free[..=until], Finish::Cancelled));
}

#[test]
fn a_prompt_that_neither_knows_is_refused() {
    let model = llama("mm");
    let ask = |prompt: &[u32]| speculate(&model, &model, prompt, &options(2), |_| true);
    assert_eq!(ask(&[]), Err(RequestError::Empty));
    assert!(matches!(ask(&[40]), Err(RequestError::Vocabulary { token: 40, .. })));
}

/// The model with every weight up to a few per cent off: it often agrees with the original, and not always.
fn nearly(model: &Model) -> Model {
    struct Disturb;
    impl ModuleMapper for Disturb {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|weight| {
                let shape = weight.dims();
                let count: usize = shape.iter().product();
                let off =
                    Tensor::<1, Int>::arange(0..count as i64, &weight.device()).float().sin() * 0.06 + 1.0;
                weight * off.reshape(shape)
            })
        }
    }
    model.clone().map(&mut Disturb)
}

/// What is drafted and accepted, computed from scratch for every pass.
fn expected_counts(text: &[u32], draft: &Model, ahead: usize) -> (usize, usize) {
    let (mut at, mut drafted, mut accepted) = (1, 0, 0);
    while at < text.len() {
        let prompt = [&PROMPT, &text[..at]].concat();
        let max_new_tokens = ahead.min(text.len() - at - 1);
        let options = GenerateOptions { max_new_tokens, ..GenerateOptions::default() };
        let drafts = generate(draft, &[prompt], &options).remove(0);
        let alike = drafts.iter().zip(&text[at..]).take_while(|(draft, text)| draft == text).count();
        (at, drafted, accepted) = (at + alike + 1, drafted + drafts.len(), accepted + alike);
    }
    (drafted, accepted)
}

#[test]
fn a_draft_goes_on_behind_what_was_accepted() {
    let mut partly = 0;
    for (name, verifier) in zoo() {
        let draft = nearly(&verifier);
        for ahead in [1, 2, 5] {
            let written = drafted(&verifier, &draft, &options(ahead));
            let expected = expected_counts(&written.tokens, &draft, ahead);
            assert_eq!((written.drafted, written.accepted), expected, "{name}, {ahead} ahead");
            partly +=
                usize::from(ahead == 5 && (0.2..0.9).contains(&written.accepted_rate().expect("drafts")));
        }
    }
    assert!(partly > 3, "drafts of {partly} models are accepted in part");
}
