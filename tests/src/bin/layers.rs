//! The kernels beside SSD: median times forward and in reverse at Llamba-1B's training shape, beside the fewest bytes
//! that they can move. Prints Markdown. (They are tested by `native_layers.rs` and `losses.rs`.)
//!
//! ```text
//! cargo run --release -p mamba-ssd-tests --bin layers --no-default-features --features cuda
//! ```
//!
//! The time of a reverse pass is that of forward, a weighted sum and reverse together, less forward and less the sum
//! with its own reverse.
#![allow(clippy::print_stdout)]

use burn::module::Param;
use burn::tensor::{DType, Device, Distribution, Int, Tensor};
use mamba_ssd::conv::causal_conv1d;
use mamba_ssd::norm::NormConfig;
use mamba_ssd::rope::{RotaryConfig, rotate};
use mamba_ssd::{Divergence, causal_softmax, next_token_loss, silu_gate};
use mamba_ssd_tests::device::{backend, device, dtypes};
use mamba_ssd_tests::timing::median;

/// Timed rounds, and calls in each.
const ROUNDS: usize = 7;
const CALLS: usize = 10;

/// Bytes a second between the device's memory and its multiprocessors, read plus written (H100, measured).
const BANDWIDTH: f64 = 3.0e12;

/// Rows and tokens, and widths: of the model, of the MLP, of the convolution.
const B: usize = 8;
const T: usize = 2048;
const D: usize = 2048;
const MLP: usize = 8192;
const CHANNELS: usize = 6144;

/// A layer: its inputs, and what is read and written forward and in reverse, in numbers of the dtype.
struct Layer {
    name: &'static str,
    inputs: Vec<Tensor<3>>,
    forward: f64,
    reverse: f64,
    run: Run,
}

type Run = Box<dyn Fn(&[Tensor<3>]) -> Tensor<3>>;

fn main() {
    let chosen = std::env::args().nth(1);
    let tracked = device().autodiff();
    println!("device: {:?}, backend {}\n", device(), backend());
    println!("| | dtype | forward ms | floor | reverse ms | floor |\n|---|---|---:|---:|---:|---:|");
    for dtype in dtypes().into_iter().filter(|&dtype| dtype != DType::F64) {
        if chosen.as_ref().is_some_and(|name| *name != format!("{dtype:?}")) {
            continue;
        }
        for index in 0.. {
            let Some(layer) = layer(index, dtype, &tracked) else { break };
            let [forward, reverse] = times(&layer);
            let [floor, reverse_floor] =
                [layer.forward, layer.reverse].map(|numbers| numbers * dtype.size() as f64 / BANDWIDTH * 1e3);
            println!(
                "| {} | {dtype:?} | {forward:.3} | {floor:.3} | {reverse:.3} | {reverse_floor:.3} |",
                layer.name
            );
        }
    }
}

/// The layer at `index`; its inputs live as long as it does.
fn layer(index: usize, dtype: DType, device: &Device) -> Option<Layer> {
    let random =
        |shape: [usize; 3]| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), device).cast(dtype);
    let rows = (B * T) as f64;
    let vector = |width: usize| Param::from_tensor(random([1, 1, width]).reshape([width]));
    let (d, mlp, channels, v) = (D as f64, MLP as f64, CHANNELS as f64, 49_152.0);
    let few = rows / 2.0; // rows of logits
    Some(match index {
        0 => {
            let (taps, bias) = (random([1, CHANNELS, 4]).squeeze_dim::<2>(0), vector(CHANNELS).val());
            Layer {
                name: "convolution, 6,144 channels",
                inputs: vec![random([B, T, CHANNELS])],
                forward: 2.0 * rows * channels,
                reverse: 3.0 * rows * channels,
                run: Box::new(move |x| {
                    causal_conv1d(x[0].clone(), taps.clone(), Some(bias.clone()), None, None).0
                }),
            }
        }
        1 => Layer {
            name: "silu(gate) value, 8,192",
            inputs: vec![random([B, T, MLP]), random([B, T, MLP])],
            forward: 3.0 * rows * mlp,
            reverse: 5.0 * rows * mlp,
            run: Box::new(|x| silu_gate(x[0].clone(), x[1].clone())),
        },
        2 => {
            let mut norm = NormConfig::new(D).init_rms(device);
            norm.weight = vector(D);
            Layer {
                name: "RMS norm, 2,048",
                inputs: vec![random([B, T, D])],
                forward: 2.0 * rows * d,
                reverse: 3.0 * rows * d,
                run: Box::new(move |x| norm.forward(x[0].clone())),
            }
        }
        3 => {
            let mut norm = NormConfig::new(D).init_gated(8, device);
            norm.weight = vector(D);
            Layer {
                name: "gated norm, 2,048 in 8 groups",
                inputs: vec![random([B, T, D]), random([B, T, D])],
                forward: 3.0 * rows * d,
                reverse: 5.0 * rows * d,
                run: Box::new(move |x| norm.forward(x[0].clone(), x[1].clone())),
            }
        }
        4 => Layer {
            name: "rotation, 32 heads of 64",
            inputs: vec![random([B, T, D])],
            forward: 2.0 * rows * d,
            reverse: 2.0 * rows * d,
            run: Box::new(|x| {
                let positions = Tensor::<1, Int>::arange(0..T as i64, &x[0].device()).unsqueeze();
                let heads = x[0].clone().reshape([B, T, 32, 64]);
                rotate(heads, positions, &RotaryConfig::new(64)).reshape([B, T, D])
            }),
        },
        5 => Layer {
            name: "softmax of attention, 1 row of 32 heads",
            inputs: vec![random([32, T, T])],
            forward: 2.0 * 32.0 * (T * T) as f64,
            reverse: 3.0 * 32.0 * (T * T) as f64,
            run: Box::new(|x| causal_softmax(x[0].clone().unsqueeze(), None).squeeze_dim(0)),
        },
        6 | 7 => {
            let teacher = random([1, B * T / 2, 49_152]).inner();
            let kind = if index == 6 { Divergence::CrossEntropy } else { Divergence::ReverseKl };
            let teacher = Tensor::from_inner(teacher);
            Layer {
                name: if index == 6 { "cross entropy to the teacher, 49,152" } else { "reverse KL, 49,152" },
                inputs: vec![random([1, B * T / 2, 49_152])],
                forward: 2.0 * few * v,
                reverse: 3.0 * few * v,
                run: Box::new(move |x| kind.per_token(x[0].clone(), teacher.clone(), 1.0).unsqueeze_dim(2)),
            }
        }
        8 => {
            let targets = Tensor::<2, Int>::zeros([1, B * T / 2], device);
            Layer {
                name: "loss of the next token, 49,152",
                inputs: vec![random([1, B * T / 2, 49_152])],
                forward: few * v,
                reverse: 2.0 * few * v,
                run: Box::new(move |x| next_token_loss(x[0].clone(), targets.clone()).unsqueeze_dim(2)),
            }
        }
        _ => return None,
    })
}

/// Milliseconds forward and in reverse.
fn times(layer: &Layer) -> [f64; 2] {
    let inputs: Vec<Tensor<3>> = layer.inputs.iter().map(|input| input.clone().require_grad()).collect();
    let plain: Vec<Tensor<3>> = layer.inputs.iter().map(|input| input.clone().inner()).collect();
    let device = plain[0].device();
    // The layer's own constants are on the autodiff device, and so are its inputs; nothing tracks these.
    let untracked: Vec<Tensor<3>> = plain.into_iter().map(Tensor::from_inner).collect();
    let y = (layer.run)(&untracked).inner();
    let weight = Tensor::<3>::from_inner(y.clone());
    let output = Tensor::<3>::from_inner(y).require_grad();
    let forward = median(&device, ROUNDS, CALLS, || drop((layer.run)(&untracked)));
    let loss = median(&device, ROUNDS, CALLS, || drop((output.clone() * weight.clone()).sum().backward()));
    let all =
        median(&device, ROUNDS, CALLS, || drop(((layer.run)(&inputs) * weight.clone()).sum().backward()));
    [forward, all - forward - loss]
}
