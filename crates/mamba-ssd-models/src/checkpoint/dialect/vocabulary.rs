//! llama.cpp's vocabularies as tokenizers of the library `tokenizers`.
//!
//! A file lists tokens and merges, and names the rule that splits a text before the merges apply. Only
//! rules whose splitting is known exactly are covered: a wrong one would give slightly wrong tokens.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

/// A byte-level BPE.
pub(super) struct Vocabulary<'a> {
    pub tokens: Vec<String>,
    pub merges: Vec<String>,
    /// Tokens that are no text.
    pub special: Vec<usize>,
    /// Texts that are one token wherever they stand.
    pub whole: Vec<usize>,
    /// The name of the rule that splits a text.
    pub splits: &'a str,
    /// A token in front of every text.
    pub bos: Option<usize>,
}

/// What was found and what was expected.
pub(super) type Parsed<T> = Result<T, String>;

/// The `tokenizer.json` of a vocabulary.
pub(super) fn tokenizer_json(vocabulary: Vocabulary) -> Parsed<Vec<u8>> {
    let merges = vocabulary.merges.iter().map(|merge| {
        let (left, right) =
            merge.split_once(' ').ok_or_else(|| format!("the merge \"{merge}\" has no space"))?;
        Ok((left.to_string(), right.to_string()))
    });
    let words: Vocab =
        vocabulary.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
    let bpe = BPE::builder()
        .vocab_and_merges(words, merges.collect::<Parsed<Vec<_>>>()?)
        .ignore_merges(is_llama3(vocabulary.splits)) // as Llama 3's tokenizer.json
        .build()
        .map_err(|error| format!("the vocabulary and the merges do not fit: {error}"))?;
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_pre_tokenizer(Some(splitter(vocabulary.splits)?));
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, false)));
    let token = |id: usize| vocabulary.tokens.get(id).cloned();
    let special: Vec<AddedToken> = vocabulary
        .special
        .iter()
        .filter_map(|&id| token(id))
        .map(|token| AddedToken::from(token, true))
        .collect();
    tokenizer.add_special_tokens(special).map_err(|error| error.to_string())?;
    let whole =
        vocabulary.whole.iter().filter_map(|&id| token(id)).map(|token| AddedToken::from(token, false));
    tokenizer.add_tokens(whole.collect::<Vec<_>>()).map_err(|error| error.to_string())?;
    if vocabulary.splits == "qwen2" {
        tokenizer.with_normalizer(Some(NFC)).map_err(|error| error.to_string())?;
    }
    if let Some((id, token)) = vocabulary.bos.and_then(|id| Some((id, token(id)?))) {
        tokenizer.with_post_processor(Some(in_front(id as u32, &token)?));
    }
    tokenizer.to_string(false).map(String::into_bytes).map_err(|error| error.to_string())
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Whether a rule is that of Llama 3.
pub(super) fn is_llama3(name: &str) -> bool {
    matches!(name, "llama-bpe" | "llama3" | "llama-v3")
}

/// The rule of a name that llama.cpp's converter writes.
fn splitter(name: &str) -> Parsed<PreTokenizerWrapper> {
    let gpt2 = ByteLevel::new(false, true, true);
    let by = |pattern: &str| {
        let pattern = SplitPattern::Regex(pattern.to_string());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
            .map_err(|error| error.to_string())?;
        Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into())
    };
    match name {
        "gpt-2" | "gpt2" => Ok(gpt2.into()),
        "smollm" => Ok(Sequence::new(vec![Digits::new(true).into(), gpt2.into()]).into()),
        name if is_llama3(name) => by(LLAMA3),
        "qwen2" => by(QWEN2),
        other => Err(format!(
            "`tokenizer.ggml.pre` is \"{other}\", expected gpt-2, smollm, llama-bpe or qwen2; put the model's tokenizer.json beside the file"
        )),
    }
}

/// A processor that puts a token in front of every text.
pub(super) fn in_front(id: u32, token: &str) -> Parsed<TemplateProcessing> {
    TemplateProcessing::builder()
        .try_single(vec![token.to_string(), "$0".to_string()])
        .map(|builder| builder.special_tokens(vec![(token.to_string(), id)]).build())
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(splits: &str) -> Vocabulary<'_> {
        let tokens = ["a", "b", "<tool>", "<s>", "Ã©"].map(str::to_string).to_vec(); // the last: é, byte by byte
        let merges = vec!["Ã ©".to_string()];
        let tokens = [tokens, vec!["Ã".into(), "©".into()]].concat();
        Vocabulary { tokens, merges, special: vec![3], whole: vec![2], splits, bos: Some(3) }
    }

    fn encoded(splits: &str, text: &str) -> Vec<u32> {
        let json = tokenizer_json(vocabulary(splits)).expect("a tokenizer");
        let tokenizer = Tokenizer::from_bytes(json).expect("a tokenizer");
        tokenizer.encode(text, true).expect("tokens").get_ids().to_vec()
    }

    #[test]
    fn whole_tokens_are_found_before_merges_and_the_first_token_is_put_in_front() {
        assert_eq!(encoded("gpt-2", "a<tool>b"), [3, 0, 2, 1]);
        assert_eq!(encoded("llama-bpe", "é"), [3, 4]);
        assert_eq!(encoded("qwen2", "e\u{301}"), [3, 4], "qwen2 composes accents first");
    }

    #[test]
    fn a_rule_that_is_not_known_is_refused() {
        let error = tokenizer_json(vocabulary("deepseek-llm")).expect_err("another rule");
        assert!(error.contains("\"deepseek-llm\", expected gpt-2, smollm, llama-bpe or qwen2"), "{error}");
    }
}
