//! Progress of a stage: a bar on a terminal, nothing elsewhere, and one line when it is over.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use mamba_ssd_mohawk::StepReport;

use crate::console::{duration, thousands};

const BAR: &str =
    "{prefix:<9} {bar:20.cyan/dim} {percent:>3} %  {human_pos} of {human_len} tokens  {wide_msg}";

/// The bar of one stage.
#[derive(Debug)]
pub struct StageBar {
    bar: ProgressBar,
    started: Instant,
    first: usize,
}

impl StageBar {
    /// A bar for `total` tokens, of which `done` were trained on before an interruption.
    pub fn new(kind: &str, total: usize, done: usize) -> Self {
        let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total as u64).with_style(style).with_prefix(kind.to_string());
        bar.set_position(done as u64);
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar, started: Instant::now(), first: done }
    }

    /// Shows what a step reports.
    pub fn update(&self, step: &StepReport) {
        let tokens = step.tokens;
        let seconds = self.started.elapsed().as_secs_f64().max(1e-6);
        let speed = tokens.saturating_sub(self.first) as f64 / seconds;
        let left = (self.bar.length().unwrap_or(0) as f64 - tokens as f64).max(0.0);
        self.bar.set_position(tokens as u64);
        let left = duration(left / speed.max(1e-6));
        let held =
            step.device_bytes.map(|bytes| format!("  {:.1} GB", bytes as f64 / 1e9)).unwrap_or_default();
        self.bar.set_message(format!(
            "loss {:.4}  gradient {:.2}  {} tokens/s{held}  {left} left",
            step.loss,
            step.grad_norm,
            thousands(speed as usize)
        ));
    }
}

impl Drop for StageBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar over so many things.
pub fn counting(what: &str, things: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:<9} {bar:20.cyan/dim} {pos} of {len}  {eta} left");
    let bar = ProgressBar::new(things as u64).with_prefix(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(500));
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A line that stays while `work` runs, for work without a length.
pub fn during<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let spinner = ProgressBar::new_spinner().with_message(what.to_string());
    spinner.enable_steady_tick(Duration::from_millis(120));
    let result = work();
    spinner.finish_and_clear();
    result
}
