//! The page of a `reason` run: accuracy and coverage of all models on one picture, over attempts and over seconds.

use anyhow::Result;

use super::charts::{Band, BandChart, Curve, LineChart, bands, lines};
use super::html;
use crate::commands::reason::{ModelOutcome, Outcome};
use crate::console::{percent, thousands};
use crate::table::Table;

/// The whole page.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn page(outcome: &Outcome) -> Result<String> {
    let facts = format!(
        "{} problems · budget {} for each model · {} · {} · mamba-ssd {}",
        thousands(outcome.problems),
        outcome.budget,
        outcome.terms,
        outcome.device,
        outcome.version
    );
    let mut body = format!("<h1>Thinking often, within a budget</h1>\n{}", html::paragraph(&facts));
    body += &html::section("Result", &html::table(&outcome.table()));
    body += &html::section("Over seconds", &pictures(outcome, "seconds", |model| &model.over_seconds)?);
    body += &html::section("Memory and speed", &html::grid(&[memory(outcome)?, throughput(outcome)?]));
    body += &html::section("Over attempts", &pictures(outcome, "attempts", |model| &model.over_attempts)?);
    body += &html::section("Over tokens", &pictures(outcome, "tokens written", |model| &model.over_tokens)?);
    if outcome.crossings.is_empty() {
        return Ok(html::page("mamba-ssd reason", &body));
    }
    body += &html::section("Where the first model is passed", &html::table(&crossings(outcome)));
    Ok(html::page("mamba-ssd reason", &body))
}

/// One picture for coverage and one for each rule, the models in it.
fn pictures(
    outcome: &Outcome,
    x: &str,
    curves: fn(&ModelOutcome) -> &Vec<mamba_ssd_eval::reason::Curve>,
) -> Result<String> {
    let names = outcome.models.first().map(|model| curves(model).iter().map(|curve| curve.name.clone()));
    let picture = |name: String| -> Result<String> {
        let band = |model: &ModelOutcome| Band {
            name: model.name.clone(),
            points: curves(model)
                .iter()
                .filter(|curve| curve.name == name)
                .flat_map(|curve| &curve.points)
                .map(|point| [point.at, point.mean, point.low, point.high])
                .collect(),
        };
        let chart = BandChart {
            x: x.to_string(),
            y: format!("{name}, share of problems"),
            bands: outcome.models.iter().map(band).collect(),
        };
        let named: Vec<Curve> =
            chart.bands.iter().map(|band| Curve { name: band.name.clone(), points: vec![] }).collect();
        Ok(html::figure(&name, &bands(&chart)?, &html::legend(&named)))
    };
    let note =
        "Lines are means over problems, bands hold 95 % of the means of problems drawn with replacement.";
    let pictures = names.into_iter().flatten().map(picture).collect::<Result<Vec<_>>>()?;
    Ok(html::paragraph(note) + &html::grid(&pictures))
}

fn crossings(outcome: &Outcome) -> Table {
    let mut table = Table::new(["model", "curve", "from second", "95 %", "resamples that pass"]);
    for passing in &outcome.crossings {
        let second = |at: Option<f64>| at.map_or("never".to_string(), |at| format!("{at:.2}"));
        let crossing = passing.crossing;
        table.row([
            passing.model.clone(),
            passing.curve.clone(),
            second(crossing.at),
            crossing
                .low
                .map_or("-".into(), |_| format!("{} to {}", second(crossing.low), second(crossing.high))),
            percent(crossing.share),
        ]);
    }
    table
}

/// Bytes of the states of a model's batch against the tokens of its rows.
fn memory(outcome: &Outcome) -> Result<String> {
    let curve = |model: &ModelOutcome| {
        let bytes = |tokens: usize| model.memory.state_bytes + tokens * model.memory.bytes_per_token;
        let places = (0..=16).map(|place| (model.memory.longest * place).div_ceil(16));
        let points = places.map(|tokens| (tokens as f64, (model.rows * bytes(tokens)) as f64 / 1e6));
        Curve { name: format!("{}, {} rows", model.name, model.rows), points: points.collect() }
    };
    let curves: Vec<Curve> = outcome.models.iter().map(curve).collect();
    let legend = html::legend(&curves);
    let chart = LineChart { x: "tokens of a row".into(), y: "MB of states".into(), curves };
    Ok(html::figure("memory against length", &lines(&chart)?, &legend))
}

fn throughput(outcome: &Outcome) -> Result<String> {
    let curve = |model: &ModelOutcome| Curve {
        name: model.name.clone(),
        points: model.trials.iter().map(|trial| (trial.rows as f64, trial.tokens_per_second)).collect(),
    };
    let curves: Vec<Curve> = outcome.models.iter().map(curve).collect();
    if curves.iter().all(|curve| curve.points.is_empty()) {
        return Ok(html::paragraph("The batch was given, so that none was tried."));
    }
    let legend = html::legend(&curves);
    let chart = LineChart { x: "attempts at the same time".into(), y: "tokens/s".into(), curves };
    Ok(html::figure("tokens a second against rows", &lines(&chart)?, &legend))
}
