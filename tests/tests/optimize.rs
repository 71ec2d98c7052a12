//! The optimiser's native operations against f64 loops, in every dtype.

use burn::tensor::{DType, Tensor};
use mamba_ssd::optimize::{AdamWRates, AdamWState, Squares, adamw};
use mamba_ssd_tests::device::{device, dtypes};
use mamba_ssd_tests::evaluate::{tensor, values};
use mamba_ssd_tests::limits::relative_error;
use mamba_ssd_tests::problem::round;
use mamba_ssd_tests::rng::Rng;

/// Ten times what Flex measures, 1.9e-16 and 2.1e-7, of moments and masters, which are in f32 or wider.
fn limit(dtype: DType) -> f64 {
    if dtype == DType::F64 { 2e-15 } else { 2e-6 }
}

/// s of every step, exact in every dtype.
const SCALE: f64 = 0.75;

fn rates(step: i32) -> AdamWRates {
    AdamWRates {
        betas: [0.9, 0.95],
        epsilon: 1e-8,
        rate: 1e-2 / (1.0 - 0.9f64.powi(step)),
        correction: 1.0 - 0.95f64.powi(step),
        decay: 1e-3,
    }
}

#[test]
fn three_steps_of_adamw_equal_plain_loops() {
    let device = device();
    for dtype in dtypes() {
        for count in [1, 37, 4096] {
            let normals = |seed| round(Rng::new(seed).normals(count), dtype);
            let mut want = normals(1);
            let (mut m, mut v) = (vec![0.0f64; count], vec![0.0f64; count]);
            let mut value = tensor(&want, [count], dtype, &device);
            let mut state = AdamWState::new(&value);
            assert_eq!(state.master.is_some(), matches!(dtype, DType::F16 | DType::BF16));
            for step in 1..=3 {
                let gradient = normals(10 + step as u64);
                let on_device = tensor(&gradient, [count], dtype, &device);
                let AdamWRates { betas, epsilon, rate, correction, decay } = rates(step);
                let scale = tensor(&[SCALE], [1], DType::F32, &device);
                (value, state) = adamw(value, on_device, &scale, state, &rates(step));
                for i in 0..count {
                    let gradient = SCALE * gradient[i];
                    m[i] = betas[0] * m[i] + (1.0 - betas[0]) * gradient;
                    v[i] = betas[1] * v[i] + (1.0 - betas[1]) * gradient * gradient;
                    want[i] = (1.0 - decay) * want[i] - rate * m[i] / ((v[i] / correction).sqrt() + epsilon);
                }
            }
            let kept = state.master.clone().unwrap_or_else(|| value.clone());
            for (what, got, want) in
                [("value", kept, &want), ("first", state.first, &m), ("second", state.second, &v)]
            {
                let error = relative_error(&values(got), want, want);
                assert!(error <= limit(dtype), "{what} of {count} in {dtype:?}: off by {error:.1e}");
            }
            // The model's copy is the master, rounded once.
            assert_eq!(value.dtype(), dtype);
            if let Some(master) = state.master {
                assert_eq!(values(value), values(master.cast(dtype)));
            }
        }
    }
}

#[test]
fn sums_of_squares_of_many_tensors_equal_plain_sums() {
    let device = device();
    for dtype in dtypes() {
        let counts = [1, 100_003, 65_536, 12];
        let arrays: Vec<Vec<f64>> =
            (0..4).map(|i| round(Rng::new(i as u64).normals(counts[i]), dtype)).collect();
        let tensors: Vec<Tensor<1>> =
            arrays.iter().map(|array| tensor(array, [array.len()], dtype, &device)).collect();
        let squares = Squares::of(&tensors);
        let parts = values(squares.parts.clone());
        let got = squares.sums(&parts);
        // Far beyond f32, squared and added up; far below it, squared.
        for (size, factor) in [(1e19, 1e-16), (1e-30, 1.0)] {
            let huge: Vec<Tensor<1>> = (0..9).map(|_| tensor(&[size], [1], DType::F32, &device)).collect();
            let got = values(Squares::of(&huge).clip(3e3))[0];
            assert!((got / factor - 1.0).abs() < 1e-3, "nine of {size:e} are clipped by {got:e}");
        }
        let want: Vec<f64> = arrays.iter().map(|array| array.iter().map(|x| x * x).sum()).collect();
        assert_eq!(got.len(), want.len());
        let norm = want.iter().sum::<f64>().sqrt();
        for (largest, factor) in [(0.0, 1.0), (2.0 * norm, 1.0), (0.25 * norm, 0.25)] {
            let got = values(squares.clip(largest))[0];
            assert!(
                (got - factor).abs() <= 10.0 * limit(dtype),
                "clipped at {largest} by {got} in {dtype:?}"
            );
        }
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= 10.0 * limit(dtype) * want, "{got} for {want} in {dtype:?}");
        }
    }
}
