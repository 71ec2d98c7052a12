//! Documents, packed into rows of equal length, shuffled, in batches.
//!
//! All documents, each closed by an end token, form one long stream. An epoch cuts that stream
//! into rows of `seq_len` tokens, from an offset of its own, and visits the rows in an order of
//! its own; both follow from (seed, epoch) alone, so a [`Cursor`] is all there is to save. A row
//! knows where its documents begin ([`Segments`](mamba_ssd::Segments)): a packed batch computes what the documents
//! would apart. A document cut by a row's end goes on in another row as a document of its own.
//!
//! The target of a token is the next token of its document. A document's last token (the end
//! token) and padding have none and are masked: no loss crosses a document border.

mod batch;
mod order;
mod source;

pub use batch::{Batch, Counts};
pub use order::{Cursor, Loader};
pub use source::{Skipped, Text, TextFormat, Texts, open_compressed, read_texts};

use crate::error::MohawkError;

/// One document: its tokens, and how many of the first ones are a prompt that is not learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Tokens, without the end token.
    pub tokens: Vec<u32>,
    /// Predictions of the first `prompt` tokens carry no loss.
    pub prompt: usize,
}

impl From<Vec<u32>> for Document {
    fn from(tokens: Vec<u32>) -> Self {
        Self { tokens, prompt: 0 }
    }
}

/// A stream of documents.
#[derive(Clone, Debug)]
pub struct Dataset {
    tokens: Vec<u32>,
    /// First token of each document in the stream, and the stream's length at the end.
    borders: Vec<usize>,
    prompts: Vec<usize>,
    eos: u32,
}

impl Dataset {
    /// A dataset of documents; `eos` closes each. Empty documents are skipped.
    ///
    /// # Errors
    ///
    /// If no document has a token.
    pub fn from_documents<I>(documents: I, eos: u32) -> Result<Self, MohawkError>
    where
        I: IntoIterator,
        I::Item: Into<Document>,
    {
        let mut dataset = Self { tokens: Vec::new(), borders: vec![0], prompts: Vec::new(), eos };
        for document in documents {
            dataset.push(document.into());
        }
        if dataset.is_empty() {
            let found = "found no document with text, expected at least one".to_string();
            return Err(MohawkError::Data(found));
        }
        Ok(dataset)
    }

    /// Tokenises `texts` with `encode`, which adds no end token of its own.
    ///
    /// # Errors
    ///
    /// If no text has a token.
    pub fn from_texts(
        texts: &[Text],
        encode: impl Fn(&str) -> Vec<u32>,
        eos: u32,
    ) -> Result<Self, MohawkError> {
        Self::from_documents(texts.iter().map(|text| text.encode(&encode)), eos)
    }

    fn push(&mut self, document: Document) {
        if document.tokens.is_empty() {
            return;
        }
        self.prompts.push(document.prompt);
        self.tokens.extend(document.tokens);
        self.tokens.push(self.eos);
        self.borders.push(self.tokens.len());
    }

    /// Number of tokens, end tokens included.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.prompts.len()
    }

    /// The prompts of the documents that have one.
    pub fn prompts(&self) -> impl Iterator<Item = &[u32]> {
        let documents = self.borders.windows(2).zip(&self.prompts).filter(|(_, prompt)| **prompt > 0);
        documents.map(|(border, &prompt)| {
            let document = &self.tokens[border[0]..border[1] - 1];
            &document[..prompt.min(document.len())]
        })
    }

    /// The end token.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The largest token id.
    pub fn max_token(&self) -> u32 {
        self.tokens.iter().copied().max().unwrap_or(self.eos)
    }

    /// A number that differs, almost surely, between different datasets (FNV-1a of the stream).
    pub fn fingerprint(&self) -> u64 {
        let numbers = self.tokens.iter().map(|&t| u64::from(t));
        let numbers = numbers.chain(self.borders.iter().chain(&self.prompts).map(|&n| n as u64));
        numbers.fold(0xcbf2_9ce4_8422_2325, |hash, number| (hash ^ number).wrapping_mul(0x0100_0000_01b3))
    }

    /// The document that stream position `at` lies in.
    fn document_at(&self, at: usize) -> usize {
        self.borders.partition_point(|&border| border <= at) - 1
    }

    /// Whether the token at stream position `at`, in `document`, is followed by a learned token.
    fn has_target(&self, at: usize, document: usize) -> bool {
        let next = at + 1;
        next < self.borders[document + 1] && next - self.borders[document] >= self.prompts[document]
    }
}

#[cfg(test)]
mod tests;
