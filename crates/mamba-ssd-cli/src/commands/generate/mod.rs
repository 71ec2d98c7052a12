//! `generate`: continuations of prompts. One comes as it is written, many in the order of their prompts.

mod output;
mod prompts;
mod speculation;
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
    let (device, held) = args.weights.on(args.device)?;
    let load = |path| LanguageModel::load_held(path, &device, held);
    let loaded = load(&path)?;
    let prompts: Vec<Result<Vec<u32>>> =
        texts.iter().map(|text| prompts::tokens(args, text, &path, &loaded)).collect();
    let mut output = Output::new(args, &texts);
    let missing = match &args.draft {
        Some(draft) => speculation::run(args, &loaded, &load(&hub::local(draft)?)?, prompts, &mut output)?,
        None => decode(args, &loaded, prompts, &mut output)?,
    };
    match missing {
        0 => Ok(()),
        missing => bail!("{missing} answers are missing; the reasons stand above"),
    }
}

/// All prompts at once. Returns how many answers are missing; the only prompt's error is the command's.
fn decode(
    args: &GenerateArgs,
    loaded: &LanguageModel,
    prompts: Vec<Result<Vec<u32>>>,
    output: &mut Output,
) -> Result<usize> {
    let mut engine =
        Engine::new(&loaded.model, options(args, &loaded.model)).with_tokenizer(&loaded.tokenizer);
    let mut of_request = Vec::new();
    let (mut missing, mut open, only) = (0, ControlFlow::Continue(()), prompts.len() == 1);
    for (prompt, tokens) in prompts.into_iter().enumerate() {
        match tokens.and_then(|tokens| Ok(engine.submit(request(args, tokens, &loaded.eos))?)) {
            Ok(_) => of_request.push(prompt),
            Err(error) if only => return Err(error),
            Err(error) => {
                missing += 1;
                open = output.refuse(prompt, &error);
            }
        }
    }
    let mut summary = Summary::new(Instant::now());
    while let Some(event) = engine.next().filter(|_| open.is_continue()) {
        open = match event {
            Event::Token { text, .. } => {
                summary.token();
                output.piece(&text)
            }
            Event::Finished(completion) => {
                let prompt = of_request[completion.id.request];
                if let Finish::Failed(why) = &completion.finish {
                    missing += 1;
                    note(format_args!("prompt {}: {why}", prompt + 1));
                }
                output.answer(prompt, completion.id.sample, Answer::Sample(completion))
            }
        };
    }
    note(summary.line(engine.usage()));
    Ok(missing)
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
