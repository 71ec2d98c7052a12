//! From logits on a device to tokens, without bringing them to the host: rows times vocabulary are many numbers to move, and
//! many exponentials for a CPU.
//!
//! ```text
//! e = exp((x - max x) / T)              cut off by thresholds: top-k, then top-p, then min-p
//! sums of 256 of e ─► host: the piece that a draw falls into ─► its 256 numbers ─► host: the token
//! ```
//!
//! What is kept, and in which order, is as in [`sampling`](crate::sampling). Thresholds are found by halving an interval
//! thirty times, so that tokens that are as likely as the last one kept to within 1e-7 may be kept with it.

use burn::tensor::{DType, Device, Int, Tensor, TensorData, Transaction};

use crate::engine::floats;
use crate::sampling::Sampling;

/// Tokens of a piece.
const PIECE: usize = 256;
/// Halvings of an interval of thresholds.
const HALVINGS: usize = 30;
/// Logits so far below the largest, over the temperature, that no draw can meet them.
const LOWEST: f32 = -60.0;

/// What decides a row's token besides its logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    pub sampling: Sampling,
    /// In [0, 1).
    pub unit: f64,
}

/// A token for each row of `logits [b v]`, by its draw; or what is
/// wrong with the row. Penalties are not looked at.
pub(crate) fn choose(logits: Tensor<2>, rows: &[Draw]) -> Vec<Result<u32, String>> {
    // All in f32, whatever new tensors are in on this device: half precision knows no token beyond 256 from its neighbour.
    let logits = logits.cast(DType::F32);
    let device = logits.device();
    let b = logits.dims()[0];
    let (largest, likeliest) = logits.clone().max_dim_with_indices(1);
    // Anything that is no number, or infinite, makes its row's sum so. A model's logits are not minus infinity.
    let sums = logits.clone().sum_dim(1);
    let pieces = match rows.iter().all(|row| row.sampling.temperature <= 0.0) {
        true => None,
        false => Some(Pieces::of(weights(logits - largest, rows, &device))),
    };
    // One wait for all of it.
    let read = Transaction::default().register(likeliest).register(sums);
    let read = match &pieces {
        Some(pieces) => read.register(pieces.sums.clone()),
        None => read,
    };
    let mut read = read.execute().into_iter();
    let mut next = || read.next().expect("as many as were registered");
    let (likeliest, sums) = (next(), next());
    let known = likeliest.iter::<i64>().zip(sums.iter::<f32>());
    let drawn = match pieces {
        Some(pieces) => pieces.draw(&next().iter::<f32>().collect::<Vec<_>>(), rows),
        None => vec![None; b],
    };
    let chosen = known.zip(drawn).zip(rows).map(|(((likeliest, sum), drawn), row)| {
        if !sum.is_finite() {
            return Err("a logit is not a number, or infinite".into());
        }
        Ok(drawn.filter(|_| row.sampling.temperature > 0.0).unwrap_or(likeliest as u32))
    });
    chosen.collect()
}

/// Unnormalised probabilities of what is kept, and 0 for the rest, of logits below their largest `[b v]`.
fn weights(below: Tensor<2>, rows: &[Draw], device: &Device) -> Tensor<2> {
    let [_, vocabulary] = below.dims();
    let column = |number: &dyn Fn(&Sampling) -> f32| {
        let numbers: Vec<f32> = rows.iter().map(|row| number(&row.sampling)).collect();
        Tensor::<2>::from_data(TensorData::new(numbers, [rows.len(), 1]), (device, DType::F32))
    };
    let temperature = column(&|sampling| {
        if sampling.temperature > 0.0 { sampling.temperature.max(f32::MIN_POSITIVE) } else { 1.0 }
    });
    let scaled = (below / temperature).clamp_min(LOWEST);
    let mut kept = scaled.clone().exp();
    if rows.iter().any(|row| row.sampling.top_k.is_some()) {
        let most = column(&|sampling| sampling.top_k.unwrap_or(vocabulary).min(vocabulary) as f32);
        let threshold = threshold(&scaled, &Tensor::ones_like(&kept), most);
        kept = above(kept, &scaled, threshold);
    }
    if rows.iter().any(|row| row.sampling.top_p.is_some()) {
        let share = column(&|sampling| sampling.top_p.unwrap_or(1.0));
        let total = kept.clone().sum_dim(1);
        let threshold = threshold(&scaled, &kept, total * share);
        kept = above(kept, &scaled, threshold);
    }
    if rows.iter().any(|row| row.sampling.min_p.is_some()) {
        let least = column(&|sampling| sampling.min_p.map_or(LOWEST, f32::ln));
        kept = above(kept, &scaled, least);
    }
    kept
}

/// The largest number, of each row, for which the weights of everything at least as large add up to `least [b 1]`.
fn threshold(x: &Tensor<2>, weights: &Tensor<2>, least: Tensor<2>) -> Tensor<2> {
    let (mut low, mut high) = (least.zeros_like() + LOWEST, least.zeros_like());
    for _ in 0..HALVINGS {
        let middle = (low.clone() + high.clone()) / 2.0;
        let reached = above(weights.clone(), x, middle.clone()).sum_dim(1).greater_equal(least.clone());
        low = low.mask_where(reached.clone(), middle.clone());
        high = middle.mask_where(reached, high);
    }
    low
}

/// `weights` where x is at least as large as its row's threshold `[b 1]`, else 0.
fn above(weights: Tensor<2>, x: &Tensor<2>, threshold: Tensor<2>) -> Tensor<2> {
    let cut = x.clone().lower(threshold.expand(x.dims()));
    weights.mask_fill(cut, 0.0)
}

/// Weights in pieces of the vocabulary.
struct Pieces {
    /// `[b pieces, PIECE]`.
    weights: Tensor<2>,
    /// `[b pieces]`.
    sums: Tensor<2>,
}

impl Pieces {
    /// Of `weights [b v]`.
    fn of(weights: Tensor<2>) -> Self {
        let (device, [b, vocabulary]) = (weights.device(), weights.dims());
        let missing = vocabulary.next_multiple_of(PIECE) - vocabulary;
        let weights = match missing {
            0 => weights,
            _ => Tensor::cat(vec![weights, Tensor::zeros([b, missing], (&device, DType::F32))], 1),
        };
        let pieces = (vocabulary + missing) / PIECE;
        let weights = weights.reshape([b * pieces, PIECE]);
        let sums = weights.clone().sum_dim(1).reshape([b, pieces]);
        Self { weights, sums }
    }

    /// The token of each row that its draw falls on, by the sums.
    fn draw(self, sums: &[f32], rows: &[Draw]) -> Vec<Option<u32>> {
        let [b, pieces] = self.sums.dims();
        let fall = |(sums, row): (&[f32], &Draw)| {
            let total: f64 = sums.iter().copied().map(f64::from).sum();
            fallen(sums, row.unit * total)
        };
        let fallen_on: Vec<(usize, f64)> = sums.chunks(pieces).zip(rows).map(fall).collect();
        let index: Vec<i64> =
            fallen_on.iter().enumerate().map(|(row, (piece, _))| (row * pieces + piece) as i64).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [b]), &self.weights.device());
        let chosen = floats(self.weights.select(0, index));
        let token = |(weights, (piece, left)): (&[f32], &(usize, f64))| {
            let (at, _) = fallen(weights, *left);
            Some((piece * PIECE + at) as u32)
        };
        chosen.chunks(PIECE).zip(&fallen_on).map(token).collect()
    }
}

/// The place whose weight a point of the cumulated weights falls into, and how far; the last one with a weight for a
/// point behind all of them.
fn fallen(weights: &[f32], point: f64) -> (usize, f64) {
    let (mut left, mut last) = (point, (0, 0.0));
    for (at, weight) in weights.iter().copied().map(f64::from).enumerate().filter(|(_, weight)| *weight > 0.0)
    {
        if left < weight {
            return (at, left);
        }
        left -= weight;
        last = (at, weight);
    }
    last
}

#[cfg(test)]
mod tests {
    use burn::tensor::FloatDType;

    use super::*;
    use crate::sampling::Seen;
    use crate::uniform;

    /// Rows of logits as a model's: a few are likely.
    fn logits(rows: usize, vocabulary: usize, seed: u64) -> Vec<f32> {
        let draw = |at: usize| uniform(seed, 0, at as u64);
        (0..rows * vocabulary).map(|at| (draw(at).powi(8) * 14.0 - 3.0 * draw(at + 1)) as f32).collect()
    }

    #[test]
    fn tokens_are_those_that_the_host_chooses() {
        let greedy = Sampling::default();
        let warm = Sampling::with_temperature(0.8);
        let samplings = [
            greedy,
            Sampling::with_temperature(1.0),
            Sampling { top_k: Some(7), ..warm },
            Sampling { top_p: Some(0.9), ..warm },
            Sampling { min_p: Some(0.05), ..warm },
            Sampling { top_k: Some(20), top_p: Some(0.7), min_p: Some(0.1), ..warm },
            Sampling { top_k: Some(100_000), ..warm },
        ];
        let (mut asked, mut same) = (0, 0);
        for (seed, vocabulary) in [(1, 31), (2, 256), (3, 1000), (4, 5003)] {
            for round in 0..20 {
                let numbers = logits(samplings.len(), vocabulary, seed + 100 * round);
                let rows: Vec<Draw> = samplings
                    .iter()
                    .enumerate()
                    .map(|(row, &s)| Draw { sampling: s, unit: uniform(seed, row as u64, round) })
                    .collect();
                let shape = [samplings.len(), vocabulary];
                let tensor = Tensor::<2>::from_data(TensorData::new(numbers.clone(), shape), &Device::flex());
                for (row, found) in choose(tensor, &rows).into_iter().enumerate() {
                    let mut numbers = numbers[row * vocabulary..][..vocabulary].to_vec();
                    let expected = rows[row].sampling.choose(&mut numbers, Seen::default(), rows[row].unit);
                    asked += 1;
                    same += usize::from(found == Ok(expected));
                }
            }
        }
        // A draw that falls on a border to within a rounding of f32 may go either way.
        assert!(same * 1000 >= asked * 995, "{same} of {asked}");
    }

    /// A program that computes in half precision makes it what new tensors are in, once for its process: this one has a
    /// process of its own.
    #[test]
    fn tokens_do_not_depend_on_what_new_tensors_are_in() {
        let program = std::env::current_exe().expect("the tests' program");
        let alone = ["--exact", "device_sampling::tests::in_half_precision", "--ignored"];
        let output = std::process::Command::new(program).args(alone).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "run in a process of its own by the test above"]
    fn in_half_precision() {
        const VOCABULARY: usize = 5003;
        let mut device = Device::flex();
        device.configure(FloatDType::BF16).expect("nothing was computed before");
        let warm = Sampling {
            top_k: Some(50),
            top_p: Some(0.9),
            min_p: Some(0.01),
            ..Sampling::with_temperature(0.8)
        };
        let samplings = [Sampling::default(), warm, Sampling::with_temperature(1.0)];
        let draw = |(&sampling, unit)| Draw { sampling, unit };
        let draws: Vec<Draw> = samplings.iter().zip([0.5, 0.3, 0.7]).map(draw).collect();
        let numbers = logits(draws.len(), VOCABULARY, 7);
        let data = TensorData::new(numbers.clone(), [draws.len(), VOCABULARY]);
        let found = choose(Tensor::<2>::from_data(data, (&device, DType::F32)), &draws);
        for ((draw, numbers), found) in draws.iter().zip(numbers.chunks(VOCABULARY)).zip(found) {
            let expected = draw.sampling.choose(&mut numbers.to_vec(), Seen::default(), draw.unit);
            assert!(expected > 256 && found == Ok(expected), "{found:?}, expected {expected}");
        }
    }

    #[test]
    fn a_row_that_is_no_numbers_is_told_apart() {
        let samplings = [Sampling::default(), Sampling::with_temperature(1.0)];
        let draws = samplings.map(|sampling| Draw { sampling, unit: 0.5 });
        for wrong in [f32::NAN, f32::INFINITY] {
            let numbers = Tensor::<2>::from_data([[0.0, 1.0, 2.0], [0.0, wrong, 2.0]], &Device::flex());
            let found = choose(numbers, &draws);
            assert_eq!(found[0], Ok(2));
            assert!(found[1].is_err());
        }
    }
}
