//! Whether two answers are the same: by text, by parts, by relation, by value.

use super::Reason;
use super::expression::{Expression, POINTS, Sample};
use super::normalise::{enclosed, split, trim, without_unit};
use super::parse::parse;
use super::token::{Token, text};

/// How many parts are matched in any order. Longer lists are compared in theirs.
const UNORDERED: usize = 64;

/// At how many points two formulas must agree.
const AGREEMENTS: usize = 3;

/// How two answers are the same, looking at most `depth` brackets deep.
pub(super) fn same(a: &[Token], b: &[Token], depth: usize) -> Option<Reason> {
    let (a, b) = (trim(a), trim(b));
    if a.is_empty() || b.is_empty() || depth == 0 {
        return None;
    }
    if same_text(a, b) {
        return Some(Reason::Same);
    }
    let has_environment = |tokens: &[Token]| tokens.iter().any(|token| token.is_command("begin"));
    if has_environment(a) || has_environment(b) {
        return None;
    }
    same_union(a, b, depth)
        .or_else(|| same_list(a, b, depth))
        .or_else(|| same_tuple(a, b, depth))
        .or_else(|| same_relation(a, b, depth))
        .or_else(|| same_value(a, b))
}

fn same_text(a: &[Token], b: &[Token]) -> bool {
    text(a) == text(b)
}

/// Unions of intervals and sets, in any order.
fn same_union(a: &[Token], b: &[Token], depth: usize) -> Option<Reason> {
    let parts = |tokens| -> Vec<Vec<Token>> {
        split(tokens, |token| token.is_command("cup")).into_iter().map(<[Token]>::to_vec).collect()
    };
    let (a, b) = (parts(a), parts(b));
    (a.len() > 1 && same_in_any_order(&a, &b, depth)).then_some(Reason::EqualParts)
}

/// Sets and bare lists, in any order.
fn same_list(a: &[Token], b: &[Token], depth: usize) -> Option<Reason> {
    same_in_any_order(&items(a)?, &items(b)?, depth).then_some(Reason::EqualParts)
}

/// The elements of a set, or the parts of a list: behind commas, "and" and "or". Both signs of `\pm` are parts.
fn items(tokens: &[Token]) -> Option<Vec<Vec<Token>>> {
    let set = enclosed(tokens).filter(|_| holds_set(tokens));
    let separates = |token: &Token| {
        token.is(',') || token.word().is_some_and(|word| matches!(word.as_str(), "and" | "or"))
    };
    let parts: Vec<Vec<Token>> = split(set.unwrap_or(tokens), separates)
        .into_iter()
        .map(trim)
        .filter(|part| !part.is_empty())
        .flat_map(both_signs)
        .collect();
    (set.is_some() || parts.len() > 1).then_some(parts)
}

/// Whether the first bracket is that of a set, `\{` or `{`.
fn holds_set(tokens: &[Token]) -> bool {
    tokens.first().is_some_and(|token| token.is('{') || *token == Token::Open)
}

/// A part once for each sign of its `\pm`.
fn both_signs(tokens: &[Token]) -> Vec<Vec<Token>> {
    if !tokens.iter().any(|token| token.is_command("pm") || token.is_command("mp")) {
        return vec![tokens.to_vec()];
    }
    let with = |upper: char, lower: char| {
        let sign = |token: &Token| match token {
            Token::Command(name) if name == "pm" => Token::Symbol(upper),
            Token::Command(name) if name == "mp" => Token::Symbol(lower),
            _ => token.clone(),
        };
        tokens.iter().map(sign).collect()
    };
    vec![with('+', '-'), with('-', '+')]
}

fn same_in_any_order(a: &[Vec<Token>], b: &[Vec<Token>], depth: usize) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if a.len() > UNORDERED {
        return a.iter().zip(b).all(|(a, b)| same(a, b, depth - 1).is_some());
    }
    let mut rest: Vec<&Vec<Token>> = b.iter().collect();
    a.iter().all(|part| {
        let found = rest.iter().position(|other| same(part, other, depth - 1).is_some());
        found.map(|at| rest.swap_remove(at)).is_some()
    })
}

/// Tuples and intervals: the same brackets around the same parts in order.
fn same_tuple(a: &[Token], b: &[Token], depth: usize) -> Option<Reason> {
    let parts = |tokens| {
        let inner = enclosed(tokens).filter(|_| !holds_set(tokens))?;
        Some(split(inner, |token| token.is(',')))
    };
    let (left, right) = (parts(a)?, parts(b)?);
    let brackets = a.first() == b.first() && a.last() == b.last();
    let equal = brackets
        && left.len() > 1
        && left.len() == right.len()
        && left.iter().zip(&right).all(|(a, b)| same(a, b, depth - 1).is_some());
    equal.then_some(Reason::EqualParts)
}

fn is_relation(token: &Token) -> bool {
    match token {
        Token::Symbol('=' | '<' | '>') => true,
        Token::Command(name) => matches!(name.as_str(), "le" | "ge" | "ne" | "in" | "approx"),
        _ => false,
    }
}

/// The relations between the sides of an equation or inequality.
fn relations(tokens: &[Token], sides: &[&[Token]]) -> Vec<Token> {
    let lengths = sides.iter().scan(0, |at, side| {
        *at += side.len() + 1;
        Some(*at - 1)
    });
    lengths.filter_map(|at| tokens.get(at).cloned()).collect()
}

/// Equations and inequalities, side by side; `x = …` and `…`.
fn same_relation(a: &[Token], b: &[Token], depth: usize) -> Option<Reason> {
    let (left, right) = (split(a, is_relation), split(b, is_relation));
    match (left.len(), right.len()) {
        (1, 1) => None,
        (1, _) => same(a, definition(b, &right, depth)?, depth - 1),
        (_, 1) => same(definition(a, &left, depth)?, b, depth - 1),
        (n, m) if n != m => None,
        _ => same_sides((&left, relations(a, &left)), (&right, relations(b, &right)), depth),
    }
}

/// What a chain such as `x = 1 + 2 = 3` gives as the value of a name, if its sides agree.
fn definition<'a>(tokens: &[Token], sides: &[&'a [Token]], depth: usize) -> Option<&'a [Token]> {
    let defines = |token: &Token| token.is('=') || token.is_command("in") || token.is_command("approx");
    let values = if is_name(trim(sides[0])) { &sides[1..] } else { sides };
    let value = *values.first()?;
    let relations = relations(tokens, sides);
    let behind = &relations[relations.len() - (values.len() - 1)..];
    let agree = |(side, relation): (&&[Token], &Token)| {
        relation.is_command("approx") || relation.is('=') && same(side, value, depth - 1).is_some()
    };
    (relations.iter().all(defines) && values[1..].iter().zip(behind).all(agree)).then_some(value)
}

/// Whether the left side of an equation only names the right one: `x`, `x_1`, `f(2)`, `\angle ABC`, or nothing.
fn is_name(tokens: &[Token]) -> bool {
    let mut depth = 0;
    let names = |(at, token): (usize, &Token)| {
        depth += token.nesting();
        match token {
            Token::Letter(_) | Token::Word { .. } | Token::Space | Token::Open | Token::Close => true,
            Token::Symbol(symbol) => "()_,'|".contains(*symbol),
            Token::Number(_) => at > 0 && (depth > 0 || tokens[at - 1].is('_')),
            Token::Command(name) => {
                !matches!(name.as_str(), "frac" | "sqrt" | "pi" | "infty" | "pm" | "mp" | "cup")
            }
        }
    };
    let begins = !matches!(tokens.first(), Some(Token::Symbol(_) | Token::Open | Token::Close));
    begins && tokens.iter().enumerate().all(names)
}

type Relation<'a> = (&'a [&'a [Token]], Vec<Token>);

fn same_sides((a, relations): Relation, (b, others): Relation, depth: usize) -> Option<Reason> {
    let same_side = |(a, b): (&&[Token], &&[Token])| same(a, b, depth - 1).is_some();
    let forwards = relations == others && a.iter().zip(b).all(same_side);
    let flipped: Vec<Token> = others.iter().rev().map(flip).collect();
    let backwards = || relations == flipped && a.iter().zip(b.iter().rev()).all(same_side);
    let equations = a.len() == 2 && relations == others && relations[0].is('=');
    (forwards || backwards() || equations && proportional(a, b)).then_some(Reason::EqualRelation)
}

/// The relation read from right to left.
fn flip(relation: &Token) -> Token {
    match relation {
        Token::Symbol('<') => Token::Symbol('>'),
        Token::Symbol('>') => Token::Symbol('<'),
        Token::Command(name) if name == "le" => Token::Command("ge".to_owned()),
        Token::Command(name) if name == "ge" => Token::Command("le".to_owned()),
        _ => relation.clone(),
    }
}

/// Whether the differences of the sides of two equations are a constant factor apart, other than zero.
fn proportional(a: &[&[Token]], b: &[&[Token]]) -> bool {
    let difference = |sides: &[&[Token]]| Some(parse(sides[0])?.plus(parse(sides[1])?.negative()));
    let (Some(a), Some(b)) = (difference(a), difference(b)) else { return false };
    let mut pairs = finite_samples(&a, &b);
    let is_zero = |sample: Sample| sample.agrees(Sample { value: 0.0, error: 0.0 });
    let Some((a, b)) = pairs.next().filter(|&(a, b)| !is_zero(a) && !is_zero(b)) else { return false };
    agree(pairs.map(|(other_a, other_b)| (a.times(other_b), b.times(other_a))))
}

/// The values of two formulas at the points where both are finite.
fn finite_samples(a: &Expression, b: &Expression) -> impl Iterator<Item = (Sample, Sample)> {
    (0..POINTS)
        .map(|point| (a.sample(point), b.sample(point)))
        .filter(|(a, b)| a.is_finite() && b.is_finite())
}

/// Whether all pairs agree, and there are enough.
fn agree(mut pairs: impl Iterator<Item = (Sample, Sample)>) -> bool {
    let mut count = 0;
    pairs.all(|(a, b)| {
        count += 1;
        a.agrees(b)
    }) && count >= AGREEMENTS
}

/// Numbers and formulas, without their units. A percent sign on one side only may count or not: 50% is 50, and 0.5.
fn same_value(a: &[Token], b: &[Token]) -> Option<Reason> {
    let (a, b) = (without_unit(a), without_unit(b));
    if a.is_empty() || b.is_empty() {
        return None;
    }
    if same_text(a, b) {
        return Some(Reason::Same);
    }
    let ((a, a_percent), (b, b_percent)) = (percent(a), percent(b));
    let (mut a, mut b) = (parse(a)?, parse(b)?);
    let reason = same_expression(&a, &b);
    if reason.is_some() || a_percent == b_percent {
        return reason;
    }
    let hundred = Expression::integer(100);
    if a_percent {
        a = a.over(hundred)
    } else {
        b = b.over(hundred)
    }
    same_expression(&a, &b)
}

fn percent(tokens: &[Token]) -> (&[Token], bool) {
    match tokens {
        [rest @ .., Token::Symbol('%')] => (trim(rest), true),
        _ => (tokens, false),
    }
}

fn same_expression(a: &Expression, b: &Expression) -> Option<Reason> {
    if a.has_variables() || b.has_variables() {
        return agree(finite_samples(a, b)).then_some(Reason::EqualExpression);
    }
    let equal = match (a.exact(), b.exact()) {
        (Some(a), Some(b)) => a.same(b),
        _ => finite_samples(a, b).next().is_some_and(|(a, b)| a.agrees(b)),
    };
    equal.then_some(Reason::EqualNumber)
}
