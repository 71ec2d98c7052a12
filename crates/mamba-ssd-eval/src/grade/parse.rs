//! Reading a formula: TeX or plain, with implicit multiplication and mixed numbers.
//!
//! ```text
//! sum      = product { (+ | -) product }
//! product  = signed { (* | /) signed | power }
//! signed   = { + | - } power
//! power    = atom { ! | ° | ^ exponent }
//! atom     = number | variable | constant | group | bars | fraction | root | binomial | function
//! ```
//! Juxtaposition binds as `*` does, from left to right: `1/2x` is `(1/2)x`.

use std::f64::consts;

use super::atom::{GREEK, spell_products};
use super::expression::Expression;
use super::number::Rational;
use super::token::Token;

/// How deep a formula may nest.
const DEPTH: usize = 64;

/// The formula that `tokens` spell, if they spell one.
pub(super) fn parse(tokens: &[Token]) -> Option<Expression> {
    let mut parser = Parser { tokens: spell_products(tokens), at: 0, depth: 0, bars: 0 };
    let expression = parser.sum()?;
    (parser.at == parser.tokens.len()).then_some(expression)
}

pub(super) struct Parser {
    pub(super) tokens: Vec<Token>,
    pub(super) at: usize,
    depth: usize,
    /// How many `|` are open in the current brackets.
    pub(super) bars: usize,
}

impl Parser {
    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    pub(super) fn next(&mut self) -> Option<Token> {
        let token = self.peek()?.clone();
        self.at += 1;
        Some(token)
    }

    pub(super) fn skip(&mut self, symbol: char) -> bool {
        let found = self.peek().is_some_and(|token| token.is(symbol));
        self.at += usize::from(found);
        found
    }

    pub(super) fn skip_space(&mut self) {
        self.at += usize::from(self.peek() == Some(&Token::Space));
    }

    /// Goes one level deeper, if that is allowed.
    pub(super) fn nested(
        &mut self,
        read: impl FnOnce(&mut Self) -> Option<Expression>,
    ) -> Option<Expression> {
        self.depth += 1;
        let expression = if self.depth > DEPTH { None } else { read(self) };
        self.depth -= 1;
        expression
    }

    pub(super) fn sum(&mut self) -> Option<Expression> {
        let mut total = self.product()?;
        loop {
            total = if self.skip('+') {
                total.plus(self.product()?)
            } else if self.skip('-') {
                total.plus(self.product()?.negative())
            } else {
                return Some(total);
            };
        }
    }

    fn product(&mut self) -> Option<Expression> {
        let mut product = self.signed()?;
        loop {
            product = if self.skip('*') {
                product.times(self.signed()?)
            } else if self.skip('/') {
                product.over(self.signed()?)
            } else if self.begins_factor() {
                product.times(self.power()?)
            } else {
                return Some(product);
            };
        }
    }

    fn signed(&mut self) -> Option<Expression> {
        self.nested(|parser| {
            if parser.skip('-') {
                return Some(parser.signed()?.negative());
            }
            if parser.skip('+') { parser.signed() } else { parser.power() }
        })
    }

    /// Whether the next token begins a factor without a sign of multiplication. Two numbers in a row are no product.
    pub(super) fn begins_factor(&self) -> bool {
        match self.peek() {
            Some(Token::Number(_)) => !matches!(self.tokens[..self.at].last(), Some(Token::Number(_))),
            Some(Token::Symbol('|')) => self.bars == 0,
            Some(Token::Letter(_) | Token::Word { .. } | Token::Open | Token::Symbol('(' | '[')) => true,
            Some(Token::Command(name)) => {
                matches!(name.as_str(), "frac" | "sqrt" | "binom" | "pi") || GREEK.contains(&name.as_str())
            }
            _ => false,
        }
    }

    pub(super) fn power(&mut self) -> Option<Expression> {
        let mut base = self.atom()?;
        loop {
            base = if self.skip('!') {
                Expression::Factorial(Box::new(base))
            } else if self.skip('°') {
                base.times(Expression::Constant(consts::PI / 180.0))
            } else if self.skip('^') {
                base.raised_to(self.exponent()?)
            } else {
                return Some(base);
            };
        }
    }

    /// `2`, `10` as plain text means it, `{-1}`, `-1`, `2^3`.
    pub(super) fn exponent(&mut self) -> Option<Expression> {
        self.nested(|parser| {
            if parser.skip('-') {
                return Some(parser.exponent()?.negative());
            }
            let exponent = match parser.peek()? {
                Token::Number(digits) => {
                    let number = Rational::parse(digits);
                    parser.at += 1;
                    Expression::Number(number?)
                }
                _ => parser.argument()?,
            };
            if parser.skip('^') { Some(exponent.raised_to(parser.exponent()?)) } else { Some(exponent) }
        })
    }

    /// The argument of a TeX command: a group, one digit, or whatever stands alone.
    pub(super) fn argument(&mut self) -> Option<Expression> {
        self.skip_space();
        let Some(Token::Number(digits)) = self.tokens.get_mut(self.at) else { return self.atom() };
        let digit = digits.chars().next().and_then(|digit| digit.to_digit(10))?;
        digits.remove(0);
        if digits.is_empty() {
            self.at += 1;
        }
        Some(Expression::integer(digit.into()))
    }
}
