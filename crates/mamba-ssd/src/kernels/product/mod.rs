//! Matrix products of bf16 on NVIDIA Hopper GPUs, with their gradients.
//!
//! burn's own products reach a third of what such a card can do. This one is PTX ([`ptx`]) inside a CubeCL
//! kernel ([`hopper`]): Hopper's asynchronous tensor-core products (`wgmma`) of tiles that its copy engine
//! brings in, f32 sums, operands stored either way round.

// The text of the kernel is tested without a GPU.
#[cfg(feature = "cuda")]
mod autodiff;
#[cfg(feature = "cuda")]
mod hopper;
#[cfg(feature = "cuda")]
mod native;
#[cfg(feature = "cuda")]
mod ops;
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
mod plan;
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
mod ptx;

#[cfg(feature = "cuda")]
pub(crate) use native::{native_gated_product, native_product, native_product_onto, on_hopper};
