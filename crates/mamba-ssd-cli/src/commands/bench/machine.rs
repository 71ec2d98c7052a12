//! What the machine can do, measured in the same run.

use std::fs;
use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use rayon::prelude::*;

/// Rates of a device.
pub struct Machine {
    /// The processor's name.
    pub name: String,
    /// Bytes a second that are read from memory, on all threads.
    pub bandwidth: f64,
    /// Operations a second of a large product, in what the device computes in.
    pub flops: f64,
}

impl Machine {
    /// The best of several tries each: what is possible, not what is usual.
    pub fn measure(device: &Device, on_cpu: bool) -> Self {
        let bandwidth = if on_cpu { read_rate() } else { copy_rate(device) };
        let name = if on_cpu { processor() } else { format!("{device:?}") };
        Self { name, bandwidth, flops: product_rate(device) }
    }
}

/// The load average of the last minute.
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or("an unknown processor".into(), |(_, name)| name.trim().to_string())
}

/// `amount` a second in the fastest of `tries` calls, after one that is not counted.
fn best(tries: usize, amount: f64, mut call: impl FnMut()) -> f64 {
    let mut seconds = f64::INFINITY;
    call();
    for _ in 0..tries {
        let start = Instant::now();
        call();
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    amount / seconds
}

/// Reading 512 MiB, which no cache holds.
fn read_rate() -> f64 {
    let numbers = vec![1u64; 1 << 26];
    let part = numbers.len() / rayon::current_num_threads();
    best(4, 8.0 * numbers.len() as f64, || {
        let sum: u64 = numbers.par_chunks(part).map(sum).sum();
        black_box(sum);
    })
}

/// In lanes, so that it is the memory that takes the time.
fn sum(numbers: &[u64]) -> u64 {
    let mut lanes = [0u64; 16];
    for chunk in numbers.as_chunks::<16>().0 {
        lanes.iter_mut().zip(chunk).for_each(|(lane, number)| *lane = lane.wrapping_add(*number));
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

/// Reading and writing 2²⁶ numbers each, in what the device computes in.
fn copy_rate(device: &Device) -> f64 {
    let numbers = Tensor::<1>::zeros([1 << 26], device);
    best(4, 2.0 * (numbers.dtype().size() << 26) as f64, || {
        black_box(numbers.clone() + 1.0);
        let _ = device.sync();
    })
}

fn product_rate(device: &Device) -> f64 {
    const SIDE: usize = 2048;
    let random = || Tensor::<2>::random([SIDE, SIDE], Distribution::Normal(0.0, 1.0), device);
    let (a, b) = (random(), random());
    best(4, 2.0 * (SIDE as f64).powi(3), || {
        black_box(a.clone().matmul(b.clone()));
        let _ = device.sync();
    })
}
