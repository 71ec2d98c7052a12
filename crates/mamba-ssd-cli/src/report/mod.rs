//! `report.html`: one file with everything a run came to, pictures included, readable in light and in dark.

pub mod charts;
pub mod heatmap;
mod html;
pub mod reason;

use anyhow::Result;

use crate::console::{percent_or_dash, thousands};
use crate::summary::{AblationRow, Summary};
use crate::table::Table;
use charts::{BarChart, Curve, LineChart};
use heatmap::Square;

/// The losses of one stage, over the tokens it had trained on.
#[derive(Clone, Debug)]
pub struct StageLosses {
    /// The stage's name.
    pub kind: String,
    /// What is compared, with its unit: the y axis.
    pub measure: String,
    /// One curve for each layer, or a single one.
    pub curves: Vec<Curve>,
}

/// The mixing matrix of one head, of the teacher and of the student, for the same text.
#[derive(Clone, Debug)]
pub struct MatrixPair {
    /// Layer, from 0.
    pub layer: usize,
    /// Head, from 0.
    pub head: usize,
    /// Causal softmax attention.
    pub teacher: Square,
    /// What took its place.
    pub student: Square,
}

/// What the report shows.
#[derive(Debug)]
pub struct Report<'a> {
    /// The figures.
    pub summary: &'a Summary,
    /// Loss curves in the order of the stages.
    pub losses: Vec<StageLosses>,
    /// Further curves of the stages: gradients, speed, memory.
    pub course: Vec<StageLosses>,
    /// Chosen layers and heads.
    pub matrices: Vec<MatrixPair>,
    /// The resolved recipe.
    pub recipe: &'a str,
}

impl Report<'_> {
    /// The whole page.
    ///
    /// # Errors
    /// When a chart has nothing to draw.
    pub fn html(&self) -> Result<String> {
        let mut body = html::header(self.summary);
        body += &html::section("Result", &self.result()?);
        body += &html::section("Loss", &stage_charts(&self.losses)?);
        if !self.course.is_empty() {
            body += &html::section("Training", &stage_charts(&self.course)?);
        }
        if !self.matrices.is_empty() {
            body += &html::section("Mixing matrices", &html::matrices(&self.matrices));
        }
        if !self.summary.samples.is_empty() {
            body += &html::section("Answers to held-out problems", &html::samples(&self.summary.samples));
        }
        if !self.summary.ablation.is_empty() {
            let note = "The same number of tokens, spent on different stages; mean ± standard deviation over the seeds.";
            let table = html::paragraph(note) + &html::table(&ablation_table(self.summary));
            body += &html::section("Which stages matter", &table);
        }
        body += &html::section("Recipe", &html::code(self.recipe));
        Ok(html::page("mamba-ssd distill", &body))
    }

    /// The mixing matrices as one SVG picture, the teacher's above the student's.
    pub fn matrices_svg(&self) -> String {
        let headings: Vec<String> =
            self.matrices.iter().map(|pair| format!("layer {}, head {}", pair.layer, pair.head)).collect();
        let column = |of: fn(&MatrixPair) -> &Square| self.matrices.iter().map(of).collect();
        let rows = [("attention", column(|pair| &pair.teacher)), ("Mamba-2", column(|pair| &pair.student))];
        heatmap::sheet(&headings, &rows)
    }

    fn result(&self) -> Result<String> {
        let summary = self.summary;
        let title = "Perplexity of the held-out texts, after each stage";
        let mut figures = vec![html::figure(title, &charts::bars(&ppl_chart(summary))?, "")];
        if summary.problems > 0 {
            let title =
                format!("Share of {} held-out problems answered correctly, greedily", summary.problems);
            figures.push(html::figure(&title, &charts::bars(&accuracy_chart(summary))?, ""));
        }
        Ok(html::table(&stage_table(summary)) + &html::grid(&figures))
    }
}

fn stage_charts(stages: &[StageLosses]) -> Result<String> {
    let mut figures = Vec::new();
    for stage in stages {
        let chart = LineChart { x: "tokens".into(), y: stage.measure.clone(), curves: stage.curves.clone() };
        let legend = html::legend(&chart.curves);
        figures.push(html::figure(&format!("Stage: {}", stage.kind), &charts::lines(&chart)?, &legend));
    }
    Ok(html::grid(&figures))
}

/// The table that a run ends with: the teacher, the student as converted, and the student after each stage.
pub fn stage_table(summary: &Summary) -> Table {
    let mut table = Table::new(["", "tokens", "seconds", "tokens/s", "perplexity", "accuracy"]);
    let quality = |ppl: f64, accuracy: Option<f64>| [format!("{ppl:.3}"), percent_or_dash(accuracy)];
    let untrained = |name: &str, [ppl, accuracy]: [String; 2]| {
        [name.into(), "".into(), "".into(), "".into(), ppl, accuracy]
    };
    table.row(untrained("teacher", quality(summary.teacher_ppl, summary.teacher_accuracy)));
    let start = quality(summary.student_ppl_at_start, summary.student_accuracy_at_start);
    table.row(untrained("student, converted", start));
    let measured = summary.student_ppl_by_stage.iter().zip(&summary.student_accuracy_by_stage);
    for (stage, (ppl, accuracy)) in summary.stages.iter().zip(measured) {
        let [ppl, accuracy] = quality(*ppl, *accuracy);
        table.row([
            format!("after {}", stage.kind),
            thousands(stage.tokens),
            format!("{:.1}", stage.seconds),
            thousands(stage.tokens_per_second() as usize),
            ppl,
            accuracy,
        ]);
    }
    table
}

/// One row for each way to spend the tokens.
pub fn ablation_table(summary: &Summary) -> Table {
    let mut table = Table::new(["stages", "tokens", "seeds", "perplexity", "accuracy"]);
    for row in &summary.ablation {
        table.row([
            row.stages.join(" + "),
            thousands(row.tokens),
            row.seeds.len().to_string(),
            format!("{:.3} ± {:.3}", row.ppl_mean, row.ppl_std),
            accuracy_spread(row),
        ]);
    }
    table
}

fn accuracy_spread(row: &AblationRow) -> String {
    let spread = row.accuracy_mean.zip(row.accuracy_std);
    spread.map_or("-".into(), |(mean, deviation)| format!("{:.1} ± {:.1} %", 100.0 * mean, 100.0 * deviation))
}

fn ppl_chart(summary: &Summary) -> BarChart {
    let mut bars =
        vec![("teacher".into(), summary.teacher_ppl), ("converted".into(), summary.student_ppl_at_start)];
    bars.extend(
        summary
            .stages
            .iter()
            .zip(&summary.student_ppl_by_stage)
            .map(|(stage, ppl)| (stage.kind.clone(), *ppl)),
    );
    let format = |value| if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") };
    BarChart { y: "perplexity (log scale)".into(), bars, logarithmic: true, format }
}

fn accuracy_chart(summary: &Summary) -> BarChart {
    let percent = |share: Option<f64>| 100.0 * share.unwrap_or(0.0);
    let mut bars = vec![
        ("teacher".into(), percent(summary.teacher_accuracy)),
        ("converted".into(), percent(summary.student_accuracy_at_start)),
    ];
    let by_stage = summary.stages.iter().zip(&summary.student_accuracy_by_stage);
    bars.extend(by_stage.map(|(stage, share)| (stage.kind.clone(), percent(*share))));
    let format = |value| format!("{value:.1} %");
    BarChart { y: "correct answers (%)".into(), bars, logarithmic: false, format }
}

#[cfg(test)]
mod tests;
