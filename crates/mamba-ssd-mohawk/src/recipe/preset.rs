//! The recipes that come with the crate.

/// Name and TOML text of every preset.
pub const PRESETS: &[(&str, &str)] = &[
    ("demo", include_str!("../../recipes/demo.toml")),
    ("smollm2-135m", include_str!("../../recipes/smollm2-135m.toml")),
    ("smollm2-135m-hybrid", include_str!("../../recipes/smollm2-135m-hybrid.toml")),
    ("reasoner", include_str!("../../recipes/reasoner.toml")),
    ("reasoner-hybrid", include_str!("../../recipes/reasoner-hybrid.toml")),
    ("phi-mamba", include_str!("../../recipes/phi-mamba.toml")),
    ("llamba-1b", include_str!("../../recipes/llamba-1b.toml")),
    ("llamba-3b", include_str!("../../recipes/llamba-3b.toml")),
    ("llamba-8b", include_str!("../../recipes/llamba-8b.toml")),
];
