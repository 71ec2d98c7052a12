//! Which form of each operation a device takes.

use burn::tensor::{DType, Device};

/// An operation in a dtype, and how a device computes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
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
/// let of_cpu = mamba_ssd::capabilities(&burn::tensor::Device::flex());
/// assert!(of_cpu.iter().any(|capability| capability.operation == "SSD"));
/// # }
/// ```
pub fn capabilities(device: &Device) -> Vec<Capability> {
    let dtypes = [DType::F32, DType::BF16, DType::F16];
    let supported = dtypes.into_iter().filter(|&dtype| device.supports_dtype(dtype));
    supported.flat_map(|dtype| of_dtype(device, dtype)).collect()
}

/// Whether what is on `device` is in the host's memory and computed by the CPU, by the backend `flex`.
#[allow(unused_variables, reason = "without that backend")]
pub fn computes_on_host(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return match device.as_dispatch() {
        burn::backend::DispatchDevice::Flex(_) => true,
        #[allow(unreachable_patterns)] // other backends that a program may compile in
        _ => false,
    };
    #[cfg(not(feature = "flex"))]
    return false;
}

/// Bytes of a GPU's memory, and those that this process holds of it; nothing where that is not known, as on the CPU. What other
/// processes hold is not known anywhere.
#[allow(unused_variables, reason = "without GPUs")]
pub fn gpu_memory(device: &Device) -> Option<[usize; 2]> {
    #[cfg(feature = "cube")]
    return match device.clone().inner().as_dispatch() {
        burn::backend::DispatchDevice::Cube(of_cube) => {
            let all = of_cube.client().properties().memory.max_memory()?;
            Some([all as usize, device.memory_pool_usage()?.bytes_in_use as usize])
        }
        #[allow(unreachable_patterns)] // other backends that a program may compile in
        _ => None,
    };
    #[cfg(not(feature = "cube"))]
    return None;
}

/// Whether tensors of several devices of this kind can be summed from device to device, as CUDA's can through NCCL.
#[allow(unused_variables, reason = "without GPUs")]
pub fn has_collectives(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    return match device.clone().inner().as_dispatch() {
        burn::backend::DispatchDevice::Cube(device) => device.client().has_device_transport(),
        #[allow(unreachable_patterns)] // other backends that a program may compile in
        _ => false,
    };
    #[cfg(not(feature = "cube"))]
    return false;
}

#[cfg(any(feature = "flex", feature = "cube"))]
fn of_dtype(device: &Device, dtype: DType) -> [Capability; 3] {
    use crate::kernels::{available, product_form, ssd_form};
    let layers = if available(device, dtype) { "native kernels" } else { TENSOR_OPERATIONS };
    [
        Capability { operation: "SSD", dtype, form: ssd_form(device, dtype).unwrap_or(TENSOR_OPERATIONS) },
        Capability { operation: "products", dtype, form: product_form(device, dtype).unwrap_or("burn") },
        Capability { operation: "layers", dtype, form: layers },
    ]
}

#[cfg(not(any(feature = "flex", feature = "cube")))]
fn of_dtype(_device: &Device, dtype: DType) -> [Capability; 3] {
    ["SSD", "products", "layers"].map(|operation| Capability { operation, dtype, form: TENSOR_OPERATIONS })
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_has_native_layers_in_f32_and_not_in_bf16() {
        let form = |operation, dtype| {
            let all = capabilities(&Device::flex());
            all.into_iter().find(|one| one.operation == operation && one.dtype == dtype).expect("it").form
        };
        assert_eq!(form("layers", DType::F32), "native kernels");
        assert_eq!(form("layers", DType::BF16), TENSOR_OPERATIONS);
        assert!(form("SSD", DType::BF16).starts_with("native scan"));
        assert_eq!(form("products", DType::F32), "burn");
    }
}
