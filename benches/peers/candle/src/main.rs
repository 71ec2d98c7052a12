//! candle-transformers 0.11.1's Mamba-2 at the shape of mamba2-130m, f32, random weights, with its head. Prefill of 512
//! tokens in chunks of 64, decoding of 1, 8 and 32 rows; medians of five runs.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models::mamba2::{Config, Model, State};

const STEPS: usize = 16;

fn median(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    call()?;
    let mut seconds = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        call()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[2])
}

fn main() -> Result<()> {
    let device = Device::Cpu;
    let config = Config {
        d_model: 768,
        n_layer: 24,
        vocab_size: 50_288,
        d_state: 128,
        expand: 2,
        headdim: 64,
        ngroups: 1,
        pad_vocab_size_multiple: 16,
    };
    let weights = VarMap::new();
    let model = Model::new(&config, VarBuilder::from_varmap(&weights, DType::F32, &device))?;
    println!("candle 0.11.1, {} threads", candle_core::utils::get_num_threads());
    let length = 512;
    let tokens = Tensor::zeros((1, length), DType::U32, &device)?;
    let seconds = median(|| {
        let mut state = State::new(1, &config, DType::F32, &device)?;
        model.forward_prefill(&tokens, &mut state, 64).map(drop)
    })?;
    println!("prefill {length}: {:.1} tokens/s", length as f64 / seconds);
    for rows in [1, 8, 32] {
        let tokens = Tensor::zeros(rows, DType::U32, &device)?;
        let mut state = State::new(rows, &config, DType::F32, &device)?;
        let seconds = median(|| {
            for _ in 0..STEPS {
                model.forward(&tokens, &mut state)?;
            }
            Ok(())
        })?;
        println!("decode {rows} rows: {:.1} tokens/s", (rows * STEPS) as f64 / seconds);
    }
    Ok(())
}
