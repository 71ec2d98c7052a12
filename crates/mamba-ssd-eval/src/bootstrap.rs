//! Standard errors by resampling.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Resamples.
const RESAMPLES: usize = 1000;

/// The standard deviation of `statistic` over items drawn with replacement, as many as there are: its standard error
/// (Efron 1979). The same seed gives the same number.
///
/// ```
/// use mamba_ssd_eval::standard_error;
///
/// let right: Vec<f64> = (0..400).map(|i| f64::from(i % 4 == 0)).collect(); // a quarter of 400
/// let error = standard_error(&right, 0, |sample| sample.iter().copied().sum::<f64>() / sample.len() as f64);
/// assert!((error - (0.25_f64 * 0.75 / 400.0).sqrt()).abs() < 2e-3);
/// ```
pub fn standard_error<T>(items: &[T], seed: u64, statistic: impl Fn(&[&T]) -> f64) -> f64 {
    if items.len() < 2 {
        return f64::NAN;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sample: Vec<&T> =
                (0..items.len()).map(|_| &items[rng.random_range(0..items.len())]).collect();
            statistic(&sample)
        })
        .collect();
    let mean = values.iter().sum::<f64>() / RESAMPLES as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (RESAMPLES - 1) as f64).sqrt()
}
