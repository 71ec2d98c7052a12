//! Finding the answer part of a completion. Every search passes over the text a constant number of times.

/// What stands in front of a stated answer, in lower case.
const STATEMENTS: &[&str] = &["answer is", "answer:"];

/// What ends a stated answer, beside the line and the sentence.
const REASONS: &[&str] =
    &[", because ", " because ", ", since ", " since ", ", so ", ", which ", ", where ", ", as "];

/// The answer that the text marks: in the last box, behind the last `####`, or behind the last "the answer is".
pub(super) fn marked(text: &str) -> Option<&str> {
    boxed(text).or_else(|| behind_hashes(text)).or_else(|| stated(text))
}

/// What the last `\boxed{…}` or `\fbox{…}` holds whose braces balance, and that is not blank; or what follows the last
/// `\boxed ` up to `$` or the end of the line.
pub(super) fn boxed(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let mut open = Vec::new(); // for each brace not yet closed, where its content begins if it is a box's
    let mut last = None;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => match box_content(text, at) {
                Some((start, true)) => {
                    open.push(Some(start));
                    at = start;
                    continue;
                }
                Some((start, false)) => last = Some((start, None)),
                None => at += 1, // whatever is escaped, a brace too
            },
            b'{' => open.push(None),
            b'}' => {
                let start = open.pop().flatten();
                let later = |start: &usize| last.is_none_or(|(last, _)| *start > last);
                if let Some(start) = start.filter(later).filter(|&start| !is_blank(&bytes[start..at])) {
                    last = Some((start, Some(at)));
                }
            }
            _ => {}
        }
        at += 1;
    }
    let (start, end) = last?;
    let rest = &text[start..];
    let length = end.map_or_else(|| rest.find(['$', '\n']).unwrap_or(rest.len()), |end| end - start);
    present(&rest[..length])
}

/// Where the content of the box that begins at a backslash begins, and whether braces hold it.
fn box_content(text: &str, at: usize) -> Option<(usize, bool)> {
    let rest = &text[at..];
    let behind = rest.strip_prefix("\\boxed").or_else(|| rest.strip_prefix("\\fbox"))?;
    let content = behind.trim_start_matches([' ', '\t']);
    let start = text.len() - content.len();
    let mut characters = content.chars();
    match (characters.next()?, characters.next()) {
        ('{', _) => Some((start + 1, true)),
        (first, second) if first.is_alphabetic() => {
            let alone = content.len() < behind.len() && second.is_none_or(|second| !second.is_alphabetic());
            alone.then_some((start, false)) // a variable, not a word
        }
        (first, _) => (first.is_ascii_digit() || "-(.[\\".contains(first)).then_some((start, false)),
    }
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace)
}

/// The text without white space around it, if anything is left.
fn present(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
}

/// The rest of the line behind the last `####`, as GSM8K writes it.
pub(super) fn behind_hashes(text: &str) -> Option<&str> {
    let (_, behind) = text.rsplit_once("####")?;
    present(behind.lines().next()?)
}

/// What the last "the answer is" or "answer:" states.
pub(super) fn stated(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    let ends = STATEMENTS.iter().filter_map(|mark| Some(lower.rfind(mark)? + mark.len()));
    let behind = &text[ends.max()?..];
    if behind.starts_with(char::is_alphabetic) {
        return None;
    }
    clause(behind.trim_start_matches(|c: char| c.is_whitespace() || c == ':' || c == '*'))
}

/// A displayed formula, or the line up to the end of its sentence or a reason.
fn clause(text: &str) -> Option<&str> {
    for (open, close) in [("\\[", "\\]"), ("$$", "$$")] {
        if let Some((formula, _)) = text.strip_prefix(open).and_then(|rest| rest.split_once(close)) {
            return present(formula);
        }
    }
    let line = text.lines().next()?;
    let sentence = line.split(". ").next()?;
    let lower = sentence.to_ascii_lowercase();
    let end = REASONS.iter().filter_map(|reason| lower.find(reason)).min().unwrap_or(sentence.len());
    present(sentence[..end].trim_end().trim_end_matches('*'))
}

/// The last number, with its sign, thousands, denominator and percent sign.
pub(super) fn last_number(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let mut last = None;
    let mut at = 0;
    while at < bytes.len() {
        let end = number_end(bytes, at);
        if end == at {
            at += 1;
            continue;
        }
        last = Some((at, end));
        at = end;
    }
    let (start, end) = last?;
    let percent = ["%", "\\%"].iter().find(|&sign| text[end..].starts_with(sign));
    Some(&text[start - sign_length(&text[..start])..end + percent.map_or(0, |sign| sign.len())])
}

/// Where the number that begins at `at` ends; `at` if none does. A denominator counts as part of its fraction.
fn number_end(bytes: &[u8], at: usize) -> usize {
    let behind_operand = bytes[..at].last().is_some_and(u8::is_ascii_alphanumeric);
    let end = match bytes[at] {
        b'.' if !behind_operand => decimal_end(bytes, at + 1),
        _ => decimal_end(bytes, at),
    };
    if end > at + usize::from(bytes[at] == b'.') { fraction_end(bytes, end) } else { at }
}

fn fraction_end(bytes: &[u8], end: usize) -> usize {
    if bytes.get(end) != Some(&b'/') {
        return end;
    }
    let denominator = decimal_end(bytes, end + 1);
    if denominator == end + 1 { end } else { denominator }
}

fn decimal_end(bytes: &[u8], at: usize) -> usize {
    let digits =
        |from: usize| bytes[from.min(bytes.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = at + digits(at);
    while end > at && bytes.get(end) == Some(&b',') && digits(end + 1) == 3 {
        end += 4;
    }
    match bytes.get(end) {
        Some(b'.') if digits(end + 1) > 0 => end + 1 + digits(end + 1),
        _ => end,
    }
}

/// How long the sign and the dollars in front of a number are. Behind an operand a dash is no sign.
fn sign_length(before: &str) -> usize {
    let bare = before.strip_suffix("\\$").or_else(|| before.strip_suffix('$')).unwrap_or(before);
    let Some(rest) = bare.strip_suffix('-').or_else(|| bare.strip_suffix('−')) else { return 0 };
    let operand = rest.ends_with(|c: char| c.is_alphanumeric() || matches!(c, ')' | '}' | ']'));
    if operand { 0 } else { before.len() - rest.len() }
}
