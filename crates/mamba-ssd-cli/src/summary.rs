//! What a distillation run came to: the contents of `summary.json`.

use serde::{Deserialize, Serialize};

/// One stage of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageSummary {
    /// The stage's name in the recipe.
    pub kind: String,
    /// Tokens trained on.
    pub tokens: usize,
    /// Seconds of training, evaluation not counted.
    pub seconds: f64,
    /// The loss of its last step.
    pub loss: f64,
}

impl StageSummary {
    /// Tokens trained on in a second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }
}

/// How good a model is on the held-out problems.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Perplexity of the held-out texts.
    pub ppl: f64,
    /// Share of the held-out problems answered correctly, greedily; none where there are no problems.
    pub accuracy: Option<f64>,
}

/// One answer of the teacher and of the student to the same problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The problem.
    pub question: String,
    /// Its right answer.
    pub answer: i64,
    /// What the teacher wrote.
    pub teacher: String,
    /// Whether that is right.
    pub teacher_correct: bool,
    /// What the student wrote.
    pub student: String,
    /// Whether that is right.
    pub student_correct: bool,
}

/// One way to spend the same number of tokens, over several seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AblationRow {
    /// The stages that ran, in order.
    pub stages: Vec<String>,
    /// Tokens in all, the same for every row.
    pub tokens: usize,
    /// The seeds, aligned with `ppl` and `accuracy`.
    pub seeds: Vec<u64>,
    /// Perplexity for each seed.
    pub ppl: Vec<f64>,
    /// Answer accuracy for each seed; empty where there are no problems.
    pub accuracy: Vec<f64>,
    /// Mean of `ppl`.
    pub ppl_mean: f64,
    /// Standard deviation of `ppl` (n - 1).
    pub ppl_std: f64,
    /// Mean of `accuracy`, if there is any.
    pub accuracy_mean: Option<f64>,
    /// Standard deviation of `accuracy` (n - 1).
    pub accuracy_std: Option<f64>,
}

/// Everything a run came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of this program.
    pub version: String,
    /// Name of the recipe.
    pub recipe: String,
    /// The device the run was made on.
    pub device: String,
    /// Seed of initialisation, data order and problems.
    pub seed: u64,
    /// Every seed used, the ablation's included.
    pub seeds: Vec<u64>,
    /// Number of the teacher's parameters.
    pub teacher_params: usize,
    /// Number of the student's parameters.
    pub student_params: usize,
    /// The stages in the order they ran.
    pub stages: Vec<StageSummary>,
    /// Tokens of all stages.
    pub tokens: usize,
    /// Seconds of all stages.
    pub seconds: f64,
    /// Seconds of the whole command, evaluation and report included (this session's, after `--resume`).
    pub wall_seconds: f64,
    /// The teacher's perplexity on held-out texts.
    pub teacher_ppl: f64,
    /// The finished student's perplexity on the same texts.
    pub student_ppl: f64,
    /// The student's perplexity before the first stage.
    pub student_ppl_at_start: f64,
    /// The student's perplexity after each stage, aligned with `stages`.
    pub student_ppl_by_stage: Vec<f64>,
    /// The teacher's share of correct answers to held-out problems; null where the recipe names a data file.
    pub teacher_accuracy: Option<f64>,
    /// The finished student's share of correct answers to the same problems.
    pub student_accuracy: Option<f64>,
    /// The student's share before the first stage.
    pub student_accuracy_at_start: Option<f64>,
    /// The student's share after each stage, aligned with `stages`.
    pub student_accuracy_by_stage: Vec<Option<f64>>,
    /// Number of held-out problems behind every accuracy.
    pub problems: usize,
    /// Teacher and student side by side.
    pub samples: Vec<Sample>,
    /// Same token budget, different stages; empty unless `--ablation` was given.
    pub ablation: Vec<AblationRow>,
}

impl AblationRow {
    /// A row from its measurements.
    pub fn new(stages: Vec<String>, tokens: usize, seeds: Vec<u64>, quality: &[Quality]) -> Self {
        let ppl: Vec<f64> = quality.iter().map(|quality| quality.ppl).collect();
        let accuracy: Vec<f64> = quality.iter().filter_map(|quality| quality.accuracy).collect();
        let (ppl_mean, ppl_std) = spread(&ppl);
        let (accuracy_mean, accuracy_std) = Some(spread(&accuracy)).filter(|_| !accuracy.is_empty()).unzip();
        Self { stages, tokens, seeds, ppl, accuracy, ppl_mean, ppl_std, accuracy_mean, accuracy_std }
    }
}

/// Mean and sample standard deviation (0 for a single value).
fn spread(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_mean_and_sample_deviation() {
        let (mean, deviation) = spread(&[1.0, 2.0, 3.0]);
        assert!((mean - 2.0).abs() < 1e-12 && (deviation - 1.0).abs() < 1e-12);
        assert_eq!(spread(&[4.0]), (4.0, 0.0));
    }
}
