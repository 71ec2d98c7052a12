//! The rules of grading, a row each.

use mamba_ssd_eval::grade::Reason::{self, *};
use mamba_ssd_eval::grade::{LONGEST_ANSWER, Verdict, answer, equivalent, grade, reference};

/// One answer, another, how they are the same (else `Different`), why.
type Equivalence = (&'static str, &'static str, Reason, &'static str);

const EQUIVALENCES: &[Equivalence] = &[
    // Shape.
    ("$5$", "5", Same, "delimiters"),
    (r"\(5\)", "5", Same, "delimiters"),
    (r"\[5\]", "$$5$$", Same, "delimiters"),
    (r"\left(1,2\right)", "(1,2)", Same, "sized brackets"),
    (r"\left.5\right.", "5", Same, "null delimiters"),
    (r"2\,\pi", r"2\!\; \pi", Same, "thin spaces"),
    (r"\displaystyle 5", "5", Same, "style"),
    ("5.", "5", Same, "full stop"),
    ("{{5}}", "5", Same, "braces around"),
    ("x^{10}", "x^10", Same, "braces around an exponent"),
    (r"\boxed{5}", "5", Same, "a box"),
    (r"\text{Evelyn}", "evelyn", Same, "words in any case"),
    (r"\mathrm{No solution}", "no solution", Same, "words in any case"),
    (r"\text{even}", "odd", Different, "other words"),
    ("x", "X", Different, "the case of a variable"),
    (r"\textbf{(B)}", "B", SameChoice, "a choice"),
    ("(A)", "(B)", Different, "another choice"),
    ("2AB", "2ab", Different, "the case of a product"),
    ("", "5", Different, "nothing"),
    ("", "", Different, "nothing at all"),
    ("12", "1 2", Different, "two numbers are not one"),
    // Thousands.
    ("1,234", "1234", Same, "thousands"),
    ("1,234,567.89", "1234567.89", Same, "thousands and decimals"),
    (r"1\,234", "1234", Same, "thousands by a thin space"),
    ("1{,}234", "1234", Same, "thousands by a braced comma"),
    (r"1,\!234", "1234", Same, "thousands by a closed comma"),
    ("1 234", "1234", Same, "thousands by a space"),
    ("1, 234", "1234", Different, "a list"),
    ("12,34", "1234", Different, "no group of three"),
    ("0,123", "123", Different, "no number begins so"),
    ("(1,234)", "(1, 234)", Same, "a pair"),
    ("(1,234)", "1234", Different, "a pair"),
    ("(1,234, 5)", "(1234, 5)", Same, "thousands in a pair with spaces"),
    (r"\frac{1,000}{3}", "1000/3", EqualNumber, "thousands in a fraction"),
    ("123,456", "456,123", Different, "thousands are not a list"),
    // Units.
    (r"5\text{ cm}", "5", Same, "a unit"),
    (r"5 \text{ cm}^2", "5", Same, "a unit's power"),
    ("5 square units", "5", Same, "a unit of words"),
    ("30 km/h", "30", Same, "a unit's quotient"),
    ("7cm", "7", Same, "a short unit"),
    ("5 apples", "5 oranges", Same, "units do not count"),
    (r"\$5.50", "5.5", EqualNumber, "dollars"),
    ("$12", "12 dollars", Same, "dollars"),
    ("12 dollars", "13", Different, "another number of dollars"),
    (r"30^\circ", "30", Same, "degrees"),
    (r"30^{\circ}", "30 degrees", Same, "degrees"),
    ("30°C", "30", Same, "Celsius"),
    (r"10\pi\text{ cm}", r"10\pi", Same, "a unit behind a constant"),
    (r"\frac{1}{2} \text{ hour}", "0.5", EqualNumber, "a unit behind a fraction"),
    ("5 million", "5", Different, "a word that changes the number"),
    ("2 thirds", "2", Different, "a word that changes the number"),
    (r"5\text{ p.m.}", "5", Different, "a time"),
    ("5m", "5", Different, "a variable"),
    ("5 sin x", "5", Different, "a function"),
    // Numbers.
    ("0.5", "1/2", EqualNumber, "a decimal"),
    (".5", r"\frac{1}{2}", EqualNumber, "no leading zero"),
    ("0.50", "0.5", EqualNumber, "a trailing zero"),
    ("007", "7", EqualNumber, "leading zeros"),
    (r"\frac12", "1/2", EqualNumber, "a fraction of digits"),
    (r"\frac1{10}", "0.1", EqualNumber, "a fraction of a digit and a group"),
    (r"\frac{1}2", "0.5", EqualNumber, "a fraction of a group and a digit"),
    (r"\dfrac{3}{4}", r"\tfrac{3}{4}", Same, "sizes of fractions"),
    (r"\frac{12}{3}", r"\frac123", Different, "TeX reads one digit"),
    (r"\frac 1 2", "0.5", EqualNumber, "a fraction with spaces"),
    (r"\frac{2}{4}", "1/2", EqualNumber, "lowest terms"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}", EqualNumber, "where the sign stands"),
    (r"3\frac{1}{2}", "7/2", EqualNumber, "a mixed number"),
    ("3 1/2", "3.5", EqualNumber, "a plain mixed number"),
    (r"-3\frac12", "-3.5", EqualNumber, "a negative mixed number"),
    (r"3\frac{1}{2}", "3/2", Different, "a mixed number is a sum"),
    ("3 1/2", "31/2", Different, "a mixed number is two"),
    (r"2\cdot\frac12", "1", EqualNumber, "a product with a sign is not mixed"),
    ("1/3", "0.333", Different, "a rounded third"),
    ("1/3", "0.3333", Different, "a rounded third"),
    ("1/3", "0.33333333333", EqualNumber, "a third within 1e-9"),
    ("0.5000000001", "1/2", Different, "a half is exact"),
    ("1000000000000001", "1000000000000002", Different, "whole numbers are exact"),
    ("1000000000000001/1000000000000000", "1", Different, "fractions are exact"),
    (
        "99999999999999999999999999999999999999999",
        "99999999999999999999999999999999999999998",
        Different,
        "too long",
    ),
    (r"1.2\times10^3", "1200", EqualNumber, "scientific"),
    (r"1.2 \cdot 10^{-3}", "0.0012", EqualNumber, "scientific"),
    ("1.2e3", "1200", EqualNumber, "a program's"),
    ("1e-05", "0.00001", EqualNumber, "a program's"),
    (r"1.2\times10^3", "120", Different, "another power of ten"),
    ("−5", "-5", Same, "the Unicode minus"),
    ("+5", "5", Same, "a plus sign"),
    ("5", "-5", Different, "the sign"),
    ("--5", "5", EqualNumber, "two signs"),
    ("2^10", "1024", EqualNumber, "a power"),
    ("2**10", "1024", EqualNumber, "Python's power"),
    ("2^{-1}", "0.5", EqualNumber, "a negative power"),
    ("8^{2/3}", "4", EqualNumber, "a rational power"),
    ("2^{3^2}", "512", EqualNumber, "a tower"),
    ("5!", "120", EqualNumber, "a factorial"),
    ("5!", "5", Different, "a factorial is no punctuation"),
    (r"\binom{10}{3}", "120", EqualNumber, "a binomial"),
    ("3*4", r"3 \times 4", Same, "signs of multiplication"),
    ("3*4", "12", EqualNumber, "a product"),
    ("6÷4", "1.5", EqualNumber, "a sign of division"),
    ("2(3+4)", "14", EqualNumber, "implicit multiplication"),
    ("1/0", "0", Different, "no number"),
    ("1/0", "2/0", Different, "no numbers"),
    // Percent.
    (r"50\%", "50", EqualNumber, "percent on one side"),
    (r"50\%", "0.5", EqualNumber, "percent on one side"),
    ("1/2", "50%", EqualNumber, "percent on the other side"),
    ("50 percent", r"50\%", Same, "the word"),
    (r"50\%", r"0.5\%", Different, "percent on both sides"),
    (r"50\%", "5", Different, "another number"),
    // Roots and constants.
    (r"\sqrt2", r"\sqrt{2}", EqualNumber, "a root of a digit"),
    (r"\sqrt{8}", r"2\sqrt{2}", EqualNumber, "a root simplified"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", EqualNumber, "a rational denominator"),
    (r"\sqrt[3]{8}", "2", EqualNumber, "a cube root"),
    (r"\sqrt[3]{-8}", "-2", EqualNumber, "a cube root of a negative number"),
    ("√2", "sqrt(2)", EqualNumber, "plain roots"),
    (r"\sqrt\frac14", "0.5", EqualNumber, "a root of a fraction without braces"),
    (r"\sqrt{2}", "1.414", Different, "a rounded root"),
    (r"\sqrt{2}", "1.41421356237", EqualNumber, "a root within 1e-9"),
    (r"\sqrt{2}", r"\sqrt{3}", Different, "another root"),
    (r"2\sqrt{3}+1", r"1+\sqrt{12}", EqualNumber, "a sum with roots"),
    (r"(\sqrt2)^2 - 2", "0", EqualNumber, "rounding in a difference"),
    (r"\frac{\pi}{2}", "pi/2", EqualNumber, "pi"),
    (r"\frac\pi2", "π/2", EqualNumber, "pi without braces"),
    (r"\pi", "3.14", Different, "rounded pi"),
    (r"2\pi", r"\pi", Different, "another multiple"),
    (r"e^{2}", "e*e", EqualNumber, "Euler's number"),
    (r"\infty", "infinity", Same, "infinity"),
    (r"\infty", r"-\infty", Different, "the other infinity"),
    (r"\ln e^2", "2", EqualNumber, "a logarithm"),
    (r"\log_2 8", "3", EqualNumber, "a logarithm's base"),
    (r"\log 100", "2", EqualNumber, "the decadic logarithm"),
    (r"\sin 30^\circ", "1/2", EqualNumber, "degrees in a function"),
    (r"\sin^{-1} 1", r"\frac{\pi}{2}", EqualNumber, "an inverse function"),
    ("|-3|", "3", EqualNumber, "an absolute value"),
    // Formulas.
    ("2x", "x+x", EqualExpression, "implicit multiplication"),
    ("(x+1)^2", "x^2 + 2x + 1", EqualExpression, "an expansion"),
    ("(x-1)^{10}", "(1-x)^{10}", EqualExpression, "an even power"),
    ("(x-1)^{9}", "(1-x)^{9}", Different, "an odd power"),
    ("3(x+1)", "3x+3", EqualExpression, "a product with brackets"),
    ("3(x+1)", "3x+1", Different, "another constant"),
    (r"\frac{x}{2}", "x/2", EqualExpression, "a quotient"),
    ("1/2x", r"\frac12 x", EqualExpression, "from left to right"),
    (r"\frac{x^2-1}{x-1}", "x+1", EqualExpression, "cancelled"),
    ("xy^2", "y^2x", EqualExpression, "order of factors"),
    ("ab", "ba", EqualExpression, "order of two letters alone"),
    ("cat", "act", Different, "words are no products"),
    ("xyz+1", "1+zyx", EqualExpression, "products beside something"),
    ("x^2", "x^3", Different, "another power"),
    ("x", "y", Different, "another variable"),
    ("x_1+x_2", "x_{2}+x_{1}", EqualExpression, "subscripts"),
    ("x_1", "x_2", Different, "another subscript"),
    (r"\sin^2 x + \cos^2 x", "1", EqualExpression, "an identity"),
    (r"\sin x \cos x", r"\frac{\sin 2x}{2}", EqualExpression, "what a function is of"),
    (r"\sqrt{x^2}", "|x|", EqualExpression, "the sign of a root"),
    (r"\sqrt{x^2}", "x", Different, "the sign of a root"),
    (r"\ln x^2", r"2\ln x", EqualExpression, "where both are finite"),
    (r"\sqrt{-x^2-1}", "5", Different, "nowhere finite"),
    ("2xe^x", "xe^{x}+e^xx", EqualExpression, "Euler's number in a product"),
    (r"2\theta", r"\theta+\theta", EqualExpression, "Greek letters"),
    ("3+2i", "2i+3", EqualExpression, "i as a variable"),
    // Equations and inequalities.
    ("x = 5", "5", Same, "a value of a name"),
    (r"\text{Area} = 5", "5", Same, "a value of a word"),
    ("f(x) = 2x+1", "1+2x", EqualExpression, "a value of a function"),
    (r"x \in [1,2)", "[1,2)", Same, "a range of a name"),
    ("x = 1 + 2 = 3", "3", EqualNumber, "a chain"),
    ("1 + 2 = 3", "3", EqualNumber, "a sum and its value"),
    ("1 + 2 = 4", "4", Different, "a wrong sum"),
    ("1 + 2 = 4", "3", Different, "a wrong sum"),
    ("x = 3 = 4", "3", Different, "a wrong chain"),
    ("x + 1 = 5", "5", Different, "an equation is no value"),
    ("x = 5", "y = 5", Different, "another name"),
    (r"x \approx 3.14", "3.14", Same, "an approximate value"),
    ("y = 2x + 1", "2x + 1 = y", EqualRelation, "sides swapped"),
    ("2x + 2y = 2", "x + y = 1", EqualRelation, "a multiple"),
    ("x + y = 1", "x + y = 2", Different, "another line"),
    ("x^2 + y^2 = 4", "y^2 = 4 - x^2", EqualRelation, "rearranged"),
    ("x < 5", "5 > x", EqualRelation, "flipped"),
    (r"x \le 5", "x <= 5.0", EqualRelation, "a side of equal value"),
    (r"x \le 5", "x < 5", Different, "another relation"),
    ("x < 5", "x > 5", Different, "the other relation"),
    // Tuples, intervals, sets, lists.
    ("(1, 1/2)", "(1, 0.5)", EqualParts, "a pair of equal parts"),
    ("(1,2)", "(2,1)", Different, "the order of a pair"),
    ("(1,2)", "(1,2,3)", Different, "another length"),
    (r"[0, \frac12)", "[0, .5)", EqualParts, "a half-open interval"),
    ("[0,1)", "[0,1]", Different, "another bracket"),
    ("(0,1)", "[0,1]", Different, "other brackets"),
    (r"(-\infty, \frac{1}{2})", r"(-\infty, 1/2)", EqualParts, "an unbounded interval"),
    (r"(0,+\infty)", r"(0,\infty)", EqualParts, "a signed infinity"),
    (r"\{1,2\}", r"\{2,1\}", EqualParts, "the order of a set"),
    (r"\{1,2\}", r"\{1,3\}", Different, "another element"),
    (r"\{1,1,2\}", r"\{1,2,2\}", Different, "elements count as often as they stand"),
    ("{1,2}", r"\{1, 2\}", EqualParts, "plain braces"),
    (r"\{1,2\}", "2, 1", EqualParts, "a set is a list"),
    ("(1,2)", "1, 2", Different, "a tuple is not a list"),
    (r"\{1,2\}", "(1,2)", Different, "a set is no tuple"),
    (r"\emptyset", r"\{ \}", Same, "the empty set"),
    (r"\{(1,2),(3,4)\}", r"\{(3,4),(1,2)\}", EqualParts, "a set of pairs"),
    ("(-1,0) \\cup (1,2]", r"(1,2]\cup(-1,0)", EqualParts, "a union"),
    ("(0,1)∪(2,3)", "(0,1) U (2,3)", Same, "plain unions"),
    (r"(0,1)\cup(2,3)", r"(0,1)\cup(2,3]", Different, "another bracket in a union"),
    (r"(0,1)\cup(2,3)", "(0,1)", Different, "a part of a union"),
    ("1, 2", "2, 1", EqualParts, "the order of a list"),
    ("1 or 2", "2, 1", EqualParts, "or"),
    (r"1 \text{ and } \frac12", "0.5, 1", EqualParts, "and"),
    ("1, 2, and 3", "3, 2, 1", EqualParts, "and behind a comma"),
    ("x=1 or x=2", "1, 2", EqualParts, "names in a list"),
    ("x=1, y=2", "x=2, y=1", Different, "values of other names"),
    ("1, 2", "1", Different, "a part of a list"),
    ("1, 2", "1, 3", Different, "another part"),
    ("1; 2", "1, 2", Same, "a semicolon"),
    (r"\pm 2", "-2, 2", EqualParts, "both signs"),
    (r"x = 1 \pm \sqrt2", r"1-\sqrt{2}, 1+\sqrt{2}", EqualParts, "both signs in a formula"),
    (r"\pm 2", "2", Different, "one sign"),
    ("5 cm, 6 cm", "6, 5", EqualParts, "units in a list"),
    // As text only.
    ("1010_2", "1010_{2}", Same, "a base"),
    ("1010_2", "1010_3", Different, "another base"),
    ("1010_2", "1010", Different, "no base"),
    ("1010_2", "10", Different, "a base is not converted"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", Same, "a matrix"),
    (
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        r"\begin{pmatrix}2\\1\end{pmatrix}",
        Different,
        "another matrix",
    ),
    ("3:4", "3 : 4", Same, "a ratio"),
    ("3:4", "4:3", Different, "another ratio"),
];

/// A completion, the expected answer, the answer read, the verdict's reason, why.
type Completion = (&'static str, &'static str, Option<&'static str>, Reason, &'static str);

const COMPLETIONS: &[Completion] = &[
    // Boxes.
    (r"So $x = \boxed{5}$.", "5", Some("5"), Same, "a box"),
    (r"First \boxed{4}, no, \boxed{5}.", "5", Some("5"), Same, "the last box"),
    (r"First \boxed{5}, no, \boxed{4}.", "5", Some("4"), Different, "the last box"),
    (
        r"\boxed{\frac{1}{\sqrt{2}}} and done",
        r"\frac{\sqrt2}{2}",
        Some(r"\frac{1}{\sqrt{2}}"),
        EqualNumber,
        "nested",
    ),
    (r"\boxed{\{1, 2\}}", r"\{2,1\}", Some(r"\{1, 2\}"), EqualParts, "escaped braces"),
    (r"\fbox{7}", "7", Some("7"), Same, "a frame"),
    (r"so $\boxed 5$ it is", "5", Some("5"), Same, "no braces"),
    (r"\boxed {5}", "5", Some("5"), Same, "a space before the brace"),
    (r"\boxed{5} and \boxed{", "5", Some("5"), Same, "the last balanced box"),
    (r"Put it in \boxed{}. It is \boxed{5}, not 6. \boxed{ }", "5", Some("5"), Same, "a blank box"),
    (r"a stray } and { and \boxed{5}", "5", Some("5"), Same, "stray braces"),
    (r"#### 4 but \boxed{5}. The answer is 6.", "5", Some("5"), Same, "a box comes first"),
    (r"\boxed{12", "12", Some("12"), Same, "an open box holds the last number"),
    // Hashes.
    ("2 + 3 = 5\n#### 5", "5", Some("5"), Same, "GSM8K"),
    ("#### 4\n#### 1,234\nmore", "1234", Some("1,234"), Same, "the last hashes"),
    ("#### $18 dollars", "18", Some("$18 dollars"), Same, "units behind hashes"),
    ("#### -3", "3", Some("-3"), Different, "the sign behind hashes"),
    ("The answer is 4.\n#### 5", "5", Some("5"), Same, "hashes before statements"),
    // Statements.
    ("The answer is 5.", "5", Some("5."), Same, "a statement"),
    ("THE ANSWER IS 5", "5", Some("5"), Same, "any case"),
    ("The answer is 4. Or no: the answer is 5.", "5", Some("5."), Same, "the last statement"),
    (
        "Final Answer: The final answer is $\\frac12$. I hope it is correct.",
        "0.5",
        Some("$\\frac12$"),
        EqualNumber,
        "Minerva's",
    ),
    ("**Answer:** 42", "42", Some("42"), Same, "Markdown"),
    ("The answer is **42**.\nBye 7", "42", Some("42**."), Same, "Markdown around the answer"),
    ("The answer is: 3.5 kg. That is 2 more.", "3.5", Some("3.5 kg"), Same, "a point is no end"),
    ("The answer is 5 apples because 2 + 3 = 5.", "5", Some("5 apples"), Same, "a reason"),
    ("The answer is 5, since 2 + 3 = 5.", "5", Some("5"), Same, "a reason behind a comma"),
    ("Answer:\n\\[ x = 5 \\]\nDone 7.", "5", Some("x = 5"), Same, "a displayed formula"),
    ("The answer is 3 or 4.", "3", Some("3 or 4."), Different, "two answers"),
    ("The answer isn't 5. It is 6.", "6", Some("6"), Same, "no statement"),
    // Numbers.
    ("She has 3 and then 5 left over", "5", Some("5"), Same, "the last number"),
    ("It costs $1,234.50 in all.", "1234.5", Some("1,234.50"), EqualNumber, "thousands and decimals"),
    ("Thus x = -7, done", "-7", Some("-7"), Same, "a sign"),
    ("He lost -$7", "-7", Some("-$7"), Same, "a sign before dollars"),
    ("10-7", "7", Some("7"), Same, "a dash is no sign"),
    ("a part of 3/4", "0.75", Some("3/4"), EqualNumber, "a fraction"),
    ("a part of .5", "1/2", Some(".5"), EqualNumber, "no leading zero"),
    ("that is 25\\% of it", "25", Some("25\\%"), EqualNumber, "percent"),
    ("I cannot tell.", "5", None, NoAnswer, "no number"),
    ("", "5", None, NoAnswer, "nothing"),
    // Choices.
    (r"So \boxed{B}.", "B", Some("B"), SameChoice, "a choice in a box"),
    (r"\boxed{\text{(B)}}", "B", Some("B"), SameChoice, "a wrapped choice"),
    (r"\boxed{\textbf{(B)}\ 12}", "(B)", Some("B"), SameChoice, "a choice and its text"),
    (r"\boxed{\text{C}}", "B", Some("C"), Different, "another choice"),
    ("The answer is (B).", "B", Some("B"), SameChoice, "a stated choice"),
    ("the answer is b", r"\text{(B)}", Some("b"), SameChoice, "lower case"),
    ("The answer is B because it fits.", "B", Some("B"), SameChoice, "a reason behind a choice"),
    ("Not (A), so it must be (C).", "C", Some("C"), SameChoice, "the last choice"),
    ("Not (A), so it must be (C).", "A", Some("C"), Different, "the last choice"),
    ("It must be D.", "D", Some("D"), SameChoice, "a letter and a full stop"),
    ("Hence\nB\nas shown", "B", Some("B"), SameChoice, "a line of its own"),
    ("I choose option B as it fits", "B", Some("B"), SameChoice, "a named option"),
    ("B", "B", Some("B"), SameChoice, "nothing else"),
    ("**B**", "B", Some("B"), SameChoice, "Markdown around a choice"),
    ("A prime number. I think so", "A", None, NoAnswer, "an article and a pronoun"),
    ("The answer is A prime number, so (B)", "B", Some("B"), SameChoice, "an article in a statement"),
    (r"\boxed{12}", "B", Some("12"), Different, "a box without a choice"),
];

#[test]
fn answers_are_the_same_as_the_table_says() {
    let mut wrong = Vec::new();
    for &(first, second, expected, why) in EQUIVALENCES {
        for (a, b) in [(first, second), (second, first)] {
            let found = equivalent(a, b);
            if found != (expected != Different).then_some(expected) {
                wrong.push(format!("{a} and {b}: {found:?}, not {expected:?}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn completions_are_graded_as_the_table_says() {
    let mut wrong = Vec::new();
    for &(completion, expected, read, reason, why) in COMPLETIONS {
        let verdict = grade(completion, expected);
        let correct = !matches!(reason, Different | NoAnswer);
        let right = Verdict { correct, answer: read.map(str::to_owned), reason };
        if verdict != right || answer(completion, expected) != read {
            wrong.push(format!("{completion:?} for {expected}: {verdict:?}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_answer_that_spells_something_is_the_same_as_itself() {
    for &(a, b, ..) in EQUIVALENCES {
        for answer in [a, b].into_iter().filter(|answer| !answer.is_empty()) {
            assert_eq!(equivalent(answer, answer), Some(Same), "{answer}");
        }
    }
}

#[test]
fn references_mark_their_answer() {
    for (solution, expected) in [
        ("16 - 3 = <<16-3=13>>13\n#### 1,234", Some("1,234")),
        (r"Thus $x = \boxed{\frac{1}{2}}$.", Some(r"\frac{1}{2}")),
        ("The answer is (B)", Some("(B)")),
        ("5", None),
        ("", None),
    ] {
        assert_eq!(reference(solution).as_deref(), expected, "{solution}");
    }
}

#[test]
fn an_answer_beyond_the_limit_is_too_long() {
    let boxed = |length: usize| format!("\\boxed{{{}}}", "7".repeat(length));
    assert_eq!(grade(&boxed(LONGEST_ANSWER), "7").reason, Different);
    let verdict = grade(&boxed(LONGEST_ANSWER + 1), "7");
    assert_eq!((verdict.correct, verdict.answer, verdict.reason), (false, None, TooLong));
    let long = "x".repeat(LONGEST_ANSWER + 1);
    assert_eq!(equivalent(&long, &long), Some(Same));
    assert_eq!(equivalent(&long, "x"), None);
}

#[test]
fn reasons_read_as_a_few_words() {
    assert_eq!(EqualNumber.to_string(), "an equal number");
    assert_eq!(NoAnswer.to_string(), "no answer");
}
