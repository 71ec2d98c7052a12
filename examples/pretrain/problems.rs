//! Training data, made while the device is busy.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use anyhow::{Result, anyhow};
use mamba_ssd_eval::problems::Split;
use mamba_ssd_mohawk::data::Dataset;
use tokenizers::Tokenizer;

use crate::args::Draw;

/// Problems in a block.
const BLOCK: u64 = 16_384;

/// Finished blocks that may wait.
const WAITING: usize = 4;

/// Block after block of tokenised problems, without end, from a thread of its own. The same seed
/// gives the same blocks.
pub fn stream(tokenizer_json: &[u8], draw: Draw, seed: u64, eos: u32) -> Result<Receiver<Result<Dataset>>> {
    let tokenizer = Tokenizer::from_bytes(tokenizer_json).map_err(|error| anyhow!(error))?;
    let (sender, receiver) = sync_channel(WAITING);
    thread::spawn(move || {
        let blocks = (0..).map(|number| block(&tokenizer, draw, seed, eos, number));
        for block in blocks {
            // Nobody receives any more: the training is over.
            if sender.send(block).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// The tokenizer spreads its work over all cores.
fn block(tokenizer: &Tokenizer, draw: Draw, seed: u64, eos: u32, number: u64) -> Result<Dataset> {
    let indices = number * BLOCK..(number + 1) * BLOCK;
    let texts: Vec<String> = indices.map(|index| draw(seed, Split::Train, index).text()).collect();
    let encodings = tokenizer.encode_batch_fast(texts, false).map_err(|error| anyhow!(error))?;
    let documents = encodings.iter().map(|encoding| encoding.get_ids().to_vec());
    Ok(Dataset::from_documents(documents, eos)?)
}
