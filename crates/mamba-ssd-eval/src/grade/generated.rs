//! The answers of generated problems, which are always put in the same words.

use crate::problems::Problem;

/// What stands in front of the answer.
const MARK: &str = "The answer is ";

/// The number of the last `The answer is N` of a text.
///
/// ```
/// use mamba_ssd_eval::grade::extract_answer;
///
/// assert_eq!(extract_answer(" 3 + 4 = 7. The answer is 7.\n"), Some(7));
/// assert_eq!(extract_answer(" 3 + 4 = 7."), None);
/// ```
pub fn extract_answer(text: &str) -> Option<i64> {
    let (_, after) = text.rsplit_once(MARK)?;
    let end = after.char_indices().find(|&(at, c)| !(c.is_ascii_digit() || at == 0 && c == '-'));
    after[..end.map_or(after.len(), |(at, _)| at)].parse().ok()
}

/// Whether a completion gives the problem's answer.
pub fn is_correct(problem: &Problem, completion: &str) -> bool {
    extract_answer(completion) == Some(problem.answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_counts() {
        assert_eq!(extract_answer("The answer is 5. Q: more A: The answer is 12."), Some(12));
    }

    #[test]
    fn an_answer_may_end_the_text_or_be_negative() {
        assert_eq!(extract_answer("The answer is 120"), Some(120));
        assert_eq!(extract_answer("The answer is -3."), Some(-3));
    }

    #[test]
    fn no_number_is_no_answer() {
        for text in ["", "75", "The answer is", "The answer is .", "The answer is many.", "The answer is -"] {
            assert_eq!(extract_answer(text), None, "{text:?}");
        }
    }
}
