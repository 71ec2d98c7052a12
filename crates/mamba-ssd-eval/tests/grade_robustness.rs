//! What no text may do to the grader.

use std::time::{Duration, Instant};

use mamba_ssd_eval::grade::Reason::*;
use mamba_ssd_eval::grade::{LONGEST_ANSWER, equivalent, grade, reference};

/// Knuth's linear congruential generator (MMIX).
struct Generator(u64);

impl Generator {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }

    fn text(&mut self, pieces: &[&str], longest: usize) -> String {
        (0..self.below(longest)).map(|_| pieces[self.below(pieces.len())]).collect()
    }
}

/// Single characters, the commands they seldom spell by chance, and characters of more than one byte.
const PIECES: &[&str] = &[
    r"\",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "$",
    "^",
    "_",
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    ".",
    ",",
    "/",
    "+",
    "-",
    "*",
    "a",
    "b",
    "x",
    "f",
    "r",
    "c",
    "o",
    "e",
    "d",
    "s",
    "q",
    "t",
    "%",
    " ",
    r"\frac",
    r"\boxed{",
    r"\sqrt",
    r"\text{",
    r"\{",
    r"\}",
    r"\pm",
    r"\cup",
    "=",
    "|",
    "!",
    "\n",
    "####",
    "the answer is",
    "−",
    "π",
    "√",
    "é",
];

#[test]
fn no_text_panics() {
    let mut generator = Generator(7);
    let characters = &PIECES[..40];
    for pieces in [characters, PIECES] {
        for _ in 0..20_000 {
            let (a, b) = (generator.text(pieces, 40), generator.text(pieces, 40));
            let verdict = grade(&a, &b);
            assert_eq!(verdict.answer.is_none(), verdict.reason == NoAnswer, "{a:?}");
            assert_eq!(equivalent(&a, &b).is_some(), equivalent(&b, &a).is_some(), "{a:?} {b:?}");
            grade(&a, "B");
            reference(&a);
        }
    }
}

#[test]
fn repetition_neither_overflows_nor_hangs() {
    let pieces = [
        "{",
        "}",
        r"\boxed{",
        r"\boxed ",
        r"\boxed{1}",
        r"\frac",
        r"\frac{",
        r"\sqrt",
        "(",
        "[(",
        r"\{",
        "-",
        "^",
        "2^",
        "|",
        "1,",
        "1,234,",
        "1/",
        "####",
        "the answer is ",
        "answer:\n",
        "(B",
        "A. ",
        "\\",
        "5",
        ".",
        " ",
        "x=",
        "and ",
        r"\pm ",
        r"\text{",
        r"\left",
        "é",
        "−",
        "!",
        "_",
        "_{",
        "\n",
        "sin ",
        "x+",
        "(1,",
        "1 2",
        "°",
        "*",
        "$",
        ",",
    ];
    let start = Instant::now();
    for piece in pieces {
        for wrapped in [piece.repeat(100_000), format!("\\boxed{{{}", piece.repeat(100_000))] {
            grade(&wrapped, "5");
            grade(&wrapped, "B");
        }
        let short = piece.repeat(LONGEST_ANSWER / piece.chars().count());
        equivalent(&short, &format!("5{}", &short[..short.len() - piece.len()]));
        equivalent(&format!("({short}"), &short);
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn nested_parts_that_differ_are_soon_told_apart() {
    let start = Instant::now();
    for (open, close) in
        [(r"\{1,", r"\}"), ("(1,", ")"), (r"\{x=", ",2\\}"), ("(1)\\cup(2,", ")"), (r"\{\pm ", r"\}")]
    {
        let nested = |core: &str| format!("{}{core}{}", open.repeat(60), close.repeat(60));
        assert_eq!(equivalent(&nested("3"), &nested("4")), None, "{open}");
        assert_eq!(equivalent(&nested("3"), &nested("3 ")), Some(Same), "{open}");
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn depth_is_bounded() {
    let wrapped = |depth: usize| format!("{}1/2{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(equivalent(&wrapped(20), "0.5"), Some(EqualNumber));
    assert_eq!(equivalent(&wrapped(80), "0.5"), None);
    for (open, close) in
        [("(", ")"), ("{", "}"), (r"\frac{1}{1+", "}"), (r"\sqrt{", "}"), ("|", "|"), ("(1,", ")")]
    {
        let nested =
            |depth: usize, core: &str| format!("{}{core}{}", open.repeat(depth), close.repeat(depth));
        assert!(equivalent(&nested(5, "1/2"), &nested(5, "0.5")).is_some(), "{open}");
        for core in ["5", "1/2"] {
            equivalent(&nested(80, core), &nested(80, "0.5"));
            grade(&format!("\\boxed{{{}}}", nested(50_000, core)), "1");
        }
    }
}
