//! The one device that every suite runs on: `MAMBA_SSD_DEVICE` among those that are compiled in, flex by default, else
//! CUDA, else wgpu.

use std::sync::LazyLock;

use burn::tensor::{DType, Device};

#[cfg(not(any(feature = "flex", feature = "wgpu", feature = "cuda")))]
compile_error!("the suites need a device: enable one of the features flex, wgpu, cuda");

/// The backends of this build, the default first.
const BACKENDS: &[&str] = &[
    #[cfg(feature = "flex")]
    "flex",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "wgpu")]
    "wgpu",
];

static BACKEND: LazyLock<&str> = LazyLock::new(|| {
    let Ok(asked) = std::env::var("MAMBA_SSD_DEVICE") else { return BACKENDS[0] };
    let known = BACKENDS.iter().find(|&&backend| backend == asked);
    known.unwrap_or_else(|| panic!("MAMBA_SSD_DEVICE is {asked:?}; this build has {BACKENDS:?}"))
});

/// The device under test.
pub fn device() -> Device {
    match backend() {
        #[cfg(feature = "flex")]
        "flex" => Device::flex(),
        #[cfg(feature = "cuda")]
        "cuda" => Device::cuda(0),
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        other => unreachable!("no backend {other}"),
    }
}

/// The name of its backend.
pub fn backend() -> &'static str {
    *BACKEND
}

/// Whether a test leaves the device out, which it says.
pub fn skipped(on: &[&str], why: &str) -> bool {
    let skipped = on.contains(&backend());
    if skipped {
        eprintln!("skipped on {}: {why}", backend());
    }
    skipped
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
