//! Stages 1 and 2: distances between what a student's and a teacher's layer make of one input.
//!
//! ```text
//! matrix orientation   mean_{b,h} ‖ M_student[b,h] − M_teacher[b,h] ‖_F
//! hidden alignment     mean_{b,t} ‖ y_student[b,t] − y_teacher[b,t] ‖_2
//! ```
//!
//! Neither norm is squared, and neither is divided by the size of what it runs over, as in the
//! MOHAWK paper (arXiv 2408.10189, sections 4.1 and 4.2) and its code.

use std::ops::Range;

use burn::tensor::{Bool, Tensor};
use mamba_ssd::Mixing;

use super::{Reduction, widen};

/// Added under every square root. √x has no gradient at 0; √(x + 1e-12) has the right one, 0,
/// and differs from √x by at most 1e-6.
const EPSILON: f64 = 1e-12;

/// Frobenius distance of two stacks of mixing matrices, mean over batch and heads.
///
/// `rows` masks tokens: the matrix rows of a masked token (padding) do not count. Entries across
/// packed documents need no mask, they are 0 on both sides.
///
/// # Shapes
///
/// `student` and `teacher`: `[b h t t]`, `rows`: `[b t]`, result `[1]`.
///
/// # Panics
///
/// If the shapes of `student` and `teacher` differ.
pub fn matrix_orientation(
    student: Tensor<4>,
    teacher: Tensor<4>,
    rows: Option<&Tensor<2, Bool>>,
) -> Tensor<1> {
    let [b, h, t, s] = student.dims();
    let of_teacher = teacher.dims();
    assert_eq!([b, h, t, s], of_teacher, "mixing matrices of student and teacher");
    let squares = (widen(student) - widen(teacher)).square();
    let per_row = squares.sum_dim(3).reshape([b, h, t]);
    mean_norm(per_row, rows)
}

/// The mean over batch and heads of the roots of the sums of `squares [b h t]`.
fn mean_norm(squares: Tensor<3>, rows: Option<&Tensor<2, Bool>>) -> Tensor<1> {
    masked_rows(squares, rows).sum_dim(2).add_scalar(EPSILON).sqrt().mean()
}

/// [`matrix_orientation`] of matrices given by their factors: the same number and the same gradients of the student. The
/// teacher is a constant.
///
/// Where the device has it, all rows are one operation ([`Mixing::row_distances`]), and no matrix is ever in memory.
/// Elsewhere it goes `block` rows at a time: the first pass over the blocks adds up the squares of every head. With those the
/// derivative of the loss for a block is known, so the second pass runs every block forward and backward and lets go of
/// it. What is returned is the loss with the sum of these gradients attached: a function that has this value and this
/// gradient in the factors.
///
/// # Shapes
///
/// `rows`: `[b t]`, result `[1]`.
///
/// # Panics
///
/// If the sizes of `student` and `teacher` differ, or `block` is 0.
pub fn matrix_orientation_by_blocks(
    student: &Mixing,
    teacher: &Mixing,
    rows: Option<&Tensor<2, Bool>>,
    block: usize,
) -> Tensor<1> {
    let [b, h, t] = student.dims();
    assert_eq!([b, h, t], teacher.dims(), "batch, heads and length of the mixing matrices");
    assert!(block > 0, "a block of no rows");
    if let Some(squares) = student.row_distances(teacher) {
        return mean_norm(squares, rows);
    }
    let constant = |mixing: &Mixing| mixing.map(&mut |factor| factor.detach());
    let teacher = constant(teacher);
    if block >= t {
        return matrix_orientation(student.whole(), teacher.whole(), rows);
    }
    let starts = || (0..t).step_by(block).map(|start| start..t.min(start + block));
    let fixed = constant(student);
    let squares = |student: &Mixing, at: Range<usize>| squares_of_rows(student, &teacher, rows, at);
    let total = starts().map(|at| squares(&fixed, at)).reduce(|sum, squares| sum + squares);
    let norms = total.expect("at least one block").add_scalar(EPSILON).sqrt(); // b h
    let value = norms.clone().mean();
    let slopes = norms.recip().div_scalar(2.0 * (b * h) as f64);

    let mut gradients: Vec<Option<Tensor<1>>> = Vec::new();
    for at in starts() {
        let mut leaves = Vec::new();
        let variable = student.map(&mut |factor| {
            let leaf = factor.detach().require_grad();
            leaves.push(leaf.clone());
            leaf
        });
        let of_block = (squares(&variable, at) * slopes.clone()).sum().backward();
        gradients.resize(leaves.len(), None);
        for (sum, leaf) in gradients.iter_mut().zip(&leaves) {
            let both = [sum.take(), leaf.grad(&of_block)].into_iter().flatten();
            *sum = both.reduce(|sum, gradient| sum + gradient);
        }
    }
    attach(value, student, gradients)
}

/// Sums of squares of the differences in the rows `at`, `[b h]`.
fn squares_of_rows(
    student: &Mixing,
    teacher: &Mixing,
    rows: Option<&Tensor<2, Bool>>,
    at: Range<usize>,
) -> Tensor<2> {
    let [b, h, _] = student.dims();
    let difference = widen(student.rows(at.clone())) - widen(teacher.rows(at.clone()));
    let per_row = difference.square().sum_dim(3).reshape([b, h, at.len()]);
    let rows = rows.map(|rows| rows.clone().narrow(1, at.start, at.len()));
    masked_rows(per_row, rows.as_ref()).sum_dim(2).reshape([b, h])
}

/// `value` with `gradients` as its derivatives for the factors of `student`.
fn attach(value: Tensor<1>, student: &Mixing, gradients: Vec<Option<Tensor<1>>>) -> Tensor<1> {
    let mut loss = value;
    let mut gradients = gradients.into_iter();
    student.map(&mut |factor| {
        if let Some(gradient) = gradients.next().flatten() {
            let gradient = Tensor::from_inner(gradient);
            let change = factor.clone() - factor.clone().detach(); // 0, with the derivative of the factor
            loss = loss.clone() + (change * gradient).sum().cast(loss.dtype());
        }
        factor
    });
    loss
}

fn masked_rows(per_row: Tensor<3>, rows: Option<&Tensor<2, Bool>>) -> Tensor<3> {
    match rows {
        Some(rows) => {
            let shape = per_row.shape();
            per_row.mask_fill(rows.clone().bool_not().unsqueeze_dim::<3>(1).expand(shape), 0.0)
        }
        None => per_row,
    }
}

/// Euclidean distance of two hidden states, per token, mean over the unmasked tokens.
///
/// # Shapes
///
/// `student` and `teacher`: `[b t d]`, `mask`: `[b t]`, result `[1]`.
///
/// # Panics
///
/// If the shapes of `student` and `teacher` differ.
pub fn hidden_alignment(student: Tensor<3>, teacher: Tensor<3>, mask: Option<&Tensor<2, Bool>>) -> Tensor<1> {
    let [b, t, d] = student.dims();
    assert_eq!([b, t, d], teacher.dims(), "hidden states of student and teacher");
    let squares = (widen(student) - widen(teacher)).square();
    let per_token = squares.sum_dim(2).reshape([b, t]).add_scalar(EPSILON).sqrt();
    Reduction::TokenMean.apply(per_token, mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};

    fn f64_tensor<const D: usize>(values: Vec<f64>, shape: [usize; D]) -> Tensor<D> {
        let data = TensorData::new(values, shape);
        Tensor::from_data(data, (&Device::flex().autodiff(), DType::F64))
    }

    fn scalar(loss: &Tensor<1>) -> f64 {
        loss.clone().into_data().iter::<f64>().next().expect("a scalar")
    }

    #[test]
    fn frobenius_is_not_squared_and_averages_over_batch_and_heads() {
        // ‖(3, 4)‖ = 5 in the first head, 0 in the second.
        let student = f64_tensor(vec![3.0, 0.0, 0.0, 4.0, 1.0, 1.0, 1.0, 1.0], [1, 2, 2, 2]);
        let teacher = f64_tensor(vec![0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], [1, 2, 2, 2]);
        let loss = scalar(&matrix_orientation(student, teacher, None));
        assert!((loss - 2.5).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn masked_rows_of_a_matrix_do_not_count() {
        let student = f64_tensor(vec![3.0, 0.0, 5.0, 4.0], [1, 1, 2, 2]);
        let teacher = f64_tensor(vec![0.0; 4], [1, 1, 2, 2]);
        let mask = Tensor::from_data([[true, false]], &Device::flex().autodiff());
        let loss = scalar(&matrix_orientation(student, teacher, Some(&mask)));
        assert!((loss - 3.0).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn hidden_distance_is_per_token_and_masked_tokens_do_not_count() {
        let student = f64_tensor(vec![3.0, 4.0, 6.0, 8.0, 90.0, 90.0], [1, 3, 2]);
        let teacher = f64_tensor(vec![0.0; 6], [1, 3, 2]);
        let mask = Tensor::from_data([[true, true, false]], &Device::flex().autodiff());
        let loss = scalar(&hidden_alignment(student, teacher, Some(&mask)));
        assert!((loss - 7.5).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn the_gradient_at_zero_distance_is_zero() {
        let student = f64_tensor(vec![1.0; 4], [1, 1, 2, 2]).require_grad();
        let grads = matrix_orientation(student.clone(), student.clone().detach(), None).backward();
        let grad = student.grad(&grads).expect("a gradient");
        assert!(grad.into_data().iter::<f64>().all(|g| g == 0.0));

        let student = f64_tensor(vec![1.0; 4], [1, 2, 2]).require_grad();
        let grads = hidden_alignment(student.clone(), student.clone().detach(), None).backward();
        let grad = student.grad(&grads).expect("a gradient");
        assert!(grad.into_data().iter::<f64>().all(|g| g == 0.0));
    }
}
