//! Attention as one operation: median times forward and in reverse at shapes of teachers and hybrids, and how many
//! operations a second that is. Prints Markdown. (It is tested by `attention.rs`.)
//!
//! ```text
//! cargo run --release -p mamba-ssd-tests --bin attention --no-default-features --features cuda -- BF16
//! ```
//!
//! Counted are the products over the visible half of the matrix: two forward, five in reverse. The time of a reverse
//! pass is that of forward, a weighted sum and reverse together, less forward and less the sum with its own reverse.
#![allow(clippy::print_stdout)]

use burn::tensor::{DType, Distribution, Tensor};
use mamba_ssd::causal_attention;
use mamba_ssd_tests::device::{backend, device, dtypes};
use mamba_ssd_tests::timing::median;

/// Timed rounds, and calls in each.
const ROUNDS: usize = 7;
const CALLS: usize = 10;

/// Rows, tokens, heads, key-value heads, head dimension; benches/peers/attention.py reads them here.
const SHAPES: [(&str, [usize; 5]); 5] = [
    ("SmolLM2-135M, training", [16, 1024, 9, 3, 64]),
    ("Llama-3.2-1B, training", [8, 1024, 32, 8, 64]),
    ("Llama-3.1-8B, training", [4, 2048, 32, 8, 128]),
    ("Llama-3.2-1B, 8k", [1, 8192, 32, 8, 64]),
    ("Llama-3.2-1B, 32k", [1, 32768, 32, 8, 64]),
];

fn main() {
    let chosen = std::env::args().nth(1);
    println!("device: {:?}, backend {}\n", device(), backend());
    println!(
        "| | b t h kv d | dtype | forward ms | GFLOP/s | reverse ms | GFLOP/s |\n|---|---|---|---:|---:|---:|---:|"
    );
    for dtype in dtypes().into_iter().filter(|&dtype| dtype != DType::F64) {
        if chosen.as_ref().is_some_and(|name| *name != format!("{dtype:?}")) {
            continue;
        }
        for (name, [b, t, h, kv, d]) in SHAPES {
            let [forward, reverse] = times([b, t, h, kv, d], dtype);
            let product = (b * h * t * t * d) as f64 / 1e6; // of the visible half, over milliseconds
            println!(
                "| {name} | {b} {t} {h} {kv} {d} | {dtype:?} | {forward:.3} | {:.0} | {reverse:.3} | {:.0} |",
                2.0 * product / forward,
                5.0 * product / reverse,
            );
        }
    }
}

/// Milliseconds forward and in reverse.
fn times([b, t, h, kv, d]: [usize; 5], dtype: DType) -> [f64; 2] {
    let tracked = device().autodiff();
    let random = |heads: usize| {
        Tensor::<4>::random([b, t, heads, d], Distribution::Normal(0.0, 1.0), &tracked).cast(dtype)
    };
    let [q, k, v] = [h, kv, kv].map(|heads| random(heads).detach().require_grad());
    let weights = random(h);
    let device = device();
    let inner = [&q, &k, &v].map(|x| x.clone().inner());
    let forward = median(&device, ROUNDS, CALLS, || {
        let [q, k, v] = inner.clone();
        drop(causal_attention(q, k, v, None));
    });
    let all = median(&device, ROUNDS, CALLS, || {
        let y = causal_attention(q.clone(), k.clone(), v.clone(), None);
        drop((y * weights.clone()).sum().backward());
    });
    let leaf = random(h).detach().require_grad();
    let sum = median(&device, ROUNDS, CALLS, || drop((leaf.clone() * weights.clone()).sum().backward()));
    [forward, all - forward - sum]
}
