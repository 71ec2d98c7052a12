//! mamba-rs 0.8.2 at the shape of mamba2-130m, f32, random weights: its backbone, which has no head. Prefill of 512 and
//! 4096 tokens, decoding of 1, 8 and 32 rows; medians of five runs.

use std::time::Instant;

use mamba_rs::{Mamba2Backbone, Mamba2Config};

const D: usize = 768;
const STEPS: usize = 16;

fn median(mut call: impl FnMut()) -> f64 {
    call();
    let mut seconds: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[2]
}

fn main() -> Result<(), String> {
    if let Some(threads) = std::env::args().nth(1).and_then(|text| text.parse().ok()) {
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    let config = Mamba2Config {
        d_model: D,
        n_layers: 24,
        d_state: 128,
        headdim: 64,
        ngroups: 1,
        expand: 2,
        d_conv: 4,
        ..Mamba2Config::default()
    };
    let mut model = Mamba2Backbone::init(config, D, 42)?;
    println!("mamba-rs 0.8.2, {} parameters, {} threads", model.param_count(), rayon::current_num_threads());
    for length in [512, 4096] {
        let inputs: Vec<f32> = (0..length * D).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
        let mut outputs = vec![0.0; length * D];
        let mut scratch = model.alloc_scratch();
        let seconds = median(|| {
            let mut state = model.alloc_state();
            model.forward_sequence(&inputs, &mut outputs, &mut state, &mut scratch, length);
        });
        println!("prefill {length}: {:.1} tokens/s", length as f64 / seconds);
    }
    model.pack_for_decode();
    for rows in [1, 8, 32] {
        let inputs: Vec<f32> = (0..rows * D).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
        let mut outputs = vec![0.0; rows * D];
        let mut states: Vec<_> = (0..rows).map(|_| model.alloc_state()).collect();
        let mut scratches: Vec<_> = (0..rows).map(|_| model.alloc_scratch()).collect();
        let seconds = median(|| {
            for _ in 0..STEPS {
                match rows {
                    1 => model.forward_step(&inputs, &mut outputs, &mut states[0], &mut scratches[0]),
                    _ => model.forward_step_batch(&inputs, &mut outputs, &mut states, &mut scratches),
                }
            }
        });
        println!("decode {rows} rows: {:.1} tokens/s", (rows * STEPS) as f64 / seconds);
    }
    Ok(())
}
