//! Reference values made with other people's software; see `data/README.md` for their origin.

use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// One file of named f64 tensors.
pub struct Golden(Vec<u8>);

impl Golden {
    /// Reads `data/<name>.safetensors`.
    pub fn load(name: &str) -> Self {
        Self(std::fs::read(path(&format!("{name}.safetensors"))).expect("a golden of tests/data"))
    }

    /// The values of one tensor.
    pub fn values(&self, name: &str) -> Vec<f64> {
        let bytes = self.bytes(name);
        bytes.chunks(8).map(|chunk| f64::from_le_bytes(chunk.try_into().expect("eight bytes"))).collect()
    }

    /// Its sizes.
    pub fn shape<const D: usize>(&self, name: &str) -> [usize; D] {
        self.view(name, |view| view.shape().try_into().expect("the rank asked for"))
    }

    /// Whether the file has a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.file().tensor(name).is_ok()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.view(name, |view| {
            assert_eq!(view.dtype(), Dtype::F64, "{name} is not f64");
            view.data().to_vec()
        })
    }

    fn view<R>(&self, name: &str, read: impl Fn(TensorView<'_>) -> R) -> R {
        match self.file().tensor(name) {
            Ok(view) => read(view),
            Err(error) => panic!("{name}: {error}"),
        }
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("a safetensors file")
    }
}

/// Reads `data/<name>.json`.
pub fn json(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(path(&format!("{name}.json"))).expect("a golden of tests/data");
    serde_json::from_str(&text).expect("JSON")
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data").join(file)
}
