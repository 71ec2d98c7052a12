//! Random numbers by their place: a number is a function of seed, stream and position, and of nothing drawn before.
//!
//! ChaCha is a block cipher in counter mode, so any number of any stream is computed directly. Which row of which
//! batch asks, and when, does not matter.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// 32-bit words of ChaCha that a number in f64 takes.
const WORDS: u128 = 2;

/// A number in [0, 1): the `position`-th of a stream.
///
/// ```
/// use mamba_ssd_models::uniform;
///
/// assert_eq!(uniform(7, 3, 100), uniform(7, 3, 100));
/// assert_ne!(uniform(7, 3, 100), uniform(7, 4, 100));
/// ```
pub fn uniform(seed: u64, stream: u64, position: u64) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng.set_word_pos(WORDS * u128::from(position));
    rng.random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_that_of_a_generator_that_drew_all_before() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        rng.set_stream(3);
        for position in 0..50 {
            assert_eq!(uniform(7, 3, position), rng.random::<f64>());
        }
    }
}
