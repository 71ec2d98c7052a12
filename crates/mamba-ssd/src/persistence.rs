//! What a GPU's kernels cost only once.

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Keeps compiled kernels, and which of several burn's autotune took, in the user's cache folder, so that the next
/// process does not compile and time them again: half a minute on an H100, and more for every dtype and shape.
///
/// To be called before the first use of a device; later it changes nothing and returns false. A `cubecl.toml` in the
/// current folder or above has the last word on everything but that compiled kernels are kept.
pub fn keep_kernels() -> bool {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    if matches!(config.environment.path, CacheConfig::Target) {
        config.environment.path = CacheConfig::Global;
    }
    CubeClRuntimeConfig::try_set(config)
}
