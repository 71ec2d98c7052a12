//! Splitting an answer, TeX or plain, into tokens: what only shapes the formula vanishes, and synonyms become one.

use super::expression::function;
use super::token::{Token, plain, symbol};

/// What a brace that is still open belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Brace {
    Group,
    Prose,
    Mathematics,
}

/// The tokens of `text`.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let characters: Vec<char> = text.chars().map(plain).collect();
    let mut lexer = Lexer { characters, at: 0, tokens: Vec::new(), braces: Vec::new() };
    while let Some(character) = lexer.next() {
        lexer.read(character);
    }
    lexer.tokens
}

struct Lexer {
    characters: Vec<char>,
    at: usize,
    tokens: Vec<Token>,
    braces: Vec<Brace>,
}

impl Lexer {
    fn next(&mut self) -> Option<char> {
        let character = self.peek(0)?;
        self.at += 1;
        Some(character)
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.at + ahead).copied()
    }

    fn peek_is(&self, ahead: usize, test: impl Fn(&char) -> bool) -> bool {
        self.peek(ahead).as_ref().is_some_and(test)
    }

    /// Skips `text` if it comes next.
    fn skip(&mut self, text: &str) -> bool {
        let found = text.chars().enumerate().all(|(ahead, character)| self.peek(ahead) == Some(character));
        if found {
            self.at += text.chars().count();
        }
        found
    }

    fn skip_spaces(&mut self) {
        while self.peek_is(0, |c| c.is_whitespace()) {
            self.at += 1;
        }
    }

    fn take_while(&mut self, test: impl Fn(&char) -> bool) -> String {
        let taken: String = self.characters[self.at..].iter().take_while(|&c| test(c)).collect();
        self.at += taken.chars().count();
        taken
    }

    fn push(&mut self, token: Token) {
        self.tokens.push(token);
    }

    fn command(&mut self, name: &str) {
        self.push(Token::Command(name.to_owned()));
    }

    fn read(&mut self, character: char) {
        match character {
            '\\' => self.read_command(),
            '{' => self.open_brace(),
            '}' => self.close_brace(),
            '.' if self.peek_is(0, char::is_ascii_digit) => self.read_number("0.".to_owned()),
            '0'..='9' => self.read_number(character.to_string()),
            '*' if self.skip("*") => self.read_stars(),
            ',' if self.peek(0) == Some('\\') && self.peek(1) == Some('!') && self.thousands_follow(2) => {
                self.at += 2
            }
            '<' if self.skip("=") => self.command("le"),
            '>' if self.skip("=") => self.command("ge"),
            '!' if self.skip("=") => self.command("ne"),
            ';' => self.push(Token::Symbol(',')),
            '$' | '€' | '£' | '¥' | '¢' => {}
            '~' => self.push(Token::Space),
            _ if character.is_whitespace() => self.push(Token::Space),
            _ if character.is_alphabetic() && !"πθαβ".contains(character) => self.read_letters(character),
            _ => self.read_symbol(character),
        }
    }

    fn read_number(&mut self, mut digits: String) {
        digits += &self.take_while(char::is_ascii_digit);
        if !digits.contains('.') && self.peek(0) == Some('.') && self.peek_is(1, char::is_ascii_digit) {
            self.at += 1;
            digits = format!("{digits}.{}", self.take_while(char::is_ascii_digit));
        }
        let sign = usize::from(self.peek_is(1, |c| matches!(c, '+' | '-')));
        if self.peek_is(0, |c| matches!(c, 'e' | 'E')) && self.peek_is(1 + sign, char::is_ascii_digit) {
            digits.extend(&self.characters[self.at..=self.at + sign]);
            self.at += 1 + sign;
            digits += &self.take_while(char::is_ascii_digit);
        }
        self.push(Token::Number(digits));
    }

    /// `**` is Python's power between two operands, and elsewhere Markdown.
    fn read_stars(&mut self) {
        let operand = matches!(
            self.tokens.last(),
            Some(Token::Number(_) | Token::Letter(_) | Token::Word { .. } | Token::Symbol(')'))
        );
        if operand && self.peek_is(0, |&c| c.is_alphanumeric() || matches!(c, '(' | '-')) {
            self.push(Token::Symbol('^'));
        }
    }

    fn read_letters(&mut self, first: char) {
        let prose = self.braces.contains(&Brace::Prose);
        let letters = format!("{first}{}", self.take_while(|c| c.is_alphabetic()));
        let behind_bracket = self
            .tokens
            .iter()
            .rfind(|&token| *token != Token::Space)
            .is_some_and(|token| token.nesting() < 0);
        match letters.to_lowercase().as_str() {
            "pi" => self.command("pi"),
            "inf" | "infinity" | "oo" => self.command("infty"),
            "percent" => self.push(Token::Symbol('%')),
            "deg" | "degree" | "degrees" => self.push_degree(),
            "u" if letters == "U" && behind_bracket => self.command("cup"),
            _ if prose || letters.chars().count() > 1 => self.push(Token::Word { letters, prose }),
            _ => self.push(Token::Letter(first)),
        }
    }

    fn open_brace(&mut self) {
        if self.peek(0) == Some(',') && self.peek(1) == Some('}') && self.thousands_follow(2) {
            self.at += 2;
            return;
        }
        self.push(Token::Open);
        self.braces.push(Brace::Group);
    }

    /// Whether a group of three digits lies `ahead`, as in `1{,}234` and `1,\!234`.
    fn thousands_follow(&self, ahead: usize) -> bool {
        let digit = |at: usize| self.peek_is(ahead + at, char::is_ascii_digit);
        matches!(self.tokens.last(), Some(Token::Number(_))) && (0..3).all(digit) && !digit(3)
    }

    fn close_brace(&mut self) {
        match self.braces.pop() {
            Some(Brace::Group) => self.push(Token::Close),
            Some(Brace::Prose) => self.push(Token::Space),
            Some(Brace::Mathematics) | None => {}
        }
        if self.tokens.ends_with(&[Token::Symbol('^'), Token::Open, Token::Symbol('°'), Token::Close]) {
            self.tokens.truncate(self.tokens.len() - 4);
            self.push_degree();
        }
    }

    /// Drops a wrapper such as `\text`, and the braces behind it.
    fn unwrap(&mut self, brace: Brace) {
        self.skip_spaces();
        if self.skip("{") {
            self.braces.push(brace);
        }
        if brace == Brace::Prose {
            self.push(Token::Space);
        }
    }

    fn push_degree(&mut self) {
        if self.tokens.last().is_some_and(|token| token.is('^')) {
            self.tokens.pop();
        }
        self.push(Token::Symbol('°'));
    }

    fn read_command(&mut self) {
        if self.peek_is(0, char::is_ascii_alphabetic) {
            let name = self.take_while(char::is_ascii_alphabetic);
            return self.read_named(&name);
        }
        match self.next() {
            Some('\\') => self.command("\\"),
            Some('|') => self.push(Token::Symbol('|')),
            Some('{') => self.push(Token::Symbol('{')),
            Some('}') => self.close_set(),
            Some(' ') => self.push(Token::Space),
            Some(symbol @ ('%' | '&' | '#' | '_')) => self.push(Token::Symbol(symbol)),
            _ => {} // thin spaces, $ and the delimiters of mathematics
        }
    }

    fn close_set(&mut self) {
        while self.tokens.last() == Some(&Token::Space) {
            self.tokens.pop();
        }
        if self.tokens.last().is_some_and(|token| token.is('{')) {
            self.tokens.pop();
            return self.command("emptyset");
        }
        self.push(Token::Symbol('}'));
    }

    fn read_named(&mut self, name: &str) {
        match name {
            "left" | "right" => _ = self.skip("."),
            "big" | "Big" | "bigg" | "Bigg" | "bigl" | "bigr" | "Bigl" | "Bigr" | "middle" => {}
            "displaystyle" | "textstyle" | "limits" | "bf" | "rm" | "it" => {}
            "quad" | "qquad" | "space" => self.push(Token::Space),
            "text" | "textbf" | "textit" | "textrm" | "textsf" | "texttt" | "textnormal" | "mbox"
            | "hbox" | "mathrm" | "mathsf" => self.unwrap(Brace::Prose),
            "mathbf" | "boldsymbol" | "mathit" | "vec" | "operatorname" | "boxed" | "fbox" => {
                self.unwrap(Brace::Mathematics);
            }
            "dfrac" | "tfrac" | "cfrac" => self.command("frac"),
            "dbinom" | "tbinom" => self.command("binom"),
            "circ" | "degree" => self.push_degree(),
            "rbrace" => self.close_set(),
            "leq" | "leqslant" => self.command("le"),
            "geq" | "geqslant" => self.command("ge"),
            "neq" => self.command("ne"),
            "varnothing" => self.command("emptyset"),
            _ if function(name).is_some() => {
                self.push(Token::Word { letters: name.to_owned(), prose: false });
            }
            _ => match symbol(name) {
                Some(symbol) => self.push(Token::Symbol(symbol)),
                None => self.command(name),
            },
        }
    }

    fn read_symbol(&mut self, character: char) {
        let name = match character {
            'π' => "pi",
            'θ' => "theta",
            'α' => "alpha",
            'β' => "beta",
            '∞' => "infty",
            '∪' => "cup",
            '∈' => "in",
            '≈' => "approx",
            '±' => "pm",
            '≤' => "le",
            '≥' => "ge",
            '≠' => "ne",
            '∅' => "emptyset",
            '√' => return self.push(Token::Word { letters: "sqrt".to_owned(), prose: false }),
            '°' => return self.push_degree(),
            '²' => return self.tokens.extend([Token::Symbol('^'), Token::Number("2".to_owned())]),
            '³' => return self.tokens.extend([Token::Symbol('^'), Token::Number("3".to_owned())]),
            _ => return self.push(Token::Symbol(character)),
        };
        self.command(name);
    }
}
