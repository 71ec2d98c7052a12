//! `generate`: continuations of prompts. One comes as it is written, many in the order of their prompts.

mod output;
mod prompts;
mod summary;

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Result, bail};
use mamba_ssd_models::{Engine, EngineOptions, Event, Finish, Model, Request, Sampling};

use crate::args::GenerateArgs;
use crate::console::note;
use crate::device::DeviceChoice;
use crate::hub;
use crate::language_model::LanguageModel;
use crate::memory;
use output::{Answer, Output};
use summary::Summary;

/// Loads the model and writes what it answers. A prompt that cannot be answered keeps no other from it.
pub fn run(args: &GenerateArgs) -> Result<()> {
    let texts = prompts::read(args)?;
    let path = hub::local(&args.model)?;
    let loaded = LanguageModel::load(&path, &args.device.open()?)?;
    let mut engine =
        Engine::new(&loaded.model, options(args, &loaded.model)).with_tokenizer(&loaded.tokenizer);
    let mut output = Output::new(args, &texts);
    let mut of_request = Vec::new();
    let (mut failed, mut open) = (0, true);
    for (prompt, text) in texts.iter().enumerate() {
        let tokens = prompts::tokens(args, text, &path, &loaded);
        match tokens.and_then(|tokens| Ok(engine.submit(request(args, tokens, &loaded.eos))?)) {
            Ok(_) => of_request.push(prompt),
            Err(error) if texts.len() == 1 => return Err(error),
            Err(error) => {
                failed += 1;
                let why = crate::one_line(&error);
                note(format_args!("prompt {}: {why}", prompt + 1));
                open &= output.answer(prompt, 0, Answer::Refused(why)).is_continue();
            }
        }
    }
    let mut summary = Summary::new(Instant::now());
    while let Some(event) = engine.next().filter(|_| open) {
        let shown = match event {
            Event::Token { text, .. } => {
                summary.token();
                output.piece(&text)
            }
            Event::Finished(completion) => {
                let prompt = of_request[completion.id.request];
                if let Finish::Failed(why) = &completion.finish {
                    failed += 1;
                    note(format_args!("prompt {}: {why}", prompt + 1));
                }
                output.answer(prompt, completion.id.sample, Answer::Sample(completion))
            }
        };
        open = shown == ControlFlow::Continue(());
    }
    note(summary.line(engine.usage()));
    match failed {
        0 => Ok(()),
        failed => bail!("{failed} answers are missing; the reasons stand above"),
    }
}

fn options(args: &GenerateArgs, model: &Model) -> EngineOptions {
    let on_cpu = args.device == DeviceChoice::Flex;
    EngineOptions {
        max_rows: args.batch,
        prefill_chunk: args.prefill_chunk,
        // States are copied when rows join, and the rest of the machine works too.
        max_state_bytes: memory::available().filter(|_| on_cpu).map(|bytes| bytes / 2),
        max_positions: model.config().max_positions(),
    }
}

fn request(args: &GenerateArgs, prompt: Vec<u32>, eos: &[u32]) -> Request {
    Request {
        sampling: Sampling {
            temperature: args.temperature as f32,
            top_k: args.top_k,
            top_p: args.top_p.map(|p| p as f32),
            min_p: args.min_p.map(|p| p as f32),
            repetition_penalty: args.repetition_penalty as f32,
            presence_penalty: args.presence_penalty as f32,
        },
        max_new_tokens: args.max_tokens,
        eos: eos.to_vec(),
        stop_strings: args.stop.clone(),
        samples: args.samples,
        seed: args.seed,
        log_probabilities: args.log_probabilities,
        ..Request::new(prompt)
    }
}
