//! What the report draws: loss curves from `metrics.jsonl`, and the mixing matrices of both models on one text.

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use mamba_ssd::{Backbone, MatrixMixer};
use mamba_ssd_models::Model;
use mamba_ssd_mohawk::StepReport;
use mamba_ssd_mohawk::stage::StageKind;

use super::describe;
use crate::report::charts::Curve;
use crate::report::heatmap::Square;
use crate::report::{MatrixPair, StageLosses};

/// Tokens of the text that the matrices are drawn for.
const TOKENS: usize = 64;

/// The losses of each stage over its tokens, layer by layer where the stage has them.
pub fn losses(metrics: &[StepReport]) -> Vec<StageLosses> {
    metrics.chunk_by(|a, b| a.stage == b.stage).map(stage_losses).collect()
}

/// A figure of a step, if it has it.
type Figure = fn(&StepReport) -> Option<f64>;

/// How each stage went: gradient norm, speed, and memory where the device tells of it.
pub fn course(metrics: &[StepReport]) -> Vec<StageLosses> {
    let of_stage = |steps: &[StepReport]| {
        let figures: [(&str, Figure); 3] = [
            ("gradient norm", |step| Some(step.grad_norm)),
            ("tokens a second", |step| Some(step.tokens_per_second)),
            ("memory, GB", |step| step.device_bytes.map(|bytes| bytes as f64 / 1e9)),
        ];
        let chart = |(measure, figure): (&str, Figure)| StageLosses {
            kind: describe::kind(steps[0].kind).into(),
            measure: measure.into(),
            curves: vec![curve(steps, measure.into(), &figure)],
        };
        let drawn = |chart: &StageLosses| !chart.curves[0].points.is_empty();
        figures.map(chart).into_iter().filter(drawn).collect::<Vec<_>>()
    };
    metrics.chunk_by(|a, b| a.stage == b.stage).flat_map(of_stage).collect()
}

/// A figure of every step over the stage's tokens.
fn curve(steps: &[StepReport], name: String, figure: &dyn Fn(&StepReport) -> Option<f64>) -> Curve {
    Curve {
        name,
        points: steps.iter().filter_map(|step| Some((step.tokens as f64, figure(step)?))).collect(),
    }
}

fn stage_losses(steps: &[StepReport]) -> StageLosses {
    let first = &steps[0];
    // Mixers' outputs beside predictions have other units than the loss.
    let layers = if first.kind == StageKind::Logits { 0 } else { first.layers.len() };
    let by_layer = (0..layers).filter(|&layer| first.layers[layer].is_some());
    let mut curves: Vec<Curve> = by_layer
        .map(|layer| {
            curve(steps, format!("layer {layer}"), &|step| step.layers.get(layer).copied().flatten())
        })
        .collect();
    if curves.is_empty() {
        let texts = [("loss", false), ("loss on its own texts", true)];
        let of_kind = |(name, own): (&str, bool)| {
            curve(steps, name.into(), &|step| (step.rollout == own).then_some(step.loss))
        };
        curves.extend(texts.map(of_kind).into_iter().filter(|curve| !curve.points.is_empty()));
    }
    StageLosses {
        kind: describe::kind(first.kind).into(),
        measure: describe::measure(first.kind).into(),
        curves,
    }
}

/// The matrices of the first, the middle and the last converted layer, two heads each, for the start of a text.
/// Every model reads its own hidden states.
pub fn matrices(teacher: &Model, student: &Model, text: &[u32]) -> Vec<MatrixPair> {
    let (teacher, student) = (teacher.valid(), student.valid());
    let tokens: Vec<i64> = text.iter().take(TOKENS).map(|&token| i64::from(token)).collect();
    let shape = [1, tokens.len()];
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, shape), &teacher.devices()[0]);
    let (of_teacher, of_student) =
        (teacher.hidden_states(tokens.clone(), None), student.hidden_states(tokens, None));
    let mut pairs = Vec::new();
    for layer in chosen_layers(&teacher, &student) {
        let left = squares(teacher.mixing_matrix(layer, of_teacher[layer].clone(), None));
        let right = squares(student.mixing_matrix(layer, of_student[layer].clone(), None));
        let heads = ends(&(0..left.len()).collect::<Vec<_>>());
        let pair = |head: usize| MatrixPair {
            layer,
            head,
            teacher: left[head].clone(),
            student: right[head].clone(),
        };
        pairs.extend(heads.into_iter().map(pair));
    }
    pairs
}

/// First, middle and last of the layers that changed and whose heads can be compared.
fn chosen_layers(teacher: &Model, student: &Model) -> Vec<usize> {
    let comparable = |&layer: &usize| {
        let (from, to) = (teacher.mixer(layer), student.mixer(layer));
        !to.is_attention() && from.n_heads() == to.n_heads()
    };
    let layers: Vec<usize> = (0..student.n_layers()).filter(comparable).collect();
    let mut chosen = ends(&layers);
    chosen.extend(layers.get(layers.len() / 2));
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// The first and the last.
fn ends(items: &[usize]) -> Vec<usize> {
    let mut ends: Vec<usize> = items.first().into_iter().chain(items.last()).copied().collect();
    ends.dedup();
    ends
}

/// The matrix of every head, `[1 h t t]`.
fn squares(matrices: Tensor<4>) -> Vec<Square> {
    let [_, _, side, _] = matrices.dims();
    let values: Vec<f32> = matrices.into_data_as::<f32>().try_into_vec().expect("converted to f32");
    values.chunks(side * side).map(|square| Square::new(square.to_vec(), side)).collect()
}
