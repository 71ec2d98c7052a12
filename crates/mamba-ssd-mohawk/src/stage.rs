//! The three stages as losses of (student, teacher, batch).
//!
//! Stages 1 and 2 feed every layer of the student the *teacher's* hidden state, so errors do not
//! add up from layer to layer and every layer is a problem of its own: one term of the loss, whose
//! backward pass can run, and free its memory, before the next layer begins. Layers that are still
//! attention in the student (hybrids) are skipped. Stage 3 is one term, end to end.

use std::collections::BTreeSet;

use burn::tensor::Tensor;
use mamba_ssd::Backbone;
use serde::{Deserialize, Serialize};

use crate::data::{Batch, Counts};
use crate::loss::{hidden_alignment, matrix_orientation_by_blocks};
use crate::parameters;
pub use crate::predictions::LogitsLoss;

/// The names of the stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageKind {
    /// Stage 1, matrix orientation.
    Matrices,
    /// Stage 2, hidden-state alignment.
    Hidden,
    /// Stage 3, knowledge distillation on logits.
    Logits,
}

/// What stage 2 compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenTarget {
    /// The output of the whole block: mixer, MLP and residuals.
    #[default]
    Block,
    /// The output of the mixer alone.
    Mixer,
}

/// The parameters a stage may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trainable {
    /// Those of the mixers that are not attention.
    Mixers,
    /// All that the loss reaches.
    All,
}

impl Trainable {
    /// The identities of the parameters of `student` that may change.
    pub(crate) fn ids<S: Backbone>(self, student: &S) -> BTreeSet<u64> {
        match self {
            Self::All => parameters::ids(student),
            Self::Mixers => {
                let mixers = mixer_layers(student).into_iter().map(|layer| student.mixer(layer));
                mixers.flat_map(parameters::ids).collect()
            }
        }
    }
}

/// The layers of `student` whose mixer is not attention.
pub fn mixer_layers<S: Backbone>(student: &S) -> Vec<usize> {
    (0..student.n_layers()).filter(|&layer| !student.mixer(layer).is_attention()).collect()
}

/// What a stage minimises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// Σ over layers of [`matrix_orientation_by_blocks`].
    Matrices,
    /// Σ over layers of [`hidden_alignment`].
    Hidden(HiddenTarget),
    /// [`LogitsLoss`].
    Logits(LogitsLoss),
}

impl Objective {
    /// The stage this objective belongs to.
    pub fn kind(&self) -> StageKind {
        match self {
            Self::Matrices => StageKind::Matrices,
            Self::Hidden(_) => StageKind::Hidden,
            Self::Logits(_) => StageKind::Logits,
        }
    }

    /// The number of things that a batch's term is the mean of: what it weighs among micro-batches. The term is that of a
    /// layer, or of the whole model.
    pub fn weight(&self, counts: Counts, layer: Option<usize>) -> usize {
        match self {
            Self::Matrices => counts.rows,
            Self::Logits(_) if layer.is_none() => counts.targets,
            Self::Hidden(_) | Self::Logits(_) => counts.present,
        }
    }

    /// Hands every independent term of the loss `[1]` to `sink`, with the layer it belongs to:
    /// one per mixer layer in stages 1 and 2, and in stage 3 one without a layer, before those of layers if there are any.
    ///
    /// # Panics
    ///
    /// If a shape of teacher and student differs; preflight finds that before any training.
    pub fn for_each_term<T: Backbone, S: Backbone>(
        &self,
        teacher: &T,
        student: &S,
        batch: &Batch,
        sink: impl FnMut(Option<usize>, Tensor<1>),
    ) {
        match *self {
            Self::Matrices => matrices(teacher, student, batch, sink),
            Self::Hidden(HiddenTarget::Block) => blocks(teacher, student, batch, sink),
            Self::Hidden(HiddenTarget::Mixer) => mixers(teacher, student, batch, sink),
            Self::Logits(loss) => {
                let mut sink = sink;
                sink(None, loss.of_whole(teacher, student, batch));
                loss.for_each_mixer(teacher, student, batch, sink);
            }
        }
    }

    /// The sum of all terms, and the terms by layer.
    pub fn loss<T: Backbone, S: Backbone>(
        &self,
        teacher: &T,
        student: &S,
        batch: &Batch,
    ) -> (Tensor<1>, Vec<(Option<usize>, Tensor<1>)>) {
        let mut terms = Vec::new();
        self.for_each_term(teacher, student, batch, |layer, term| terms.push((layer, term)));
        let total = terms.iter().map(|(_, term)| term.clone()).reduce(|sum, term| sum + term);
        (total.expect("a student with at least one mixer layer"), terms)
    }
}

/// Calls `compare` for every mixer layer of the student with the teacher's hidden state that enters it.
/// The teacher runs up to the input of the last of them: neither that layer nor anything behind it is
/// needed.
fn for_each_input<T: Backbone, S: Backbone>(
    teacher: &T,
    student: &S,
    batch: &Batch,
    mut compare: impl FnMut(usize, Tensor<3>),
) {
    let layers = mixer_layers(student);
    let last = layers.last().copied().unwrap_or(0);
    let mut hidden = teacher.embed(batch.tokens.clone());
    for layer in 0..=last {
        if layers.contains(&layer) {
            compare(layer, hidden.clone());
        }
        if layer < last {
            hidden = teacher.layer(layer, hidden, batch.segments.as_ref());
        }
    }
}

/// Rows of the mixing matrices `[b h t t]` that are compared at a time: as many as 2²⁴ entries allow.
fn rows_at_a_time([b, h, t]: [usize; 3]) -> usize {
    const ENTRIES: usize = 1 << 24;
    const FEWEST: usize = 16;
    (ENTRIES / (b * h * t)).max(FEWEST)
}

/// Stage 1.
fn matrices<T: Backbone, S: Backbone>(
    teacher: &T,
    student: &S,
    batch: &Batch,
    mut sink: impl FnMut(Option<usize>, Tensor<1>),
) {
    let segments = batch.segments.as_ref();
    for_each_input(teacher, student, batch, |layer, hidden| {
        let target = teacher.mixing(layer, hidden.clone(), segments);
        let mixing = student.mixing(layer, hidden, segments);
        let block = rows_at_a_time(mixing.dims());
        sink(Some(layer), matrix_orientation_by_blocks(&mixing, &target, batch.present.as_ref(), block));
    });
}

/// Stage 2 on whole blocks, against the teacher's next hidden state before the final norm.
fn blocks<T: Backbone, S: Backbone>(
    teacher: &T,
    student: &S,
    batch: &Batch,
    mut sink: impl FnMut(Option<usize>, Tensor<1>),
) {
    let segments = batch.segments.as_ref();
    let layers = mixer_layers(student);
    let last = layers.last().copied().unwrap_or(0);
    let mut hidden = teacher.embed(batch.tokens.clone());
    for layer in 0..=last {
        let target = teacher.layer(layer, hidden.clone(), segments);
        if layers.contains(&layer) {
            let output = student.layer(layer, hidden, segments);
            sink(Some(layer), hidden_alignment(output, target.clone(), batch.present.as_ref()));
        }
        hidden = target;
    }
}

/// Stage 2 on the mixers alone.
pub(crate) fn mixers<T: Backbone, S: Backbone>(
    teacher: &T,
    student: &S,
    batch: &Batch,
    mut sink: impl FnMut(Option<usize>, Tensor<1>),
) {
    let segments = batch.segments.as_ref();
    for_each_input(teacher, student, batch, |layer, hidden| {
        let target = teacher.mixer_output(layer, hidden.clone(), segments);
        let output = student.mixer_output(layer, hidden, segments);
        sink(Some(layer), hidden_alignment(output, target, batch.present.as_ref()));
    });
}
