//! The recurrence of one head and its reverse, on slices.
//!
//! Forward, row `i` of the state: `S[i] ← a S[i] + x_i B`, `y_i = S[i] · C`.
//!
//! Reverse, with `G_t = ∂L/∂S_t`:
//!
//! ```text
//! G_t = dy_t ⊗ C_t + a_{t+1} G_{t+1}
//! dx_t = G_t B_t,   dB_t = G_tᵀ x_t,   dC_t = S_tᵀ dy_t,   dlog_a_t = a_t ⟨G_t, S_{t-1}⟩
//! ```
//!
//! The states it needs are computed again, a block at a time from states kept at block borders.

use super::real::{LANES, Real, add, total};

/// Columns of the transposed state that are advanced together: as many as stay in registers with what is read.
pub(super) const WIDTH: usize = 32;
/// Decay over four tokens down to which they pass together. What they add is divided by it on the way, which must stay
/// far from the largest number.
const LEAST_DECAY: f64 = 1e-9;
/// Tokens whose states are held at once during the reverse pass.
const BLOCK: usize = 16;

/// Where one head's tokens lie in `[b t h *]` arrays, and its group's in `[b t g *]` arrays.
#[derive(Clone, Copy)]
pub(super) struct Head<'a, R> {
    pub x: &'a [R],
    pub log_a: &'a [R],
    pub b: &'a [R],
    pub c: &'a [R],
    pub t: usize,
    pub heads: usize,
    pub groups: usize,
    /// Index of the head's first token, counted in heads: `batch · t · heads + head`.
    pub first: usize,
    /// Index of its group's first token, counted in groups.
    pub first_group: usize,
    pub p: usize,
    pub n: usize,
}

impl<'a, R: Real> Head<'a, R> {
    #[inline(always)]
    fn at(&self, t: usize) -> usize {
        self.first + t * self.heads
    }

    #[inline(always)]
    fn values(&self, t: usize) -> &'a [R] {
        &self.x[self.at(t) * self.p..][..self.p]
    }

    /// Of `b` or `c`.
    #[inline(always)]
    fn projection(&self, array: &'a [R], t: usize) -> &'a [R] {
        &array[(self.first_group + t * self.groups) * self.n..][..self.n]
    }

    #[inline(always)]
    fn decay(&self, t: usize) -> R {
        self.log_a[self.at(t)].exp()
    }

    /// Outputs of tokens `[t p]`; `state [p n]` is advanced.
    ///
    /// Inside, the state lies the other way round, in strips `[n WIDTH]`: what a token reads of it is then a sum of
    /// vectors, and no vector has to be added up.
    #[inline(always)]
    pub fn forward<const FUSED: bool>(&self, state: &mut [R], y: &mut [R]) {
        let mut strip = vec![[R::default(); WIDTH]; self.n];
        for first in (0..self.p).step_by(WIDTH) {
            let width = WIDTH.min(self.p - first);
            for (i, row) in state[first * self.n..].chunks_exact(self.n).take(width).enumerate() {
                strip.iter_mut().zip(row).for_each(|(line, number)| line[i] = *number);
            }
            pass::<FUSED, R>(
                &mut strip,
                self.t,
                #[inline(always)]
                |t| {
                    let mut x = [R::default(); WIDTH];
                    x[..width].copy_from_slice(&self.values(t)[first..first + width]);
                    let (b, c) = (self.projection(self.b, t), self.projection(self.c, t));
                    Passing { decay: self.decay(t), x, b, c }
                },
                #[inline(always)]
                |t, read| y[t * self.p + first..][..width].copy_from_slice(&read[..width]),
            );
            for (i, row) in state[first * self.n..].chunks_exact_mut(self.n).take(width).enumerate() {
                row.iter_mut().zip(&strip).for_each(|(number, line)| *number = line[i]);
            }
        }
    }

    #[inline(always)]
    fn advance(&self, t: usize, from: &[R], to: &mut [R]) {
        let (x, b) = (self.values(t), self.projection(self.b, t));
        let decay = self.decay(t);
        let rows = from.chunks_exact(self.n).zip(to.chunks_exact_mut(self.n));
        for ((from, to), x) in rows.zip(x) {
            for ((to, from), b) in to.iter_mut().zip(from).zip(b) {
                *to = decay * *from + *x * *b;
            }
        }
    }

    /// States at the start of every block of tokens, `[blocks p n]`.
    #[inline(always)]
    fn block_starts(&self, initial: &[R]) -> Vec<R> {
        let size = self.p * self.n;
        let mut starts = Vec::with_capacity(self.t.div_ceil(BLOCK) * size);
        let (mut state, mut next) = (initial.to_vec(), vec![R::default(); size]);
        for t in 0..self.t {
            if t % BLOCK == 0 {
                starts.extend_from_slice(&state);
            }
            self.advance(t, &state, &mut next);
            std::mem::swap(&mut state, &mut next);
        }
        starts
    }

    /// Gradients of this head's inputs; `carried [p n]` holds the final state's gradient and
    /// becomes the initial state's.
    #[inline(always)]
    pub fn backward(&self, initial: &[R], dy: &[R], carried: &mut [R]) -> HeadGradients<R> {
        let size = self.p * self.n;
        let starts = self.block_starts(initial);
        let mut gradients = HeadGradients::zeros(self.t, self.p, self.n);
        let mut states = vec![R::default(); (BLOCK + 1) * size];
        for (block, start) in starts.chunks_exact(size).enumerate().rev() {
            let first = block * BLOCK;
            let tokens = BLOCK.min(self.t - first);
            states[..size].copy_from_slice(start);
            for i in 0..tokens {
                let (before, after) = states.split_at_mut((i + 1) * size);
                self.advance(first + i, &before[i * size..], &mut after[..size]);
            }
            for i in (0..tokens).rev() {
                let pair = &states[i * size..(i + 2) * size];
                self.reverse_token(first + i, pair, dy, carried, &mut gradients);
            }
        }
        gradients
    }

    /// One token of the reverse pass; `states` holds the state before and after it.
    #[inline(always)]
    fn reverse_token(&self, t: usize, states: &[R], dy: &[R], carried: &mut [R], to: &mut HeadGradients<R>) {
        let (p, n) = (self.p, self.n);
        let (x, b, c) = (self.values(t), self.projection(self.b, t), self.projection(self.c, t));
        let dy = &dy[self.at(t) * p..][..p];
        let decay = self.decay(t);
        let (before, after) = states.split_at(p * n);
        let (db, dc) = (&mut to.b[t * n..][..n], &mut to.c[t * n..][..n]);
        let mut along_decay = R::default();
        for i in 0..p {
            let rows = i * n..(i + 1) * n;
            let g = &mut carried[rows.clone()];
            super::real::add_scaled(g, dy[i], c);
            super::real::add_scaled(dc, dy[i], &after[rows.clone()]);
            super::real::add_scaled(db, x[i], g);
            let (read, kept) = dot_both(g, b, &before[rows]);
            to.x[t * p + i] = read;
            along_decay += kept;
            for g in g {
                *g *= decay;
            }
        }
        to.log_a[t] = decay * along_decay;
    }
}

/// Gradients of one head's inputs, token by token.
pub(super) struct HeadGradients<R> {
    pub x: Vec<R>,
    pub log_a: Vec<R>,
    pub b: Vec<R>,
    pub c: Vec<R>,
}

impl<R: Real> HeadGradients<R> {
    fn zeros(t: usize, p: usize, n: usize) -> Self {
        let zeros = |size| vec![R::default(); size];
        Self { x: zeros(t * p), log_a: zeros(t), b: zeros(t * n), c: zeros(t * n) }
    }
}

/// A token as a strip of its head's state meets it.
pub(super) struct Passing<'a, R> {
    pub decay: R,
    pub x: [R; WIDTH],
    pub b: &'a [R],
    pub c: &'a [R],
}

/// Takes `t` tokens through a strip of the transposed state, and shows `each` of them what it reads there:
/// `S ← decay S + b ⊗ x`, then `Sᵀ c`.
///
/// Four tokens pass at a time, so that the strip is read and written once for them, and in units of their decays so far:
/// what a number of the state takes for each is then two operations instead of three. What a token reads does not depend
/// on those behind it, not in the last bit.
///
/// ```text
/// g_s = a_1 … a_s        S'_s = S'_{s-1} + b_s ⊗ x_s / g_s        y_s = g_s S'_sᵀ c_s        S = g_4 S'_4
/// ```
#[inline(always)]
pub(super) fn pass<'a, const FUSED: bool, R: Real + 'a>(
    strip: &mut [[R; WIDTH]],
    t: usize,
    token: impl Fn(usize) -> Passing<'a, R>,
    mut each: impl FnMut(usize, &[R; WIDTH]),
) {
    let mut first = 0;
    while first + 4 <= t {
        let four = [token(first), token(first + 1), token(first + 2), token(first + 3)];
        let [a0, a1, a2, a3] = [four[0].decay, four[1].decay, four[2].decay, four[3].decay];
        let decays = [a0, a0 * a1, a0 * a1 * a2, a0 * a1 * a2 * a3];
        if decays.iter().all(|decay| can_divide(*decay)) {
            for (i, read) in four_through::<FUSED, R>(strip, four, decays).iter().enumerate() {
                each(first + i, read);
            }
        } else {
            one_by_one::<FUSED, R>(strip, &four, |i, read| each(first + i, read));
        }
        first += 4;
    }
    let rest: Vec<Passing<R>> = (first..t).map(token).collect();
    one_by_one::<FUSED, R>(strip, &rest, |i, read| each(first + i, read));
}

/// Whether what a token adds may be divided by the decay so far.
#[inline(always)]
fn can_divide<R: Real>(decay: R) -> bool {
    decay >= R::of(LEAST_DECAY) && decay <= R::ONE
}

/// A few tokens one after the other, each in the arithmetic of [`four_through`], so that what a token reads does not
/// depend on those behind it; where the decay so far cannot be divided by, the strip is brought up to date first.
#[inline(always)]
fn one_by_one<const FUSED: bool, R: Real>(
    strip: &mut [[R; WIDTH]],
    tokens: &[Passing<R>],
    mut each: impl FnMut(usize, &[R; WIDTH]),
) {
    let mut unit = R::ONE;
    for (i, token) in tokens.iter().enumerate() {
        let mut so_far = unit * token.decay;
        if !can_divide(so_far) {
            scale(strip, unit);
            so_far = token.decay;
        }
        if !can_divide(so_far) {
            each(i, &one_through::<FUSED, R>(strip, token));
            unit = R::ONE;
            continue;
        }
        let mut x = token.x;
        for x in &mut x {
            *x = *x / so_far;
        }
        let mut y = [R::default(); WIDTH];
        for ((line, b), c) in strip.iter_mut().zip(token.b).zip(token.c) {
            for i in 0..WIDTH {
                line[i] = add::<FUSED, R>(line[i], *b, x[i]);
                y[i] = add::<FUSED, R>(y[i], *c, line[i]);
            }
        }
        y.iter_mut().for_each(|y| *y *= so_far);
        each(i, &y);
        unit = so_far;
    }
    scale(strip, unit);
}

#[inline(always)]
fn scale<R: Real>(strip: &mut [[R; WIDTH]], factor: R) {
    strip.iter_mut().flatten().for_each(|number| *number *= factor);
}

/// Four tokens whose decays so far, from the first of them on, can all be divided by.
#[inline(always)]
fn four_through<const FUSED: bool, R: Real>(
    strip: &mut [[R; WIDTH]],
    [t0, t1, t2, t3]: [Passing<R>; 4],
    decays: [R; 4],
) -> [[R; WIDTH]; 4] {
    let n = strip.len();
    let (b0, b1, b2, b3) = (&t0.b[..n], &t1.b[..n], &t2.b[..n], &t3.b[..n]);
    let (c0, c1, c2, c3) = (&t0.c[..n], &t1.c[..n], &t2.c[..n], &t3.c[..n]);
    let [mut x0, mut x1, mut x2, mut x3] = [t0.x, t1.x, t2.x, t3.x];
    for i in 0..WIDTH {
        x0[i] = x0[i] / decays[0];
        x1[i] = x1[i] / decays[1];
        x2[i] = x2[i] / decays[2];
        x3[i] = x3[i] / decays[3];
    }
    let [mut y0, mut y1, mut y2, mut y3] = [[R::default(); WIDTH]; 4];
    for (j, place) in strip.iter_mut().enumerate() {
        let mut line = *place;
        let (b0, b1, b2, b3) = (b0[j], b1[j], b2[j], b3[j]);
        let (c0, c1, c2, c3) = (c0[j], c1[j], c2[j], c3[j]);
        for i in 0..WIDTH {
            line[i] = add::<FUSED, R>(line[i], b0, x0[i]);
            y0[i] = add::<FUSED, R>(y0[i], c0, line[i]);
            line[i] = add::<FUSED, R>(line[i], b1, x1[i]);
            y1[i] = add::<FUSED, R>(y1[i], c1, line[i]);
            line[i] = add::<FUSED, R>(line[i], b2, x2[i]);
            y2[i] = add::<FUSED, R>(y2[i], c2, line[i]);
            line[i] = add::<FUSED, R>(line[i], b3, x3[i]);
            y3[i] = add::<FUSED, R>(y3[i], c3, line[i]);
            line[i] *= decays[3];
        }
        *place = line;
    }
    for i in 0..WIDTH {
        y0[i] *= decays[0];
        y1[i] *= decays[1];
        y2[i] *= decays[2];
        y3[i] *= decays[3];
    }
    [y0, y1, y2, y3]
}

/// A token whose own decay cannot be divided by.
#[inline(always)]
fn one_through<const FUSED: bool, R: Real>(strip: &mut [[R; WIDTH]], token: &Passing<R>) -> [R; WIDTH] {
    let mut y = [R::default(); WIDTH];
    for ((line, b), c) in strip.iter_mut().zip(token.b).zip(token.c) {
        for i in 0..WIDTH {
            let fresh = *b * token.x[i];
            line[i] = add::<FUSED, R>(fresh, token.decay, line[i]);
            y[i] = add::<FUSED, R>(y[i], *c, line[i]);
        }
    }
    y
}

/// `row ← decay · row + x · b`, then `row · c`.
#[inline(always)]
pub(super) fn advance_and_read<const FUSED: bool, R: Real>(
    row: &mut [R],
    decay: R,
    x: R,
    b: &[R],
    c: &[R],
) -> R {
    let mut lanes = [R::default(); LANES];
    let split = row.len() / LANES * LANES;
    let (body, tail) = row.split_at_mut(split);
    for ((row, b), c) in body.chunks_exact_mut(LANES).zip(b.chunks_exact(LANES)).zip(c.chunks_exact(LANES)) {
        for i in 0..LANES {
            row[i] = add::<FUSED, R>(x * b[i], decay, row[i]);
            lanes[i] = add::<FUSED, R>(lanes[i], row[i], c[i]);
        }
    }
    for (i, row) in tail.iter_mut().enumerate() {
        *row = add::<FUSED, R>(x * b[split + i], decay, *row);
        lanes[i] = add::<FUSED, R>(lanes[i], *row, c[split + i]);
    }
    total(lanes)
}

/// `g · b` and `g · s`.
#[inline(always)]
fn dot_both<R: Real>(g: &[R], b: &[R], s: &[R]) -> (R, R) {
    let (mut with_b, mut with_s) = ([R::default(); LANES], [R::default(); LANES]);
    let split = g.len() / LANES * LANES;
    let blocks = g.chunks_exact(LANES).zip(b.chunks_exact(LANES)).zip(s.chunks_exact(LANES));
    for ((g, b), s) in blocks {
        for i in 0..LANES {
            with_b[i] += g[i] * b[i];
            with_s[i] += g[i] * s[i];
        }
    }
    for i in split..g.len() {
        with_b[i - split] += g[i] * b[i];
        with_s[i - split] += g[i] * s[i];
    }
    (total(with_b), total(with_s))
}
