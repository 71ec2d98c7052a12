//! The SSD map as plain loops over f64, and its reverse pass by hand.
//!
//! ```text
//! forward    S_t = a_t S_{t-1} + x_t ⊗ B_t        y_t = S_t C_t         a_t = exp(log_a_t)
//! reverse    Ŝ_t = ŷ_t ⊗ C_t + a_{t+1} Ŝ_{t+1}    (Ŝ_{T+1}: the cotangent of the final state)
//!            x̂_t = Ŝ_t B_t    B̂_t = Ŝ_tᵀ x_t    Ĉ_t = S_tᵀ ŷ_t    log_â_t = a_t ⟨Ŝ_t, S_{t-1}⟩
//! ```
//!
//! Dao and Gu, "Transformers are SSMs" (2024), equations 1 and 2 with a scalar decay. A token that
//! opens a document (other than its row's first) has `a_t = 0`. No tensor library takes part, so an
//! error in one cannot hide here; `tests/oracle.rs` checks this file against published values.

/// Sizes: batch, length, heads, head dimension, groups, state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Batch.
    pub b: usize,
    /// Length.
    pub t: usize,
    /// Heads.
    pub h: usize,
    /// Head dimension.
    pub p: usize,
    /// Groups; divides the heads.
    pub g: usize,
    /// State size.
    pub n: usize,
}

impl Shape {
    /// Shape of `x` and `y`.
    pub fn x(&self) -> [usize; 4] {
        [self.b, self.t, self.h, self.p]
    }

    /// Shape of `log_a`.
    pub fn log_a(&self) -> [usize; 3] {
        [self.b, self.t, self.h]
    }

    /// Shape of `b` and `c`.
    pub fn bc(&self) -> [usize; 4] {
        [self.b, self.t, self.g, self.n]
    }

    /// Shape of the state.
    pub fn state(&self) -> [usize; 4] {
        [self.b, self.h, self.p, self.n]
    }

    fn at_x(&self, b: usize, t: usize, h: usize) -> usize {
        ((b * self.t + t) * self.h + h) * self.p
    }

    fn at_log_a(&self, b: usize, t: usize, h: usize) -> usize {
        (b * self.t + t) * self.h + h
    }

    fn at_bc(&self, b: usize, t: usize, h: usize) -> usize {
        ((b * self.t + t) * self.g + h / (self.h / self.g)) * self.n
    }

    fn at_state(&self, b: usize, h: usize) -> usize {
        (b * self.h + h) * self.p * self.n
    }
}

/// One input of the map, row-major.
#[derive(Clone, Debug)]
pub struct Input {
    /// Sizes.
    pub shape: Shape,
    /// Values, `[b t h p]`.
    pub x: Vec<f64>,
    /// Log decays, `[b t h]`.
    pub log_a: Vec<f64>,
    /// Input projections, `[b t g n]`.
    pub b: Vec<f64>,
    /// Output projections, `[b t g n]`.
    pub c: Vec<f64>,
    /// Incoming state, `[b h p n]`.
    pub state: Option<Vec<f64>>,
    /// Lengths of the documents of each row.
    pub documents: Option<Vec<Vec<usize>>>,
}

/// Outputs and final state, or their cotangents.
#[derive(Clone, Debug)]
pub struct Output {
    /// `[b t h p]`.
    pub y: Vec<f64>,
    /// `[b h p n]`.
    pub state: Vec<f64>,
}

/// What the reverse pass returns.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// `[b t h p]`.
    pub x: Vec<f64>,
    /// `[b t h]`.
    pub log_a: Vec<f64>,
    /// `[b t g n]`.
    pub b: Vec<f64>,
    /// `[b t g n]`.
    pub c: Vec<f64>,
    /// Of the incoming state, `[b h p n]`.
    pub state: Vec<f64>,
}

impl Input {
    /// Outputs and final state.
    pub fn forward(&self) -> Output {
        let shape = self.shape;
        let mut y = vec![0.0; self.x.len()];
        let mut state = Vec::with_capacity(shape.b * shape.h * shape.p * shape.n);
        for b in 0..shape.b {
            let decays = self.decays(b);
            for h in 0..shape.h {
                let states = self.states(b, h, &decays);
                for t in 0..shape.t {
                    let c = &self.c[shape.at_bc(b, t, h)..][..shape.n];
                    for (i, row) in states[t + 1].chunks(shape.n).enumerate() {
                        y[shape.at_x(b, t, h) + i] = dot(row, c);
                    }
                }
                state.extend_from_slice(&states[shape.t]);
            }
        }
        Output { y, state }
    }

    /// Gradients of `⟨cotangent.y, y⟩ + ⟨cotangent.state, state⟩`.
    pub fn backward(&self, cotangent: &Output) -> Gradients {
        let mut gradients = Gradients {
            x: vec![0.0; self.x.len()],
            log_a: vec![0.0; self.log_a.len()],
            b: vec![0.0; self.b.len()],
            c: vec![0.0; self.c.len()],
            state: vec![0.0; cotangent.state.len()],
        };
        for b in 0..self.shape.b {
            let decays = self.decays(b);
            for h in 0..self.shape.h {
                self.backward_head(b, h, &decays, cotangent, &mut gradients);
            }
        }
        gradients
    }

    fn backward_head(&self, b: usize, h: usize, decays: &[f64], cotangent: &Output, out: &mut Gradients) {
        let shape = self.shape;
        let (p, n) = (shape.p, shape.n);
        let states = self.states(b, h, decays);
        let mut adjoint = cotangent.state[shape.at_state(b, h)..][..p * n].to_vec();
        for t in (0..shape.t).rev() {
            let (at_x, at_bc) = (shape.at_x(b, t, h), shape.at_bc(b, t, h));
            let decay = decays[t * shape.h + h];
            for i in 0..p {
                let y = cotangent.y[at_x + i];
                for j in 0..n {
                    let k = i * n + j;
                    adjoint[k] += y * self.c[at_bc + j];
                    out.x[at_x + i] += adjoint[k] * self.b[at_bc + j];
                    out.b[at_bc + j] += adjoint[k] * self.x[at_x + i];
                    out.c[at_bc + j] += states[t + 1][k] * y;
                    out.log_a[shape.at_log_a(b, t, h)] += decay * adjoint[k] * states[t][k];
                }
            }
            adjoint.iter_mut().for_each(|value| *value *= decay);
        }
        out.state[shape.at_state(b, h)..][..p * n].copy_from_slice(&adjoint);
    }

    /// The states of one head: before the first token, then after each.
    fn states(&self, b: usize, h: usize, decays: &[f64]) -> Vec<Vec<f64>> {
        let shape = self.shape;
        let size = shape.p * shape.n;
        let mut state = match &self.state {
            Some(state) => state[shape.at_state(b, h)..][..size].to_vec(),
            None => vec![0.0; size],
        };
        let mut states = vec![state.clone()];
        for t in 0..shape.t {
            let x = &self.x[shape.at_x(b, t, h)..][..shape.p];
            let key = &self.b[shape.at_bc(b, t, h)..][..shape.n];
            for (k, value) in state.iter_mut().enumerate() {
                *value = decays[t * shape.h + h] * *value + x[k / shape.n] * key[k % shape.n];
            }
            states.push(state.clone());
        }
        states
    }

    /// Decays `[t h]` of row `b`: 0 where a document other than the first begins.
    fn decays(&self, b: usize) -> Vec<f64> {
        let (t, h) = (self.shape.t, self.shape.h);
        let mut decays: Vec<f64> = self.log_a[b * t * h..][..t * h].iter().map(|log_a| log_a.exp()).collect();
        let mut start = 0;
        for length in self.documents.iter().flat_map(|documents| &documents[b]) {
            if start > 0 {
                decays[start * h..][..h].fill(0.0);
            }
            start += length;
        }
        decays
    }

    /// The same input with every factor replaced by its absolute value: what passes through this
    /// map bounds the terms that are added up in the original one, whatever cancels there.
    pub fn magnitude(&self) -> Input {
        Input {
            x: magnitude(&self.x),
            b: magnitude(&self.b),
            c: magnitude(&self.c),
            state: self.state.as_deref().map(magnitude),
            ..self.clone()
        }
    }
}

impl Output {
    /// Absolute values.
    pub fn magnitude(&self) -> Output {
        Output { y: magnitude(&self.y), state: magnitude(&self.state) }
    }
}

fn magnitude(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.abs()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
