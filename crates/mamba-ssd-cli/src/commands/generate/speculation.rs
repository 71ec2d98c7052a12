//! `generate --draft`: a small model drafts, the large one verifies.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Result, ensure};
use mamba_ssd_models::{
    Completion, Finish, SampleId, SpeculateOptions, Speculated, TextStream, Usage, speculate,
};

use super::output::{Answer, Output};
use super::summary::Summary;
use crate::args::GenerateArgs;
use crate::console::{note, percent_or_dash};
use crate::language_model::LanguageModel;

/// One prompt after another. Returns how many answers are missing; the only prompt's error is the command's.
pub fn run(
    args: &GenerateArgs,
    verifier: &LanguageModel,
    draft: &LanguageModel,
    prompts: Vec<Result<Vec<u32>>>,
    output: &mut Output,
) -> Result<usize> {
    ensure!(
        draft.tokenizer.same_vocabulary(&verifier.tokenizer),
        "{} and {} have different vocabularies; draft with a student of the model itself",
        draft.name,
        verifier.name
    );
    let (mut missing, only) = (0, prompts.len() == 1);
    let (mut drafted, mut accepted) = (0, 0);
    let (mut summary, started) = (Summary::new(Instant::now()), Instant::now());
    let mut usage = Usage::default();
    for (prompt, tokens) in prompts.into_iter().enumerate() {
        let written = tokens.and_then(|tokens| {
            let written = write(args, verifier, draft, &tokens, &mut summary, output)?;
            usage.prompt_tokens += tokens.len();
            Ok(written)
        });
        let shown = match written {
            Ok((written, text)) => {
                drafted += written.drafted;
                accepted += written.accepted;
                usage.decoded_tokens += written.tokens.len();
                usage.prefill += written.prefill;
                let Speculated { tokens, finish, .. } = written;
                if let Finish::Failed(why) = &finish {
                    missing += 1;
                    note(format_args!("prompt {}: {why}", prompt + 1));
                }
                let id = SampleId { request: prompt, sample: 0 };
                let completion = Completion { id, tokens, log_probabilities: Vec::new(), text, finish };
                output.answer(prompt, 0, Answer::Sample(completion))
            }
            Err(error) if only => return Err(error),
            Err(error) => {
                missing += 1;
                output.refuse(prompt, &error)
            }
        };
        if shown.is_break() {
            break;
        }
    }
    usage.decode = started.elapsed() - usage.prefill;
    let rate = percent_or_dash((drafted > 0).then(|| accepted as f64 / drafted as f64));
    note(format_args!("{}; drafted {drafted} tokens, accepted {rate}", summary.line(usage)));
    Ok(missing)
}

/// The answer to a prompt, and its text, printed as it comes.
fn write(
    args: &GenerateArgs,
    verifier: &LanguageModel,
    draft: &LanguageModel,
    prompt: &[u32],
    summary: &mut Summary,
    output: &mut Output,
) -> Result<(Speculated, String)> {
    let options = SpeculateOptions {
        max_new_tokens: args.max_tokens,
        eos: verifier.eos.clone(),
        draft_tokens: args.draft_tokens,
        prefill_chunk: args.prefill_chunk,
        max_positions: None,
    };
    let (mut stream, mut text) = (TextStream::after(prompt), String::new());
    let written = speculate(&verifier.model, &draft.model, prompt, &options, |token| {
        summary.token();
        let piece = stream.push(token, &verifier.tokenizer).unwrap_or_default();
        text += &piece;
        output.piece(&piece) == ControlFlow::Continue(())
    })?;
    text += &stream.finish(&verifier.tokenizer)?;
    Ok((written, text))
}
