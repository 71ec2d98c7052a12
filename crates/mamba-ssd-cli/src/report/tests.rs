use super::*;
use crate::summary::{AblationRow, Quality, Sample, StageSummary};

fn summary() -> Summary {
    let stage = |kind: &str, tokens, seconds, loss| StageSummary { kind: kind.into(), tokens, seconds, loss };
    let sample = Sample {
        question: "Ann has 12 & 5 <apples>?".into(),
        answer: 17,
        teacher: "12 + 5 = 17".into(),
        teacher_correct: true,
        student: "12 + 5 = 18".into(),
        student_correct: false,
    };
    let quality = [Quality { ppl: 1.5, accuracy: Some(0.8) }, Quality { ppl: 1.7, accuracy: Some(0.7) }];
    Summary {
        version: "0.1.0".into(),
        recipe: "demo".into(),
        device: "flex".into(),
        seed: 7,
        seeds: vec![7, 8],
        teacher_params: 1_234_567,
        student_params: 1_345_678,
        stages: vec![
            stage("matrices", 100_000, 50.0, 3.0),
            stage("hidden", 200_000, 90.0, 1.0),
            stage("logits", 400_000, 260.0, 0.4),
        ],
        tokens: 700_000,
        seconds: 400.0,
        wall_seconds: 450.0,
        teacher_ppl: 1.4,
        student_ppl: 1.5,
        student_ppl_at_start: 950.0,
        student_ppl_by_stage: vec![400.0, 2.0, 1.5],
        teacher_accuracy: Some(0.9),
        student_accuracy: Some(0.85),
        student_accuracy_at_start: Some(0.0),
        student_accuracy_by_stage: vec![Some(0.0), Some(0.4), Some(0.85)],
        problems: 200,
        samples: vec![sample],
        ablation: vec![AblationRow::new(vec!["logits".into()], 700_000, vec![7, 8], &quality)],
    }
}

fn report(summary: &Summary) -> Report<'_> {
    let curves = |count: usize| -> Vec<Curve> {
        let points = |layer: usize| {
            (1..500).map(move |step| (step as f64 * 1024.0, (2.0 + layer as f64) / (step as f64).sqrt()))
        };
        (0..count)
            .map(|layer| Curve { name: format!("layer {layer}"), points: points(layer).collect() })
            .collect()
    };
    let losses = |kind: &str, measure: &str, count| StageLosses {
        kind: kind.into(),
        measure: measure.into(),
        curves: curves(count),
    };
    let causal = |sharpness: f32| {
        let value = |t: usize, s: usize| if s <= t { (-sharpness * (t - s) as f32).exp() } else { 0.0 };
        Square::new((0..64 * 64).map(|i| value(i / 64, i % 64)).collect(), 64)
    };
    let pair = |layer| MatrixPair {
        layer,
        head: 1,
        teacher: causal(0.2),
        student: causal(0.21 + 0.1 * layer as f32),
    };
    Report {
        summary,
        losses: vec![
            losses("matrices", "Frobenius norm", 4),
            losses("hidden", "L2 norm per token", 4),
            losses("logits", "cross entropy (nats)", 1),
        ],
        course: vec![losses("logits", "gradient norm", 1)],
        matrices: vec![pair(0), pair(3)],
        recipe: "seed = 7\n",
    }
}

#[test]
fn the_page_is_self_contained_and_complete() {
    let summary = summary();
    let html = report(&summary).html().expect("a full report");
    for part in [
        "Result",
        "Loss",
        "Mixing matrices",
        "Answers",
        "Which stages matter",
        "Recipe",
        "seed = 7",
        "after hidden",
    ] {
        assert!(html.contains(part), "{part} is missing");
    }
    assert!(html.contains("12 &amp; 5 &lt;apples&gt;?"));
    for outside in ["<script", "src=", "href=", "@import", "url("] {
        assert!(!html.contains(outside), "{outside} reaches outside the file");
    }
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
    assert!(html.len() < 400_000, "{} bytes", html.len());
}

#[test]
fn the_table_has_a_row_for_the_teacher_the_start_and_each_stage() {
    let summary = summary();
    let table = stage_table(&summary);
    let names: Vec<&str> = table.rows().iter().map(|row| row[0].as_str()).collect();
    assert_eq!(names, ["teacher", "student, converted", "after matrices", "after hidden", "after logits"]);
    assert_eq!(table.rows()[3][1..4], ["200,000", "90.0", "2,222"]);
    assert_eq!(ablation_table(&summary).rows()[0][3], "1.600 ± 0.141");
}
