//! The pieces of an answer, and the text that they spell.

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Digits with at most one point, possibly an exponent of ten: `12`, `0.5`, `1e-3`.
    Number(String),
    /// One letter that stands alone.
    Letter(char),
    /// Letters that stand together, or any inside `\text{…}` and the like.
    Word { letters: String, prose: bool },
    /// A TeX command that is neither shape nor synonym of a symbol, without its backslash.
    Command(String),
    /// Any other character. `{` and `}` are the braces of a set.
    Symbol(char),
    /// `{`, the beginning of a TeX group.
    Open,
    /// `}`, the end of a TeX group.
    Close,
    /// White space.
    Space,
}

impl Token {
    pub(super) fn is(&self, symbol: char) -> bool {
        *self == Token::Symbol(symbol)
    }

    pub(super) fn is_command(&self, name: &str) -> bool {
        matches!(self, Token::Command(command) if command == name)
    }

    /// The word in lower case.
    pub(super) fn word(&self) -> Option<String> {
        match self {
            Token::Word { letters, .. } => Some(letters.to_lowercase()),
            _ => None,
        }
    }

    /// What the token adds to the bracket depth.
    pub(super) fn nesting(&self) -> isize {
        match self {
            Token::Open | Token::Symbol('(' | '[' | '{' | '⟨') => 1,
            Token::Close | Token::Symbol(')' | ']' | '}' | '⟩') => -1,
            _ => 0,
        }
    }
}

/// The tokens as one text: two answers that normalise to the same text are the same. Words beside formulas keep their
/// case up to three letters, as they may be products.
pub(super) fn text(tokens: &[Token]) -> String {
    let words_only = tokens.iter().all(|token| matches!(token, Token::Word { .. } | Token::Space));
    let mut text = String::new();
    let mut at = 0;
    while at < tokens.len() {
        match (&tokens[at], &tokens[at + 1..]) {
            (Token::Symbol(script @ ('^' | '_')), [Token::Open, single, Token::Close, rest @ ..])
                if single.nesting() == 0 && !matches!(rest.first(), Some(Token::Number(_))) =>
            {
                text.push(*script);
                write(single, words_only, &mut text);
                at += 3;
            }
            (token, rest) => {
                write(token, words_only, &mut text);
                let next = rest.iter().find(|&token| *token != Token::Space);
                if matches!((token, next), (Token::Number(_), Some(Token::Number(_)))) {
                    text.push(' ');
                }
            }
        }
        at += 1;
    }
    text
}

fn write(token: &Token, words_only: bool, text: &mut String) {
    match token {
        Token::Number(digits) => *text += digits,
        Token::Letter(letter) => text.push(*letter),
        Token::Word { letters, prose } => match letters.chars().count() {
            1 => *text += letters,
            2..=3 if !prose && !words_only => *text += letters,
            _ => *text += &letters.to_lowercase(),
        },
        Token::Command(name) => *text += &format!("\\{name} "),
        Token::Symbol(symbol @ ('{' | '}')) => *text += &format!("\\{symbol}"),
        Token::Symbol(symbol) => text.push(*symbol),
        Token::Open => text.push('{'),
        Token::Close => text.push('}'),
        Token::Space => {}
    }
}

/// The character that a TeX command stands for.
pub(super) fn symbol(name: &str) -> Option<char> {
    Some(match name {
        "cdot" | "times" | "ast" => '*',
        "div" => '/',
        "lbrace" => '{',
        "langle" => '⟨',
        "rangle" => '⟩',
        "lvert" | "rvert" | "vert" | "mid" => '|',
        "lt" => '<',
        "gt" => '>',
        "colon" => ':',
        _ => return None,
    })
}

/// The ASCII character that a Unicode one stands for.
pub(super) fn plain(character: char) -> char {
    match character {
        '−' | '–' | '—' | '－' | '﹣' => '-',
        '×' | '·' | '⋅' | '∗' => '*',
        '÷' | '⁄' | '∕' => '/',
        _ => character,
    }
}
