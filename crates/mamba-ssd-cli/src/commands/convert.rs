//! `convert`: attention replaced by mixers, without training.

use anyhow::Result;
use mamba_ssd_convert::{ConversionPlan, Init, LayerSelection};

use crate::args::{ConvertArgs, InitArg, LayersArg};
use crate::console::say;
use crate::device::DeviceChoice;
use crate::files::{self, OutputFolder};
use crate::hub;
use crate::language_model::{CHAT_TEMPLATE, LanguageModel};

/// Reads, converts, prints the report, and writes unless `--dry-run`.
pub fn run(args: &ConvertArgs) -> Result<()> {
    let out = if args.dry_run { None } else { Some(OutputFolder::claim(&args.out, "as OUT")?) };
    let teacher = LanguageModel::load(&hub::local(&args.model)?, &DeviceChoice::any()?)?;
    let plan = ConversionPlan {
        layers: selection(&args.layers),
        init: init(args.init),
        ..ConversionPlan::default()
    };
    let (student, report) = teacher.model.convert(&plan)?;
    say(report);
    let Some(out) = out else {
        say("dry run: nothing was written");
        return Ok(());
    };
    student.save(&out, Some(&teacher.tokenizer_json))?;
    if let Some(template) = &teacher.chat_template {
        files::write(&out.join(CHAT_TEMPLATE), template)?;
    }
    say(format_args!("wrote {}", out.display()));
    Ok(())
}

fn selection(layers: &LayersArg) -> LayerSelection {
    match layers {
        LayersArg::All => LayerSelection::All,
        LayersArg::Every(n) => LayerSelection::EveryNth(*n),
        LayersArg::List(layers) => LayerSelection::List(layers.clone()),
    }
}

fn init(init: InitArg) -> Init {
    match init {
        InitArg::Mohawk => Init::Mohawk,
        InitArg::Qkvo => Init::Qkvo,
    }
}
