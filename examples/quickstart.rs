//! A Mamba-2 mixer, over a whole sequence and token by token.
//!
//! ```text
//! cargo run --release -p mamba-ssd-examples --example quickstart
//! ```
#![allow(clippy::print_stdout, reason = "a program")]

use burn::tensor::{Device, Distribution, Tensor};
use mamba_ssd::{DiscreteMamba2Config, MatrixMixer};

fn main() {
    let device = Device::flex();
    let mixer = DiscreteMamba2Config::new(64, 4, 16).init(&device); // width, heads, state size
    let u = Tensor::<3>::random([1, 100, 64], Distribution::Default, &device); // b t d

    let whole = mixer.forward(u.clone(), None);

    let (_, mut state) = mixer.prefill(u.clone().narrow(1, 0, 99), mixer.init_state(1, &device));
    println!("after 99 tokens the state holds {} bytes", state.bytes());
    let last = u.narrow(1, 99, 1).squeeze_dim::<2>(1);
    let (stepped, next) = mixer.step(last, state);
    state = next;
    println!("after 100 tokens the state holds {} bytes", state.bytes());

    let difference = (whole.narrow(1, 99, 1).squeeze_dim::<2>(1) - stepped).abs().max();
    println!("forward and prefill + step differ by {:.1e}", difference.into_scalar::<f32>());
}
