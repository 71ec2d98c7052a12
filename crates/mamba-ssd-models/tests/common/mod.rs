//! Golden models and small random ones.
#![allow(dead_code)] // every test file uses a part

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use mamba_ssd::rope::{Llama3Scaling, RotaryConfig};
use mamba_ssd::{
    AttentionConfig, CausalConv1d, DiscreteMamba2Config, JunctionKind, Mamba1Config, Mamba2Config,
    MixerConfig, ParallelConfig,
};
use mamba_ssd_models::{
    LlamaConfig, Mamba2LmConfig, Model, ModelConfig, ModelError, PhiConfig, SpecialTokens,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

pub const GOLDENS: [&str; 5] = ["llama32", "phi15", "mamba2_g1", "mamba2_g2", "mamba2_g8"];

pub fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

pub fn read(name: &str) -> Vec<u8> {
    std::fs::read(data(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn read_text(name: &str) -> String {
    String::from_utf8(read(name)).expect("UTF-8")
}

pub fn golden_model(family: &str) -> Model {
    let config = read_text(&format!("{family}.config.json"));
    let weights = read(&format!("{family}.weights.safetensors"));
    Model::from_bytes(&config, &weights, &Device::flex()).unwrap_or_else(|error| panic!("{family}: {error}"))
}

/// Tensors of a golden file.
pub struct Golden(Vec<u8>);

impl Golden {
    pub fn open(family: &str) -> Self {
        Self(read(&format!("{family}.golden.safetensors")))
    }

    pub fn float<const D: usize>(&self, key: &str) -> Tensor<D> {
        let (shape, bytes) = self.tensor(key, Dtype::F32);
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    pub fn input_ids(&self) -> Tensor<2, Int> {
        let (shape, bytes) = self.tensor("input_ids", Dtype::I64);
        let values: Vec<i64> = bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn tensor(&self, key: &str, dtype: Dtype) -> (Vec<usize>, Vec<u8>) {
        let tensors = SafeTensors::deserialize(&self.0).expect("a safetensors file");
        let view = tensors.tensor(key).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!(view.dtype(), dtype);
        (view.shape().to_vec(), view.data().to_vec())
    }
}

pub fn difference<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    (found - expected).abs().max().into_scalar()
}

pub fn attention(d_model: usize) -> AttentionConfig {
    AttentionConfig::new(d_model, 4, 2, 6, RotaryConfig::new(6).with_theta(500.0))
}

pub fn discrete(d_model: usize) -> DiscreteMamba2Config {
    DiscreteMamba2Config::new(d_model, 4, 6).with_chunk_size(8)
}

/// A square attention (24 x 24), so that a forgotten transposition raises no shape error.
pub fn llama(layers: &str) -> Model {
    let config = LlamaConfig {
        mixers: mixers(layers, false),
        tie_embeddings: layers.len().is_multiple_of(2),
        ..LlamaConfig::transformer(31, 1, attention(24), 40)
    };
    let tokens = SpecialTokens { bos: Some(1), eos: vec![2, 3] };
    let config = LlamaConfig {
        norm_epsilon: 1e-6,
        final_norm_epsilon: 1e-6,
        max_position: Some(512),
        tokens,
        ..config
    };
    random(ModelConfig::Llama(config))
}

pub fn phi(layers: &str) -> Model {
    random(ModelConfig::Phi(PhiConfig {
        vocab_size: 31,
        d_model: 24,
        d_mlp: 48,
        mixers: mixers(layers, true),
        norm_epsilon: 1e-5,
        max_position: None,
        tokens: SpecialTokens { bos: None, eos: vec![2] },
    }))
}

pub fn mamba2(tied: bool) -> Model {
    mamba2_of(vec![MixerConfig::Mamba2(mamba2_mixer()); 2], tied)
}

fn mamba2_mixer() -> Mamba2Config {
    Mamba2Config::new(24).with_d_state(8).with_headdim(12).with_ngroups(2).with_chunk_size(8)
}

fn mamba2_of(mixers: Vec<MixerConfig>, tied: bool) -> Model {
    random(ModelConfig::Mamba2(Mamba2LmConfig {
        vocab_size: 31,
        d_model: 24,
        mixers,
        norm_epsilon: 1e-5,
        tie_embeddings: tied,
        tokens: SpecialTokens::default(),
    }))
}

/// `a` is attention with a convolution, whose output projection is square, and `2` a Mamba-2 mixer.
pub fn mamba2_attention(layers: &str) -> Model {
    let attention = AttentionConfig::new(24, 4, 2, 6, RotaryConfig::new(4)).with_d_conv(Some(4));
    let mixer = |layer| match layer {
        'a' => MixerConfig::Attention(attention.clone()),
        _ => MixerConfig::Mamba2(mamba2_mixer()),
    };
    mamba2_of(layers.chars().map(mixer).collect(), true)
}

/// `a` is attention, `1` and `2` are the mixers of MambaInLlama. All widths are 32, so that z, C, q and
/// the output projections are square.
pub fn mamba_in_llama(layers: &str) -> Model {
    let rotary = RotaryConfig::new(8).with_scaling(Some(Llama3Scaling::new(8.0, 1.0, 4.0, 16)));
    let attention = AttentionConfig::new(32, 4, 2, 8, rotary);
    let mixer = |layer| match layer {
        'a' => MixerConfig::Attention(attention.clone()),
        '1' => MixerConfig::Mamba1(Mamba1Config::new(32, 32, 16)),
        _ => MixerConfig::Mamba2(
            Mamba2Config::new(32)
                .with_expand(1)
                .with_d_state(8)
                .with_headdim(8)
                .with_ngroups(4)
                .with_d_xb(Some(16)),
        ),
    };
    random(ModelConfig::Llama(LlamaConfig {
        mixers: layers.chars().map(mixer).collect(),
        tie_embeddings: layers.len().is_multiple_of(2),
        ..LlamaConfig::transformer(31, 1, attention.clone(), 40)
    }))
}

pub const JUNCTIONS: [JunctionKind; 4] =
    [JunctionKind::Adapter, JunctionKind::Vanilla, JunctionKind::Hymba, JunctionKind::Merger];

/// Layers of SSM heads, with as many attention heads beside them as told. Four make square projections. No parameter
/// is left at 0 or 1.
pub fn parallel(junction: JunctionKind, heads: &[usize]) -> Model {
    let layer = |&heads: &usize| {
        let attention = AttentionConfig::new(24, heads, heads, 6, RotaryConfig::new(6).with_theta(500.0));
        let attention = (heads > 0).then_some(attention);
        MixerConfig::Parallel(ParallelConfig::new(discrete(24), junction).with_attention(attention))
    };
    let model = random(ModelConfig::Llama(LlamaConfig {
        mixers: heads.iter().map(layer).collect(),
        tie_embeddings: heads.len().is_multiple_of(2),
        ..LlamaConfig::transformer(31, 1, attention(24), 40)
    }));
    model.map(&mut Noise)
}

struct Noise;

impl ModuleMapper for Noise {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let noise = Distribution::Uniform(-0.3, 0.3);
        param.map(|value| value.clone() + value.random_like(noise))
    }
}

/// One of every kind: Transformer, student and hybrid of both families, tied and untied.
pub fn zoo() -> Vec<(String, Model)> {
    let mut models =
        vec![("mamba2 tied".to_string(), mamba2(true)), ("mamba2 untied".to_string(), mamba2(false))];
    for layers in ["aa", "mm", "mam", "amma"] {
        models.push((format!("llama {layers}"), llama(layers)));
        models.push((format!("phi {layers}"), phi(layers)));
    }
    for layers in ["1a1", "2aa2", "11", "2"] {
        models.push((format!("mamba in llama {layers}"), mamba_in_llama(layers)));
    }
    models.push(("mamba2 2a2".to_string(), mamba2_attention("2a2")));
    for junction in JUNCTIONS {
        for heads in [[4, 0, 1].as_slice(), &[0, 2], &[0]] {
            models.push((format!("{junction:?} {heads:?}"), parallel(junction, heads)));
        }
    }
    models
}

fn random(config: ModelConfig) -> Model {
    let device = Device::flex();
    // The generator belongs to the process: tests that run together would draw from each other's.
    static DRAWING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = DRAWING.lock().expect("no test panics while it draws");
    device.seed(11);
    config.init(&device).materialize()
}

/// `a` is attention, `m` a discrete Mamba-2 mixer.
fn mixers(layers: &str, biased: bool) -> Vec<MixerConfig> {
    let attention = attention(24).with_qkv_bias(biased).with_out_bias(biased);
    let mixer = |layer| match layer {
        'a' => MixerConfig::Attention(attention.clone()),
        _ => MixerConfig::DiscreteMamba2(discrete(24)),
    };
    layers.chars().map(mixer).collect()
}

/// f32 tensors by key.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A file in the making.
#[derive(Default)]
pub struct Writer(pub Tensors);

impl Writer {
    pub fn put<const D: usize>(&mut self, key: impl Into<String>, tensor: Tensor<D>) {
        let data = tensor.into_data();
        let values = data.try_to_vec().expect("f32");
        self.0.insert(key.into(), (data.shape().as_slice().to_vec(), values));
    }

    pub fn linear(&mut self, key: &str, linear: &Linear) {
        self.put(format!("{key}.weight"), linear.weight.val().transpose());
        if let Some(bias) = &linear.bias {
            self.put(format!("{key}.bias"), bias.val());
        }
    }

    pub fn conv(&mut self, key: &str, conv: &CausalConv1d) {
        self.put(format!("{key}.weight"), conv.weight.val().unsqueeze_dim::<3>(1));
        self.put(format!("{key}.bias"), conv.bias.as_ref().expect("a bias").val());
    }
}

pub fn tensors_of(bytes: &[u8]) -> Tensors {
    let file = SafeTensors::deserialize(bytes).expect("a file");
    let floats = |data: &[u8]| data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    file.iter().map(|(key, view)| (key.to_string(), (view.shape().to_vec(), floats(view.data())))).collect()
}

fn write_safetensors(path: &Path, tensors: &Tensors) {
    let bytes: BTreeMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(key, (_, values))| (key, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let views = tensors.iter().map(|(key, (shape, _))| {
        (key, TensorView::new(Dtype::F32, shape.clone(), &bytes[key]).expect("a tensor"))
    });
    std::fs::write(path, safetensors::serialize(views, None).expect("bytes")).expect("written");
}

pub fn folder(config: &Value, tensors: &Tensors) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("written");
    write_safetensors(&dir.path().join("model.safetensors"), tensors);
    dir
}

/// The bits of every parameter, in the order of the module.
pub fn bits(model: &Model) -> Vec<(Vec<usize>, Vec<u8>)> {
    struct Collect(Vec<(Vec<usize>, Vec<u8>)>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let data = param.val().into_data();
            self.0.push((data.shape().as_slice().to_vec(), data.as_bytes().to_vec()));
        }
    }
    let mut collect = Collect(Vec::new());
    model.visit(&mut collect);
    collect.0
}

pub fn tokens(rows: usize, length: usize) -> Tensor<2, Int> {
    let values: Vec<i64> = (0..rows * length).map(|i| (i * i * 7 + i * 3 + 1) as i64 % 31).collect();
    Tensor::from_data(TensorData::new(values, [rows, length]), &Device::flex())
}

/// A golden file of a Transformer as `compare` reads it. Its last hidden state, behind the final norm, is left out.
pub fn reference(family: &str) -> Vec<u8> {
    let golden = read(&format!("{family}.golden.safetensors"));
    let tensors = SafeTensors::deserialize(&golden).expect("a safetensors file");
    let last = tensors.names().into_iter().filter(|name| name.starts_with("hidden.")).count() - 1;
    let kept = tensors.iter().filter(|(key, _)| *key != format!("hidden.{last}"));
    let name = |key: &str| key.replace("hidden.", "hidden_states.").replace("attn.", "attentions.");
    let renamed: Vec<_> = kept.map(|(key, view)| (name(key), view)).collect();
    safetensors::serialize(renamed, None).expect("bytes")
}

/// A model of files that are what they should be.
pub fn load(dir: &Path) -> Result<Model, ModelError> {
    Model::load(dir, &Device::flex())
}

/// What is said of files that are not: one line that names them.
pub fn refused(dir: &Path) -> String {
    let message = load(dir).expect_err("not what it should be").to_string();
    assert!(!message.contains('\n'), "one line: {message}");
    assert!(message.contains(&dir.display().to_string()), "names the file: {message}");
    message
}
