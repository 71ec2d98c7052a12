//! llama.cpp's SentencePiece vocabularies as tokenizers of the library `tokenizers`.
//!
//! A file lists tokens with scores and no merges. llama.cpp puts a space in front of every stretch of text, writes
//! `▁` for spaces, and then joins neighbours, first the pair whose joint token has the highest score and, among equals,
//! the leftmost; what is no token in the end becomes tokens of its bytes. `tokenizers` joins by the rank of the pair.
//! So every way to cut a token into two tokens is a merge, and merges are ranked by the score of what they make.
//!
//! Ranks are not scores where scores are equal. Published vocabularies have runs of spaces of one score, whose
//! leftmost pair comes first; the cut of the longer left part, then of the longer right one, has to. That order is tried on every such run, and a
//! vocabulary where it differs, or where other tokens share a score, is refused. (Cuts of one token share its score too.
//! Where `[x][y][z]` has xy = yz their order would matter; among 240,000 texts by 6,000 random vocabularies, half of the
//! texts mostly runs of one character, it never did, in either order.)

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::utils::Sequence as Normalizers;
use tokenizers::{AddedToken, Tokenizer};

use super::vocabulary::{Parsed, in_front};

/// Tokens with scores.
pub(super) struct Pieces {
    pub tokens: Vec<String>,
    pub scores: Vec<f64>,
    /// Tokens that are no text, the unknown one among them.
    pub special: Vec<usize>,
    /// Texts that are one token wherever they stand.
    pub whole: Vec<usize>,
    /// What stands for text that no token can express: there is none, since every byte has a token.
    pub unknown: usize,
    /// A token in front of every text.
    pub bos: Option<usize>,
    /// Whether a space is put in front of a text.
    pub space: bool,
}

/// A space in a token.
const SPACE: &str = "▁";
/// No published token is longer, in bytes.
const LONGEST: usize = 512;

/// Runs are tried up to so many characters, and of so many characters.
const LONGEST_RUN: usize = 130;
const MOST_RUNS: usize = 8;

/// The `tokenizer.json` of a vocabulary.
pub(super) fn tokenizer_json(pieces: &Pieces) -> Parsed<Vec<u8>> {
    check(pieces)?;
    let words: Vocab =
        pieces.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
    let unknown = pieces.tokens.get(pieces.unknown).ok_or("the unknown token is no token")?;
    let bpe = BPE::builder()
        .vocab_and_merges(words, merges(pieces)?)
        .unk_token(unknown.clone())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .map_err(|error| format!("the vocabulary is none: {error}"))?;
    let mut tokenizer = Tokenizer::new(bpe);
    let replaced = |from: &str, to: &str| Replace::new(from, to).map_err(|error| error.to_string());
    let mut normalizers = vec![replaced(" ", SPACE)?.into()];
    let mut decoders = vec![replaced(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if pieces.space {
        normalizers.insert(0, Prepend::new(SPACE.into()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers))).map_err(|error| error.to_string())?;
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    let added = |ids: &[usize], special: bool| -> Vec<AddedToken> {
        let token = |&id: &usize| pieces.tokens.get(id).cloned();
        ids.iter().filter_map(token).map(|token| AddedToken::from(token, special).normalized(false)).collect()
    };
    tokenizer.add_special_tokens(added(&pieces.special, true)).map_err(|error| error.to_string())?;
    tokenizer.add_tokens(added(&pieces.whole, false)).map_err(|error| error.to_string())?;
    if let Some((id, token)) = pieces.bos.and_then(|id| Some((id, pieces.tokens.get(id)?))) {
        tokenizer.with_post_processor(Some(in_front(id as u32, token)?));
    }
    tokenizer.to_string(false).map(String::into_bytes).map_err(|error| error.to_string())
}

fn check(pieces: &Pieces) -> Parsed<()> {
    let (tokens, scores) = (pieces.tokens.len(), pieces.scores.len());
    if tokens != scores {
        return Err(format!("{tokens} tokens have {scores} scores"));
    }
    if let Some(token) = pieces.tokens.iter().find(|token| token.len() > LONGEST) {
        return Err(format!("a token has {} bytes, expected at most {LONGEST}", token.len()));
    }
    let known: HashSet<&str> = pieces.tokens.iter().map(String::as_str).collect();
    match (0..=u8::MAX).find(|byte| !known.contains(format!("<0x{byte:02X}>").as_str())) {
        None => Ok(()),
        Some(value) => Err(format!("the token <0x{value:02X}> of a byte is missing")),
    }
}

/// A token that is made of two, and the cuts between them.
struct Made<'a> {
    score: f64,
    token: &'a str,
    cuts: Vec<(&'a str, &'a str)>,
}

/// Every way to cut a token into two tokens, the tokens of highest score first.
fn merges(pieces: &Pieces) -> Parsed<Vec<(String, String)>> {
    let apart: HashSet<usize> = pieces.special.iter().chain(&pieces.whole).copied().collect(); // cut out of a text before
    let known: HashSet<&str> = pieces.tokens.iter().map(String::as_str).collect();
    let mut made = Vec::new();
    for (id, token) in pieces.tokens.iter().enumerate().filter(|(id, _)| !apart.contains(id)) {
        let places = token.char_indices().map(|(place, _)| token.split_at(place)).skip(1);
        let cuts: Vec<_> =
            places.filter(|(left, right)| known.contains(left) && known.contains(right)).collect();
        if !cuts.is_empty() {
            made.push(Made { score: pieces.scores[id], token, cuts });
        }
    }
    made.sort_by(|a, b| b.score.total_cmp(&a.score));
    let (mut merges, mut runs) = (Vec::new(), BTreeSet::new());
    for equals in made.chunk_by(|a, b| a.score == b.score) {
        let mut cuts: Vec<_> = equals.iter().flat_map(|made| made.cuts.iter().copied()).collect();
        if equals.len() > 1 {
            runs.extend(equals.iter().map(|made| run_of(made, equals)).collect::<Parsed<Vec<char>>>()?);
            cuts.sort_by_key(|(left, right)| Reverse((left.len(), right.len())));
        }
        merges.extend(cuts);
    }
    check_runs(&made, &merges, &runs)?;
    Ok(merges.into_iter().map(|(left, right)| (left.to_string(), right.to_string())).collect())
}

/// The character of which a token that shares its score is a run.
fn run_of(made: &Made, equals: &[Made]) -> Parsed<char> {
    let first = made.token.chars().next().unwrap_or_default();
    if made.token.chars().all(|character| character == first) {
        return Ok(first);
    }
    let other = equals.iter().find(|other| other.token != made.token).unwrap_or(made);
    let (token, other, score) = (made.token, other.token, made.score);
    Err(format!("\"{token}\" and \"{other}\" have the same score, {score}: which is made first is not said"))
}

/// An error if the ranks of the merges treat runs of these characters otherwise than the scores.
fn check_runs(made: &[Made], merges: &[(&str, &str)], runs: &BTreeSet<char>) -> Parsed<()> {
    if runs.len() > MOST_RUNS {
        return Err(format!("runs of {} characters share scores, expected at most {MOST_RUNS}", runs.len()));
    }
    for &character in runs {
        let of_run = |text: &str| text.chars().all(|other| other == character);
        let scores: HashMap<&str, f64> =
            made.iter().filter(|made| of_run(made.token)).map(|made| (made.token, made.score)).collect();
        let ranks = merges.iter().enumerate().filter(|(_, (left, right))| of_run(left) && of_run(right));
        let ranks: HashMap<(&str, &str), usize> = ranks.map(|(rank, cut)| (*cut, rank)).collect();
        let longest = 1 + 2 * scores.keys().map(|token| token.chars().count()).max().unwrap_or(0);
        if longest > LONGEST_RUN {
            return Err(format!("a run of {character:?} is too long to see how it is made"));
        }
        for length in 1..=longest {
            let run = character.to_string().repeat(length);
            let by_score = joined(&run, |a, b| scores.get(format!("{a}{b}").as_str()).map(|score| -score));
            let by_rank = joined(&run, |a, b| ranks.get(&(a, b)).copied());
            if by_score != by_rank {
                return Err(format!(
                    "{length} times {character:?} is made in an order that merges cannot say"
                ));
            }
        }
    }
    Ok(())
}

/// A text whose neighbours are joined until none can be: the pair of the least value first, and the leftmost.
fn joined<V: PartialOrd>(text: &str, value: impl Fn(&str, &str) -> Option<V>) -> Vec<String> {
    let mut pieces: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let pairs = pieces.array_windows().enumerate().filter_map(|(i, [a, b])| Some((value(a, b)?, i)));
        let best = pairs.reduce(|best, pair| if pair.0 < best.0 { pair } else { best });
        let Some((_, i)) = best else { return pieces };
        let right = pieces.remove(i + 1);
        pieces[i].push_str(&right);
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;
    use std::collections::BinaryHeap;

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// `<unk>`, `<s>`, `</s>`, the bytes, then the given tokens: the first is 259.
    fn pieces(tokens: &[(&str, f64)]) -> Pieces {
        let fixed = ["<unk>", "<s>", "</s>"].map(str::to_string).into_iter();
        let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
        let fixed = fixed.chain(bytes).map(|token| (token, 0.0));
        let all = fixed.chain(tokens.iter().map(|(token, score)| (token.to_string(), *score)));
        let (tokens, scores) = all.unzip();
        Pieces {
            tokens,
            scores,
            special: vec![1, 2, 0],
            whole: Vec::new(),
            unknown: 0,
            bos: Some(1),
            space: true,
        }
    }

    fn tokenizer(pieces: &Pieces) -> Parsed<Tokenizer> {
        Tokenizer::from_bytes(tokenizer_json(pieces)?).map_err(|error| error.to_string())
    }

    fn encoded(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        tokenizer.encode(text, true).expect("tokens").get_ids().to_vec()
    }

    const SMALL: [(&str, f64); 10] = [
        ("▁▁", -0.5),
        ("ab", -1.0),
        ("▁a", -2.0),
        ("bc", -3.0),
        ("abc", -4.0),
        ("▁abc", -5.0),
        ("▁", -6.0),
        ("a", -7.0),
        ("b", -8.0),
        ("c", -9.0),
    ];

    #[test]
    fn texts_become_the_tokens_that_scores_call_for() {
        let tokenizer = tokenizer(&pieces(&SMALL)).expect("a tokenizer");
        let byte = |byte: u8| 3 + u32::from(byte);
        for (text, expected) in [
            ("abc", vec![1, 264]),            // ▁ab c: ab, then abc, then ▁abc
            ("a bc", vec![1, 261, 265, 262]), // ▁a ▁ bc
            ("  a", vec![1, 259, 261]),       // ▁▁ ▁a: the left pair of ▁▁▁
            ("é", vec![1, 265, byte(0xC3), byte(0xA9)]),
            ("a\n", vec![1, 261, byte(b'\n')]),
            ("", vec![1]),
            ("</s>a", vec![1, 2, 261]), // a space after what is no text
            ("a</s>b", vec![1, 261, 2, 265, 267]),
        ] {
            assert_eq!(encoded(&tokenizer, text), expected, "{text:?}");
            let text = text.replace("</s>", "");
            if !text.is_empty() && !text.ends_with('b') {
                assert_eq!(tokenizer.decode(&expected, true).expect("a text"), text);
            }
        }
    }

    #[test]
    fn user_defined_tokens_are_found_first_and_the_space_in_front_can_be_left_out() {
        let mut pieces = pieces(&SMALL);
        pieces.whole = vec![262]; // bc
        (pieces.space, pieces.bos) = (false, None);
        let tokenizer = tokenizer(&pieces).expect("a tokenizer");
        assert_eq!(encoded(&tokenizer, "abc a"), [266, 262, 261]);
        assert_eq!(tokenizer.decode(&[261, 266], true).expect("a text"), " aa");
    }

    /// A pair of neighbours as llama.cpp's queue orders them: the score, then the left one.
    #[derive(PartialEq)]
    struct Pair(f64, Reverse<usize>, usize, usize);

    impl Eq for Pair {}

    impl Ord for Pair {
        fn cmp(&self, other: &Self) -> Ordering {
            self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
        }
    }

    impl PartialOrd for Pair {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    /// The tokens of a text by a queue over linked symbols, without normalisation of any kind but spaces. For
    /// vocabularies whose every character is a token.
    fn by_queue(pieces: &Pieces, text: &str) -> Vec<u32> {
        let text = format!(" {text}").replace(' ', SPACE);
        let id = |piece: &str| pieces.tokens.iter().position(|token| token == piece);
        let mut symbols: Vec<String> = text.chars().map(String::from).collect();
        let mut next: Vec<usize> = (1..=symbols.len()).collect();
        let mut previous: Vec<Option<usize>> = (0..symbols.len()).map(|i| i.checked_sub(1)).collect();
        let mut queue = BinaryHeap::new();
        let pair = |symbols: &[String], left: usize, right: usize| {
            let joint = format!("{}{}", symbols[left], symbols[right]);
            Some(Pair(pieces.scores[id(&joint)?], Reverse(left), right, joint.len()))
        };
        queue.extend((1..symbols.len()).filter_map(|right| pair(&symbols, right - 1, right)));
        while let Some(Pair(_, Reverse(left), right, length)) = queue.pop() {
            if symbols[left].is_empty()
                || symbols[right].is_empty()
                || symbols[left].len() + symbols[right].len() != length
            {
                continue; // one of them was joined with another
            }
            let joined = std::mem::take(&mut symbols[right]);
            symbols[left].push_str(&joined);
            next[left] = next[right];
            if next[left] < symbols.len() {
                previous[next[left]] = Some(left);
                queue.extend(pair(&symbols, left, next[left]));
            }
            queue.extend(previous[left].and_then(|before| pair(&symbols, before, left)));
        }
        symbols
            .iter()
            .filter(|symbol| !symbol.is_empty())
            .map(|symbol| id(symbol).expect("a token") as u32)
            .collect()
    }

    /// Characters and random joints of tokens, all with scores of their own.
    fn drawn(rng: &mut ChaCha8Rng) -> Vec<(String, f64)> {
        let mut tokens = ["▁", "a", "b"].map(str::to_string).to_vec();
        for _ in 0..rng.random_range(2..14) {
            let [a, b] = [0; 2].map(|_| tokens[rng.random_range(0..tokens.len())].clone());
            let joint = a + &b;
            if joint.chars().count() <= 8 && !tokens.contains(&joint) {
                tokens.push(joint);
            }
        }
        tokens.into_iter().map(|token| (token, -rng.random::<f64>() * 1000.0)).collect()
    }

    #[test]
    fn any_vocabulary_is_tokenised_as_a_queue_of_scores_does() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for round in 0..400 {
            let tokens = drawn(&mut rng);
            let tokens: Vec<(&str, f64)> =
                tokens.iter().map(|(token, score)| (token.as_str(), *score)).collect();
            let mut pieces = pieces(&tokens);
            pieces.bos = None;
            let tokenizer = tokenizer(&pieces).expect("scores of their own");
            for _ in 0..40 {
                let length = rng.random_range(1..24);
                let rare = if round % 2 == 0 { 2 } else { 9 }; // else mostly runs of one character
                let letter = |rng: &mut ChaCha8Rng| match rng.random_range(0..=rare) {
                    0 => 'a',
                    1 => 'b',
                    _ => ' ',
                };
                let text: String = (0..length).map(|_| letter(&mut rng)).collect();
                assert_eq!(encoded(&tokenizer, &text), by_queue(&pieces, &text), "{text:?} by {tokens:?}");
            }
        }
    }

    /// Published vocabularies have runs of up to 16 spaces, all of one score below the others.
    #[test]
    fn runs_of_spaces_of_one_score_grow_from_the_left() {
        for longest in [2, 3, 16] {
            let runs: Vec<String> = (2..=longest).map(|length| SPACE.repeat(length)).collect();
            let runs = runs.iter().map(|run| (run.as_str(), -1e9));
            let mut tokens: Vec<(&str, f64)> = runs.collect();
            tokens.extend([("▁", -1.0), ("a", -2.0), ("b", -3.0), ("▁a", -4.0), ("ab", -5.0)]);
            let mut pieces = pieces(&tokens);
            pieces.bos = None;
            let tokenizer = tokenizer(&pieces).expect("runs of spaces");
            for spaces in 0..50 {
                let text = format!("{0}a{0}b{0}", " ".repeat(spaces));
                assert_eq!(
                    encoded(&tokenizer, &text),
                    by_queue(&pieces, &text),
                    "{spaces} spaces by {longest}"
                );
            }
        }
    }

    #[test]
    fn vocabularies_that_merges_cannot_say_are_refused() {
        let refused = |change: &dyn Fn(&mut Pieces), part: &str| {
            let mut pieces = pieces(&SMALL);
            change(&mut pieces);
            let error = tokenizer_json(&pieces).expect_err("refused");
            assert!(error.contains(part) && !error.contains('\n'), "{part} in {error}");
        };
        refused(&|pieces| pieces.scores[260] = -2.0, "\"ab\" and \"▁a\" have the same score, -2");
        refused(&|pieces| pieces.tokens[3 + 0xC3] = "x".into(), "the token <0xC3> of a byte is missing");
        refused(&|pieces| pieces.scores.truncate(268), "269 tokens have 268 scores");
        let runs = |pieces: &mut Pieces, scores: &[f64]| {
            for (i, score) in scores.iter().enumerate() {
                pieces.tokens.push(SPACE.repeat(i + 3));
                pieces.scores.push(*score);
            }
        };
        let order = "7 times '▁' is made in an order that merges cannot say";
        // Of ▁▁, ▁▁, ▁▁▁ the left two are joined by score, the right two by rank.
        refused(&|pieces| runs(pieces, &[-1.5, -7.5, -7.5]), order);
        refused(&|pieces| runs(pieces, &[-0.5; 70]), "a run of '▁' is too long");
        refused(
            &|pieces| pieces.tokens[261] = "a".repeat(600),
            "a token has 600 bytes, expected at most 512",
        );
    }
}
