//! Times of calls on a device, for the programs that print tables.

use std::time::Instant;

use burn::tensor::Device;

/// Median milliseconds of one call, over `rounds` of `calls` in a row with one wait each.
pub fn median(device: &Device, rounds: usize, calls: usize, mut run: impl FnMut()) -> f64 {
    let mut round = |calls: usize| {
        wait(device);
        let start = Instant::now();
        (0..calls).for_each(|_| run());
        wait(device);
        start.elapsed().as_secs_f64() * 1e3 / calls as f64
    };
    round(3); // kernels are compiled, memory is there
    let mut times: Vec<f64> = (0..rounds).map(|_| round(calls)).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn wait(device: &Device) {
    if let Err(error) = device.sync() {
        panic!("the device failed: {error:?}");
    }
}
