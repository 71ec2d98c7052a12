//! Which form of each operation a device takes.

use burn::tensor::{DType, Device};

/// An operation in a dtype, and how a device computes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// `SSD`, `products`, or `layers`: convolution, gate, RMS norm, softmax.
    pub operation: &'static str,
    /// Of the values.
    pub dtype: DType,
    /// The form, in a few words.
    pub form: &'static str,
}

const TENSOR_OPERATIONS: &str = "tensor operations";

/// Every operation in f32, bf16 and f16, as far as `device` has the dtype, at the head dimension and state size
/// of most models, 64.
///
/// # Example
///
/// ```
/// # #[cfg(feature = "flex")] {
/// let paths = mamba_ssd::paths(&burn::tensor::Device::flex());
/// assert!(paths.iter().any(|path| path.operation == "SSD"));
/// # }
/// ```
pub fn paths(device: &Device) -> Vec<Path> {
    let dtypes = [DType::F32, DType::BF16, DType::F16];
    let supported = dtypes.into_iter().filter(|&dtype| device.supports_dtype(dtype));
    supported.flat_map(|dtype| of_dtype(device, dtype)).collect()
}

#[cfg(any(feature = "flex", feature = "cube"))]
fn of_dtype(device: &Device, dtype: DType) -> [Path; 3] {
    use crate::kernels::{available, product_form, ssd_form};
    let layers = if available(device, dtype) { "native kernels" } else { TENSOR_OPERATIONS };
    [
        Path { operation: "SSD", dtype, form: ssd_form(device, dtype).unwrap_or(TENSOR_OPERATIONS) },
        Path { operation: "products", dtype, form: product_form(device, dtype).unwrap_or("burn") },
        Path { operation: "layers", dtype, form: layers },
    ]
}

#[cfg(not(any(feature = "flex", feature = "cube")))]
fn of_dtype(_device: &Device, dtype: DType) -> [Path; 3] {
    ["SSD", "products", "layers"].map(|operation| Path { operation, dtype, form: TENSOR_OPERATIONS })
}
