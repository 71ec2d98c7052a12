//! The page and its parts, as text.

use std::fmt::Write;

use super::MatrixPair;
use super::charts::{Curve, curve_color};
use super::heatmap;
use crate::console::{duration, percent_or_dash, thousands};
use crate::summary::{Sample, Summary};
use crate::table::Table;

const STYLE: &str = include_str!("report.css");

/// A whole page.
pub fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n{body}</main></body></html>\n",
        title = escape(title)
    )
}

/// The title, the run in one line, and its four main figures.
pub fn header(summary: &Summary) -> String {
    let facts = format!(
        "recipe {} · {} · seed {} · {} tokens in {} · mamba-ssd {}",
        escape(&summary.recipe),
        escape(&summary.device),
        summary.seed,
        thousands(summary.tokens),
        duration(summary.seconds),
        escape(&summary.version)
    );
    let tiles = [
        ("teacher", thousands(summary.teacher_params), "parameters".to_string()),
        ("student", thousands(summary.student_params), "parameters".to_string()),
        ("perplexity", format!("{:.3}", summary.student_ppl), format!("teacher {:.3}", summary.teacher_ppl)),
        (
            "accuracy",
            percent_or_dash(summary.student_accuracy),
            format!("teacher {}", percent_or_dash(summary.teacher_accuracy)),
        ),
    ];
    let tiles: String = tiles
        .iter()
        .map(|(name, value, note)| {
            format!("<div class=\"tile\"><span>{name}</span><b>{value}</b><span>{note}</span></div>")
        })
        .collect();
    format!(
        "<h1>From Transformer to Mamba-2</h1>\n<p class=\"facts\">{facts}</p>\n<div class=\"tiles\">{tiles}</div>\n"
    )
}

/// A section under its own heading.
pub fn section(title: &str, body: &str) -> String {
    format!("<section><h2>{}</h2>\n{body}</section>\n", escape(title))
}

/// A paragraph of text.
pub fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// Text as it stands.
pub fn code(text: &str) -> String {
    format!("<pre>{}</pre>\n", escape(text))
}

/// A picture between its title and its legend.
pub fn figure(title: &str, picture: &str, legend: &str) -> String {
    format!("<figure><figcaption>{}</figcaption>{picture}{legend}</figure>\n", escape(title))
}

/// Figures beside each other where the page is wide enough.
pub fn grid(figures: &[String]) -> String {
    format!("<div class=\"grid\">{}</div>\n", figures.concat())
}

/// The names of curves with their colours; one curve needs none.
pub fn legend(curves: &[Curve]) -> String {
    if curves.len() < 2 {
        return String::new();
    }
    let entry = |(index, curve): (usize, &Curve)| {
        let color = curve_color(index, curves.len());
        let swatch = format!("background:#{:02x}{:02x}{:02x}", color.0, color.1, color.2);
        format!("<span><i style=\"{swatch}\"></i>{}</span>", escape(&curve.name))
    };
    format!("<div class=\"legend\">{}</div>", curves.iter().enumerate().map(entry).collect::<String>())
}

/// A table with numbers to the right.
pub fn table(table: &Table) -> String {
    let line = |tag: &str, cells: &[String]| {
        let cells = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let rows: String = table.rows().iter().map(|row| line("td", row)).collect();
    format!(
        "<div class=\"scroll\"><table><thead>{}</thead><tbody>{rows}</tbody></table></div>\n",
        line("th", table.head())
    )
}

/// Teacher and student side by side for each chosen head.
pub fn matrices(pairs: &[MatrixPair]) -> String {
    let mut html = paragraph(
        "Row t shows how much of each earlier token s the mixer adds to its output at t: softmax attention in the teacher, \
         C·B decayed from s to t in the student. Colour: absolute value.",
    );
    let _ = write!(html, "<div class=\"scalebox\">{}</div><div class=\"grid pairs\">", heatmap::legend());
    for pair in pairs {
        let caption = format!(
            "layer {}, head {} — ‖teacher − student‖ = {:.3}",
            pair.layer,
            pair.head,
            pair.teacher.distance(&pair.student)
        );
        let _ = write!(
            html,
            "<figure><figcaption>{caption}</figcaption><div class=\"pair\"><div>{}<span>teacher</span></div>\
             <div>{}<span>student</span></div></div></figure>",
            heatmap::picture(&pair.teacher),
            heatmap::picture(&pair.student)
        );
    }
    html + "</div>\n"
}

/// Problems with both answers.
pub fn samples(samples: &[Sample]) -> String {
    let answer = |who: &str, text: &str, correct: bool| {
        let (class, mark) = if correct { ("right", "✓ right") } else { ("wrong", "✗ wrong") };
        format!("<div><h4>{who} <em class=\"{class}\">{mark}</em></h4>{}</div>", code(text.trim()))
    };
    let sample = |sample: &Sample| {
        format!(
            "<article><p class=\"question\">{} <span>answer: {}</span></p><div class=\"answers\">{}{}</div></article>\n",
            escape(&sample.question),
            sample.answer,
            answer("teacher", &sample.teacher, sample.teacher_correct),
            answer("student", &sample.student, sample.student_correct)
        )
    };
    samples.iter().map(sample).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(code("<b> & \"c\""), "<pre>&lt;b&gt; &amp; &quot;c&quot;</pre>\n");
    }
}
