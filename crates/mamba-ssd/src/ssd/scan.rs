//! The evaluation that is fastest where the input lives.

use super::{SsdInput, SsdOutput, chunk_scan};

/// Evaluates the map by the native kernel of the input's device where there is one, else by
/// [`chunk_scan`]. This is what the mixers call.
///
/// # Panics
///
/// If `chunk` is 0.
pub fn scan(input: SsdInput, chunk: usize) -> SsdOutput {
    #[cfg(feature = "flex")]
    if crate::kernels::available(&input.x.device(), crate::norm::wide(input.x.dtype())) {
        return crate::kernels::native_scan(input);
    }
    chunk_scan(input, chunk)
}
