//! Losses over a vocabulary and their reverse, a cube per row of logits.
//!
//! Forward reads a row twice: once for `log Σ exp`, with the largest logit found on the way, once for the
//! expectation. Reverse reads it once. Formulas are in `kernels/losses.rs`.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::reduce::{Fold, fold, lanes};
use super::{UNITS, cube_for_each, empty, empty_like, wide};
use crate::kernels::losses::{Distance, Kind};

/// Below every logit.
const LEAST: f32 = -1e30;

/// What logits of student and teacher are multiplied by, and β.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Softness {
    student: f32,
    teacher: f32,
    beta: f32,
}

#[cube(launch)]
fn divergence_forward<E: Float, W: Size>(
    student: &[Vector<E, W>], // r v
    teacher: &[Vector<E, W>], // r v
    losses: &mut [f32],       // r
    sums: &mut [f32],         // 3 r
    rows: usize,
    vectors: usize,
    softness: Softness,
    #[comptime] kind: Kind,
    #[comptime] wide: usize,
    #[define(E)] _dtype: ElemType,
) {
    let mut parts = Shared::<[f32]>::new_slice(UNITS);
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let first = row * vectors;
    let sum_q = log_sum_exp::<E, W>(student, first, vectors, softness.student, &mut parts, wide);
    let sum_p = log_sum_exp::<E, W>(teacher, first, vectors, softness.teacher, &mut parts, wide);
    let mut loss = Vector::<f32, W>::new(0.0);
    let mut of_q = Vector::<f32, W>::new(0.0);
    for round in 0..vectors.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i < vectors {
            let log_q = log_probability::<E, W>(student[first + i], softness.student, sum_q);
            let log_p = log_probability::<E, W>(teacher[first + i], softness.teacher, sum_p);
            if comptime!(kind == Kind::CrossEntropy) {
                loss -= log_p.exp() * log_q;
            } else if comptime!(kind == Kind::ForwardKl) {
                loss += log_p.exp() * (log_p - log_q);
            } else if comptime!(kind == Kind::ReverseKl) {
                loss += log_q.exp() * (log_q - log_p);
            } else {
                let log_m = log_mixture::<W>(log_q, log_p, softness.beta);
                loss += log_p.exp() * (log_p - log_m);
                of_q += log_q.exp() * (log_q - log_m);
            }
        }
    }
    let loss = fold(lanes::<W>(loss, wide), &mut parts, comptime!(Fold::Sum));
    let of_q = fold(lanes::<W>(of_q, wide), &mut parts, comptime!(Fold::Sum));
    if UNIT_POS == 0 {
        if comptime!(kind == Kind::JensenShannon) {
            losses[row] = softness.beta * loss + (f32::new(1.0) - softness.beta) * of_q;
            sums[2 * rows + row] = of_q;
        } else {
            losses[row] = loss;
            sums[2 * rows + row] = loss;
        }
        sums[row] = sum_q;
        sums[rows + row] = sum_p;
    }
}

#[cube(launch)]
fn divergence_backward<E: Float, W: Size>(
    student: &[Vector<E, W>],
    teacher: &[Vector<E, W>],
    sums: &[f32],
    grad: &[f32],
    out: &mut [Vector<E, W>],
    rows: usize,
    vectors: usize,
    softness: Softness,
    #[comptime] kind: Kind,
    #[define(E)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let first = row * vectors;
    let (sum_q, sum_p) = (sums[row], sums[rows + row]);
    let expectation = Vector::<f32, W>::new(sums[2 * rows + row]);
    let mut scale = grad[row] * softness.student;
    if comptime!(kind == Kind::JensenShannon) {
        scale *= f32::new(1.0) - softness.beta;
    }
    let scale = Vector::<f32, W>::new(scale);
    for round in 0..vectors.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i < vectors {
            let log_q = log_probability::<E, W>(student[first + i], softness.student, sum_q);
            let log_p = log_probability::<E, W>(teacher[first + i], softness.teacher, sum_p);
            let gradient = if comptime!(kind == Kind::ReverseKl) {
                log_q.exp() * (log_q - log_p - expectation)
            } else if comptime!(kind == Kind::JensenShannon) {
                log_q.exp() * (log_q - log_mixture::<W>(log_q, log_p, softness.beta) - expectation)
            } else {
                log_q.exp() - log_p.exp()
            };
            out[first + i] = Vector::cast_from(scale * gradient);
        }
    }
}

#[cube(launch)]
fn next_token_forward<E: Float, I: Int, W: Size>(
    logits: &[Vector<E, W>], // r v
    targets: &[I],           // r
    losses: &mut [f32],      // r
    sums: &mut [f32],        // r
    rows: usize,
    vectors: usize,
    #[comptime] wide: usize,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let mut parts = Shared::<[f32]>::new_slice(UNITS);
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let first = row * vectors;
    let sum = log_sum_exp::<E, W>(logits, first, vectors, f32::new(1.0), &mut parts, wide);
    let target = usize::cast_from(targets[row]);
    if target / wide % UNITS == UNIT_POS as usize && target / wide < vectors {
        let near = Vector::<f32, W>::cast_from(logits[first + target / wide]);
        let mut chosen = f32::new(0.0);
        #[unroll]
        for i in 0..wide {
            if target % wide == i {
                chosen = near.extract(i);
            }
        }
        losses[row] = sum - chosen;
        sums[row] = sum;
    }
}

#[cube(launch)]
fn next_token_backward<E: Float, I: Int, W: Size>(
    logits: &[Vector<E, W>],
    targets: &[I],
    sums: &[f32],
    grad: &[f32],
    out: &mut [Vector<E, W>],
    rows: usize,
    vectors: usize,
    #[comptime] wide: usize,
    #[define(E)] _dtype: ElemType,
    #[define(I)] _index: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let first = row * vectors;
    let target = usize::cast_from(targets[row]);
    let scale = grad[row];
    for round in 0..vectors.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i < vectors {
            let q = log_probability::<E, W>(logits[first + i], f32::new(1.0), sums[row]).exp();
            let mut gradient = q * Vector::new(scale);
            #[unroll]
            for lane in 0..wide {
                if target == i * wide + lane {
                    gradient.insert(lane, gradient.extract(lane) - scale);
                }
            }
            out[first + i] = Vector::cast_from(gradient);
        }
    }
}

#[cube]
fn log_probability<E: Float, W: Size>(logits: Vector<E, W>, scale: f32, sum: f32) -> Vector<f32, W> {
    Vector::<f32, W>::cast_from(logits) * Vector::new(scale) - Vector::new(sum)
}

/// `log(β p + (1 − β) q)`.
#[cube]
fn log_mixture<W: Size>(log_q: Vector<f32, W>, log_p: Vector<f32, W>, beta: f32) -> Vector<f32, W> {
    let a = log_p + Vector::new(beta.ln());
    let b = log_q + Vector::new((f32::new(1.0) - beta).ln());
    let high = max(a, b);
    let low = min(a, b);
    high + (Vector::<f32, W>::new(1.0) + (low - high).exp()).ln()
}

/// `log Σ exp(scale · logits)` of the row that begins at `first`.
#[cube]
fn log_sum_exp<E: Float, W: Size>(
    logits: &[Vector<E, W>],
    first: usize,
    vectors: usize,
    scale: f32,
    parts: &mut Shared<[f32]>,
    #[comptime] wide: usize,
) -> f32 {
    let mut top = f32::new(LEAST);
    let mut sum = f32::new(0.0);
    for round in 0..vectors.div_ceil(UNITS) {
        let i = round * UNITS + UNIT_POS as usize;
        if i < vectors {
            let x = Vector::<f32, W>::cast_from(logits[first + i]) * Vector::new(scale);
            let mut higher = top;
            #[unroll]
            for lane in 0..wide {
                higher = max(higher, x.extract(lane));
            }
            sum = sum * (top - higher).exp() + lanes::<W>((x - Vector::new(higher)).exp(), wide);
            top = higher;
        }
    }
    let highest = fold(top, parts, comptime!(Fold::Largest));
    let sum = fold(sum * (top - highest).exp(), parts, comptime!(Fold::Sum));
    highest + sum.ln()
}

fn softness(distance: &Distance) -> SoftnessLaunch {
    let [student, teacher] = distance.scales().map(|scale| scale as f32);
    SoftnessLaunch::new(student, teacher, distance.beta() as f32)
}

/// Losses `[r]`, and the sums `[3 r]` that the gradient needs.
pub fn divergence(student: CubeTensor, teacher: CubeTensor, distance: Distance) -> (CubeTensor, CubeTensor) {
    let [student, teacher] = [student, teacher].map(into_contiguous);
    let [rows, v] = student.shape().dims();
    let (losses, sums) = (empty(&student, [rows], DType::F32), empty(&student, [3 * rows], DType::F32));
    let (wide, dtype) = (wide(v), dtype_to_storage_type(student.dtype));
    divergence_forward::launch(
        &losses.client,
        cube_for_each(rows),
        CubeDim::new_1d(UNITS as u32),
        wide,
        student.into_buffer_arg(),
        teacher.into_buffer_arg(),
        losses.clone().into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        rows,
        v / wide,
        softness(&distance),
        distance.kind(),
        wide,
        dtype,
    );
    (losses, sums)
}

/// The gradient of the student's logits.
pub fn divergence_gradient(
    student: CubeTensor,
    teacher: CubeTensor,
    sums: CubeTensor,
    grad: CubeTensor,
    distance: Distance,
) -> CubeTensor {
    let [student, teacher, sums, grad] = [student, teacher, sums, grad].map(into_contiguous);
    let [rows, v] = student.shape().dims();
    let (out, wide) = (empty_like(&student), wide(v));
    let dtype = dtype_to_storage_type(student.dtype);
    divergence_backward::launch(
        &out.client,
        cube_for_each(rows),
        CubeDim::new_1d(UNITS as u32),
        wide,
        student.into_buffer_arg(),
        teacher.into_buffer_arg(),
        sums.into_buffer_arg(),
        grad.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        rows,
        v / wide,
        softness(&distance),
        distance.kind(),
        dtype,
    );
    out
}

/// `log Σ exp(logits) − logits[target]` and `log Σ exp(logits)` of every row.
pub fn next_token(logits: CubeTensor, targets: CubeTensor) -> (CubeTensor, CubeTensor) {
    let [logits, targets] = [logits, targets].map(into_contiguous);
    let [rows, v] = logits.shape().dims();
    let (losses, sums) = (empty(&logits, [rows], DType::F32), empty(&logits, [rows], DType::F32));
    let wide = wide(v);
    let (dtype, index) = (dtype_to_storage_type(logits.dtype), dtype_to_storage_type(targets.dtype));
    next_token_forward::launch(
        &losses.client,
        cube_for_each(rows),
        CubeDim::new_1d(UNITS as u32),
        wide,
        logits.into_buffer_arg(),
        targets.into_buffer_arg(),
        losses.clone().into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        rows,
        v / wide,
        wide,
        dtype,
        index,
    );
    (losses, sums)
}

/// The gradient of the logits.
pub fn next_token_gradient(
    logits: CubeTensor,
    targets: CubeTensor,
    sums: CubeTensor,
    grad: CubeTensor,
) -> CubeTensor {
    let [logits, targets, sums, grad] = [logits, targets, sums, grad].map(into_contiguous);
    let [rows, v] = logits.shape().dims();
    let (out, wide) = (empty_like(&logits), wide(v));
    let (dtype, index) = (dtype_to_storage_type(logits.dtype), dtype_to_storage_type(targets.dtype));
    next_token_backward::launch(
        &out.client,
        cube_for_each(rows),
        CubeDim::new_1d(UNITS as u32),
        wide,
        logits.into_buffer_arg(),
        targets.into_buffer_arg(),
        sums.into_buffer_arg(),
        grad.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        rows,
        v / wide,
        wide,
        dtype,
        index,
    );
    out
}
