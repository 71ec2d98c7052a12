//! SSM and attention heads side by side, as MOHAWK's double blocks join them: plain loops over f64, token by token.
//!
//! Written from the published code, not from `mamba_ssd`. Weights are as the checkpoints store them.

use crate::formulas::{Attention, Conv, Rows, product, silu};

/// The mixer of Llamba, as stored.
pub struct Discrete {
    /// Rows x, B, C, z, A_log.
    pub in_proj: Affine,
    /// Over x, B and C.
    pub conv1d: Conv,
    /// One for every channel of z.
    pub z_bias: Vec<f64>,
    /// One for every head.
    pub d: Vec<f64>,
    /// To the residual stream.
    pub out_proj: Affine,
    /// Heads of B and C.
    pub groups: usize,
    /// Numbers that B and C have for every head of theirs.
    pub n: usize,
}

/// A linear layer, as stored.
pub struct Affine {
    /// A row for every output.
    pub weight: Rows,
    /// One for every output.
    pub bias: Vec<f64>,
}

/// How the outputs are joined.
pub enum Joint {
    /// The attention's output in the scale of the SSM's, projected.
    Adapter(Affine),
    /// A sum.
    Vanilla,
    /// Norms, gates and a projection.
    Hymba {
        /// Norm and gate of the SSM.
        ssm: [Vec<f64>; 2],
        /// Norm and gate of the attention.
        attention: [Vec<f64>; 2],
        /// Behind the mean.
        out_proj: Affine,
    },
    /// One norm and one projection for both.
    Merger {
        /// In front of the SSM and of the attention.
        inputs: [Vec<f64>; 2],
        /// Behind either.
        output: Vec<f64>,
        /// Behind the norm.
        out_proj: Affine,
    },
}

/// Both mixers of a layer.
pub struct Block {
    /// The SSM heads.
    pub ssm: Discrete,
    /// The attention heads, if there are any.
    pub attention: Option<Attention>,
    /// How they are joined.
    pub joint: Joint,
}

const EPSILON: f64 = 1e-5;

impl Block {
    /// Outputs of the tokens `u`.
    pub fn forward(&self, u: &[Vec<f64>]) -> Rows {
        let input = |weight: &Vec<f64>| -> Rows { u.iter().map(|token| rms_norm(token, weight)).collect() };
        let (first, second) = match &self.joint {
            Joint::Merger { inputs, .. } => (input(&inputs[0]), input(&inputs[1])),
            _ => (u.to_vec(), u.to_vec()),
        };
        let ssm = self.ssm.forward(&first);
        match &self.attention {
            None => ssm.iter().map(|ssm| self.alone(ssm)).collect(),
            Some(attention) => {
                let attention = attention.forward(&second);
                ssm.iter().zip(&attention).map(|(ssm, attention)| self.joined(ssm, attention)).collect()
            }
        }
    }

    fn alone(&self, ssm: &[f64]) -> Vec<f64> {
        match &self.joint {
            Joint::Adapter(_) | Joint::Vanilla => ssm.to_vec(),
            Joint::Hymba { ssm: [norm, gate], out_proj, .. } => out_proj.of(&gated(ssm, norm, gate)),
            Joint::Merger { output, out_proj, .. } => out_proj.of(&rms_norm(ssm, output)),
        }
    }

    fn joined(&self, ssm: &[f64], attention: &[f64]) -> Vec<f64> {
        match &self.joint {
            Joint::Vanilla => ssm.iter().zip(attention).map(|(s, a)| s + a).collect(),
            Joint::Adapter(out_proj) => {
                let [(from, spread), (to, wanted)] = [attention, ssm].map(mean_and_deviation);
                let rescaled =
                    attention.iter().map(|a| (a - from) / (spread + EPSILON) * (wanted + EPSILON) + to);
                half_sum(ssm, &out_proj.of(&rescaled.collect::<Vec<_>>()))
            }
            Joint::Hymba { ssm: [norm, gate], attention: [other_norm, other_gate], out_proj } => {
                out_proj.of(&half_sum(&gated(ssm, norm, gate), &gated(attention, other_norm, other_gate)))
            }
            Joint::Merger { output, out_proj, .. } => {
                let [ssm, attention] = [ssm, attention].map(|x| out_proj.of(&rms_norm(x, output)));
                half_sum(&ssm, &attention)
            }
        }
    }
}

impl Discrete {
    fn forward(&self, u: &[Vec<f64>]) -> Rows {
        let (d_inner, heads, n) = (self.z_bias.len(), self.d.len(), self.n);
        let (p, bc) = (d_inner / heads, self.groups * n);
        let channels = d_inner + 2 * bc;
        let mut state = vec![vec![vec![0.0; n]; p]; heads];
        let (mut raw, mut out) = (Rows::new(), Rows::new());
        for token in u {
            let row = self.in_proj.of(token);
            raw.push(row[..channels].to_vec());
            let xbc: Vec<f64> = (0..channels).map(|i| self.conv1d.last(&raw, i)).collect();
            let (x, b, c) = (&xbc[..d_inner], &xbc[d_inner..][..bc], &xbc[d_inner + bc..]);
            let (z, a_log) = (&row[channels..][..d_inner], &row[channels + d_inner..]);
            let mut y = vec![0.0; d_inner];
            for head in 0..heads {
                let decay = 1.0 / (1.0 + a_log[head].exp());
                let group = head / (heads / self.groups) * n;
                for i in head * p..(head + 1) * p {
                    for j in 0..n {
                        let s = &mut state[head][i - head * p][j];
                        *s = decay * *s + x[i] * b[group + j];
                        y[i] += *s * c[group + j];
                    }
                    y[i] = (y[i] + self.d[head] * x[i]) * silu(z[i] + self.z_bias[i]);
                }
            }
            out.push(self.out_proj.of(&y));
        }
        out
    }
}

impl Affine {
    fn of(&self, x: &[f64]) -> Vec<f64> {
        product(&self.weight, x).iter().zip(&self.bias).map(|(y, bias)| y + bias).collect()
    }
}

fn half_sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| (a + b) / 2.0).collect()
}

fn gated(x: &[f64], norm: &[f64], gate: &[f64]) -> Vec<f64> {
    rms_norm(x, norm).iter().zip(gate).map(|(x, gate)| x * gate).collect()
}

fn rms_norm(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(x, weight)| x / (square + EPSILON).sqrt() * weight).collect()
}

/// The deviation divides by one less than there are.
fn mean_and_deviation(x: &[f64]) -> (f64, f64) {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let squares: f64 = x.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, (squares / (x.len() - 1) as f64).sqrt())
}
