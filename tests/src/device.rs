//! The one device that every suite runs on, chosen by the crate's features.

use burn::tensor::{DType, Device};

#[cfg(not(any(feature = "flex", feature = "wgpu", feature = "cuda")))]
compile_error!("the suites need a device: enable one of the features flex, wgpu, cuda");

/// Flex by default, else CUDA or wgpu when it is the only backend compiled in.
pub fn device() -> Device {
    #[cfg(feature = "flex")]
    {
        Device::flex()
    }
    #[cfg(all(feature = "cuda", not(feature = "flex")))]
    {
        Device::cuda(0)
    }
    #[cfg(all(feature = "wgpu", not(any(feature = "flex", feature = "cuda"))))]
    {
        Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)
    }
}

/// The name of its backend.
pub fn backend() -> &'static str {
    if cfg!(feature = "flex") {
        "flex"
    } else if cfg!(feature = "cuda") {
        "cuda"
    } else {
        "wgpu"
    }
}

/// The dtypes that the suites ask for and the device can compute in. On wgpu that is f32: WGSL has no
/// bf16, and lavapipe reports f64 but its `exp` returns wrong numbers there. On CUDA burn computes `exp` of f64 in f32.
pub fn dtypes() -> Vec<DType> {
    let device = device();
    let asked: &[DType] = match backend() {
        "wgpu" => &[DType::F32],
        "cuda" => &[DType::F32, DType::BF16],
        _ => &[DType::F64, DType::F32, DType::BF16],
    };
    asked.iter().copied().filter(|&dtype| device.supports_dtype(dtype)).collect()
}

/// The widest of [`dtypes`]: what a property about the algebra, not about rounding, is checked in.
pub fn widest() -> DType {
    dtypes()[0]
}

/// The dtype that states and decays are kept in for inputs of `dtype`.
pub fn state_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}
