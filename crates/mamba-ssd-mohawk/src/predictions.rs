//! Stage 3: the loss on predictions, and its gradient with the activations of one layer at a time.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Bool, Gradients, Int, Tensor};
use mamba_ssd::{Backbone, next_token_loss};

use crate::data::Batch;
use crate::loss::{Divergence, Reduction, widen};
use crate::stage::mixers;
use crate::teacher_cache::Kept;

/// (1 − w) · divergence from the teacher + w · cross entropy against the data, mean over the tokens that have a target; and the
/// mixers' outputs as in stage 2, if they are to count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitsLoss {
    /// The divergence from the teacher.
    pub divergence: Divergence,
    /// Its temperature.
    pub temperature: f64,
    /// w in [0, 1]; with 1 the teacher is not asked for predictions.
    pub hard_label_weight: f64,
    /// What the sum over layers of [`hidden_alignment`](crate::loss::hidden_alignment) of the mixers counts for; with 0 it
    /// is not computed.
    pub mixer_weight: f64,
}

impl Default for LogitsLoss {
    fn default() -> Self {
        Self {
            divergence: Divergence::default(),
            temperature: 1.0,
            hard_label_weight: 0.0,
            mixer_weight: 0.0,
        }
    }
}

/// Cross entropy, or KL, of the k likeliest tokens and all others as one more: equal to that of all tokens where k is the
/// vocabulary, and never larger for KL.
fn divergence_from_kept(divergence: Divergence, logits: Tensor<3>, kept: Kept) -> Tensor<2> {
    let log_q = log_softmax(widen(logits), 2).gather(2, kept.ids);
    let dtype = log_q.dtype();
    let (log_p, rest) = (kept.log_p.cast(dtype), kept.rest.cast(dtype));
    let p = log_p.clone().exp();
    // What f32 leaves of 1 is noise below 1e-7; where nothing is left over, it has no weight.
    let others =
        log_q.clone().exp().sum_dim(2).squeeze_dim::<2>(2).neg().add_scalar(1.0).clamp_min(1e-7).log();
    let cross = (p.clone() * log_q).sum_dim(2).squeeze_dim::<2>(2) + rest.clone() * others;
    match divergence {
        Divergence::ForwardKl => {
            let entropy = (p * log_p).sum_dim(2).squeeze_dim::<2>(2);
            entropy + rest.clone() * rest.clamp_min(1e-30).log() - cross
        }
        Divergence::CrossEntropy => cross.neg(),
        other => panic!("kept predictions are for cross entropy and forward KL, found {other:?}"),
    }
}

/// Tokens whose logits are held at once where they are computed in pieces: 128 MiB of logits in half precision.
pub(crate) fn piece(vocabulary: usize, tokens: usize) -> usize {
    const LOGITS: usize = 1 << 26;
    const TOKENS: usize = 2048;
    (LOGITS / vocabulary).clamp(1, TOKENS).min(tokens)
}

impl LogitsLoss {
    /// Of every token, `[b t]`; `of_teacher` is the divergence of logits from the teacher's.
    fn per_token(
        &self,
        logits: Tensor<3>,
        of_teacher: impl FnOnce(Tensor<3>) -> Tensor<2>,
        targets: Tensor<2, Int>,
    ) -> Tensor<2> {
        match self.hard_label_weight {
            0.0 => of_teacher(logits),
            1.0 => next_token_loss(logits, targets),
            hard => of_teacher(logits.clone()) * (1.0 - hard) + next_token_loss(logits, targets) * hard,
        }
    }

    /// The divergence from what the teacher predicts: the logits that `ask` gives, unless predictions are kept.
    fn divergence(
        &self,
        logits: Tensor<3>,
        kept: Option<Kept>,
        ask: impl FnOnce() -> Tensor<3>,
    ) -> Tensor<2> {
        match kept {
            Some(kept) => divergence_from_kept(self.divergence, logits, kept),
            None => self.divergence.per_token(logits, ask(), self.temperature),
        }
    }

    /// Of all tokens, end to end.
    pub(crate) fn of_whole<T: Backbone, S: Backbone>(
        &self,
        teacher: &T,
        student: &S,
        batch: &Batch,
    ) -> Tensor<1> {
        let segments = batch.segments.as_ref();
        let logits = student.forward(batch.tokens.clone(), segments);
        let ask = || teacher.forward(batch.tokens.clone(), segments);
        let of_teacher = |logits| self.divergence(logits, batch.kept.clone(), ask);
        let per_token = self.per_token(logits, of_teacher, batch.targets.clone());
        Reduction::TokenMean.apply(per_token, batch.mask.as_ref())
    }

    /// The weighted loss of every mixer.
    pub(crate) fn for_each_mixer<T: Backbone, S: Backbone>(
        &self,
        teacher: &T,
        student: &S,
        batch: &Batch,
        mut sink: impl FnMut(Option<usize>, Tensor<1>),
    ) {
        if self.mixer_weight > 0.0 {
            mixers(teacher, student, batch, |layer, term| sink(layer, term.mul_scalar(self.mixer_weight)));
        }
    }

    /// [`of_whole`](Self::of_whole) times `share`, with its gradients, in pieces: `sink` gets the gradients that each piece adds.
    ///
    /// The student runs once without a tape, which leaves the input of every layer. The head turns some tokens at a
    /// time into logits. Then every layer, the last first, runs again from its input and gets the gradient of its output.
    pub(crate) fn backward_by_layers<T: Backbone, S: Backbone>(
        &self,
        teacher: &T,
        student: &S,
        batch: &Batch,
        share: f64,
        mut sink: impl FnMut(Gradients),
    ) -> Tensor<1> {
        let segments = batch.segments.as_ref();
        let mut inputs = student.clone().no_grad().hidden_states(batch.tokens.clone(), segments);
        let output = inputs.pop().expect("n_layers + 1 of them");
        let (loss, mut upstream) = self.backward_of_head(teacher, student, batch, output, share, &mut sink);
        for (layer, input) in inputs.into_iter().enumerate().rev() {
            let leaf = input.detach().require_grad();
            let input = match layer {
                0 => student.embed(batch.tokens.clone()) + leaf.zeros_like() * leaf.clone(),
                _ => leaf.clone(),
            };
            let output = student.layer(layer, input, segments);
            let mut gradients = (output * Tensor::from_inner(upstream)).sum().backward();
            upstream = leaf.grad_remove(&mut gradients).expect("the input is on the tape");
            sink(gradients);
        }
        loss
    }

    /// The loss from the last hidden states, `[b t d]`, and its gradient there.
    fn backward_of_head<T: Backbone, S: Backbone>(
        &self,
        teacher: &T,
        student: &S,
        batch: &Batch,
        output: Tensor<3>,
        share: f64,
        sink: &mut impl FnMut(Gradients),
    ) -> (Tensor<1>, Tensor<3>) {
        let [b, t, d] = output.dims();
        let flat = |hidden: Tensor<3>| hidden.reshape([1, b * t, d]);
        let asks = self.hard_label_weight < 1.0 && batch.kept.is_none();
        let target = asks.then(|| flat(teacher.hidden(batch.tokens.clone(), batch.segments.as_ref())));
        let (output, targets) = (flat(output), batch.targets.clone().reshape([1, b * t]));
        let mask: Option<Tensor<2, Bool>> = batch.mask.clone().map(|mask| mask.reshape([1, b * t]));
        let scale = share / batch.counts.targets.max(1) as f64;
        let piece = piece(student.vocab_size(), b * t);
        let (mut losses, mut upstream) = (Vec::new(), Vec::new());
        for at in (0..b * t).step_by(piece) {
            let n = piece.min(b * t - at);
            let leaf = output.clone().narrow(1, at, n).detach().require_grad();
            let ask = || {
                let target = target
                    .clone()
                    .expect("asked for unless predictions are kept, or only the data's tokens count");
                teacher.head(target.narrow(1, at, n))
            };
            let kept = batch.kept.as_ref().map(|kept| kept.piece(at, n));
            let of_teacher = |logits| self.divergence(logits, kept, ask);
            let targets = targets.clone().narrow(1, at, n);
            let per_token = self.per_token(student.head(leaf.clone()), of_teacher, targets);
            let mask = mask.clone().map(|mask| mask.narrow(1, at, n));
            let loss = Reduction::Sum.apply(per_token, mask.as_ref()).mul_scalar(scale);
            let mut gradients = loss.backward();
            upstream.push(leaf.grad_remove(&mut gradients).expect("the hidden states are on the tape"));
            sink(gradients);
            losses.push(loss.inner());
        }
        (Tensor::cat(losses, 0).sum(), Tensor::cat(upstream, 1).reshape([b, t, d]))
    }
}
