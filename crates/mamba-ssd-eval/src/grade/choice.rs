//! Finding the letter of a multiple-choice answer.

use super::extract::{behind_hashes, boxed, stated};

/// What may stand between the beginning of an answer and its letter.
const WRAPPERS: &[&str] = &[
    "\\textbf", "\\textrm", "\\text", "\\mathbf", "\\mathrm", "\\mbox", "\\boxed", "\\left", "\\(",
    "option ", "Option ", "choice ", "Choice ",
];

/// The letter of an answer that is a choice and nothing else: `B`, `(B)`, `B.`, `\text{(B)}`.
pub(super) fn alone(answer: &str) -> Option<&str> {
    let (letter, rest) = leading(answer)?;
    (is_choice(letter) && is_closing(rest)).then_some(letter)
}

/// The last choice of a completion: in its marked answers, else anywhere as `(B)`, `B.`, `B)`, `**B**`, `option B` or
/// on a line of its own.
pub(super) fn last(completion: &str) -> Option<&str> {
    [boxed, behind_hashes, stated]
        .into_iter()
        .find_map(|find| find(completion).and_then(of_answer))
        .or_else(|| last_letter(completion))
}

/// The letter that an answer begins with: any case if nothing follows it, else upper case.
fn of_answer(answer: &str) -> Option<&str> {
    let (letter, rest) = leading(answer)?;
    let article = matches!(letter, "A" | "I") && rest.trim_start().len() < rest.len();
    let chosen = is_closing(rest) || is_choice(letter) && !article && !continues_formula(rest);
    chosen.then_some(letter)
}

fn is_choice(letter: &str) -> bool {
    letter.bytes().all(|byte| byte.is_ascii_uppercase())
}

fn is_closing(rest: &str) -> bool {
    rest.chars().all(|c| c.is_whitespace() || ")]}.:,*$\\".contains(c))
}

fn continues_formula(rest: &str) -> bool {
    rest.trim_start().starts_with(['=', '+', '-', '/', '^', '_', '<', '>', '\'', '(', '!', '|'])
}

/// The single letter A to J, of any case, behind wrappers and opening brackets; and what follows it.
fn leading(answer: &str) -> Option<(&str, &str)> {
    let mut rest = answer;
    loop {
        let inner = WRAPPERS.iter().find_map(|&wrapper| rest.strip_prefix(wrapper)).unwrap_or(rest);
        let inner = inner.trim_start_matches(|c: char| c.is_whitespace() || "([{*$:".contains(c));
        if inner.len() == rest.len() {
            break;
        }
        rest = inner;
    }
    let letter = rest.get(..1).filter(|letter| matches!(letter.as_bytes(), [b'A'..=b'J' | b'a'..=b'j']))?;
    let behind = &rest[1..];
    (!behind.starts_with(char::is_alphanumeric)).then_some((letter, behind))
}

fn last_letter(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let at = (0..bytes.len())
        .rev()
        .find(|&at| matches!(bytes[at], b'A'..=b'J') && is_marked(&bytes[..at], &bytes[at + 1..]))?;
    Some(&text[at..=at])
}

/// Whether what stands around a letter makes it a choice.
fn is_marked(before: &[u8], behind: &[u8]) -> bool {
    let begins = before.last().is_none_or(|byte| byte.is_ascii_whitespace() || b"(*".contains(byte));
    let on_own_line = matches!(before, [] | [.., b'\n']) && matches!(behind, [b'\n' | b'\r', ..]);
    let ends = match behind {
        [] | [b')', ..] | [b'*', b'*', ..] => true,
        [b'.', rest @ ..] => rest.first().is_none_or(u8::is_ascii_whitespace),
        [next, ..] => !next.is_ascii_alphanumeric() && *next != b'\'' && is_named(before),
    };
    begins && (ends || on_own_line)
}

/// Whether "option " or "choice " stands in front.
fn is_named(before: &[u8]) -> bool {
    let word = before.len().checked_sub(7).map(|start| before[start..].to_ascii_lowercase());
    word.is_some_and(|word| matches!(word.as_slice(), b"option " | b"choice "))
}
