//! How good an attempt looks, to a judge that does not know the answer.

use mamba_ssd::Backbone;

use crate::{Scored, score};

/// A completion and the prompt that it continues, as tokens of the judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// What continues it.
    pub completion: Vec<u32>,
}

/// A judge: log-likelihoods, a verifier, a reward model.
pub trait Scorer {
    /// The logarithm of a weight for each candidate, the larger the better; nothing for one that cannot be scored.
    fn scores(&mut self, candidates: Vec<Candidate>) -> Vec<Option<f64>>;
}

/// The mean log-likelihood of a completion's tokens under a model: that of a teacher, say, for attempts of its student.
#[derive(Debug)]
pub struct LogLikelihood<'a, M>(pub &'a M);

impl<M: Backbone> Scorer for LogLikelihood<'_, M> {
    fn scores(&mut self, candidates: Vec<Candidate>) -> Vec<Option<f64>> {
        let scored = |candidate: Candidate| {
            let first = candidate.prompt.len().max(1); // nothing stands in front of a first token
            let tokens = [candidate.prompt, candidate.completion].concat();
            let range = first..tokens.len().max(first);
            Scored::range(tokens, range)
        };
        let texts: Vec<Scored> = candidates.into_iter().map(scored).collect();
        let mean = |score: crate::Score| (score.tokens > 0).then(|| -score.nats / score.tokens as f64);
        score(self.0, &texts, |_| ()).into_iter().map(mean).collect()
    }
}
