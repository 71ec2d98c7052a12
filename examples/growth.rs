//! Draws how a student's quality grows with its tokens: perplexity over the teacher's, from the `summary.json` of several
//! distillations, or from a list of such objects.
//!
//! ```text
//! cargo run --release -p mamba-ssd-examples --example growth -- growth.svg "pure=docs/images/growth.json" "hybrid=runs/h/summary.json"
//! ```

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use mamba_ssd_examples::chart::{NamedFile, draw_curves};
use serde::Deserialize;

#[derive(Parser)]
struct Args {
    /// The picture
    #[arg(value_name = "OUT.svg")]
    out: PathBuf,
    /// What to call some students, and their summaries
    #[arg(value_name = "NAME=summary.json", required = true)]
    students: Vec<NamedFile>,
}

/// What is read of a summary.
#[derive(Deserialize)]
struct Student {
    tokens: f64,
    student_ppl: f64,
    teacher_ppl: f64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Students {
    One(Student),
    Many(Vec<Student>),
}

fn main() -> Result<()> {
    let args = Args::parse();
    let curve = |students: &NamedFile| Ok((students.name.clone(), curve(students)?));
    let curves = args.students.iter().map(curve).collect::<Result<Vec<_>>>()?;
    draw_curves(&args.out, ["millions of tokens, all stages", "perplexity over the teacher's"], &curves)
}

/// Millions of tokens and the ratio, by tokens.
fn curve(students: &NamedFile) -> Result<Vec<(f64, f64)>> {
    let path = students.file.display();
    let text = std::fs::read_to_string(&students.file).with_context(|| format!("{path}"))?;
    let found: Students = serde_json::from_str(&text).with_context(|| {
        format!("{path}: expected the summary.json of a run, or a list of objects with its fields")
    })?;
    let students = match found {
        Students::One(student) => vec![student],
        Students::Many(students) => students,
    };
    let point = |student: Student| (student.tokens / 1e6, student.student_ppl / student.teacher_ppl);
    let mut points: Vec<(f64, f64)> = students.into_iter().map(point).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(points)
}
