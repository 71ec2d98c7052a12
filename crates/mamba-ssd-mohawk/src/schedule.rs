//! Warm-up, stable, decay: the learning rate as a pure function of the step.
//!
//! ```text
//! lr(s) = min + (peak − min) · (s + 1) / w              s < w            warm-up
//!         peak                                          w ≤ s < n − d    stable
//!         min + (peak − min) · (n − s) / (d + 1)        n − d ≤ s < n    decay
//! ```
//!
//! Steps count from 0. Every step of a stage learns: neither the first nor the last runs at `min`
//! (the MOHAWK code runs its first step at lr 0).

use serde::{Deserialize, Serialize};

/// A warm-up/stable/decay schedule over a fixed number of steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wsd {
    /// Learning rate of the stable phase.
    pub peak: f64,
    /// Floor of warm-up and decay.
    pub min: f64,
    /// Number of steps, n.
    pub steps: usize,
    /// Warm-up steps, w.
    pub warmup: usize,
    /// Decay steps, d.
    pub decay: usize,
}

impl Wsd {
    /// The papers' floor.
    pub const MIN_LR: f64 = 1e-8;

    /// A schedule whose warm-up and decay are fractions of `steps`, rounded to the nearest step.
    ///
    /// # Panics
    ///
    /// If a fraction is negative, or the two add up to more than 1.
    pub fn new(peak: f64, steps: usize, warmup: f64, decay: f64) -> Self {
        assert!(warmup >= 0.0 && decay >= 0.0, "fractions {warmup} and {decay}");
        assert!(warmup + decay <= 1.0, "fractions {warmup} and {decay} add up to more than 1");
        let warmup = (warmup * steps as f64).round() as usize;
        let decay = ((decay * steps as f64).round() as usize).min(steps - warmup);
        Self { peak, min: Self::MIN_LR.min(peak), steps, warmup, decay }
    }

    /// The learning rate of `step`, counted from 0.
    pub fn lr(&self, step: usize) -> f64 {
        self.min + (self.peak - self.min) * self.fraction(step)
    }

    fn fraction(&self, step: usize) -> f64 {
        if step < self.warmup {
            (step + 1) as f64 / self.warmup as f64
        } else if step + self.decay < self.steps {
            1.0
        } else {
            self.steps.saturating_sub(step) as f64 / (self.decay + 1) as f64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_stays_and_decays() {
        let wsd = Wsd::new(1e-3, 100, 0.1, 0.1);
        assert_eq!((wsd.warmup, wsd.decay), (10, 10));
        assert!((wsd.lr(0) - 1e-4).abs() < 1e-7);
        assert_eq!(wsd.lr(9), 1e-3);
        assert_eq!(wsd.lr(50), 1e-3);
        assert_eq!(wsd.lr(89), 1e-3);
        assert!(wsd.lr(90) < 1e-3);
        assert!(wsd.lr(99) < 1.1e-4 && wsd.lr(99) > wsd.min);
        assert_eq!(wsd.lr(100), wsd.min);
    }

    #[test]
    fn never_rises_after_the_warm_up() {
        let wsd = Wsd::new(5e-4, 37, 0.3, 0.5);
        for step in wsd.warmup..wsd.steps {
            assert!(wsd.lr(step + 1) <= wsd.lr(step));
        }
    }

    #[test]
    fn a_stage_of_one_step_runs_at_the_peak() {
        assert_eq!(Wsd::new(1e-3, 1, 0.1, 0.1).lr(0), 1e-3);
    }
}
