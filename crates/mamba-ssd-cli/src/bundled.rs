//! The teacher inside this program: a small Llama that solves the bundled problems. `assets/teacher/training.json`
//! tells how it was trained.

/// Its `config.json`.
pub const CONFIG: &str = include_str!("../assets/teacher/config.json");
/// Its `model.safetensors`, in bf16.
pub const WEIGHTS: &[u8] = include_bytes!("../assets/teacher/model.safetensors");
/// Its `tokenizer.json`.
pub const TOKENIZER: &[u8] = include_bytes!("../assets/teacher/tokenizer.json");
