//! What an answer is without its ornaments: thousands separators, outer braces, full stops, units.

use super::expression::function;
use super::lex::tokens;
use super::token::Token;

/// The tokens of an answer, each number in one piece.
pub(super) fn normalise(answer: &str) -> Vec<Token> {
    join_thousands(&tokens(answer))
}

/// Joins `1,234`, `1\,234` and `1 234`. Where brackets hold no comma with a space behind it, as `(1,234)`, every comma
/// in them separates.
fn join_thousands(tokens: &[Token]) -> Vec<Token> {
    let joins = joining_commas(tokens);
    let mut joined = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let (token, length) = thousands(&tokens[at..], &joins[at..]).unwrap_or((tokens[at].clone(), 1));
        joined.push(token);
        at += length;
    }
    joined
}

/// For each token whether it is a comma that may join: outside brackets, or in brackets with spaced commas too.
fn joining_commas(tokens: &[Token]) -> Vec<bool> {
    let mut spaced = vec![true]; // for each pair of brackets
    let mut open = vec![0]; // the pairs around the token
    let mut around = Vec::with_capacity(tokens.len());
    for (at, token) in tokens.iter().enumerate() {
        if token.nesting() > 0 {
            open.push(spaced.len());
            spaced.push(*token == Token::Open);
        } else if token.nesting() < 0 && open.len() > 1 {
            open.pop();
        }
        let pair = open.last().copied().unwrap_or(0);
        spaced[pair] |= token.is(',') && tokens.get(at + 1) == Some(&Token::Space);
        around.push(pair);
    }
    tokens.iter().zip(around).map(|(token, pair)| token.is(',') && spaced[pair]).collect()
}

/// The number at the beginning that is written in groups of three digits, and how many tokens it takes.
fn thousands(tokens: &[Token], joins: &[bool]) -> Option<(Token, usize)> {
    let Some(Token::Number(first)) = tokens.first() else { return None };
    let separator = tokens.get(1).filter(|token| matches!(token, Token::Space | Token::Symbol(',')));
    if first.len() > 3 || first.starts_with('0') || !first.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let step = if separator.is_some() { 2 } else { 1 };
    let mut number = first.clone();
    let mut length = 1;
    while let Some(Token::Number(group)) = tokens.get(length + step - 1) {
        let separated = separator.is_none() || tokens.get(length) == separator;
        if !separated || tokens[length].is(',') && !joins[length] {
            break;
        }
        if number.contains('.') || group.split('.').next().is_none_or(|whole| whole.len() != 3) {
            return None;
        }
        number += group;
        length += step;
    }
    let mixed = separator == Some(&Token::Space) && tokens.get(length).is_some_and(|token| token.is('/'));
    (length > 1 && !mixed && !number.contains(['e', 'E'])).then_some((Token::Number(number), length))
}

/// The tokens without white space, punctuation, a plus sign or braces around them.
pub(super) fn trim(mut tokens: &[Token]) -> &[Token] {
    loop {
        tokens = match tokens {
            [Token::Space | Token::Symbol('+' | ':' | '"' | '“' | '”' | '`'), rest @ ..] => rest,
            [rest @ .., Token::Space | Token::Symbol('.' | ',' | ':' | '"' | '“' | '”' | '`')] => rest,
            [rest @ .., Token::Command(name)] if name == "\\" => rest,
            [Token::Open, ..] => match enclosed(tokens) {
                Some(inner) if split(inner, |token| token.is(',')).len() == 1 => inner,
                _ => return tokens,
            },
            _ => return tokens,
        }
    }
}

/// What lies between the first token and the last, if they are a pair of brackets.
pub(super) fn enclosed(tokens: &[Token]) -> Option<&[Token]> {
    let [first, inner @ .., last] = tokens else { return None };
    let mut depth = 1;
    let stays_open = inner.iter().all(|token| {
        depth += token.nesting();
        depth > 0
    });
    (first.nesting() > 0 && last.nesting() < 0 && depth == 1 && stays_open).then_some(inner)
}

/// The parts between separators that lie outside all brackets.
pub(super) fn split(tokens: &[Token], separates: impl Fn(&Token) -> bool) -> Vec<&[Token]> {
    let mut depth = 0;
    tokens
        .split(|token| {
            depth += token.nesting();
            depth == 0 && separates(token)
        })
        .collect()
}

/// Units that are too short to be told from a product of variables, unless by name.
const SHORT_UNITS: &[&str] = &[
    "cm", "mm", "km", "dm", "nm", "ft", "in", "yd", "mi", "kg", "mg", "lb", "lbs", "oz", "ml", "hr", "hrs",
    "min", "mins", "sec", "secs", "ms", "ha", "mph", "kmh", "kph", "rpm", "usd", "of", "sq",
];

/// Words that change the number in front of them.
const NOT_UNITS: &[&str] = &[
    "and",
    "or",
    "hundred",
    "thousand",
    "million",
    "billion",
    "trillion",
    "dozen",
    "half",
    "halves",
    "third",
    "thirds",
    "quarter",
    "quarters",
    "fourth",
    "fourths",
    "fifth",
    "fifths",
    "sixth",
    "sixths",
    "eighth",
    "eighths",
    "tenth",
    "tenths",
    "hundredth",
    "hundredths",
    "thousandth",
    "thousandths",
    "squared",
    "cubed",
    "mod",
    "times",
    "plus",
    "minus",
    "am",
    "pm",
    "p",
    "noon",
];

/// The tokens without the unit behind a number: words, their powers and quotients, degrees.
pub(super) fn without_unit(tokens: &[Token]) -> &[Token] {
    let tokens = without_degrees(trim(tokens));
    let start = (0..tokens.len()).rev().take_while(|&at| is_unit_material(tokens, at)).last();
    let unit = start.and_then(|start| (start..tokens.len()).find(|&at| begins_unit(tokens, at)));
    match unit {
        Some(at) if tokens[..at].iter().any(|token| matches!(token, Token::Number(_))) => {
            without_degrees(trim(&tokens[..at]))
        }
        _ => tokens,
    }
}

/// Whether the token may be part of a unit: `cm^2`, `miles/h`, `people in a room`.
fn is_unit_material(tokens: &[Token], at: usize) -> bool {
    let before = &tokens[..at];
    match &tokens[at] {
        Token::Word { .. } => tokens[at].word().is_some_and(|word| !NOT_UNITS.contains(&word.as_str())),
        Token::Letter('a') | Token::Space | Token::Symbol('/' | '^' | '-' | '\'') => true,
        Token::Letter(_) => matches!(before, [.., Token::Symbol('/')]),
        Token::Number(_) => {
            matches!(before, [.., Token::Symbol('^')] | [.., Token::Symbol('^'), Token::Open])
        }
        Token::Open => matches!(before, [.., Token::Symbol('^')]),
        Token::Close => matches!(before, [.., Token::Symbol('^'), Token::Open, Token::Number(_)]),
        _ => false,
    }
}

fn begins_unit(tokens: &[Token], at: usize) -> bool {
    let Token::Word { letters, prose } = &tokens[at] else { return false };
    let name = letters.to_lowercase();
    let is_function = function(&name).is_some() && at + 1 < tokens.len();
    let spaced = at > 0 && tokens[at - 1] == Token::Space;
    *prose || SHORT_UNITS.contains(&name.as_str()) || spaced && letters.chars().count() > 2 && !is_function
}

/// The tokens without degrees behind them, Celsius or not, unless they are the argument of a function.
fn without_degrees(tokens: &[Token]) -> &[Token] {
    if tokens.iter().any(|token| token.word().is_some_and(|name| function(&name).is_some())) {
        return tokens;
    }
    match tokens {
        [rest @ .., Token::Symbol('°')] => trim(rest),
        [rest @ .., Token::Symbol('°'), Token::Letter('C' | 'F')] => trim(rest),
        [rest @ .., Token::Symbol('°'), Token::Space, Token::Letter('C' | 'F')] => trim(rest),
        _ => tokens,
    }
}
