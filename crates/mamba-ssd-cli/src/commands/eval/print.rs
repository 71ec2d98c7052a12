//! Tables of results: a row for each measure, a column for each model.

use mamba_ssd_eval::items::Estimate;

use super::{ModelResults, Results};
use crate::console::{say, thousands};
use crate::table::Table;

/// Prints everything that was measured.
pub fn print(results: &Results) {
    let models = &results.models;
    let Some(first) = models.first() else { return };
    let mut table = Table::new(["".into()].into_iter().chain((1..=models.len()).map(|i| format!("[{i}]"))));
    let mut row = |name: String, cell: &dyn Fn(&ModelResults) -> Option<String>| {
        let cells: Vec<Option<String>> = models.iter().map(cell).collect();
        if cells.iter().any(Option::is_some) {
            table.row([name].into_iter().chain(cells.into_iter().map(|cell| cell.unwrap_or("-".into()))));
        }
    };
    for (name, task) in &first.tasks {
        let answered = !results.predicted.contains(name);
        if answered {
            row(format!("{name}, acc"), &|model| Some(share(model.tasks[name].acc)));
        }
        if answered && task.acc_norm.is_some() {
            row(format!("{name}, acc_norm"), &|model| model.tasks[name].acc_norm.map(share));
        }
        row(format!("{name}, bits/byte"), &|model| Some(number(model.tasks[name].bits_per_byte)));
    }
    if first.tasks.len() > 1 {
        row("mean above chance".into(), &|model| {
            model.above_chance.map(|share| format!("{:.1} %", 100.0 * share))
        });
        row("of the first's".into(), &|model| {
            Some(format!("{:.1} %", 100.0 * model.above_chance? / first.above_chance?))
        });
    }
    row("perplexity".into(), &|model| model.texts.as_ref().map(|texts| number(texts.perplexity)));
    row("of the first's".into(), &|model| {
        let ratio = model.texts.as_ref()?.perplexity.value / first.texts.as_ref()?.perplexity.value;
        Some(format!("{ratio:.3} x"))
    });
    row("word perplexity".into(), &|model| model.texts.as_ref().map(|texts| number(texts.word_perplexity)));
    row("bits/byte".into(), &|model| model.texts.as_ref().map(|texts| fine(texts.bits_per_byte)));
    for (index, recall) in first.recall.iter().enumerate() {
        row(format!("{}, {} tokens", recall.kind, thousands(recall.length)), &|model| {
            Some(share(model.recall[index].acc))
        });
    }
    row("KL from the first".into(), &|model| model.agreement.as_ref().map(|agreement| fine(agreement.kl)));
    row("same likeliest token".into(), &|model| {
        model.agreement.as_ref().map(|agreement| share(agreement.top1))
    });
    for (index, model) in models.iter().enumerate() {
        say(format_args!("[{}] {}, {:.0} s", index + 1, model.model, model.seconds));
    }
    say(format_args!("\n{table}"));
    for (name, task) in &first.tasks {
        let chance =
            if task.chance > 0.0 { format!(", chance {:.1} %", 100.0 * task.chance) } else { String::new() };
        say(format_args!("{name}: {} items{chance}", thousands(task.items)));
    }
    if let Some(texts) = &first.texts {
        say(format_args!(
            "texts: {} documents, {} predicted tokens",
            texts.documents,
            thousands(texts.tokens)
        ));
    }
    say(format_args!("± one standard error by bootstrap; {} on {}", results.dtype, results.device));
}

fn share(estimate: Estimate) -> String {
    format!("{:.1} ± {:.1} %", 100.0 * estimate.value, 100.0 * estimate.error)
}

fn fine(estimate: Estimate) -> String {
    format!("{:.4} ± {:.4}", estimate.value, estimate.error)
}

fn number(estimate: Estimate) -> String {
    format!("{:.3} ± {:.3}", estimate.value, estimate.error)
}
