//! Language models around the mixers of [`mamba_ssd`], and their files.
//!
//! | model | covers |
//! |---|---|
//! | [`Llama`] | Llama 3.x, Llamba, hybrids of the two; MambaInLlama and M1 |
//! | [`Phi`] | Phi-1.5, Phi-Mamba, hybrids of the two |
//! | [`Mamba2Lm`] | Mamba-2 as transformers and state-spaces write it; mamba2attn |
//!
//! Teacher, hybrid and student are one struct whose layers hold other mixers: a [`Llama`] whose every
//! mixer is `DiscreteMamba2` *is* Llamba. A [`Model`] is any of them. A [`Checkpoint`] is one in files
//! of any format; reading is strict. What is written is the usual folder (`config.json`,
//! `model.safetensors`, `tokenizer.json`) with the key names of the published checkpoints, atomically. An [`Engine`] continues many
//! prompts at a time with any [`Backbone`](mamba_ssd::Backbone); [`generate()`] is its short form.
//!
//! ```
//! use burn::tensor::Device;
//! use mamba_ssd::{AttentionConfig, rope::RotaryConfig};
//! use mamba_ssd_convert::ConversionPlan;
//! use mamba_ssd_models::{GenerateOptions, LlamaConfig, ModelConfig, generate};
//!
//! let attention = AttentionConfig::new(32, 4, 2, 8, RotaryConfig::new(8));
//! let config = ModelConfig::Llama(LlamaConfig::transformer(100, 2, attention, 64));
//! let teacher = config.init(&Device::flex());
//!
//! let (student, report) = teacher.convert(&ConversionPlan::default())?;
//! println!("{report}");
//!
//! let prompts = [vec![1, 2, 3], vec![4]]; // tokens; rows of a batch may differ in length
//! let texts = generate(&student, &prompts, &GenerateOptions { max_new_tokens: 5, ..Default::default() });
//! assert_eq!(texts[0].len(), 5);
//! # Ok::<(), mamba_ssd_convert::ConvertError>(())
//! ```

mod chat;
mod checkpoint;
mod config;
mod convert;
mod device_sampling;
mod engine;
mod error;
pub mod generate;
mod llama;
mod mamba2;
mod model;
mod phi;
pub mod presets;
mod random;
pub mod sampling;
mod speculative;
mod text_stream;
mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use checkpoint::{Checkpoint, Deviation, Reference, SaveOptions, TensorInfo};
pub use config::{LlamaConfig, Mamba2LmConfig, ModelConfig, PhiConfig, SpecialTokens};
pub use engine::{
    Completion, Engine, EngineOptions, Event, Finish, Forks, Request, RequestError, SampleId, Usage,
};
pub use error::ModelError;
pub use generate::{GenerateOptions, ReadText, generate, generate_one, read_prompt, read_text, read_texts};
pub use llama::{Llama, LlamaBlock, LlamaMlp};
pub use mamba2::{Mamba2Block, Mamba2Lm};
pub use model::Model;
pub use phi::{Phi, PhiBlock, PhiMlp};
pub use random::uniform;
pub use sampling::Sampling;
pub use speculative::{SpeculateOptions, Speculated, speculate};
pub use text_stream::TextStream;
pub use tokenizer::Tokenizer;
