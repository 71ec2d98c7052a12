//! How far the training is, what that means for the learning rate, and what a person sees of it.

use std::time::Instant;

use anyhow::{Result, ensure};
use burn::tensor::Tensor;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::Args;
use crate::exam::ExamResult;

/// Positions of the bar.
const TICKS: f64 = 1000.0;

/// Where the training is.
pub struct Progress {
    pub step: usize,
    /// The loss when it was last read.
    pub loss: f64,
    started: Instant,
    done: f64,
    bar: ProgressBar,
}

impl Progress {
    pub fn new(args: &Args) -> Self {
        let bar = ProgressBar::new(TICKS as u64);
        let style = ProgressStyle::with_template("{elapsed_precise} {bar:30} {percent:>3}% {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(format!("first step of {} tokens", args.rows * args.seq_len));
        Self { step: 0, loss: f64::NAN, started: Instant::now(), done: 0.0, bar }
    }

    /// Warm-up by steps, then stable, then down to 0 over the last part of the training, whether that
    /// is measured in steps or in minutes.
    pub fn learning_rate(&self, args: &Args) -> f64 {
        let warmup = ((self.step + 1) as f64 / args.warmup.max(1) as f64).min(1.0);
        let decay = ((1.0 - self.done) / args.decay).clamp(0.0, 1.0);
        args.lr * warmup * decay
    }

    /// Counts a step. Reads its loss only now and then: that waits for the device.
    pub fn advance(&mut self, args: &Args, loss: Tensor<1>, lr: f64) -> Result<()> {
        self.step += 1;
        let by_steps = args.steps.map_or(0.0, |steps| self.step as f64 / steps as f64);
        let by_time = args.minutes.map_or(0.0, |minutes| self.seconds() / (60.0 * minutes));
        self.done = by_steps.max(by_time);
        if self.step.is_multiple_of(args.log_every) || self.step == 1 || self.is_complete() {
            self.loss = loss.into_scalar::<f64>();
            ensure!(self.loss.is_finite(), "the loss of step {} is {}", self.step, self.loss);
            self.report(args, lr);
        }
        Ok(())
    }

    fn report(&self, args: &Args, lr: f64) {
        let speed = self.tokens(args) as f64 / self.seconds();
        let line = format!("step {}  loss {:.4}  lr {lr:.1e}  {speed:.0} tokens/s", self.step, self.loss);
        self.bar.set_position((self.done * TICKS) as u64);
        if self.bar.is_hidden() {
            println!("{:.0} s  {line}", self.seconds());
        }
        self.bar.set_message(line);
    }

    /// Prints how an exam went.
    pub fn print(&self, result: &ExamResult) {
        let ExamResult { problems, accuracy, perplexity, sample } = result;
        let line = format!(
            "step {}: {:.1} % of {problems} held-out problems, perplexity {perplexity:.4}",
            self.step,
            100.0 * accuracy
        );
        self.bar.suspend(|| println!("{line}\n{sample}\n"));
    }

    pub fn is_complete(&self) -> bool {
        self.done >= 1.0
    }

    pub fn tokens(&self, args: &Args) -> usize {
        self.step * args.rows * args.seq_len
    }

    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
