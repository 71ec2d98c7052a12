//! `--device`: which of the compiled-in backends computes, and whether it works.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Device, FloatDType, Tensor};

/// A device as named on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU.
    Flex,
    /// The first GPU that WebGPU finds.
    Wgpu,
    /// An NVIDIA GPU.
    Cuda(usize),
}

impl DeviceChoice {
    /// One of each kind.
    pub const KINDS: [Self; 3] = [Self::Flex, Self::Wgpu, Self::Cuda(0)];

    /// The Cargo feature that compiles it in.
    pub fn feature(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Wgpu => "wgpu",
            Self::Cuda(_) => "cuda",
        }
    }

    /// The device `n` places behind this one; the CPU and WebGPU's have no places.
    pub fn further(self, n: usize) -> Self {
        match self {
            Self::Cuda(index) => Self::Cuda(index + n),
            other => other,
        }
    }

    /// A device for work that any does.
    ///
    /// # Errors
    /// When none is compiled in, or the first does not work.
    pub fn any() -> Result<Device> {
        let choice = Self::KINDS.into_iter().find(|choice| choice.device().is_some());
        choice.context("this program was built without a device; build it with `--features flex`")?.open()
    }

    /// The device, if it was compiled in.
    pub fn device(self) -> Option<Device> {
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => Some(Device::flex()),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Some(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => Some(Device::cuda(index)),
            #[allow(unreachable_patterns, reason = "reached when a backend is compiled out")]
            _ => None,
        }
    }

    /// The device, after it has computed something.
    ///
    /// # Errors
    /// When it is not compiled in, or there is no such hardware or driver.
    pub fn open(self) -> Result<Device> {
        self.open_in(FloatDType::F32)
    }

    /// The same where new tensors are in a float type. That cannot change once the device has computed anything.
    ///
    /// # Errors
    /// As there, or when the device does not know the type.
    pub fn open_in(self, dtype: FloatDType) -> Result<Device> {
        let Some(mut device) = self.device() else {
            bail!(
                "this program was built without {feature}; build it with `--features {feature}` or choose another --device",
                feature = self.feature()
            );
        };
        if dtype != FloatDType::F32 {
            ensure!(self != Self::Flex, "{dtype:?} is for GPUs; take f32, or another --device");
            let advice =
                || format!("device {self} does not compute in {dtype:?}; take f32, or another --device");
            device.configure(dtype).with_context(advice)?;
        }
        match probe(&device) {
            Ok(()) => Ok(device),
            Err(why) => bail!("device {self} does not work: {why}; `mamba-ssd doctor` shows those that do"),
        }
    }
}

/// Computes 2 x 3 on the device and reads it back.
pub fn probe(device: &Device) -> std::result::Result<(), String> {
    let device = device.clone();
    let product = quietly(move || {
        Tensor::<1>::from_floats([2.0], &device).mul_scalar(3.0).into_data_as::<f32>().try_to_vec::<f32>()
    });
    match product {
        Ok(Ok(values)) if values == [6.0] => Ok(()),
        Ok(other) => Err(format!("2 x 3 came out as {other:?}")),
        Err(panic) => Err(panic),
    }
}

/// Backends report missing hardware by panicking: keeps that from the terminal and returns its first line.
fn quietly<T>(work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    panic::set_hook(hook);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        text.lines().next().unwrap_or_default().to_string()
    })
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (kind, index) = text.split_once(':').map_or((text, None), |(kind, index)| (kind, Some(index)));
        match (kind, index.map(str::parse)) {
            ("flex", None) => Ok(Self::Flex),
            ("wgpu", None) => Ok(Self::Wgpu),
            ("cuda", None) => Ok(Self::Cuda(0)),
            ("cuda", Some(Ok(index))) => Ok(Self::Cuda(index)),
            _ => Err("expected flex, wgpu, cuda or cuda:N".into()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flex => write!(f, "flex"),
            Self::Wgpu => write!(f, "wgpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_alike() {
        for name in ["flex", "wgpu", "cuda:0", "cuda:3"] {
            assert_eq!(name.parse::<DeviceChoice>().map(|choice| choice.to_string()), Ok(name.to_string()));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "flex:0"] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_panic_becomes_its_first_line() {
        assert_eq!(quietly(|| -> () { panic!("no adapter\nbacktrace") }), Err("no adapter".into()));
    }
}
