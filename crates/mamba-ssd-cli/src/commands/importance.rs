//! `importance`: which attention layers a model needs most, and so a hybrid should keep.

use anyhow::Result;
use burn::tensor::DType;
use mamba_ssd_mohawk::data::{TextFormat, read_texts};
use serde::Serialize;

use crate::args::{ImportanceArgs, RankArg};
use crate::console::say;
use crate::hub;
use crate::importance::{Reading, kept, measure};
use crate::language_model::LanguageModel;
use crate::table::Table;

/// What `--json` prints.
#[derive(Serialize)]
struct Found {
    recall: f64,
    layers: Vec<mamba_ssd_eval::LayerImportance>,
}

/// Prints a table, the most important layer first, and what a recipe would say.
pub fn run(args: &ImportanceArgs) -> Result<()> {
    let device = args.device.open_in(args.dtype.into())?;
    let model = LanguageModel::load_in(&hub::local(&args.model)?, &device, DType::from(args.dtype))?;
    let texts = read_texts(&args.texts, TextFormat::new(&args.field))?.texts.into_iter();
    let texts: Vec<Vec<u32>> =
        texts.take(args.limit).map(|text| Ok(model.tokenizer.encode(&text.text)?)).collect::<Result<_>>()?;
    let reading = Reading { documents: args.limit, length: args.length, strings: args.strings as u64 };
    let (layers, whole) = measure(&model, &texts, reading, args.by.into())?;
    if args.json {
        say(serde_json::to_string(&Found { recall: whole, layers })?);
        return Ok(());
    }
    let mut table = Table::new(["without layer", "KL, nats a token", "copied"]);
    table.row(["none".into(), "0".into(), format!("{:.1} %", 100.0 * whole)]);
    for found in &layers {
        table.row([
            found.layer.to_string(),
            format!("{:.4}", found.kl),
            format!("{:.1} %", 100.0 * found.recall),
        ]);
    }
    say(format_args!("{table}"));
    let by = match args.by {
        RankArg::Recall => "recall",
        RankArg::Kl => "divergence",
    };
    say(format_args!(
        "keep the first {} by {by}: layers = {{ all_except = {:?} }}",
        args.keep.min(layers.len()),
        kept(&layers, args.keep)
    ));
    Ok(())
}
