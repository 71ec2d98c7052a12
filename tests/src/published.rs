//! The operators of mamba-ssm (`data/ssd_ops_f64`) in our terms.
//!
//! Theirs take a step `dt`, a rate `A` and a skip `D`: `x·dt` is our value, `dt·A` our log decay, and
//! `D x` is the mixer's. Gradients follow by the chain rule.

use crate::golden::Golden;
use crate::limits::relative_error;
use crate::oracle::{Gradients, Input, Output, Shape};
use crate::problem::Problem;

/// The cases without documents.
pub const CASES: [&str; 5] = ["l1", "l3", "l16", "l37", "l64_fastdecay"];

/// One published case.
pub struct Published {
    golden: Golden,
    name: &'static str,
    x: Vec<f64>,
    dt: Vec<f64>,
    a: Vec<f64>,
    d: Vec<f64>,
    /// The case as an input of our map.
    pub input: Input,
}

impl Published {
    /// Reads one of [`CASES`], or `seg`.
    pub fn load(name: &'static str) -> Self {
        let golden = Golden::load("ssd_ops_f64");
        let read = |key: &str| golden.values(&format!("{name}.{key}"));
        let [b, t, h, p] = golden.shape(&format!("{name}.x"));
        let [_, _, g, n] = golden.shape(&format!("{name}.B"));
        let (x, dt, a, d) = (read("x"), read("dt"), read("A"), read("D"));
        let input = Input {
            shape: Shape { b, t, h, p, g, n },
            x: x.iter().enumerate().map(|(i, x)| x * dt[i / p]).collect(),
            log_a: dt.iter().enumerate().map(|(i, dt)| dt * a[i % h]).collect(),
            b: read("B"),
            c: read("C"),
            state: golden.has(&format!("{name}.h0")).then(|| read("h0")),
            documents: None,
        };
        Self { golden, name, x, dt, a, d, input }
    }

    /// A tensor of this case.
    pub fn read(&self, key: &str) -> Vec<f64> {
        self.golden.values(&format!("{}.{key}", self.name))
    }

    /// The input with the published cotangents.
    pub fn problem(&self) -> Problem {
        let cotangent = Output { y: self.read("wy"), state: self.read("wh") };
        Problem { input: self.input.clone(), cotangent }
    }

    /// The published outputs without the skip.
    pub fn y(&self) -> Vec<f64> {
        let skip = self.skip(&self.x);
        self.read("y").iter().zip(&skip).map(|(y, skip)| y - skip).collect()
    }

    /// Relative error of each published tensor, by name.
    pub fn errors(&self, output: &Output, gradients: &Gradients) -> Vec<(String, f64)> {
        let mut errors = vec![
            (format!("{}.y", self.name), error(&output.y, &self.y())),
            (format!("{}.hT", self.name), error(&output.state, &self.read("hT"))),
        ];
        for (key, ours) in self.gradients(gradients) {
            let theirs = self.read(&format!("grad.{key}"));
            errors.push((format!("{}.grad.{key}", self.name), error(&ours, &theirs)));
        }
        errors
    }

    fn gradients(&self, ours: &Gradients) -> Vec<(&'static str, Vec<f64>)> {
        let Shape { h, p, .. } = self.input.shape;
        let wy = self.read("wy");
        let through_x: Vec<f64> = ours.x.iter().enumerate().map(|(i, x)| x * self.dt[i / p]).collect();
        let x_dt = rows(&multiply(&ours.x, &self.x), p);
        let a_dt: Vec<f64> = ours.log_a.iter().enumerate().map(|(i, log_a)| log_a * self.a[i % h]).collect();
        let mut gradients = vec![
            ("x", add(&through_x, &self.skip(&wy))),
            ("dt", add(&x_dt, &a_dt)),
            ("A", by_head(&multiply(&ours.log_a, &self.dt), h)),
            ("D", by_head(&rows(&multiply(&wy, &self.x), p), h)),
            ("B", ours.b.clone()),
            ("C", ours.c.clone()),
        ];
        if self.input.state.is_some() {
            gradients.push(("h0", ours.state.clone()));
        }
        gradients
    }

    fn skip(&self, values: &[f64]) -> Vec<f64> {
        let Shape { h, p, .. } = self.input.shape;
        values.iter().enumerate().map(|(i, value)| value * self.d[i / p % h]).collect()
    }
}

fn error(got: &[f64], want: &[f64]) -> f64 {
    relative_error(got, want, want)
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn multiply(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}

fn rows(values: &[f64], size: usize) -> Vec<f64> {
    values.chunks(size).map(|row| row.iter().sum()).collect()
}

fn by_head(values: &[f64], h: usize) -> Vec<f64> {
    (0..h).map(|head| values.iter().skip(head).step_by(h).sum()).collect()
}
