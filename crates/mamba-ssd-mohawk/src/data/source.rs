//! Documents from files: JSONL, one object a line, or plain text, one document a paragraph block; as they are or
//! compressed.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
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

/// Bytes of the longest line that is read. A longer one is not a document but a file without line ends.
const LONGEST_LINE: usize = 64 << 20;

/// How a file of texts is read.
#[derive(Clone, Copy, Debug)]
pub struct TextFormat<'a> {
    /// The field of a JSON line that holds the text.
    pub field: &'a str,
    /// What ends the prompt of a text, which is not learned: see [`Text::new`].
    pub marker: Option<&'a str>,
    /// The field of a JSON line that holds the prompt, with which its text begins; the marker is not looked for then.
    pub prompt_field: Option<&'a str>,
    /// Whether a line that cannot be read is passed over, also inside a document of plain text; otherwise the whole file
    /// is refused.
    pub skip_bad_lines: bool,
}

impl<'a> TextFormat<'a> {
    /// Texts under `field`, without prompts, every line of which can be read.
    pub fn new(field: &'a str) -> Self {
        Self { field, marker: None, prompt_field: None, skip_bad_lines: false }
    }
}

/// The texts of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// In the order of the file, none of them empty.
    pub texts: Vec<Text>,
    /// Lines that were passed over.
    pub skipped: Skipped,
}

/// Lines that were passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub count: usize,
    /// The number of the first, and what is wrong with it.
    pub first: Option<(usize, String)>,
}

impl Skipped {
    fn add(&mut self, line: usize, reason: String) {
        self.count += 1;
        self.first.get_or_insert((line, reason));
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bad line{}", self.count, if self.count == 1 { "" } else { "s" })?;
        match &self.first {
            Some((line, reason)) => write!(f, ", the first is line {line}: {reason}"),
            None => Ok(()),
        }
    }
}

/// Reads documents from `path`: a `.jsonl` file has one JSON object a line, in any other file documents are separated
/// by blank lines. Either may end in `.gz` or `.zst`.
///
/// # Errors
///
/// If the file cannot be read, there is no text at all, or, unless bad lines are skipped, a line is not UTF-8, longer than
/// 64 MiB, or no JSON object with a string under the field.
pub fn read_texts(path: &Path, format: TextFormat<'_>) -> Result<Texts, MohawkError> {
    let compressed = path.extension().is_some_and(|end| end == "gz" || end == "zst");
    let name = if compressed { path.file_stem().map(Path::new).unwrap_or(path) } else { path };
    let is_jsonl = name.extension().is_some_and(|end| end == "jsonl");
    let mut lines = Lines { reader: BufReader::new(open_compressed(path)?), number: 0 };
    let (mut texts, mut skipped) = (Vec::new(), Skipped::default());
    let mut keep = |text: Text| {
        if !text.text.trim().is_empty() {
            texts.push(text);
        }
    };
    let plain = |text: &str| Text::new(text, format.marker);
    let mut document = String::new();
    loop {
        let line = lines.next().map_err(|error| {
            let hint = if compressed { "; the file is damaged or cut off, copy it again" } else { "" };
            MohawkError::Data(format!("{}: {error}{hint}", path.display()))
        })?;
        let Some(line) = line else { break };
        let text = match line {
            Ok(line) if is_jsonl && !line.trim().is_empty() => parse_line(&line, &format),
            line => line.map(|line| plain(&line)),
        };
        match text {
            Ok(text) if is_jsonl => keep(text),
            Ok(line) if line.text.is_empty() => keep(plain(std::mem::take(&mut document).trim())),
            Ok(line) => document.extend([line.text.as_str(), "\n"]),
            Err(reason) if format.skip_bad_lines => skipped.add(lines.number, reason),
            Err(reason) => {
                let place = format!("{}, line {}", path.display(), lines.number);
                return Err(MohawkError::Data(format!("{place}: {reason}")));
            }
        }
    }
    keep(plain(document.trim()));
    if texts.is_empty() {
        let found = format!("{} holds no text, expected at least one document", path.display());
        let passed = if skipped.count > 0 { format!("; passed over {skipped}") } else { String::new() };
        return Err(MohawkError::Data(found + &passed));
    }
    Ok(Texts { texts, skipped })
}

/// The lines of a file, one at a time.
struct Lines<R> {
    reader: R,
    /// Of the line that was read last, from 1 on.
    number: usize,
}

impl<R: BufRead> Lines<R> {
    /// The next line without its end, or what is wrong with it.
    fn next(&mut self) -> io::Result<Option<Result<String, String>>> {
        let mut line = Vec::new();
        self.reader.by_ref().take(LONGEST_LINE as u64 + 1).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() > LONGEST_LINE {
            self.reader.skip_until(b'\n')?;
            return Ok(Some(Err(format!("longer than {} MiB; break it up", LONGEST_LINE >> 20))));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(String::from_utf8(line).map_err(|error| {
            format!("no UTF-8 from byte {} of the line on", error.utf8_error().valid_up_to() + 1)
        })))
    }
}

fn parse_line(line: &str, format: &TextFormat<'_>) -> Result<Text, String> {
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|error| format!("no JSON object ({error})"))?;
    let text = string(&value, format.field, "`field`")?;
    let Some(field) = format.prompt_field else { return Ok(Text::new(text, format.marker)) };
    let prompt = string(&value, field, "`prompt_field`")?;
    if !text.starts_with(prompt) {
        return Err(format!(
            "the text under `{}` does not begin with the prompt under `{field}`",
            format.field
        ));
    }
    Ok(Text { text: text.to_string(), prompt: prompt.len() })
}

/// The text in a field of an object.
fn string<'a>(value: &'a serde_json::Value, field: &str, name: &str) -> Result<&'a str, String> {
    match value.get(field) {
        Some(serde_json::Value::String(text)) => Ok(text),
        Some(other) => Err(format!("`{field}` is {}, expected a string", kind(other))),
        None => {
            let found: Vec<String> =
                value.as_object().into_iter().flatten().map(|(name, _)| format!("`{name}`")).collect();
            let found = if found.is_empty() { "none".to_string() } else { found.join(", ") };
            Err(format!(
                "no field `{field}`, found {found}; name the right one by {name} in [data] of a recipe, or by --field"
            ))
        }
    }
}

fn kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "true or false",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}
