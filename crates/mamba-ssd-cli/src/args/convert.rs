//! Arguments of `convert` and `inspect`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mamba_ssd::JunctionKind;

use super::DTypeArg;
use super::values::positive;

/// Replace attention layers by mixers.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The Transformer: a folder, a file of weights (safetensors, PyTorch, GGUF), an index of such files, or
    /// hf:OWNER/NAME[@REVISION]
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Folder for the converted model; must be new or empty
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Layers that become mixers: all, every:N, a list such as 0,2,5, or none to write the model as it is
    #[arg(long, value_name = "LAYERS", default_value = "all")]
    pub layers: LayersArg,
    /// How the mixers start
    #[arg(long, value_enum, default_value_t = InitArg::Mohawk)]
    pub init: InitArg,
    /// Attention heads that stay beside the mixers, as LAYER:HEAD, such as 9:25,4:4; all layers of a Llama or Qwen2
    /// must become mixers
    #[arg(long, value_name = "HEADS")]
    pub heads: Option<HeadsArg>,
    /// How a layer joins its mixer with the heads that stay
    #[arg(long, value_enum, default_value_t = JunctionArg::Adapter, requires = "heads")]
    pub junction: JunctionArg,
    /// Float type of the written weights
    #[arg(long, value_enum, default_value_t = DTypeArg::F32)]
    pub dtype: DTypeArg,
    /// Size of a file of weights beyond which several are written, in GB
    #[arg(long, value_name = "GB", default_value_t = 5.0, value_parser = positive)]
    pub shard_gb: f64,
    /// Print the report and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Show a model's files.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A folder, a file of weights (safetensors, PyTorch, GGUF), an index of such files, or hf:OWNER/NAME[@REVISION]
    #[arg(value_name = "MODEL", required_unless_present = "preset")]
    pub model: Option<PathBuf>,
    /// Show the shapes of a published model instead, without any file; a wrong name lists those that there are
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub preset: Option<String>,
}

/// How a mixer that replaces attention starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InitArg {
    /// MOHAWK's identity start: nothing of attention is copied
    Mohawk,
    /// Q, K, V and O become C, B, x and the output projection
    Qkvo,
}

/// How mixer and attention heads of one layer are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JunctionArg {
    /// The attention in the scale of the mixer, projected; their mean
    Adapter,
    /// Their sum
    Vanilla,
    /// Each normed and gated; their mean, projected
    Hymba,
    /// Norms of their own in front, one norm and one projection behind; their mean
    Merger,
}

impl From<JunctionArg> for JunctionKind {
    fn from(junction: JunctionArg) -> Self {
        match junction {
            JunctionArg::Adapter => Self::Adapter,
            JunctionArg::Vanilla => Self::Vanilla,
            JunctionArg::Hymba => Self::Hymba,
            JunctionArg::Merger => Self::Merger,
        }
    }
}

/// Layers and heads that stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadsArg(pub Vec<(usize, usize)>);

impl std::str::FromStr for HeadsArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pair = |pair: &str| {
            let (layer, head) = pair.split_once(':')?;
            Some((layer.trim().parse().ok()?, head.trim().parse().ok()?))
        };
        let pairs: Option<Vec<_>> = text.split(',').map(pair).collect();
        pairs.map(Self).ok_or_else(|| format!("found {text:?}; expected layers and heads such as 9:25,4:4"))
    }
}

/// Which layers become mixers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayersArg {
    /// No layer.
    None,
    /// Every layer.
    All,
    /// Layers 0, n, 2n and so on.
    Every(usize),
    /// These layers.
    List(Vec<usize>),
}

impl std::str::FromStr for LayersArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!("found {text:?}; expected all, none, every:N with N at least 1, or a list such as 0,2,5")
        };
        match text {
            "all" => return Ok(Self::All),
            "none" => return Ok(Self::None),
            _ => {}
        }
        if let Some(n) = text.strip_prefix("every:") {
            return n.parse().ok().filter(|n| *n > 0).map(Self::Every).ok_or_else(expected);
        }
        let layers: Result<Vec<usize>, _> = text.split(',').map(|layer| layer.trim().parse()).collect();
        layers.map(Self::List).map_err(|_| expected())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_all_every_nth_or_a_list() {
        assert_eq!("all".parse(), Ok(LayersArg::All));
        assert_eq!("none".parse(), Ok(LayersArg::None));
        assert_eq!("every:2".parse(), Ok(LayersArg::Every(2)));
        assert_eq!("0, 2,5".parse(), Ok(LayersArg::List(vec![0, 2, 5])));
        for wrong in ["", "every:0", "some", "1,-2"] {
            assert!(wrong.parse::<LayersArg>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn heads_are_pairs_of_layer_and_head() {
        assert_eq!("9:25, 4:4".parse(), Ok(HeadsArg(vec![(9, 25), (4, 4)])));
        for wrong in ["", "9", "9:", "9:25,", "9:-1", "9-25"] {
            assert!(wrong.parse::<HeadsArg>().is_err(), "{wrong:?} was taken");
        }
    }
}
