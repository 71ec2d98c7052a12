//! `compare`: a model against what another implementation computed with the same weights.

use anyhow::{Result, bail};
use burn::tensor::DType;
use mamba_ssd_models::{Checkpoint, Deviation, Reference};

use crate::args::CompareArgs;
use crate::console::say;
use crate::hub;

/// Prints the deviation of every tensor; an error if one is beyond the tolerance.
pub fn run(args: &CompareArgs) -> Result<()> {
    let device = args.device.open()?;
    let reference = Reference::open(&args.reference)?;
    let model = Checkpoint::open(&hub::local(&args.model)?)?.load(&device, DType::F32)?;
    let deviations = reference.compare(&model, &device)?;
    say(format_args!("{:<20} {:>12} {:>12}", "tensor", "largest", "relative"));
    for deviation in &deviations {
        let Deviation { name, largest, relative, .. } = deviation;
        let mark = if within(deviation, args.rtol) { "" } else { "  departs" };
        say(format_args!("{name:<20} {largest:>12.3e} {relative:>12.3e}{mark}"));
    }
    match deviations.iter().find(|deviation| !within(deviation, args.rtol)) {
        None => {
            say(format_args!("all {} agree within {:e}", deviations.len(), args.rtol));
            Ok(())
        }
        Some(Deviation { name, layer, relative, .. }) => {
            let place = layer.map_or(String::new(), |layer| format!(" of layer {layer}"));
            bail!(
                "{name}{place} is the first to depart: relative error {relative:.1e}, tolerated {:.1e}",
                args.rtol
            )
        }
    }
}

/// NaN is beyond every tolerance.
fn within(deviation: &Deviation, tolerance: f64) -> bool {
    deviation.relative <= tolerance
}
