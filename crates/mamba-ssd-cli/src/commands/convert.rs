//! `convert`: attention replaced by mixers, without training; or a model of any format written in the usual one.

use anyhow::{Result, ensure};
use burn::tensor::DType;
use mamba_ssd_convert::{ConversionPlan, Init, KeptHeads, LayerSelection};
use mamba_ssd_models::{Checkpoint, Model, SaveOptions};

use crate::args::{ConvertArgs, InitArg, LayersArg};
use crate::console::say;
use crate::device::DeviceChoice;
use crate::files::{self, OutputFolder};
use crate::hub;
use crate::language_model::CHAT_TEMPLATE;

/// Reads, converts, prints the report, and writes unless `--dry-run`.
pub fn run(args: &ConvertArgs) -> Result<()> {
    ensure!(
        args.heads.is_none() || args.layers != LayersArg::None,
        "--heads keeps heads of layers that become mixers, and with --layers none there are none; leave one of them out"
    );
    let out = if args.dry_run { None } else { Some(OutputFolder::claim(&args.out, "as OUT")?) };
    let checkpoint = Checkpoint::open(&hub::local(&args.model)?)?;
    let model = checkpoint.load(&DeviceChoice::any()?, DType::F32)?;
    let student = match selection(&args.layers) {
        Some(layers) => converted(&model, layers, args)?,
        None => model,
    };
    let Some(out) = out else {
        say("dry run: nothing was written");
        return Ok(());
    };
    let options = SaveOptions {
        tokenizer_json: checkpoint.tokenizer_json(),
        dtype: Some(args.dtype.into()),
        max_shard_bytes: (args.shard_gb * 1e9) as usize,
    };
    student.save_with(&out, &options)?;
    if let Some(template) = checkpoint.chat_template() {
        files::write(&out.join(CHAT_TEMPLATE), template)?;
    }
    if let Some(reason) = checkpoint.tokenizer_refusal() {
        say(format_args!("no tokenizer was written: {reason}"));
    }
    say(format_args!("wrote {}", out.display()));
    Ok(())
}

fn converted(model: &Model, layers: LayerSelection, args: &ConvertArgs) -> Result<Model> {
    let kept =
        args.heads.as_ref().map(|heads| KeptHeads { junction: args.junction.into(), heads: heads.0.clone() });
    let plan = ConversionPlan { layers, init: init(args.init), kept, ..ConversionPlan::default() };
    let (student, report) = model.convert(&plan)?;
    say(report);
    Ok(student)
}

fn selection(layers: &LayersArg) -> Option<LayerSelection> {
    match layers {
        LayersArg::None => None,
        LayersArg::All => Some(LayerSelection::All),
        LayersArg::Every(n) => Some(LayerSelection::EveryNth(*n)),
        LayersArg::List(layers) => Some(LayerSelection::List(layers.clone())),
    }
}

fn init(init: InitArg) -> Init {
    match init {
        InitArg::Mohawk => Init::Mohawk,
        InitArg::Qkvo => Init::Qkvo,
    }
}
