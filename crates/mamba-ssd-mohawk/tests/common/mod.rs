//! A small language model of the tests' own: proof that any `Backbone` can be distilled.
#![allow(dead_code)] // every test file uses its part

use std::sync::{Mutex, PoisonError};

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, Int, Tensor};
use mamba_ssd::norm::{NormConfig, RmsNorm};
use mamba_ssd::rope::RotaryConfig;
use mamba_ssd::{
    AttentionConfig, Backbone, DiscreteMamba2Config, MatrixMixer, Mixer, MixerConfig, MixerState, Segments,
};
use mamba_ssd_mohawk::Recipe;
use mamba_ssd_mohawk::data::Dataset;

pub const D: usize = 8;
pub const HEADS: usize = 2;
pub const VOCAB: usize = 11;
pub const EOS: u32 = 10;

/// A pre-norm block: mixer, then a small MLP.
#[derive(Module, Debug)]
pub struct Block {
    pub norm: RmsNorm,
    pub mixer: Mixer,
    pub mlp_norm: RmsNorm,
    pub up: Linear,
    pub down: Linear,
}

/// Embedding, blocks, norm, head.
#[derive(Module, Debug)]
pub struct Tiny {
    pub embedding: Embedding,
    pub blocks: Vec<Block>,
    pub norm: RmsNorm,
    pub lm_head: Linear,
}

impl Block {
    fn new(mixer: &MixerConfig, device: &Device) -> Self {
        let norm = || NormConfig::new(D).init_rms(device);
        let linear = |input, output| LinearConfig::new(input, output).with_bias(true).init(device);
        Self {
            norm: norm(),
            mixer: mixer.init(device),
            mlp_norm: norm(),
            up: linear(D, 2 * D),
            down: linear(2 * D, D),
        }
    }

    fn mlp(&self, hidden: Tensor<3>) -> Tensor<3> {
        let inner = silu(self.up.forward(self.mlp_norm.forward(hidden.clone())));
        hidden + self.down.forward(inner)
    }
}

impl Backbone for Tiny {
    fn n_layers(&self) -> usize {
        self.blocks.len()
    }

    fn d_model(&self) -> usize {
        self.embedding.weight.dims()[1]
    }

    fn vocab_size(&self) -> usize {
        self.embedding.weight.dims()[0]
    }

    fn mixer(&self, layer: usize) -> &Mixer {
        &self.blocks[layer].mixer
    }

    fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.embedding.forward(tokens)
    }

    fn layer(&self, layer: usize, hidden: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        let mixed = self.mixer_output(layer, hidden.clone(), segments);
        self.blocks[layer].mlp(hidden + mixed)
    }

    fn mixer_input(&self, layer: usize, hidden: Tensor<3>) -> Tensor<3> {
        self.blocks[layer].norm.forward(hidden)
    }

    fn head(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.lm_head.forward(self.norm.forward(hidden))
    }

    fn layer_prefill(&self, layer: usize, hidden: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        let (mixed, state) = self.mixer(layer).prefill(self.mixer_input(layer, hidden.clone()), state);
        (self.blocks[layer].mlp(hidden + mixed), state)
    }

    fn layer_step(&self, layer: usize, hidden: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState) {
        let (output, state) = self.layer_prefill(layer, hidden.unsqueeze_dim(1), state);
        (output.squeeze_dim(1), state)
    }
}

pub fn device() -> Device {
    Device::flex().autodiff()
}

pub fn attention() -> MixerConfig {
    let head_dim = D / HEADS;
    MixerConfig::Attention(AttentionConfig::new(D, HEADS, HEADS, head_dim, RotaryConfig::new(head_dim)))
}

pub fn mamba(heads: usize) -> MixerConfig {
    MixerConfig::DiscreteMamba2(DiscreteMamba2Config::new(D, heads, 4).with_chunk_size(8))
}

/// A backend draws all numbers from one stream: tests that run at the same time take turns, so that weights follow from seeds.
static DRAWING: Mutex<()> = Mutex::new(());

/// A transformer of three layers.
pub fn teacher(seed: u64) -> Tiny {
    let _turn = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
    let device = device();
    device.seed(seed);
    drawn(Tiny {
        embedding: EmbeddingConfig::new(VOCAB, D).init(&device),
        blocks: (0..3).map(|_| Block::new(&attention(), &device)).collect(),
        norm: NormConfig::new(D).init_rms(&device),
        lm_head: LinearConfig::new(D, VOCAB).with_bias(false).init(&device),
    })
}

/// The model with its weights, which burn draws only when they are first looked at.
fn drawn(model: Tiny) -> Tiny {
    weights(&model);
    model
}

/// The teacher with random mixers in place of the attention of `layers`.
pub fn student(teacher: &Tiny, layers: &[usize], heads: usize) -> Tiny {
    let _turn = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
    let device = device();
    device.seed(77);
    let mut student = teacher.clone();
    for &layer in layers {
        student.blocks[layer].mixer = mamba(heads).init(&device);
    }
    drawn(student)
}

/// The same model in f64.
pub fn in_f64(model: Tiny) -> Tiny {
    in_dtype(model, DType::F64)
}

/// The same model in another dtype.
pub fn in_dtype(model: Tiny, dtype: DType) -> Tiny {
    struct Cast(DType);
    impl ModuleMapper for Cast {
        fn map_float<const R: usize>(&mut self, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
            param.map(|tensor| {
                let data = tensor.to_data().convert_dtype(self.0);
                Tensor::from_data(data, (&device(), self.0)).require_grad()
            })
        }
    }
    model.map(&mut Cast(dtype))
}

/// Documents of a few tokens with some order in them.
pub fn dataset() -> Dataset {
    let document = |d: u32| -> Vec<u32> { (0..5 + d % 9).map(|i| (d * 3 + i * (1 + d % 3)) % 10).collect() };
    Dataset::from_documents((0..60).map(document), EOS).expect("documents")
}

/// A recipe of the given stages.
pub fn recipe(stages: &[&str]) -> Recipe {
    let stages: String = stages.iter().map(|stage| format!("[[stage]]\n{stage}\n")).collect();
    Recipe::from_toml(&format!("name = \"test\"\nseed = 5\n{stages}")).expect("a valid recipe")
}

/// Every parameter's path and bits.
pub fn weights(model: &Tiny) -> Vec<(String, Vec<u8>)> {
    #[derive(Default)]
    struct Bits {
        path: Vec<String>,
        weights: Vec<(String, Vec<u8>)>,
    }
    impl burn::module::ModuleVisitor for Bits {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_string());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const R: usize>(&mut self, param: &Param<Tensor<R>>) {
            let bytes = param.val().to_data().bytes().to_vec();
            self.weights.push((self.path.join("."), bytes));
        }
    }
    let mut visitor = Bits::default();
    model.visit(&mut visitor);
    visitor.weights
}

/// The paths whose bits differ between two models of one structure.
pub fn changed(before: &Tiny, after: &Tiny) -> Vec<String> {
    let pairs = weights(before).into_iter().zip(weights(after));
    pairs
        .filter(|((path, a), (other, b))| {
            assert_eq!(path, other);
            a != b
        })
        .map(|((path, _), _)| path)
        .collect()
}

/// The heads that the tests' mixers report.
pub fn heads(model: &Tiny, layer: usize) -> usize {
    model.mixer(layer).n_heads()
}

/// The largest difference between weights of two models in f64.
pub fn worst_difference(a: &Tiny, b: &Tiny) -> f64 {
    let read = |bytes: &[u8]| -> Vec<f64> {
        let numbers = bytes.chunks_exact(8);
        numbers.map(|n| f64::from_le_bytes(n.try_into().expect("eight bytes"))).collect()
    };
    let pairs = weights(a).into_iter().zip(weights(b));
    pairs
        .flat_map(|((_, a), (_, b))| read(&a).into_iter().zip(read(&b)).collect::<Vec<_>>())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}
