//! `doctor`: what this program is, what it runs on, and which devices work.

use std::time::Instant;

use anyhow::Result;
use burn::tensor::{Device, Distribution, Tensor};

use mamba_ssd::capabilities;

use crate::console::say;
use crate::device::{DeviceChoice, probe};

/// The version of burn that the workspace pins.
const BURN: &str = "0.22.1";

/// Prints the findings; succeeds if at least one device works.
pub fn run() -> Result<()> {
    say(format_args!(
        "mamba-ssd {} on burn {BURN}, {} {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    ));
    say(format_args!("threads    {}", std::thread::available_parallelism().map_or(1, usize::from)));
    let build = if cfg!(debug_assertions) { "debug (build with --release to train)" } else { "release" };
    say(format_args!("build      {build}"));
    let mut working = 0;
    for choice in DeviceChoice::KINDS {
        let (works, finding) = examine(choice);
        working += usize::from(works);
        say(format_args!("{:<10} {finding}", choice.feature()));
        if let Some(device) = choice.device().filter(|_| works) {
            say_forms(&device);
        }
    }
    anyhow::ensure!(working > 0, "no device works; build with `--features flex`, which needs no hardware");
    Ok(())
}

/// One line for each dtype: how the device computes in it.
fn say_forms(device: &Device) {
    for forms in capabilities(device).chunk_by(|one, next| one.dtype == next.dtype) {
        let list: Vec<_> = forms.iter().map(|one| format!("{} by {}", one.operation, one.form)).collect();
        let dtype = format!("{:?}", forms[0].dtype);
        say(format_args!("{:<10} {dtype:<4} {}", "", list.join("; ")));
    }
}

fn examine(choice: DeviceChoice) -> (bool, String) {
    let Some(device) = choice.device() else {
        return (false, format!("not compiled in (`--features {}` adds it)", choice.feature()));
    };
    match probe(&device) {
        Ok(()) => (true, format!("works, {:.1} GFLOP/s in a 512 x 512 f32 product", matmul_speed(&device))),
        Err(why) => (false, format!("compiled in, but does not work: {why}")),
    }
}

/// The best of several products, in 10^9 operations a second.
fn matmul_speed(device: &Device) -> f64 {
    const SIDE: usize = 512;
    let matrix = Tensor::<2>::random([SIDE, SIDE], Distribution::Default, device);
    let seconds = |_| {
        let started = Instant::now();
        let _ = matrix.clone().matmul(matrix.clone()).sum().into_data();
        started.elapsed().as_secs_f64()
    };
    let best = (0..8).map(seconds).fold(f64::INFINITY, f64::min);
    2.0 * (SIDE as f64).powi(3) / best / 1e9
}
