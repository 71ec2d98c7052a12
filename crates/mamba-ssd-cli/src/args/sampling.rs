//! How tokens are chosen: arguments that commands share.

use clap::Args;
use mamba_ssd_models::Sampling;

use super::values::{count, scale};

/// Which tokens may be drawn.
#[derive(Debug, Args)]
pub struct TruncationArgs {
    /// Sample among this many of the likeliest tokens
    #[arg(long, value_name = "K", value_parser = count)]
    pub top_k: Option<usize>,
    /// Sample among the likeliest tokens that hold this share of the probability
    #[arg(long, value_name = "P", value_parser = scale)]
    pub top_p: Option<f64>,
    /// Sample among tokens at least this share as likely as the likeliest
    #[arg(long, value_name = "P", value_parser = scale)]
    pub min_p: Option<f64>,
}

impl TruncationArgs {
    /// Sampling at a temperature, without penalties.
    pub fn at(&self, temperature: f64) -> Sampling {
        Sampling {
            top_k: self.top_k,
            top_p: self.top_p.map(|p| p as f32),
            min_p: self.min_p.map(|p| p as f32),
            ..Sampling::with_temperature(temperature as f32)
        }
    }
}
