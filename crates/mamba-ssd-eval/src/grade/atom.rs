//! The atoms of a formula: numbers, variables, brackets, commands and functions.

use std::f64::consts;

use super::expression::{Expression, Function, function};
use super::number::Rational;
use super::parse::Parser;
use super::token::{Token, text};

/// The names of variables beside the letters.
pub(super) const GREEK: &[&str] = &[
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "varepsilon",
    "zeta",
    "eta",
    "theta",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "rho",
    "sigma",
    "tau",
    "phi",
    "varphi",
    "chi",
    "psi",
    "omega",
    "ell",
    "Gamma",
    "Delta",
    "Theta",
    "Lambda",
    "Sigma",
    "Phi",
    "Psi",
    "Omega",
];

/// Spells words of up to three letters, two where the answer holds nothing else, as products of their letters, and
/// `sinx` as `sin x`. Keeps white space between numbers only.
pub(super) fn spell_products(tokens: &[Token]) -> Vec<Token> {
    let longest = if tokens.len() == 1 { 2 } else { 3 };
    let mut spelt = Vec::with_capacity(tokens.len());
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Space => {
                let between_numbers = matches!(
                    (spelt.last(), tokens.get(at + 1)),
                    (Some(Token::Number(_)), Some(Token::Number(_)))
                );
                spelt.extend(between_numbers.then_some(Token::Space));
            }
            Token::Word { letters, .. } if is_function(letters) => spelt.push(token.clone()),
            Token::Word { letters, .. } if letters.chars().count() <= longest => {
                spelt.extend(letters.chars().map(Token::Letter));
            }
            Token::Word { letters, prose: false } => spelt.extend(function_of_letter(letters, token)),
            _ => spelt.push(token.clone()),
        }
    }
    spelt
}

fn is_function(name: &str) -> bool {
    name == "sqrt" || function(name).is_some()
}

/// `sinx` as `sin` and `x`.
fn function_of_letter(letters: &str, token: &Token) -> Vec<Token> {
    let split = letters.char_indices().next_back().map(|(at, letter)| (&letters[..at], letter));
    match split {
        Some((name, letter)) if is_function(name) => {
            vec![Token::Word { letters: name.to_owned(), prose: false }, Token::Letter(letter)]
        }
        _ => vec![token.clone()],
    }
}

impl Parser {
    pub(super) fn atom(&mut self) -> Option<Expression> {
        self.nested(|parser| match parser.next()? {
            Token::Number(digits) => parser.number(&digits),
            Token::Letter('e') => Some(Expression::Constant(consts::E)),
            Token::Letter(letter) => parser.variable(&letter.to_string()),
            Token::Word { letters, .. } if letters == "sqrt" => {
                let radicand = parser.atom()?;
                Some(Expression::Root(Box::new(Expression::integer(2)), Box::new(radicand)))
            }
            Token::Word { letters, .. } => parser.function(&letters),
            Token::Command(name) => parser.command(&name),
            Token::Symbol('(') => parser.group(&Token::Symbol(')')),
            Token::Symbol('[') => parser.group(&Token::Symbol(']')),
            Token::Open => parser.group(&Token::Close),
            Token::Symbol('|') => parser.absolute(),
            _ => None,
        })
    }

    /// A number, with the fraction of a mixed number: `3\frac{1}{2}`, `3 1/2`.
    fn number(&mut self, digits: &str) -> Option<Expression> {
        let whole = Rational::parse(digits)?;
        let number = Expression::Number(whole);
        let fraction = match self.peek() {
            Some(Token::Space) => {
                self.at += 1;
                self.plain_fraction()?
            }
            Some(token) if token.is_command("frac") => self.atom()?,
            _ => return Some(number),
        };
        if whole.as_integer().is_some() && is_proper(&fraction) {
            Some(number.plus(fraction))
        } else {
            Some(number.times(fraction))
        }
    }

    /// `1/2` behind a whole number and white space. Any other number there is no formula.
    fn plain_fraction(&mut self) -> Option<Expression> {
        let [Token::Number(a), Token::Symbol('/'), Token::Number(b), ..] = &self.tokens[self.at..] else {
            return None;
        };
        let fraction = Expression::Number(Rational::parse(a)?).over(Expression::Number(Rational::parse(b)?));
        self.at += 3;
        is_proper(&fraction).then_some(fraction)
    }

    /// A variable with its subscript, which is part of the name.
    fn variable(&mut self, name: &str) -> Option<Expression> {
        if !self.skip('_') {
            return Some(Expression::Variable(name.to_owned()));
        }
        let start = self.at;
        if self.next()? == Token::Open {
            while self.next()? != Token::Close {}
        }
        Some(Expression::Variable(format!("{name}{}", text(&self.tokens[start - 1..self.at]))))
    }

    fn command(&mut self, name: &str) -> Option<Expression> {
        match name {
            "pi" => Some(Expression::Constant(consts::PI)),
            "frac" => Some(self.argument()?.over(self.argument()?)),
            "binom" => Some(Expression::Binomial(Box::new(self.argument()?), Box::new(self.argument()?))),
            "sqrt" => {
                let degree =
                    if self.skip('[') { self.group(&Token::Symbol(']'))? } else { Expression::integer(2) };
                Some(Expression::Root(Box::new(degree), Box::new(self.argument()?)))
            }
            _ if GREEK.contains(&name) => self.variable(&format!("\\{name} ")),
            _ => None,
        }
    }

    /// What stands before `close`.
    fn group(&mut self, close: &Token) -> Option<Expression> {
        let bars = std::mem::take(&mut self.bars);
        let inner = self.sum()?;
        self.bars = bars;
        (self.next()? == *close).then_some(inner)
    }

    fn absolute(&mut self) -> Option<Expression> {
        self.bars += 1;
        let inner = self.sum()?;
        self.bars -= 1;
        self.skip('|').then(|| Expression::Absolute(Box::new(inner)))
    }

    /// `\sin x`, `\sin^2 x`, `\sin^{-1} x`, `\log_2 x`.
    fn function(&mut self, name: &str) -> Option<Expression> {
        let base = if name == "log" && self.skip('_') { Some(self.exponent()?) } else { None };
        let exponent = if self.skip('^') { Some(self.exponent()?) } else { None };
        let inverts = exponent.as_ref().and_then(Expression::exact) == Some(Rational::integer(-1));
        let called = if inverts { function(&format!("arc{name}"))? } else { function(name)? };
        self.skip_space();
        let operand = self.operand()?;
        let value = apply(called, operand, base);
        match exponent {
            Some(exponent) if !inverts => Some(value.raised_to(exponent)),
            _ => Some(value),
        }
    }

    /// What a function is of: brackets, or the factors up to the next function or sign.
    fn operand(&mut self) -> Option<Expression> {
        if matches!(self.peek(), Some(Token::Open | Token::Symbol('(' | '[' | '|'))) {
            return self.atom();
        }
        let mut operand = self.power()?;
        while self.begins_factor() && !matches!(self.peek(), Some(Token::Word { .. })) {
            operand = operand.times(self.power()?);
        }
        Some(operand)
    }
}

fn apply(function: Function, operand: Expression, base: Option<Expression>) -> Expression {
    let value = |of| Expression::Function(function, Box::new(of));
    match base {
        Some(base) => value(operand).over(value(base)),
        None => value(operand),
    }
}

/// Whether this is a fraction of whole numbers between 0 and 1.
fn is_proper(fraction: &Expression) -> bool {
    let Expression::Quotient(a, b) = fraction else { return false };
    let whole = |part: &Expression| match part {
        Expression::Number(number) => number.as_integer(),
        _ => None,
    };
    matches!((whole(a), whole(b)), (Some(a), Some(b)) if 0 <= a && a < b)
}
