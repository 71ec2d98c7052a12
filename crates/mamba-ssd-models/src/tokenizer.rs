//! Text to tokens and back, as `tokenizer.json` defines it.

use std::path::{Path, PathBuf};

use crate::ModelError;

/// A tokenizer of the `tokenizers` library.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
}

/// What families call the token that ends a text.
const ENDS: [&str; 8] =
    ["<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "</s>", "<eos>", "<|im_end|>", "[EOS]"];

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is no tokenizer.
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        let bytes = std::fs::read(path);
        let bytes =
            bytes.map_err(|source| ModelError::Io { action: "read", path: path.to_path_buf(), source })?;
        Self::parse(&bytes, path)
    }

    /// A tokenizer from the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// If the bytes are no tokenizer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        Self::parse(bytes, Path::new("tokenizer.json"))
    }

    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self, ModelError> {
        let path = path.to_path_buf();
        match tokenizers::Tokenizer::from_bytes(bytes) {
            Ok(inner) => Ok(Self { inner, path }),
            Err(error) => {
                Err(ModelError::Tokenizer { path, reason: format!("not a tokenizer.json: {error}") })
            }
        }
    }

    /// The tokens of a text, without those that mark its beginning or end.
    ///
    /// # Errors
    ///
    /// If the tokenizer cannot treat the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.inner.encode(text, false).map_err(|error| self.error(&error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens of a text, with those that the tokenizer puts around it.
    ///
    /// # Errors
    ///
    /// If the tokenizer cannot treat the text.
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.inner.encode(text, true).map_err(|error| self.error(&error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens, without the special ones.
    ///
    /// # Errors
    ///
    /// If the tokenizer cannot treat the tokens.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        self.inner.decode(tokens, true).map_err(|error| self.error(&error))
    }

    /// The token of a word of the vocabulary.
    pub fn token_id(&self, word: &str) -> Option<u32> {
        self.inner.token_to_id(word)
    }

    /// The word of a token.
    pub fn word(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// The tokens that end a text or a turn, as far as the vocabulary has some under usual names. (A
    /// model's `config.json` knows better.)
    pub fn eos_ids(&self) -> Vec<u32> {
        ENDS.iter().filter_map(|word| self.token_id(word)).collect()
    }

    /// The largest token, if there is one. Vocabularies may have holes.
    pub fn largest_id(&self) -> Option<u32> {
        self.inner.get_vocab(true).into_values().max()
    }

    /// Whether both have the same words under the same numbers, as models must that speculate together.
    pub fn same_vocabulary(&self, other: &Self) -> bool {
        self.inner.get_vocab(true) == other.inner.get_vocab(true)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    fn error(&self, error: &tokenizers::Error) -> ModelError {
        ModelError::Tokenizer { path: self.path.clone(), reason: error.to_string() }
    }
}
