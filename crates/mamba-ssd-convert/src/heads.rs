//! Columns of a projection seen as heads.
//!
//! burn stores a linear weight `[in, out]`, so the rows of a checkpoint's matrix are columns here;
//! a bias is a weight of one row.

use burn::tensor::Tensor;

/// Repeats every head of `weight [d, heads · width]` so that `to` heads result: head by head, as
/// grouped-query attention reads them, not row by row.
pub(crate) fn expand(weight: Tensor<2>, heads: usize, to: usize) -> Tensor<2> {
    let [d, columns] = weight.dims();
    let width = columns / heads;
    let by_head = weight.reshape([d, heads, 1, width]);
    by_head.repeat_dim(2, to / heads).reshape([d, to * width])
}

/// The given heads of `weight [d, heads · width]`, in their order.
pub(crate) fn select(weight: Tensor<2>, heads: usize, chosen: &[usize]) -> Tensor<2> {
    let width = weight.dims()[1] / heads;
    let chosen = chosen.iter().map(|head| weight.clone().narrow(1, head * width, width));
    Tensor::cat(chosen.collect(), 1)
}

/// Appends to every head of `weight [d, heads · width]` the features of `padding [d, heads · more]`.
pub(crate) fn pad(weight: Tensor<2>, heads: usize, padding: Tensor<2>) -> Tensor<2> {
    let ([d, columns], [_, more]) = (weight.dims(), padding.dims());
    if more == 0 {
        return weight;
    }
    let weight = weight.reshape([d, heads, columns / heads]);
    let padding = padding.reshape([d, heads, more / heads]);
    Tensor::cat(vec![weight, padding], 2).reshape([d, columns + more])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn heads_are_repeated_whole() {
        let weight = Tensor::<2>::from_data([[1.0, 2.0, 3.0, 4.0]], &Device::flex());
        let expected = TensorData::from([[1.0f32, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]]);
        expand(weight, 2, 4).into_data().assert_eq(&expected, true);
    }

    #[test]
    fn heads_are_selected_in_the_order_given() {
        let weight = Tensor::<2>::from_data([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]], &Device::flex());
        let expected = TensorData::from([[5.0f32, 6.0, 1.0, 2.0]]);
        select(weight, 3, &[2, 0]).into_data().assert_eq(&expected, true);
    }

    #[test]
    fn padding_goes_to_the_end_of_every_head() {
        let device = Device::flex();
        let weight = Tensor::<2>::from_data([[1.0, 2.0, 3.0, 4.0]], &device);
        let padding = Tensor::<2>::from_data([[8.0, 9.0]], &device);
        let expected = TensorData::from([[1.0f32, 2.0, 8.0, 3.0, 4.0, 9.0]]);
        pad(weight, 2, padding).into_data().assert_eq(&expected, true);
    }
}
