//! From the path of a parameter in a model to its key in a file.
//!
//! Parameters of one key lie in one tensor, under each other in the order of the model's fields.

/// The key names of one dialect.
pub(crate) struct Names {
    /// In front of every key but the head's.
    root: &'static str,
    /// The token embedding.
    embedding: &'static str,
    /// The norm in front of the head.
    final_norm: &'static str,
    /// A state space mixer's parameters within a layer.
    mixer: &'static str,
    /// An attention's parameters within a layer.
    attention: &'static str,
    /// An attention's projections of queries, keys and values. What has one name lies in one tensor,
    /// the rows of the first on top.
    attention_in: [&'static str; 3],
    /// An attention's output projection.
    attention_out: &'static str,
    /// Keys that other writers use for the same tensor, and the keys they stand for.
    aliases: &'static [(&'static str, &'static str)],
}

/// Queries, keys and values apart.
const APART: [&str; 3] = ["q_proj", "k_proj", "v_proj"];
/// Queries, keys and values in one matrix.
const FUSED: [&str; 3] = ["in_proj"; 3];

impl Names {
    /// transformers' Llama.
    pub(crate) const LLAMA: Self = Self {
        root: "model",
        embedding: "embed_tokens",
        final_norm: "norm",
        mixer: "mixer",
        attention: "self_attn",
        attention_in: APART,
        attention_out: "o_proj",
        aliases: &[],
    };
    /// Llamba and its hybrids. Fast-LLM writes an untied head under the backbone.
    pub(crate) const LLAMBA: Self = Self {
        root: "backbone",
        embedding: "embedding",
        final_norm: "final_layernorm",
        mixer: "mixer",
        attention: "mixer.self_attn",
        attention_in: APART,
        attention_out: "o_proj",
        aliases: &[("backbone.lm_head.weight", "lm_head.weight")],
    };
    /// transformers' Phi.
    pub(crate) const PHI: Self = Self {
        root: "model",
        embedding: "embed_tokens",
        final_norm: "final_layernorm",
        mixer: "mixer",
        attention: "self_attn",
        attention_in: APART,
        attention_out: "dense",
        aliases: &[],
    };
    /// Phi-Mamba and its hybrids.
    pub(crate) const PHI_MAMBA: Self = Self {
        root: "backbone",
        embedding: "embedding",
        final_norm: "final_layernorm",
        mixer: "mixer",
        attention: "mixer.self_attn",
        attention_in: APART,
        attention_out: "dense",
        aliases: &[],
    };
    /// Mamba-2 of transformers; state-spaces writes the embedding in the singular.
    pub(crate) const MAMBA2: Self = Self {
        root: "backbone",
        embedding: "embeddings",
        final_norm: "norm_f",
        mixer: "mixer",
        attention: "mixer",
        attention_in: FUSED,
        attention_out: "out_proj",
        aliases: &[("backbone.embedding.weight", "backbone.embeddings.weight")],
    };
    /// mamba2attn: Mamba-2 with some attention, which only state-spaces knows.
    pub(crate) const MAMBA2_ATTENTION: Self = Self { embedding: "embedding", aliases: &[], ..Self::MAMBA2 };
    /// MambaInLlama as its inference code and M1 write it.
    pub(crate) const MAMBA_IN_LLAMA: Self = Self {
        root: "model",
        embedding: "embed_tokens",
        final_norm: "norm",
        mixer: "mamba",
        attention: "mha",
        attention_in: FUSED,
        attention_out: "out_proj",
        aliases: &[],
    };

    /// The key of the parameter at `path`, such as `layers.3.mixer.Attention.o_proj.weight`.
    pub(super) fn key(&self, path: &[&str]) -> String {
        let (root, rest) = (self.root, &path[1..]);
        match path[0] {
            "embedding" => format!("{root}.{}.{}", self.embedding, rest.join(".")),
            "final_layernorm" => format!("{root}.{}.{}", self.final_norm, rest.join(".")),
            "layers" => format!("{}{}", self.layer(rest[0]), self.in_layer(&rest[1..])),
            _ => path.join("."),
        }
    }

    /// What the keys of a layer begin with.
    pub(super) fn layer(&self, layer: impl std::fmt::Display) -> String {
        format!("{}.layers.{layer}.", self.root)
    }

    fn in_layer(&self, path: &[&str]) -> String {
        let mixer = self.mixer;
        match path {
            ["mixer", "Attention", name, rest @ ..] => {
                format!("{}.{}.{}", self.attention, self.in_attention(name), rest.join("."))
            }
            ["mixer", "Parallel", rest @ ..] => in_parallel(rest),
            ["mixer", _, rest @ ..] => format!("{mixer}.{}", in_ssm(rest)),
            other => other.join("."),
        }
    }

    fn in_attention<'a>(&self, name: &'a str) -> &'a str {
        let [q, k, v] = self.attention_in;
        match name {
            "q_proj" => q,
            "k_proj" => k,
            "v_proj" => v,
            "o_proj" => self.attention_out,
            other => other,
        }
    }

    /// The key that this dialect uses for a key found in a file, or nothing if it is no parameter.
    pub(super) fn canonical<'a>(&self, key: &'a str) -> Option<&'a str> {
        if key.contains("rotary_emb.") {
            return None; // frequencies that old files hold beside the weights
        }
        let alias = self.aliases.iter().find(|(alias, _)| *alias == key);
        Some(alias.map_or(key, |(_, canonical)| canonical))
    }
}

/// Within SSM and attention heads side by side, whose keys lie in the layer itself.
fn in_parallel(path: &[&str]) -> String {
    match path {
        ["mixer1", rest @ ..] => format!("mixer1.{}", in_ssm(rest)),
        ["mixer2", rest @ ..] => format!("mixer2.self_attn.{}", rest.join(".")),
        ["junction", "Adapter", rest @ ..] => format!("adapter.{}", rest.join(".")),
        ["junction", _, rest @ ..] => rest.join("."),
        other => other.join("."),
    }
}

/// Within a state space mixer.
fn in_ssm(path: &[&str]) -> String {
    match path {
        ["d"] => "D".into(),
        ["a_log"] => "A_log".into(),
        other => other.join("."),
    }
}
