//! The native SSD kernel of the device under test: first its errors over a grid of ragged shapes, then its
//! median times at the shapes of published models beside the fewest bytes they can move.
//!
//! ```text
//! cargo run --release -p mamba-ssd-tests --bin kernels --no-default-features --features cuda
//! ```
//!
//! Arguments choose parts: `errors`, `times`, `memory` (or `memory-small`, for devices that are slow), a dtype such as `BF16`. Times are of many calls in a row with
//! one wait at their end. The time of a reverse pass is that of forward, loss and reverse pass, less those
//! of the forward and of the loss alone.
#![allow(clippy::print_stdout)]

use burn::tensor::{DType, Device, Distribution, Tensor};
use mamba_ssd::{SsdInput, chunk_scan, scan};
use mamba_ssd_tests::device::{backend, device, dtypes};
use mamba_ssd_tests::limits::Errors;
use mamba_ssd_tests::oracle::Shape;
use mamba_ssd_tests::problem::{Decay, Spec};
use mamba_ssd_tests::timing::median;

/// Timed rounds, and calls in each.
const ROUNDS: usize = 9;
const CALLS: usize = 20;

/// Bytes a second between the device's memory and its multiprocessors, read plus written (H100, measured).
const BANDWIDTH: f64 = 3.0e12;

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |part: &str| chosen.is_empty() || chosen.iter().any(|name| name == part);
    println!("device: {:?}, backend {}", device(), backend());
    let dtypes = dtypes().into_iter().filter(|&dtype| dtype != DType::F64);
    for dtype in dtypes.filter(|dtype| wanted(&format!("{dtype:?}"))) {
        if wanted("errors") {
            correctness(dtype);
        }
        if wanted("times") {
            speed(dtype);
        }
        if wanted("memory") {
            memory(dtype, &SHAPES[..3]);
        }
        if chosen.iter().any(|part| part == "memory-small") {
            memory(dtype, &[("an eighth of a row", Shape { b: 1, t: 2048, h: 4, p: 64, g: 4, n: 64 })]);
        }
    }
}

fn correctness(dtype: DType) {
    let shapes = [
        (1, 1, 2, 64, 2, 64),
        (2, 63, 4, 64, 4, 64),
        (1, 64, 4, 64, 1, 128),
        (2, 200, 4, 128, 2, 64),
        (1, 515, 2, 64, 1, 16),
        (1, 300, 4, 40, 4, 24),
        (1, 777, 6, 72, 3, 88),
    ];
    let decays = [Decay::Softplus(-4.0), Decay::Softplus(0.0), Decay::Extreme];
    println!("\n| shape b t h p g n | dtype | decays | y | final state | worst gradient | again |");
    println!("|---|---|---|---|---|---|---|");
    for (i, (b, t, h, p, g, n)) in shapes.into_iter().enumerate() {
        for (j, decay) in decays.into_iter().enumerate() {
            let shape = Shape { b, t, h, p, g, n };
            let documents = (t > 60 && j == 1).then(|| vec![vec![t / 3, t - t / 3 - 7, 7]; b]);
            let seed = (10 * i + j) as u64;
            let problem = Spec { shape, documents, state: j != 1, decay, seed }.draw(dtype);
            let expected = problem.expected();
            let measure = || Errors::of(|input| scan(input, 64), &problem, &expected, dtype);
            let (first, second) = (measure(), measure());
            let same = if first.worst() == second.worst() { "equal" } else { "DIFFERENT" };
            println!(
                "| {b} {t} {h} {p} {g} {n} | {dtype:?} | {decay:?} | {:.1e} | {:.1e} | {:.1e} | {same} |",
                first.y, first.state, first.gradient
            );
        }
    }
}

/// Shapes of published models.
const SHAPES: [(&str, Shape); 7] = [
    ("Llamba-1B", Shape { b: 8, t: 2048, h: 32, p: 64, g: 32, n: 64 }),
    ("Llamba-8B", Shape { b: 4, t: 2048, h: 32, p: 128, g: 32, n: 64 }),
    ("Mamba-2-1.3B", Shape { b: 8, t: 2048, h: 64, p: 64, g: 1, n: 128 }),
    ("Llamba-1B, 512", Shape { b: 32, t: 512, h: 32, p: 64, g: 32, n: 64 }),
    ("Llamba-1B, 8k", Shape { b: 2, t: 8192, h: 32, p: 64, g: 32, n: 64 }),
    ("Llamba-1B, 32k", Shape { b: 1, t: 32768, h: 32, p: 64, g: 32, n: 64 }),
    ("Llamba-1B, 128k", Shape { b: 1, t: 131_072, h: 32, p: 64, g: 32, n: 64 }),
];

fn speed(dtype: DType) {
    println!("\n| {dtype:?} | b t h p g n | forward ms | floor | reverse ms | floor |");
    println!("|---|---|---:|---:|---:|---:|");
    for (name, shape) in SHAPES {
        let Shape { b, t, h, p, g, n } = shape;
        let [forward, loss, all] = times(shape, dtype);
        let [floor, floor_reverse] = floors(shape, dtype.size());
        let reverse = all - forward - loss;
        println!(
            "| {name} | {b} {t} {h} {p} {g} {n} | {forward:.3} | {floor:.3} | {reverse:.3} | {floor_reverse:.3} |"
        );
    }
}

/// What the device's pool holds after a forward and a reverse pass: natively, and then in tensor operations, whose
/// products burn may tune for minutes first.
fn memory(dtype: DType, shapes: &[(&str, Shape)]) {
    println!("\n| {dtype:?} | form | inputs and their gradients, MB | held, MB |\n|---|---|---:|---:|");
    let device = device();
    for native in [true, false] {
        let form = if native { "native" } else { "`chunk_scan`, 64" };
        let run = |input| if native { scan(input, 64) } else { chunk_scan(input, 64) };
        for (name, shape) in shapes {
            let Shape { b, t, h, p, g, n } = *shape;
            let inputs = 2 * b * t * (h * p * dtype.size() + 2 * g * n * dtype.size() + h * 4);
            for _ in 0..2 {
                // The second time nothing is tuned, which takes memory, too.
                device.memory_cleanup();
                let input = leaves(random(*shape, dtype, &device.clone().autodiff()));
                drop(run(input).y.sum().backward());
                if let Err(error) = device.sync() {
                    panic!("the device failed: {error:?}");
                }
            }
            let held = device.memory_pool_usage().map_or(0, |usage| usage.bytes_reserved);
            println!("| {name} | {form} | {:.0} | {:.0} |", inputs as f64 / 1e6, held as f64 / 1e6);
        }
    }
}

/// Milliseconds that the bytes of inputs and results take, forward and in reverse.
fn floors(shape: Shape, size: usize) -> [f64; 2] {
    let Shape { b, t, h, p, g, n } = shape;
    let (values, projections, decays) = (b * t * h * p * size, b * t * g * n * size, b * t * h * 4);
    let forward = 2 * values + 2 * projections + decays;
    let reverse = 3 * values + 4 * projections + 2 * decays;
    [forward, reverse].map(|bytes| bytes as f64 / BANDWIDTH * 1e3)
}

/// Milliseconds of the forward pass, of the loss with its own reverse pass, and of all.
fn times(shape: Shape, dtype: DType) -> [f64; 3] {
    let plain = device();
    let tracked = plain.clone().autodiff();
    let input = random(shape, dtype, &plain);
    let forward = median(&plain, ROUNDS, CALLS, || drop(scan(input.clone(), 64).y));
    let input = random(shape, dtype, &tracked);
    let weight = input.x.clone() * 0.5;
    let input = leaves(input);
    let loss = median(&plain, ROUNDS, CALLS, || drop((input.x.clone() * weight.clone()).sum().backward()));
    let all =
        median(&plain, ROUNDS, CALLS, || drop((scan(input.clone(), 64).y * weight.clone()).sum().backward()));
    [forward, loss, all]
}

/// The same, with gradients wanted.
fn leaves(input: SsdInput) -> SsdInput {
    SsdInput {
        x: input.x.require_grad(),
        log_a: input.log_a.require_grad(),
        b: input.b.require_grad(),
        c: input.c.require_grad(),
        ..input
    }
}

fn random(shape: Shape, dtype: DType, device: &Device) -> SsdInput {
    let normal = |shape: [usize; 4], scale: f64| {
        Tensor::<4>::random(shape, Distribution::Normal(0.0, scale), device).cast(dtype)
    };
    let log_a = -Tensor::<3>::random(shape.log_a(), Distribution::Uniform(0.0, 0.3), device);
    let scale = (shape.n as f64).sqrt().recip();
    SsdInput::new(
        normal(shape.x(), 1.0),
        log_a.cast(dtype),
        normal(shape.bc(), scale),
        normal(shape.bc(), scale),
    )
}
