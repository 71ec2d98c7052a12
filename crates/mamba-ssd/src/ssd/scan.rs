//! The evaluation that is fastest where the input lives.

use super::{SsdInput, SsdOutput, chunk_scan};

/// Evaluates the map by the native kernel of the input's device where there is one, else by
/// [`chunk_scan`]. This is what the mixers call.
///
/// # Panics
///
/// If `chunk` is 0.
pub fn scan(input: SsdInput, chunk: usize) -> SsdOutput {
    #[cfg(any(feature = "flex", feature = "cube"))]
    return crate::kernels::native_scan(input).unwrap_or_else(|input| chunk_scan(input, chunk));
    #[cfg(not(any(feature = "flex", feature = "cube")))]
    chunk_scan(input, chunk)
}
