//! Text as its tokens come: whole characters, up to a stop string.

use crate::{ModelError, Tokenizer};

/// Tokens of the prompt that the first new ones are decoded behind: decoders drop a space at the very beginning.
const CONTEXT: usize = 6;

/// The text of tokens that come one at a time. A character may take several of them, and is handed out whole.
#[derive(Clone, Debug)]
pub struct TextStream {
    tokens: Vec<u32>,
    /// Where decoding begins.
    prefix: usize,
    /// Where the tokens begin whose text is not yet out.
    read: usize,
}

impl TextStream {
    /// A stream of what follows `prompt`.
    pub fn after(prompt: &[u32]) -> Self {
        let tokens = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        Self { prefix: 0, read: tokens.len(), tokens }
    }

    /// The text that this token completes.
    ///
    /// # Errors
    ///
    /// If the tokenizer cannot treat the tokens.
    pub fn push(&mut self, token: u32, tokenizer: &Tokenizer) -> Result<String, ModelError> {
        self.tokens.push(token);
        let text = self.unread(tokenizer)?;
        if text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.prefix = self.read;
        self.read = self.tokens.len();
        Ok(text)
    }

    /// What is left when no token follows, half a character as the replacement character.
    ///
    /// # Errors
    ///
    /// If the tokenizer cannot treat the tokens.
    pub fn finish(&self, tokenizer: &Tokenizer) -> Result<String, ModelError> {
        self.unread(tokenizer)
    }

    fn unread(&self, tokenizer: &Tokenizer) -> Result<String, ModelError> {
        let before = tokenizer.decode(&self.tokens[self.prefix..self.read])?;
        let all = tokenizer.decode(&self.tokens[self.prefix..])?;
        Ok(all.get(before.len()..).unwrap_or_default().to_string())
    }
}

/// Text up to the first stop string, which may begin in one piece and end in another.
#[derive(Clone, Debug)]
pub(crate) struct StopStrings {
    strings: Vec<String>,
    held: String,
}

/// What a piece of text led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Text that no stop string can begin in.
    pub text: String,
    /// The stop string that was met. It is in no text.
    pub stopped: Option<String>,
}

impl StopStrings {
    /// Empty strings stop nothing.
    pub(crate) fn new(strings: &[String]) -> Self {
        let strings = strings.iter().filter(|string| !string.is_empty()).cloned().collect();
        Self { strings, held: String::new() }
    }

    /// What may be shown after one more piece.
    pub(crate) fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        let met = self.strings.iter().filter_map(|string| Some((self.held.find(string)?, string)));
        if let Some((at, string)) = met.min_by_key(|(at, string)| (*at, std::cmp::Reverse(string.len()))) {
            return Passed { text: self.held[..at].to_string(), stopped: Some(string.clone()) };
        }
        let kept = self.strings.iter().map(|string| overlap(&self.held, string)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        Passed { text: std::mem::replace(&mut self.held, rest), stopped: None }
    }

    /// What was held back, once nothing follows.
    pub(crate) fn finish(self) -> String {
        self.held
    }
}

/// Bytes of the longest end of `text` that `string` begins with.
fn overlap(text: &str, string: &str) -> usize {
    let ends = string.char_indices().skip(1).map(|(at, _)| at).filter(|&at| text.ends_with(&string[..at]));
    ends.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(strings: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut stops =
            StopStrings::new(&strings.iter().map(|string| string.to_string()).collect::<Vec<_>>());
        let mut text = String::new();
        for piece in pieces {
            let step = stops.push(piece);
            text += &step.text;
            if step.stopped.is_some() {
                return (text, step.stopped);
            }
        }
        (text + &stops.finish(), None)
    }

    #[test]
    fn a_stop_string_is_met_across_pieces_and_is_in_no_text() {
        let met = |strings: &[&str], pieces: &[&str]| passed(strings, pieces);
        assert_eq!(met(&["END"], &["ab", "E", "N", "Dx"]), ("ab".into(), Some("END".into())));
        assert_eq!(met(&["END"], &["aENbE", "EN", "c"]), ("aENbEENc".into(), None));
        assert_eq!(met(&["b", "ab"], &["xa", "bc"]), ("x".into(), Some("ab".into())));
        assert_eq!(met(&["éa", "é"], &["xé", "a"]), ("x".into(), Some("é".into())));
        assert_eq!(met(&["aab"], &["a", "a", "a", "b"]), ("a".into(), Some("aab".into())));
        assert_eq!(met(&[""], &["ab"]), ("ab".into(), None));
    }

    /// The vocabulary of this file is bytes and a few words.
    #[test]
    fn a_character_of_several_tokens_comes_whole() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny.gguf");
        let tokenizer =
            crate::Checkpoint::open(&path).expect("a checkpoint").tokenizer().expect("a tokenizer");
        let tokens = tokenizer.encode("a€b").expect("tokens");
        assert!(tokens.len() > 3, "€ takes several of {tokens:?}");
        let stream = |tokens: &[u32]| {
            let mut stream = TextStream::after(&[]);
            let piece = |token: &u32| stream.push(*token, &tokenizer).expect("text");
            let pieces: Vec<String> = tokens.iter().map(piece).collect();
            (pieces, stream.finish(&tokenizer).expect("text"))
        };
        let (pieces, rest) = stream(&tokens);
        assert_eq!((pieces.concat(), rest), ("a€b".into(), String::new()));
        assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)), "{pieces:?}");
        let (pieces, rest) = stream(&tokens[..2]);
        assert_eq!((pieces.concat(), rest), ("a".into(), char::REPLACEMENT_CHARACTER.to_string()));
    }

    #[test]
    fn only_what_may_become_a_stop_string_is_held_back() {
        let mut stops = StopStrings::new(&["\n\n".to_string()]);
        assert_eq!(stops.push("one\n").text, "one");
        assert_eq!(stops.push("two").text, "\ntwo");
    }
}
