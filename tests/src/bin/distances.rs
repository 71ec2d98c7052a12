//! Squared distances between the rows of SSD's and attention's matrices, stage 1's loss, as one operation: median times
//! forward and in reverse at shapes of students and teachers. Prints Markdown. (It is tested by `mixing.rs`.)
//!
//! ```text
//! cargo run --release -p mamba-ssd-tests --bin distances --no-default-features --features cuda
//! ```
//!
//! Counted are the products over the visible half of a matrix that cannot be done without: `C Bᵀ` and `q kᵀ` forward,
//! and in reverse the two again, and one each for B and C.
#![allow(clippy::print_stdout)]

use burn::tensor::{DType, Distribution, Tensor};
use mamba_ssd::{Mixing, SsdInput};
use mamba_ssd_tests::device::{backend, device};
use mamba_ssd_tests::timing::median;

/// Timed rounds, and calls in each.
const ROUNDS: usize = 7;
const CALLS: usize = 10;

/// Rows, tokens, heads, state size, key-value heads, head dimension.
const SHAPES: [(&str, [usize; 6]); 4] = [
    ("SmolLM2-135M", [16, 1024, 9, 64, 3, 64]),
    ("Llamba-1B", [8, 1024, 32, 64, 8, 64]),
    ("Llamba-8B", [4, 2048, 32, 64, 8, 128]),
    ("Llamba-1B, 8k", [1, 8192, 32, 64, 8, 64]),
];

fn main() {
    println!("device: {:?}, backend {}, bf16\n", device(), backend());
    println!(
        "| | b t h n kv e | forward ms | TFLOP/s | reverse ms | TFLOP/s |\n|---|---|---:|---:|---:|---:|"
    );
    for (name, [b, t, h, n, kv, e]) in SHAPES {
        let [forward, reverse] = times([b, t, h, n, kv, e]);
        let product = |depth: usize| (b * h * t * t * depth) as f64 / 1e9; // of the visible half, over milliseconds
        println!(
            "| {name} | {b} {t} {h} {n} {kv} {e} | {forward:.3} | {:.0} | {reverse:.3} | {:.0} |",
            (product(n) + product(e)) / forward,
            (3.0 * product(n) + product(e)) / reverse,
        );
    }
}

/// Milliseconds forward and in reverse.
fn times([b, t, h, n, kv, e]: [usize; 6]) -> [f64; 2] {
    let tracked = device().autodiff();
    let random = |shape: [usize; 4]| {
        Tensor::<4>::random(shape, Distribution::Normal(0.0, 0.3), &tracked).cast(DType::BF16).detach()
    };
    let log_a = Tensor::<3>::random([b, t, h], Distribution::Uniform(-0.1, 0.0), &tracked).detach();
    let log_a = log_a.require_grad();
    let [bs, cs] = [(); 2].map(|()| random([b, t, h, n]).require_grad());
    let d = Tensor::<1>::ones([h], &tracked).require_grad();
    let (q, k) = (random([b, t, h, e]), random([b, t, kv, e]));
    let squares = |student: &Mixing, teacher: &Mixing| {
        student.row_distances(teacher).expect("one operation on this device")
    };
    let of = |values: [Tensor<4>; 4], log_a: Tensor<3>, d: Tensor<1>| {
        let [bs, cs, q, k] = values;
        let x = Tensor::zeros([b, t, h, 1], (&log_a.device(), DType::BF16));
        let input = SsdInput::new(x, log_a, bs, cs);
        (Mixing::ssd([input].into_iter(), None, d), Mixing::attention(q, k, None))
    };
    let inner = [&bs, &cs, &q, &k].map(|tensor| tensor.clone().inner());
    let (student, teacher) = of(inner, log_a.clone().inner(), d.clone().inner());
    let forward = median(&device(), ROUNDS, CALLS, || drop(squares(&student, &teacher)));
    let all = median(&device(), ROUNDS, CALLS, || {
        let tracked = [&bs, &cs, &q, &k].map(Clone::clone);
        let (student, teacher) = of(tracked, log_a.clone(), d.clone());
        drop(squares(&student, &teacher).sum().backward());
    });
    [forward, all - forward]
}
