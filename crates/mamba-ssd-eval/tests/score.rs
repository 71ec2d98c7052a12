//! Scores of packed texts, and the agreement of two models, against their definitions, text by text.

mod common;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use mamba_ssd::Backbone;
use mamba_ssd_eval::{Agreement, Scored, agreement, score};
use mamba_ssd_models::Llama;

use common::{VOCAB, hybrid};

fn tokens(length: usize) -> Vec<u32> {
    (0..length).map(|at| ((at * at + 7 * at + length) % VOCAB) as u32).collect()
}

/// Log-probabilities of every token of the vocabulary after every token of a text run alone.
fn predictions(model: &Llama, text: &[u32], device: &Device) -> Vec<Vec<f64>> {
    let ids: Vec<i64> = text.iter().map(|&token| i64::from(token)).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, text.len()]), device);
    let log_p: Vec<f64> = log_softmax(model.forward(ids, None), 2).into_data().iter::<f64>().collect();
    log_p.chunks(VOCAB).map(<[f64]>::to_vec).collect()
}

fn likeliest(row: &[f64]) -> usize {
    (0..row.len()).fold(0, |best, token| if row[token] > row[best] { token } else { best })
}

#[test]
fn packed_texts_score_as_texts_run_alone() {
    let device = Device::flex();
    let model = hybrid(&device);
    let mut texts: Vec<Scored> = [2, 90, 700, 300, 7, 250, 40].map(|n| Scored::whole(tokens(n))).into();
    texts.push(Scored::range(tokens(60), 50..60));
    texts.push(Scored { tokens: tokens(33), places: vec![1, 8, 32] });
    texts.push(Scored::range(tokens(5), 5..5));
    // Some texts that the model writes itself, so that some tokens are its likeliest.
    for length in [3, 20] {
        let mut text = tokens(length);
        for _ in 0..6 {
            let row = predictions(&model, &text, &device).pop().expect("a row");
            text.push(likeliest(&row) as u32);
        }
        texts.push(Scored::range(text, length..length + 6));
    }
    let mut read = 0;
    let scores = score(&model, &texts, |tokens| read += tokens);
    assert_eq!(
        read,
        texts.iter().map(|text| text.tokens.len()).sum::<usize>() - 5,
        "but the one without places"
    );
    for (text, score) in texts.iter().zip(&scores) {
        let rows = predictions(&model, &text.tokens, &device);
        let of = |place: &usize| (&rows[place - 1], text.tokens[*place] as usize);
        let nats: f64 = text.places.iter().map(of).map(|(row, token)| -row[token]).sum();
        let right = text.places.iter().map(of).filter(|(row, token)| likeliest(row) == *token).count();
        assert!((score.nats - nats).abs() <= 1e-5 * nats, "{} instead of {nats}", score.nats);
        assert_eq!((score.tokens, score.right), (text.places.len(), right));
    }
    assert!(scores[10].is_greedy() && scores[11].is_greedy() && !scores[2].is_greedy());
}

#[test]
fn agreement_is_the_mean_divergence_and_the_share_of_equal_likeliest_tokens() {
    let device = Device::flex();
    let (one, other) = (hybrid(&device), hybrid(&device));
    let texts: Vec<Vec<u32>> = [31, 1, 70, 0].map(tokens).into();
    let (mut kl, mut same, mut count) = (0.0, 0, 0);
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let rows = predictions(&one, text, &device).into_iter().zip(predictions(&other, text, &device));
        for (p, q) in rows {
            kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            same += usize::from(likeliest(&p) == likeliest(&q));
            count += 1;
        }
    }
    let by_text = agreement(&one, &other, &texts, |_| ());
    assert_eq!(by_text.iter().map(|text| text.tokens).collect::<Vec<_>>(), [31, 1, 70, 0]);
    let found = Agreement::of(&by_text);
    assert_eq!(found.tokens, count);
    assert!((found.kl() / (kl / count as f64) - 1.0).abs() < 1e-4, "{found:?}, expected {kl} over {count}");
    assert!(
        (found.top1() - same as f64 / count as f64).abs() < 1e-9,
        "{found:?}, expected {same} of {count}"
    );
    let itself = Agreement::of(&agreement(&one, &one, &texts, |_| ()));
    assert!(itself.kl().abs() < 1e-6 && itself.top1() == 1.0, "{itself:?}");
}
