//! Documents from files: JSONL, one object a line, or plain text, one document a paragraph block; as they are or
//! compressed.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;

use super::Document;
use crate::error::MohawkError;

/// The text of a document, and where its prompt ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The whole text.
    pub text: String,
    /// Bytes of the text that are a prompt, which is not learned.
    pub prompt: usize,
}

impl Text {
    /// A text whose prompt reaches to the end of the first `marker`. Without a marker, or where
    /// the text lacks it, nothing is a prompt.
    pub fn new(text: impl Into<String>, marker: Option<&str>) -> Self {
        let text = text.into();
        let prompt = marker.and_then(|marker| text.find(marker).map(|at| at + marker.len()));
        Self { prompt: prompt.unwrap_or(0), text }
    }

    /// Tokenises the text. The prompt's tokens are counted by tokenising it alone, so where a
    /// merge spans the border the first learned token is off by that merge.
    pub fn encode(&self, encode: impl Fn(&str) -> Vec<u32>) -> Document {
        let prompt = match self.prompt {
            0 => 0,
            bytes => encode(&self.text[..bytes]).len(),
        };
        Document { tokens: encode(&self.text), prompt }
    }
}

/// A file, decompressed if its name ends in `.gz` or `.zst`.
///
/// # Errors
///
/// If the file cannot be read, or is not what its name says.
pub fn open_compressed(path: &Path) -> Result<Box<dyn Read>, MohawkError> {
    let file = BufReader::new(File::open(path).map_err(MohawkError::io(path))?);
    let end = path.extension().unwrap_or_default();
    Ok(if end == "gz" {
        Box::new(MultiGzDecoder::new(file))
    } else if end == "zst" {
        let damaged = |error| MohawkError::io(path)(io::Error::other(format!("no zstd stream: {error}")));
        Box::new(StreamingDecoder::new(file).map_err(damaged)?)
    } else {
        Box::new(file)
    })
}

/// Reads documents from `path`: a `.jsonl` file has one JSON object a line with the text under
/// `field`, in any other file documents are separated by blank lines. Either may end in `.gz` or `.zst`.
///
/// # Errors
///
/// If the file cannot be read, a line is no JSON object with a string under `field`, or there is
/// no text at all.
pub fn read_texts(path: &Path, field: &str, marker: Option<&str>) -> Result<Vec<Text>, MohawkError> {
    let mut content = String::new();
    let compressed = path.extension().is_some_and(|end| end == "gz" || end == "zst");
    if let Err(error) = open_compressed(path)?.read_to_string(&mut content) {
        let hint = if compressed { "; the file is damaged or cut off, copy it again" } else { "" };
        return Err(MohawkError::Data(format!("{}: {error}{hint}", path.display())));
    }
    let name = if compressed { path.file_stem().map(Path::new).unwrap_or(path) } else { path };
    let is_jsonl = name.extension().is_some_and(|end| end == "jsonl");
    let texts: Vec<String> = if is_jsonl {
        parse_jsonl(path, &content, field)?
    } else {
        content.split("\n\n").map(|text| text.trim().to_string()).collect()
    };
    let texts: Vec<Text> = texts
        .into_iter()
        .filter(|text| !text.trim().is_empty())
        .map(|text| Text::new(text, marker))
        .collect();
    if texts.is_empty() {
        let found = format!("{} holds no text, expected at least one document", path.display());
        return Err(MohawkError::Data(found));
    }
    Ok(texts)
}

fn parse_jsonl(path: &Path, content: &str, field: &str) -> Result<Vec<String>, MohawkError> {
    let lines = content.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            parse_line(line, field).map_err(|reason| {
                MohawkError::Data(format!("{}, line {}: {reason}", path.display(), number + 1))
            })
        })
        .collect()
}

fn parse_line(line: &str, field: &str) -> Result<String, String> {
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|error| format!("no JSON object ({error})"))?;
    match value.get(field) {
        Some(serde_json::Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("`{field}` is {other}, expected a string")),
        None => Err(format!("no field `{field}`; name the right one with `field` in [data]")),
    }
}
