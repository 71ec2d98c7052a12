//! Training data, made while the device is busy.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use mamba_ssd_eval::problems::Split;
use mamba_ssd_mohawk::data::{Dataset, open_compressed};
use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::args::{Args, Draw};

/// Problems in a block.
const BLOCK: u64 = 16_384;

/// Finished blocks that may wait.
const WAITING: usize = 4;

/// Where problems come from.
struct Source {
    draw: Draw,
    seed: u64,
    /// Texts of problems from a file, taken in turns.
    worked: Vec<String>,
    /// Their share.
    share: f64,
}

/// A worked problem as GSM8K has it.
#[derive(Deserialize)]
struct Worked {
    question: String,
    answer: String,
}

impl Worked {
    /// In the form of the generated problems: without GSM8K's calculator, `<<6*7=42>>`, and with its `#### 42` put into words.
    fn text(&self) -> String {
        let mut answer = String::new();
        let mut rest = self.answer.as_str();
        while let Some((before, after)) = rest.split_once("<<") {
            answer += before;
            rest = after.split_once(">>").map_or("", |(_, after)| after);
        }
        answer += rest;
        let answer = match answer.split_once("####") {
            Some((steps, number)) => format!("{} The answer is {}.", steps.trim(), number.trim()),
            None => answer,
        };
        format!("Q: {}\nA: {}\n", self.question.trim(), answer.trim())
    }
}

/// Block after block of tokenised problems, without end, from a thread of its own. The same seed
/// gives the same blocks.
pub fn stream(tokenizer_json: &[u8], args: &Args, eos: u32) -> Result<Receiver<Result<Dataset>>> {
    let tokenizer = Tokenizer::from_bytes(tokenizer_json).map_err(|error| anyhow!(error))?;
    let worked = args.worked.as_deref().map(read).transpose()?.unwrap_or_default();
    let source = Source { draw: args.draw(), seed: args.seed, worked, share: args.share.unwrap_or(0.0) };
    let (sender, receiver) = sync_channel(WAITING);
    thread::spawn(move || {
        let blocks = (0..).map(|number| block(&tokenizer, &source, eos, number));
        for block in blocks {
            // Nobody receives any more: the training is over.
            if sender.send(block).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

fn read(path: &Path) -> Result<Vec<String>> {
    let text = std::io::read_to_string(open_compressed(path)?)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let of_line = |(index, line): (usize, &str)| {
        let worked: Worked = serde_json::from_str(line).with_context(|| {
            format!("{}, line {}: expected {{\"question\": ..., \"answer\": ...}}", path.display(), index + 1)
        })?;
        Ok(worked.text())
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let texts = lines.map(of_line).collect::<Result<Vec<_>>>()?;
    ensure!(!texts.is_empty(), "{}: no problem", path.display());
    Ok(texts)
}

impl Source {
    /// The text of a problem: every so many of them one from the file.
    fn text(&self, index: u64) -> String {
        let worked = |index: u64| (index as f64 * self.share) as u64;
        match worked(index + 1) > worked(index) && !self.worked.is_empty() {
            true => self.worked[worked(index) as usize % self.worked.len()].clone(),
            false => (self.draw)(self.seed, Split::Train, index).text(),
        }
    }
}

/// The tokenizer spreads its work over all cores.
fn block(tokenizer: &Tokenizer, source: &Source, eos: u32, number: u64) -> Result<Dataset> {
    let indices = number * BLOCK..(number + 1) * BLOCK;
    let texts: Vec<String> = indices.map(|index| source.text(index)).collect();
    let encodings = tokenizer.encode_batch_fast(texts, false).map_err(|error| anyhow!(error))?;
    let documents = encodings.iter().map(|encoding| encoding.get_ids().to_vec());
    Ok(Dataset::from_documents(documents, eos)?)
}
