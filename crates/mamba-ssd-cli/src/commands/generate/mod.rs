//! `generate`: continuations of prompts. One comes as it is written, many in the order of their prompts.

mod output;
mod prompts;
mod speculation;
mod summary;

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use burn::module::Module;
use mamba_ssd::{Backbone, State};
use mamba_ssd_models::{Engine, EngineOptions, Event, Finish, Forks, Request, Sampling, read_prompt};

use crate::args::GenerateArgs;
use crate::console::{note, thousands};
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
        texts.iter().map(|text| prompts::tokens(args, text, &loaded)).collect();
    let state = args.state.as_ref().map(|path| one_row(path, &loaded)).transpose()?;
    if let Some(path) = &args.save_state {
        return save_state(args, path, &loaded, state, prompts);
    }
    let mut output = Output::new(args, &texts);
    let missing = match &args.draft {
        Some(draft) => speculation::run(args, &loaded, &load(&hub::local(draft)?)?, prompts, &mut output)?,
        None => decode(args, &loaded, state, prompts, &mut output)?,
    };
    match missing {
        0 => Ok(()),
        1 => bail!("an answer is missing; the reason stands above"),
        missing => bail!("{missing} answers are missing; the reasons stand above"),
    }
}

/// The state in a file.
fn one_row(path: &Path, loaded: &LanguageModel) -> Result<State> {
    let state = loaded.model.load_state(path)?;
    let rows = state.batch();
    ensure!(rows == 1, "{}: a state of {rows} rows, expected one; save that of one text", path.display());
    Ok(state)
}

/// Reads the only prompt, and writes the state behind it.
fn save_state(
    args: &GenerateArgs,
    path: &Path,
    loaded: &LanguageModel,
    state: Option<State>,
    prompts: Vec<Result<Vec<u32>>>,
) -> Result<()> {
    let count = prompts.len();
    let Ok([tokens]) = <[_; 1]>::try_from(prompts) else {
        bail!("--save-state is for one text, found {count}; give one --prompt");
    };
    let (tokens, model) = (tokens?, &loaded.model);
    let state = state.unwrap_or_else(|| model.init_state(1, &model.devices().remove(0)));
    let state = read_prompt(model, state, &tokens, args.prefill_chunk)?;
    model.save_state(path, &state)?;
    note(format_args!(
        "read {} tokens; {} bytes of state in {}",
        thousands(tokens.len()),
        thousands(state.bytes()),
        path.display()
    ));
    Ok(())
}

/// All prompts at once. Returns how many answers are missing; the only prompt's error is the command's.
fn decode(
    args: &GenerateArgs,
    loaded: &LanguageModel,
    state: Option<State>,
    prompts: Vec<Result<Vec<u32>>>,
    output: &mut Output,
) -> Result<usize> {
    let longest = prompts.iter().flatten().max_by_key(|tokens| tokens.len()).cloned();
    let options = longest.map_or(options(args), |longest| fitting(args, loaded, state.as_ref(), longest));
    let mut engine = Engine::new(&loaded.model, options).with_tokenizer(&loaded.tokenizer);
    let mut of_request = Vec::new();
    let (mut missing, mut open, only) = (0, ControlFlow::Continue(()), prompts.len() == 1);
    let mut most: Option<Forks> = None;
    for (prompt, tokens) in prompts.into_iter().enumerate() {
        let submitted = tokens.and_then(|tokens| {
            let request = request(args, tokens, &loaded.eos);
            let Some(state) = &state else {
                let forks = engine.forks(&request);
                engine.submit(request)?;
                return Ok(forks);
            };
            let forks = engine.forks_after(state, &request);
            engine.submit_after(state.clone(), request)?;
            Ok(forks)
        });
        match submitted {
            Ok(forks) => {
                of_request.push(prompt);
                if args.samples > 1 && most.is_none_or(|most: Forks| most.row_bytes < forks.row_bytes) {
                    most = Some(forks);
                }
            }
            Err(error) if only => return Err(error),
            Err(error) => {
                missing += 1;
                open = output.refuse(prompt, &error);
            }
        }
    }
    if let Some(forks) = most {
        note(told(args, forks));
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

/// What the samples of the longest prompt will hold, before it is allocated.
fn told(args: &GenerateArgs, Forks { rows, tokens, row_bytes }: Forks) -> String {
    let megabytes = |bytes: usize| format!("{:.1} MB", bytes as f64 / 1e6);
    let fewer = if rows < args.batch.min(args.samples) { " (no more fit into memory)" } else { "" };
    format!(
        "{} samples of up to {tokens} tokens hold {} each, {rows} at a time{fewer}: {}",
        args.samples,
        megabytes(row_bytes),
        megabytes(row_bytes.saturating_mul(rows))
    )
}

/// [`options`] with as many rows as fit where a process takes five times what the states of many hold, see
/// [`EngineOptions`].
fn fitting(
    args: &GenerateArgs,
    loaded: &LanguageModel,
    state: Option<&State>,
    longest: Vec<u32>,
) -> EngineOptions {
    let options = options(args);
    let probe = Engine::new(&loaded.model, options);
    let request = request(args, longest, &loaded.eos);
    let row =
        state.map_or_else(|| probe.forks(&request), |state| probe.forks_after(state, &request)).row_bytes;
    let fit = options.max_state_bytes.map_or(usize::MAX, |half| half * 2 / 5 / row.max(1));
    EngineOptions { max_rows: options.max_rows.min(fit.max(1)), ..options }
}

fn options(args: &GenerateArgs) -> EngineOptions {
    let on_cpu = args.device == DeviceChoice::Flex;
    EngineOptions {
        max_rows: args.batch,
        prefill_chunk: args.prefill_chunk,
        max_state_bytes: memory::available().filter(|_| on_cpu).map(|bytes| bytes / 2),
        max_positions: None,
    }
}

fn request(args: &GenerateArgs, prompt: Vec<u32>, eos: &[u32]) -> Request {
    Request {
        sampling: Sampling {
            repetition_penalty: args.repetition_penalty as f32,
            presence_penalty: args.presence_penalty as f32,
            ..args.truncation.at(args.temperature)
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
