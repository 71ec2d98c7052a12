//! Repeated runs.

use std::time::Instant;

use anyhow::Result;
use burn::tensor::Device;

use crate::out_of_memory;

/// Seconds of several runs.
pub struct Times {
    /// The middle one.
    pub median: f64,
    shortest: f64,
    longest: f64,
}

impl Times {
    /// Of `runs` calls, after one that is not counted, each of which waits for the device and has looked at what it computed.
    pub fn of(runs: usize, device: &Device, mut call: impl FnMut() -> Result<()>) -> Result<Self> {
        call()?;
        let mut seconds = Vec::with_capacity(runs);
        for _ in 0..runs {
            wait(device)?;
            let start = Instant::now();
            call()?;
            wait(device)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(Self { median: seconds[runs / 2], shortest: seconds[0], longest: seconds[runs - 1] })
    }

    /// `count` over the median, the longest and the shortest time.
    pub fn rates(&self, count: usize) -> [f64; 3] {
        [self.median, self.longest, self.shortest].map(|seconds| count as f64 / seconds)
    }
}

/// Until the device has done what it was told.
pub fn wait(device: &Device) -> Result<()> {
    device.sync().map_err(|error| out_of_memory::failure(format!("{error:?}")))
}
