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
    if let Some(output) = crate::kernels::native_scan(&input) {
        return output;
    }
    chunk_scan(input, chunk)
}
