//! Mixers of published models as plain loops over f64, token by token, one document and row at a time.
//!
//! Written from what the checkpoints' own code computes, not from `mamba_ssd`: no tensor, no scan and no
//! matrix takes part. Weights are as the checkpoints store them, a row for each output.

/// Rows of numbers: tokens, or a weight's outputs.
pub type Rows = Vec<Vec<f64>>;

/// A depthwise convolution, as stored.
pub struct Conv {
    /// Taps of every channel; the last multiplies the current token.
    pub weight: Rows,
    /// One for every channel.
    pub bias: Vec<f64>,
}

/// The Mamba-1 mixer of MambaInLlama and M1, as stored.
pub struct Mamba1 {
    /// Rows z, x, B, C, dt.
    pub in_proj: Rows,
    /// Over the repeated x.
    pub conv1d: Conv,
    /// Of `dt_proj`.
    pub dt_weight: Rows,
    /// Of `dt_proj`.
    pub dt_bias: Vec<f64>,
    /// A row of n for every channel.
    pub a_log: Rows,
    /// One for every channel.
    pub d: Vec<f64>,
    /// To the residual stream.
    pub out_proj: Rows,
    /// Channels of x and B.
    pub d_xb: usize,
}

/// The Mamba-2 mixer of MambaInLlama, as stored. The head dimension is the state size.
pub struct Mamba2 {
    /// Rows z, x, B, C, dt.
    pub in_proj: Rows,
    /// Over x, B and C.
    pub conv1d: Conv,
    /// One for every head.
    pub dt_bias: Vec<f64>,
    /// One for every head.
    pub a_log: Vec<f64>,
    /// One for every head.
    pub d: Vec<f64>,
    /// One for every channel.
    pub norm: Vec<f64>,
    /// To the residual stream.
    pub out_proj: Rows,
    /// Channels of x and B.
    pub d_xb: usize,
    /// Of the norm.
    pub epsilon: f64,
}

/// The attention of mamba2attn, as stored.
pub struct Attention {
    /// Rows q, k, v.
    pub in_proj: Rows,
    /// Over q, k and v.
    pub conv1d: Conv,
    /// To the residual stream.
    pub out_proj: Rows,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Leading features of a head that rotate.
    pub rotary: usize,
}

impl Mamba1 {
    /// Outputs of the tokens `u`.
    pub fn forward(&self, u: &[Vec<f64>]) -> Rows {
        let (d_inner, n, d_xb) = (self.a_log.len(), self.a_log[0].len(), self.d_xb);
        let repeats = d_inner / d_xb;
        let mut state = vec![vec![0.0; n]; d_inner];
        let (mut repeated, mut out) = (Rows::new(), Rows::new());
        for token in u {
            let row = product(&self.in_proj, token);
            let (z, x, b) = (&row[..d_inner], &row[d_inner..][..d_xb], &row[d_inner + d_xb..][..d_xb]);
            let (c, dt) = (&row[d_inner + 2 * d_xb..][..d_inner], &row[2 * d_inner + 2 * d_xb..]);
            repeated.push((0..d_inner).map(|i| x[i / n / repeats * n + i % n]).collect());
            let dt = product(&self.dt_weight, dt);
            let mut y = vec![0.0; d_inner];
            for i in 0..d_inner {
                let x = silu(self.conv1d.last(&repeated, i));
                let delta = softplus(dt[i] + self.dt_bias[i] + self.dt_bias[i]);
                let head = i / n;
                for j in 0..n {
                    let written = delta * x * b[head / repeats * n + j];
                    state[i][j] = state[i][j] * (delta * -self.a_log[i][j].exp()).exp() + written;
                    y[i] += state[i][j] * c[head * n + j];
                }
                y[i] = (y[i] + self.d[i] * x) * silu(z[i]);
            }
            out.push(product(&self.out_proj, &y));
        }
        out
    }
}

impl Mamba2 {
    /// Outputs of the tokens `u`.
    pub fn forward(&self, u: &[Vec<f64>]) -> Rows {
        let (d_inner, heads, d_xb) = (self.norm.len(), self.d.len(), self.d_xb);
        let (n, repeats) = (d_inner / heads, d_inner / d_xb);
        let mut state = vec![vec![vec![0.0; n]; n]; heads];
        let (mut xbc, mut out) = (Rows::new(), Rows::new());
        for token in u {
            let row = product(&self.in_proj, token);
            let z = &row[..d_inner];
            let channels = d_inner + 2 * d_xb;
            xbc.push(row[d_inner..][..channels].to_vec());
            let convolved: Vec<f64> = (0..channels).map(|i| silu(self.conv1d.last(&xbc, i))).collect();
            let (x, b, c) = (&convolved[..d_xb], &convolved[d_xb..2 * d_xb], &convolved[2 * d_xb..]);
            let mut y = vec![0.0; d_inner];
            for head in 0..heads {
                let dt = softplus(row[d_inner + channels + head] + self.dt_bias[head]);
                let decay = (-dt * self.a_log[head].exp()).exp();
                let source = head / repeats * n;
                for i in 0..n {
                    let out = &mut y[head * n + i];
                    for j in 0..n {
                        let s = &mut state[head][i][j];
                        *s = decay * *s + dt * x[source + i] * b[source + j];
                        *out += *s * c[head * n + j];
                    }
                    *out = (*out + self.d[head] * x[source + i]) * silu(z[head * n + i]);
                }
                let part = head * n..(head + 1) * n;
                let square = y[part.clone()].iter().map(|y| y * y).sum::<f64>() / n as f64;
                for i in part {
                    y[i] *= self.norm[i] / (square + self.epsilon).sqrt();
                }
            }
            out.push(product(&self.out_proj, &y));
        }
        out
    }
}

impl Attention {
    /// Outputs of the tokens `u`.
    pub fn forward(&self, u: &[Vec<f64>]) -> Rows {
        let head_dim = self.out_proj[0].len() / self.n_heads;
        let (q, kv) = (self.n_heads * head_dim, self.n_kv_heads * head_dim);
        let (mut raw, mut keys, mut values, mut out) = (Rows::new(), Rows::new(), Rows::new(), Rows::new());
        for (position, token) in u.iter().enumerate() {
            raw.push(product(&self.in_proj, token));
            let row: Vec<f64> = (0..q + 2 * kv).map(|i| self.conv1d.last(&raw, i)).collect();
            let rotated = |part: &[f64]| -> Vec<f64> {
                part.chunks(head_dim).flat_map(|head| self.rotated(head, position)).collect()
            };
            let queries = rotated(&row[..q]);
            keys.push(rotated(&row[q..q + kv]));
            values.push(row[q + kv..].to_vec());
            let mut y = vec![0.0; q];
            for head in 0..self.n_heads {
                let source = head / (self.n_heads / self.n_kv_heads) * head_dim;
                let query = &queries[head * head_dim..][..head_dim];
                let weights: Vec<f64> = keys
                    .iter()
                    .map(|key| (dot(query, &key[source..][..head_dim]) / (head_dim as f64).sqrt()).exp())
                    .collect();
                let total: f64 = weights.iter().sum();
                for (weight, value) in weights.iter().zip(&values) {
                    for i in 0..head_dim {
                        y[head * head_dim + i] += weight / total * value[source + i];
                    }
                }
            }
            out.push(product(&self.out_proj, &y));
        }
        out
    }

    /// Feature `i` of the first half and of the second half turn by `position · 10000^(-2i / rotary)`.
    fn rotated(&self, head: &[f64], position: usize) -> Vec<f64> {
        let mut turned = head.to_vec();
        let half = self.rotary / 2;
        for i in 0..half {
            let angle = position as f64 / 10000f64.powf(2.0 * i as f64 / self.rotary as f64);
            turned[i] = head[i] * angle.cos() - head[half + i] * angle.sin();
            turned[half + i] = head[half + i] * angle.cos() + head[i] * angle.sin();
        }
        turned
    }
}

impl Conv {
    /// Channel `c` at the last of `tokens`.
    pub(crate) fn last(&self, tokens: &[Vec<f64>], c: usize) -> f64 {
        let taps = self.weight[c].iter().rev();
        self.bias[c] + tokens.iter().rev().zip(taps).map(|(token, tap)| token[c] * tap).sum::<f64>()
    }
}

pub(crate) fn product(weight: &[Vec<f64>], x: &[f64]) -> Vec<f64> {
    weight.iter().map(|row| dot(row, x)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "a product of different lengths");
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(crate) fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    (1.0 + x.exp()).ln()
}
