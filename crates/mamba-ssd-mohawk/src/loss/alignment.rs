//! Stages 1 and 2: distances between what a student's and a teacher's layer make of one input.
//!
//! ```text
//! matrix orientation   mean_{b,h} ‖ M_student[b,h] − M_teacher[b,h] ‖_F
//! hidden alignment     mean_{b,t} ‖ y_student[b,t] − y_teacher[b,t] ‖_2
//! ```
//!
//! Neither norm is squared, and neither is divided by the size of what it runs over, as in the
//! MOHAWK paper (arXiv 2408.10189, sections 4.1 and 4.2) and its code.

use burn::tensor::{Bool, Tensor};

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
    let per_row = match rows {
        Some(rows) => {
            let skip = rows.clone().bool_not().unsqueeze_dim::<3>(1).expand([b, h, t]);
            per_row.mask_fill(skip, 0.0)
        }
        None => per_row,
    };
    per_row.sum_dim(2).add_scalar(EPSILON).sqrt().mean()
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
