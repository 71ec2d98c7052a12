//! What the examples share: choosing a device, published shapes by name, pictures.

pub mod chart;

use anyhow::{Context, Result};
use burn::tensor::Device;
use mamba_ssd_models::{ModelConfig, presets};

/// The device `flex`, `wgpu` or `cuda`, if this build has it.
///
/// # Errors
///
/// If the name is unknown, or its Cargo feature was not enabled.
pub fn device(name: &str) -> Result<Device> {
    let device = match name {
        #[cfg(feature = "flex")]
        "flex" => Some(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Some(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Some(Device::cuda(0)),
        _ => None,
    };
    device.with_context(|| format!("no device {name} in this build; flex, wgpu and cuda are Cargo features"))
}

/// Where a small model is decoded: token by token, the CPU is faster than a GPU that waits for launches.
#[cfg_attr(feature = "flex", allow(unused_variables))]
pub fn decoding_device(training: &Device) -> Device {
    #[cfg(feature = "flex")]
    return Device::flex();
    #[cfg(not(feature = "flex"))]
    training.clone().inner()
}

/// A number of the command line that is not 0.
///
/// # Errors
///
/// If it is 0 or no number.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("expected at least 1".into()),
        Ok(number) => Ok(number),
        Err(_) => Err("expected a whole number".into()),
    }
}

/// The shape of a published model, or its first `layers` alone.
///
/// # Errors
///
/// If no preset has that name.
pub fn preset(name: &str, layers: Option<usize>) -> Result<ModelConfig> {
    let preset = presets::by_name(name).with_context(|| {
        let names: Vec<&str> = presets::PRESETS.iter().map(|preset| preset.name).collect();
        format!("no preset {name}; there are {}", names.join(", "))
    })?;
    let mut config = preset.config();
    if let Some(layers) = layers {
        match &mut config {
            ModelConfig::Llama(config) => config.mixers.truncate(layers),
            ModelConfig::Phi(config) => config.mixers.truncate(layers),
            ModelConfig::Mamba2(config) => config.mixers.truncate(layers),
        }
    }
    Ok(config)
}
