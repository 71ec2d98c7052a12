//! The end of a run: student, summary and report on disk; table, answers and paths on the terminal.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use burn::module::Module;
use mamba_ssd_eval::grade::is_correct;
use mamba_ssd_eval::problems::Problem;
use mamba_ssd_models::Model;
use mamba_ssd_mohawk::{METRICS, StageReport, read_metrics};

use super::folder::{Examination, RECIPE};
use super::{Session, ablation, describe, pictures};
use crate::console::say;
use crate::files;
use crate::language_model::{PROMPT_FORMAT, format_of_problems};
use crate::report::{Report, ablation_table, stage_table};
use crate::summary::{Sample, StageSummary, Summary};

const STUDENT: &str = "student";
const SUMMARY: &str = "summary.json";
const REPORT: &str = "report.html";
const MATRICES: &str = "matrices.svg";

/// Writes the student's folder, whole or not at all.
///
/// # Errors
/// When the run folder cannot be written to.
pub fn save_student(session: &Session, student: &Model) -> Result<()> {
    let path = session.folder.path().join(STUDENT);
    let temporary = session.folder.path().join("student.tmp");
    for old in [&temporary, &path] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("cannot replace {}", old.display()))?;
        }
    }
    student.valid().save(&temporary, Some(&session.teacher.tokenizer_json))?;
    let of_problems = || session.corpus.problems.first().map(|_| format_of_problems());
    if let Some(format) = session.teacher.prompt_format.clone().or_else(of_problems) {
        files::write(&temporary.join(PROMPT_FORMAT), format)?;
    }
    fs::rename(&temporary, &path).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes summary and report; a second time after an ablation, with its rows.
///
/// # Errors
/// When a file cannot be written.
pub fn write_results(session: &Session, student: &Model, stages: &[StageReport]) -> Result<Summary> {
    let summary = summarise(session, student, stages)?;
    let folder = session.folder.path();
    let metrics = read_metrics(&folder.join(METRICS))?;
    let report = Report {
        summary: &summary,
        losses: pictures::losses(&metrics),
        course: pictures::course(&metrics),
        matrices: pictures::matrices(&session.teacher.model, student, &session.corpus.held_out[0]),
        recipe: &session.folder.recipe.to_toml()?,
    };
    files::write(&folder.join(REPORT), report.html()?)?;
    if !report.matrices.is_empty() {
        files::write(&folder.join(MATRICES), report.matrices_svg())?;
    }
    files::write(&folder.join(SUMMARY), serde_json::to_string_pretty(&summary)? + "\n")?;
    Ok(summary)
}

/// Prints the table, the answers, and where everything is.
pub fn print_results(session: &Session, summary: &Summary) {
    say(format_args!("\n{}", stage_table(summary)));
    if !summary.ablation.is_empty() {
        say(format_args!("\n{}", ablation_table(summary)));
    }
    summary.samples.iter().for_each(print_sample);
    print_paths(session.folder.path());
    let question = summary.samples.first().map_or("...", |sample| &sample.question);
    let student = session.folder.path().join(STUDENT);
    say(format_args!("\ntry      mamba-ssd generate --model {} --prompt \"{question}\"", student.display()));
}

fn print_sample(sample: &Sample) {
    let line = |who: &str, text: &str, correct: bool| {
        let mark = if correct { "right" } else { "wrong" };
        say(format_args!("  {who} ({mark})  {}", describe::shortened(text)));
    };
    say(format_args!("\n{} [{}]", sample.question, sample.answer));
    line("teacher", &sample.teacher, sample.teacher_correct);
    line("student", &sample.student, sample.student_correct);
}

fn print_paths(folder: &Path) {
    say("");
    let files = [
        ("student", STUDENT),
        ("report", REPORT),
        ("summary", SUMMARY),
        ("metrics", METRICS),
        ("recipe", RECIPE),
    ];
    for (what, name) in files {
        say(format_args!("{what:<8} {}", folder.join(name).display()));
    }
}

fn summarise(session: &Session, student: &Model, stages: &[StageReport]) -> Result<Summary> {
    let (recipe, record) = (&session.folder.recipe, &session.folder.record);
    let measured = "the run's examinations";
    let teacher = record.teacher.as_ref().context(measured)?;
    let start = record.start.as_ref().context(measured)?;
    let last = record.stages.last().context(measured)?;
    let mut seeds = vec![recipe.seed];
    seeds.extend(record.trials.iter().map(|trial| trial.seed));
    seeds.sort_unstable();
    seeds.dedup();
    Ok(Summary {
        version: env!("CARGO_PKG_VERSION").into(),
        recipe: recipe.name.clone(),
        device: session.device_name.clone(),
        seed: recipe.seed,
        seeds,
        teacher_params: session.teacher.model.n_params(),
        student_params: student.n_params(),
        tokens: stages.iter().map(|stage| stage.tokens).sum(),
        seconds: stages.iter().map(|stage| stage.seconds).sum(),
        wall_seconds: session.started.elapsed().as_secs_f64(),
        stages: stages.iter().map(stage_summary).collect(),
        teacher_ppl: teacher.quality.ppl,
        student_ppl: last.quality.ppl,
        student_ppl_at_start: start.quality.ppl,
        student_ppl_by_stage: record.stages.iter().map(|stage| stage.quality.ppl).collect(),
        teacher_accuracy: teacher.quality.accuracy,
        student_accuracy: last.quality.accuracy,
        student_accuracy_at_start: start.quality.accuracy,
        student_accuracy_by_stage: record.stages.iter().map(|stage| stage.quality.accuracy).collect(),
        problems: session.corpus.problems.len(),
        samples: samples(session, teacher, last),
        ablation: ablation::rows(recipe, &record.trials),
    })
}

fn stage_summary(stage: &StageReport) -> StageSummary {
    let kind = describe::kind(stage.kind).into();
    StageSummary { kind, tokens: stage.tokens, seconds: stage.seconds, loss: stage.last_loss }
}

fn samples(session: &Session, teacher: &Examination, student: &Examination) -> Vec<Sample> {
    let answers = teacher.answers.iter().zip(&student.answers);
    let sample = |(problem, (teacher, student)): (&Problem, (&String, &String))| Sample {
        question: problem.question.clone(),
        answer: problem.answer,
        teacher: teacher.clone(),
        teacher_correct: is_correct(problem, teacher),
        student: student.clone(),
        student_correct: is_correct(problem, student),
    };
    session.corpus.problems.iter().zip(answers).map(sample).collect()
}
