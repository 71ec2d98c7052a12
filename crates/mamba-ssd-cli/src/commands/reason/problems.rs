//! Problems from a file, or from the generator.

use anyhow::{Context, Result, bail, ensure};
use mamba_ssd_eval::grade::reference;
use mamba_ssd_eval::problems::{Split, long_problem, problem};
use serde_json::Value;

use crate::args::ReasonArgs;
use crate::files;
use crate::language_model::LanguageModel;

/// A problem and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// What is asked.
    pub question: String,
    /// What is right.
    pub answer: String,
    /// The question in the form in which a model without one of its own is asked.
    pub plain: String,
}

/// Fields that hold what is asked, the first that is there counts.
const QUESTIONS: [&str; 3] = ["question", "problem", "prompt"];

/// All problems that are asked.
pub fn read(args: &ReasonArgs) -> Result<Vec<Problem>> {
    let Some(path) = &args.problems else {
        return Ok((0..args.generated.unwrap_or(0) as u64).map(|index| generated(args, index)).collect());
    };
    let text = files::read(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let of_line = |(index, line): (usize, &str)| {
        of_json(line).with_context(|| format!("{}, line {}", path.display(), index + 1))
    };
    let problems: Vec<Problem> =
        lines.take(args.limit.unwrap_or(usize::MAX)).map(of_line).collect::<Result<_>>()?;
    ensure!(!problems.is_empty(), "{}: no problem; write one JSON object a line", path.display());
    Ok(problems)
}

fn generated(args: &ReasonArgs, index: u64) -> Problem {
    let draw = if args.long { long_problem } else { problem };
    let problem = draw(0, if args.train_split { Split::Train } else { Split::HeldOut }, index);
    let (plain, answer) = (problem.prompt(), problem.answer.to_string());
    Problem { question: problem.question, answer, plain }
}

fn of_json(line: &str) -> Result<Problem> {
    let value: Value =
        serde_json::from_str(line).context("not JSON, expected {\"question\": ..., \"answer\": ...}")?;
    let field = |name: &str| text(value.get(name)?);
    let Some(question) = QUESTIONS.into_iter().find_map(field) else {
        bail!("no text in \"question\", \"problem\" or \"prompt\"");
    };
    ensure!(!question.trim().is_empty(), "the question is empty; leave the problem out");
    // An answer may be a whole solution, as in GSM8K; a solution has to mark its answer.
    let answer =
        field("answer").map(|answer| reference(&answer).unwrap_or_else(|| answer.trim().to_string()));
    let Some(answer) = answer.or_else(|| reference(&field("solution")?)) else {
        bail!(
            "a problem without an answer, expected one in \"answer\", or marked in \"solution\" by \\boxed{{}} or ####; \
             leave the problem out"
        );
    };
    ensure!(!answer.is_empty(), "the answer is empty; leave the problem out");
    Ok(Problem { plain: question.clone(), question, answer })
}

/// A text, or a number as one.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// What a model is asked.
pub fn prompt(args: &ReasonArgs, problem: &Problem, model: &LanguageModel) -> Result<String> {
    if args.chat {
        return model.conversation(args.system.as_deref(), &problem.question);
    }
    let formed = if args.raw { None } else { model.formed(&problem.question) };
    Ok(formed.unwrap_or_else(|| problem.plain.clone()))
}

/// The tokens of a prompt. A chat template writes the tokens that begin a text itself.
pub fn tokens(args: &ReasonArgs, prompt: &str, model: &LanguageModel) -> Result<Vec<u32>> {
    Ok(if args.chat {
        model.tokenizer.encode(prompt)?
    } else {
        model.tokenizer.encode_with_special(prompt)?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_of_the_usual_sets_are_read() {
        let gsm8k = r#"{"question": "How many?", "answer": "6 * 7 = <<6*7=42>>42\n#### 1,042"}"#;
        assert_eq!(of_json(gsm8k).expect("a problem").answer, "1,042");
        let math = r#"{"problem": "Find $x$.", "solution": "So $x = \\boxed{\\frac{1}{2}}$."}"#;
        assert_eq!(of_json(math).expect("a problem").answer, "\\frac{1}{2}");
        assert_eq!(of_json(r#"{"prompt": "1 + 1 =", "answer": 2}"#).expect("a problem").answer, "2");
    }

    #[test]
    fn a_problem_without_an_answer_is_refused() {
        for line in [
            r#"{"question": "Why?"}"#,
            r#"{"problem": "Show it.", "solution": "Clear."}"#,
            r#"{"question": " ", "answer": "1"}"#,
            r#"{"question": "Why?", "answer": ""}"#,
            r#"{"answer": "1"}"#,
            "Why?",
        ] {
            assert!(of_json(line).is_err(), "{line}");
        }
    }
}
