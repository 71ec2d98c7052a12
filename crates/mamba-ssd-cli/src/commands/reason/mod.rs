//! `reason`: many attempts at each problem within a budget, several models in turns, and what each comes to.

mod batch;
mod contestant;
mod outcome;
mod problems;
mod record;
mod traces;

use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use mamba_ssd::Backbone;
use mamba_ssd_eval::grade::grade;
use mamba_ssd_eval::reason::{Candidate, LogLikelihood, Scorer};
use mamba_ssd_models::Completion;
use rayon::prelude::*;
use serde_json::json;
use twox_hash::XxHash64;

use super::bench::Costs;
use crate::args::{Budget, ReasonArgs, ScoreArg};
use crate::console::{note, say, thousands};
use crate::files::OutputFolder;
use crate::interrupt::{Interrupt, Interrupted};
use crate::language_model::LanguageModel;
use crate::{hub, out_of_memory};
use batch::{Trial, fastest, trial, trials};
use contestant::{Contestant, Ended, Terms, open, works};
pub use outcome::{ModelOutcome, Outcome};
use outcome::{Run, outcome};
use problems::Problem;
use record::{Line, Record};

/// Rows beyond which no batch is tried.
const MOST_ROWS: usize = 4096;
/// Seconds of computing after which attempts are written down, if a turn is longer.
const WRITTEN_EVERY: f64 = 2.0;

/// Answers problems with all models and writes what each came to.
pub fn run(args: &ReasonArgs) -> Result<()> {
    check(args)?;
    let problems = problems::read(args)?;
    let local = |model: &PathBuf| if is_bundled(model) { Ok(model.clone()) } else { hub::local(model) };
    let paths: Vec<PathBuf> = args.models.iter().map(local).collect::<Result<_>>()?;
    let (device, held) = args.weights.on(args.device)?;
    let load = |path: &PathBuf| match is_bundled(path) {
        true => LanguageModel::bundled(&device),
        false => LanguageModel::load_held(path, &device, held),
    };
    let models: Vec<LanguageModel> = paths.iter().map(load).collect::<Result<_>>()?;
    let names = names(&models);
    let asked = models
        .iter()
        .map(|model| problems.iter().map(|problem| problems::prompt(args, problem, model)).collect());
    let asked: Vec<Vec<String>> = asked.collect::<Result<_>>()?;
    let prompts = models
        .iter()
        .zip(&asked)
        .map(|(model, asked)| asked.iter().map(|prompt| problems::tokens(args, prompt, model)).collect());
    let prompts: Vec<Vec<Vec<u32>>> = prompts.collect::<Result<_>>()?;
    let folder = if args.resume { None } else { Some(OutputFolder::claim(&args.out, "with --out")?) };
    let settings = settings(args, &models, &names, &problems, &prompts);
    let (mut record, mut lines, spent) = Record::open(&args.out, &settings, models.len(), args.resume)?;
    let terms = Terms::of(args, problems.len());
    ensure!(
        lines.iter().all(|line| line.attempt < terms.samples),
        "{} holds more than {} attempts at a problem; go on with a larger -n",
        args.out.display(),
        terms.samples
    );

    let mut tried = Vec::new();
    let mut contestants = Vec::new();
    for (index, model) in models.iter().enumerate() {
        let flops = Costs::of(&model.model).per_token();
        let before = spent[index].share(terms.budget, flops as f64);
        ensure!(before <= 1.1, "{}: {before:.1} times this budget is spent already; raise it", names[index]);
        let (rows, trials) = rows(args, model, &terms, &prompts[index])?;
        tried.push(trials);
        let open = open(&done(&lines, index, problems.len()), terms.samples);
        contestants.push(Contestant::new(model, &prompts[index], &terms, [rows, flops], spent[index], open));
    }

    let interrupt = Interrupt::listen()?;
    let bar = bar();
    while contestants.iter().any(|contestant| contestant.share() < 1.0) && !interrupt.asked() {
        for (index, contestant) in contestants.iter_mut().enumerate() {
            let mut left = args.turn;
            let mut turn = Ok(Some(()));
            while left > 0.0 && matches!(turn, Ok(Some(()))) && contestant.share() < 1.0 && !interrupt.asked()
            {
                turn = out_of_memory::fits(|| contestant.turn(left.min(WRITTEN_EVERY)));
                left -= WRITTEN_EVERY;
                lines.extend(add(&mut record, index, contestant.take(), &problems, terms.scores)?);
            }
            if turn?.is_none() {
                contestant.halve(&done(&lines, index, problems.len()));
                let lost = !contestant.retired && !works(&models[index], &prompts[index][0])?;
                if lost {
                    let rows = contestant.rows;
                    record
                        .note(&contestants.iter().map(|contestant| contestant.spent).collect::<Vec<_>>())?;
                    bail!(
                        "{}: out of memory; what was written is kept, go on with --resume --batch {rows}",
                        names[index]
                    );
                }
                let now = match contestant.retired {
                    true => "not even one attempt fits; lower --max-tokens, or take --weights bf16".into(),
                    false => format!("goes on with {} attempts at a time", contestant.rows),
                };
                note(format_args!("{}: out of memory, {now}", names[index]));
            }
        }
        let spent: Vec<_> = contestants.iter().map(|contestant| contestant.spent).collect();
        record.note(&spent)?;
        let share = contestants.iter().map(|contestant| contestant.share().min(1.0)).sum::<f64>();
        bar.set_position((1000.0 * share / contestants.len() as f64) as u64);
        bar.set_message(format!("{} attempts", thousands(lines.len())));
    }
    bar.finish_and_clear();
    if args.score == Some(ScoreArg::First) && !interrupt.asked() {
        match out_of_memory::fits(|| judge(&models[0], &prompts[0], &mut lines))? {
            Some(()) => record.rewrite(&lines)?,
            None => note("out of memory while judging: there are no scores; --resume tries again"),
        }
    }
    if let Some(most) = args.traces {
        let count = traces::write(&args.out, &lines, &asked, most)?;
        note(format_args!(
            "{} right attempts in {}",
            thousands(count),
            args.out.join(traces::FILE).display()
        ));
    }

    let runs = contestants.iter().zip(tried).zip(&names).map(|((contestant, trials), name)| Run {
        name: name.clone(),
        rows: contestant.rows,
        trials,
        memory: contestant.memory(),
        spent: contestant.spent,
        times: contestant.times(),
    });
    let budget = told(args);
    let mut outcome = outcome(runs.collect(), &lines, problems.len(), budget, format!("{device:?}"));
    outcome.terms = format!(
        "{} attempts at most, {} tokens each, temperature {}, seed {}, {} weights",
        args.samples, args.max_tokens, args.temperature, args.seed, args.weights
    );
    outcome.write(&args.out)?;
    drop(folder);
    say(outcome.table());
    for (model, contestant) in outcome.models.iter().zip(&contestants) {
        overrun(model, contestant, terms.budget);
    }
    say(format_args!("{}", args.out.join("report.html").display()));
    if interrupt.asked() {
        return Err(Interrupted { resume: resume() }.into());
    }
    Ok(())
}

/// What cannot be meant together.
fn check(args: &ReasonArgs) -> Result<()> {
    let of_file = args.problems.is_some();
    ensure!(
        !of_file || !(args.long || args.train_split),
        "--long and --train-split are for --generated problems; leave them out for a file"
    );
    ensure!(of_file || args.limit.is_none(), "--limit is for a file of problems; give --generated fewer");
    if args.temperature == 0.0 && args.samples > 1 {
        note("at --temperature 0 all attempts at a problem are the same");
    }
    Ok(())
}

/// Whether the teacher inside this program is meant.
pub fn is_bundled(model: &Path) -> bool {
    model == Path::new("bundled") && !model.exists()
}

/// Grades what ended, off the clock, and writes it down.
fn add(
    record: &mut Record,
    model: usize,
    ended: Vec<Ended>,
    problems: &[Problem],
    scores: bool,
) -> Result<Vec<Line>> {
    let line = |ended: Ended| {
        let Ended { problem, attempt, spent, completion } = ended;
        let verdict = grade(&completion.text, &problems[problem].answer);
        Line {
            model,
            problem,
            attempt,
            seconds: spent.seconds,
            written: spent.tokens,
            tokens: completion.tokens.len(),
            finish: completion.finish.to_string(),
            correct: verdict.correct,
            answer: verdict.answer,
            reason: verdict.reason.to_string(),
            score: if scores { mean(&completion) } else { None },
            text: completion.text,
        }
    };
    let lines: Vec<Line> = ended.into_par_iter().map(line).collect();
    record.write(&lines)?;
    Ok(lines)
}

/// Scores the attempts that have no score yet by a model's log-likelihood.
fn judge(model: &LanguageModel, prompts: &[Vec<u32>], lines: &mut [Line]) -> Result<()> {
    let mut open: Vec<&mut Line> = lines.iter_mut().filter(|line| line.score.is_none()).collect();
    let candidate = |line: &&mut Line| {
        let completion = model.tokenizer.encode(&line.text)?;
        anyhow::Ok(Candidate { prompt: prompts[line.problem].clone(), completion })
    };
    let candidates: Vec<Candidate> = open.iter().map(candidate).collect::<Result<_>>()?;
    let scores = crate::progress::during("judging", || LogLikelihood(&model.model).scores(candidates));
    open.iter_mut().zip(scores).for_each(|(line, score)| line.score = score);
    Ok(())
}

/// The mean log-probability of an attempt's tokens.
fn mean(completion: &Completion) -> Option<f64> {
    let numbers = &completion.log_probabilities;
    let sum: f64 = numbers.iter().copied().map(f64::from).sum();
    (!numbers.is_empty()).then(|| sum / numbers.len() as f64)
}

/// Attempts at each problem that a model has made.
fn done(lines: &[Line], model: usize, problems: usize) -> Vec<Vec<usize>> {
    let mut done = vec![vec![]; problems];
    lines.iter().filter(|line| line.model == model).for_each(|line| done[line.problem].push(line.attempt));
    done
}

/// Attempts at the same time, and the trials that it was chosen by. One that was asked for is tried, too: kernels are compiled and tuned
/// before the clock runs.
fn rows(
    args: &ReasonArgs,
    model: &LanguageModel,
    terms: &Terms,
    prompts: &[Vec<u32>],
) -> Result<(usize, Vec<Trial>)> {
    let most = MOST_ROWS.min(prompts.len() * args.samples);
    let (number, longest) =
        prompts.iter().enumerate().max_by_key(|(_, prompt)| prompt.len()).context("a problem")?;
    let positions = model.model.max_positions().unwrap_or(usize::MAX);
    ensure!(
        longest.len() <= positions,
        "problem {} has {} tokens for {}, whose attention knows {positions} positions; leave it out",
        number + 1,
        longest.len(),
        model.name
    );
    if let Some(batch) = args.batch {
        let rows = batch.min(most);
        let trial = crate::progress::during("warming up", || {
            out_of_memory::fits(|| trial(model, terms, longest, rows))
        })?;
        ensure!(
            trial.is_some() || works(model, longest)?,
            "{}: {rows} attempts do not fit; give a smaller --batch",
            model.name
        );
        return Ok((rows, trial.into_iter().collect()));
    }
    let trials = crate::progress::during("trying batches", || {
        trials(model, terms, longest, [most, args.models.len()])
    })?;
    let rows = fastest(&trials).context("no batch fits into memory; give --batch 1")?;
    Ok((rows, trials))
}

/// What a run is of: another one cannot go on with it. Of the budget and the batch it may have others.
fn settings(
    args: &ReasonArgs,
    models: &[LanguageModel],
    names: &[String],
    problems: &[Problem],
    prompts: &[Vec<Vec<u32>>],
) -> String {
    let hash = |prompts: &Vec<Vec<u32>>| {
        let mut hasher = XxHash64::with_seed(0);
        prompts.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    let of_model = |((model, name), prompts): ((&LanguageModel, &String), &Vec<Vec<u32>>)| {
        let (fingerprint, prompts) = (model.model.fingerprint(), hash(prompts));
        json!({"name": name, "fingerprint": fingerprint, "eos": model.eos, "prompts": prompts})
    };
    let models: Vec<_> = models.iter().zip(names).zip(prompts).map(of_model).collect();
    let problems: Vec<_> = problems.iter().map(|problem| json!([problem.question, problem.answer])).collect();
    let run = json!({
        "version": env!("CARGO_PKG_VERSION"), "models": models, "problems": problems, "max_tokens": args.max_tokens,
        "temperature": args.temperature, "top_k": args.truncation.top_k, "top_p": args.truncation.top_p,
        "min_p": args.truncation.min_p, "seed": args.seed, "stop": args.stop,
        "chat": args.chat, "system": args.system, "raw": args.raw, "score": args.score.map(|judge| format!("{judge:?}")),
        "weights": args.weights.to_string(), "device": args.device.to_string(),
    });
    format!("{run:#}\n")
}

/// The last parts of the paths, or all of them where two are the same.
fn names(models: &[LanguageModel]) -> Vec<String> {
    let last = |model: &LanguageModel| {
        let path = PathBuf::from(&model.name);
        path.file_name().map_or(model.name.clone(), |name| name.to_string_lossy().into_owned())
    };
    let short: Vec<String> = models.iter().map(last).collect();
    let unique = short.iter().all(|name| short.iter().filter(|other| *other == name).count() == 1);
    let long = || models.iter().map(|model| model.name.clone()).collect();
    let mut names: Vec<String> = if unique { short } else { long() };
    for index in 0..names.len() {
        let before = names[..index].iter().filter(|name| **name == models[index].name).count();
        if before > 0 {
            names[index] = format!("{} ({})", names[index], before + 1);
        }
    }
    names
}

fn told(args: &ReasonArgs) -> String {
    let (amount, unit) = match args.budget {
        Budget::Seconds(seconds) => (seconds, "s"),
        Budget::Tokens(tokens) => (tokens, " tokens"),
        Budget::Flops(flops) => (flops, " FLOPs"),
    };
    format!("{amount}{unit}{}", if args.per_problem { " a problem" } else { "" })
}

/// What is to be known of a model's budget beside its row of the table.
fn overrun(model: &ModelOutcome, contestant: &Contestant<'_>, budget: Budget) {
    if model.attempts == 0 {
        note(format_args!(
            "{}: no attempt ended within the budget; raise --budget, or lower --max-tokens or --batch",
            model.name
        ));
    }
    let (spent, most, unit) = match budget {
        Budget::Seconds(seconds) => (contestant.spent.seconds, seconds, "s"),
        Budget::Tokens(tokens) => (contestant.spent.tokens, tokens, "tokens"),
        Budget::Flops(_) => return,
    };
    if contestant.is_done() {
        note(format_args!(
            "{}: all attempts were made with {:.0} % of the budget; a larger -n would use the rest",
            model.name,
            100.0 * spent / most
        ));
    } else if spent > 1.01 * most {
        note(format_args!("{}: {:.3} {unit} over the budget, its last step", model.name, spent - most));
    }
}

/// This command, which then goes on with the run.
fn resume() -> String {
    let quoted = |word: String| match word.chars().all(|c| c.is_alphanumeric() || "-_./:=@,".contains(c)) {
        true => word,
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    let mut command: Vec<String> = std::env::args().map(quoted).collect();
    if !command.iter().any(|word| word == "--resume") {
        command.push("--resume".into());
    }
    command.join(" ")
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("reason    {bar:20.cyan/dim} {percent:>3} %  {wide_msg}");
    ProgressBar::new(1000).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
