//! What to convert, and how.

use burn::tensor::Tensor;
use mamba_ssd::{Attention, AttentionConfig, DiscreteMamba2Config, JunctionKind, Mixer};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{ConvertError, LayerReport, attention_to_discrete_mamba2, attention_to_parallel};

/// Where a mixer's weights start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// As MOHAWK starts: gate open, convolution the identity, D = 1, projections random. Nothing of
    /// Q, K, V and O is used.
    #[default]
    Mohawk,
    /// Q → C, K → B, V → x, O → out_proj, with D = 0: masked linear attention with a decay.
    Qkvo,
}

/// The layers whose attention becomes a mixer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerSelection {
    /// Every layer.
    #[default]
    All,
    /// Layers 0, n, 2n and so on.
    EveryNth(usize),
    /// These layers.
    List(Vec<usize>),
    /// Every layer but these, which keep their attention.
    AllExcept(Vec<usize>),
    /// Every layer but the nth, the 2nth and so on, which keep their attention.
    AllExceptEveryNth(usize),
    /// Every layer but so many that are the most important ones, which keep their attention. Importance has to be measured
    /// first: `mamba-ssd distill` does, and puts [`AllExcept`](Self::AllExcept) in its place.
    AllExceptMostImportant(usize),
}

impl LayerSelection {
    /// The selected layers of `n_layers`, in order and without repetition.
    ///
    /// # Errors
    ///
    /// If a listed layer does not exist, none is left, or importance is to be measured first.
    pub fn resolve(&self, n_layers: usize) -> Result<Vec<usize>, ConvertError> {
        let listed = match self {
            Self::List(layers) | Self::AllExcept(layers) => layers.as_slice(),
            Self::AllExceptMostImportant(_) => return Err(ConvertError::NotMeasured),
            Self::All | Self::EveryNth(_) | Self::AllExceptEveryNth(_) => &[],
        };
        if let Some(&layer) = listed.iter().find(|&&layer| layer >= n_layers) {
            return Err(ConvertError::NoSuchLayer { layer, n_layers });
        }
        let selected: Vec<usize> = (0..n_layers).filter(|&layer| self.contains(layer)).collect();
        if selected.is_empty() {
            return Err(ConvertError::NothingSelected);
        }
        Ok(selected)
    }

    fn contains(&self, layer: usize) -> bool {
        match self {
            Self::All => true,
            Self::EveryNth(n) => *n > 0 && layer.is_multiple_of(*n),
            Self::List(layers) => layers.contains(&layer),
            Self::AllExcept(layers) => !layers.contains(&layer),
            Self::AllExceptMostImportant(_) => false,
            Self::AllExceptEveryNth(n) => *n == 0 || !(layer + 1).is_multiple_of(*n),
        }
    }
}

/// Attention heads that stay beside the mixers of the layers that change: those that retrieve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptHeads {
    /// How a layer joins its mixer and its attention heads; `adapter`, `vanilla`, `hymba` or `merger` in a recipe.
    #[serde(with = "junction_name")]
    pub junction: JunctionKind,
    /// Layer and query head. Every layer that changes has the junction, with or without heads.
    pub heads: Vec<(usize, usize)>,
}

/// A junction by its name in small letters, as on the command line.
mod junction_name {
    use mamba_ssd::JunctionKind;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    const NAMES: [(&str, JunctionKind); 4] = [
        ("adapter", JunctionKind::Adapter),
        ("vanilla", JunctionKind::Vanilla),
        ("hymba", JunctionKind::Hymba),
        ("merger", JunctionKind::Merger),
    ];

    pub fn serialize<S: Serializer>(junction: &JunctionKind, serializer: S) -> Result<S::Ok, S::Error> {
        let name = NAMES.iter().find(|(_, kind)| kind == junction).expect("a name for each").0;
        serializer.serialize_str(name)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<JunctionKind, D::Error> {
        let found = String::deserialize(deserializer)?;
        let named = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(&found));
        let names = NAMES.map(|(name, _)| name).join(", ");
        named
            .map(|(_, kind)| *kind)
            .ok_or_else(|| D::Error::custom(format!("no junction `{found}`, expected one of {names}")))
    }
}

impl KeptHeads {
    /// The heads of a layer, in the order given.
    pub fn of_layer(&self, layer: usize) -> Vec<usize> {
        self.heads.iter().filter(|(of, _)| *of == layer).map(|(_, head)| *head).collect()
    }

    fn check(&self, selected: &[usize]) -> Result<(), ConvertError> {
        for (index, &(layer, head)) in self.heads.iter().enumerate() {
            if self.heads[..index].contains(&(layer, head)) {
                return Err(ConvertError::HeadTwice { layer, head });
            }
            if !selected.contains(&layer) {
                return Err(ConvertError::HeadOutside { layer, head });
            }
        }
        Ok(())
    }
}

/// A conversion of a whole model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConversionPlan {
    /// The layers that change.
    pub layers: LayerSelection,
    /// Where their weights start.
    pub init: Init,
    /// State size n; the attention's head dimension when absent.
    pub d_state: Option<usize>,
    /// Heads h; the attention's query heads when absent. Matrices of teacher and student can be
    /// compared only when they agree.
    pub n_heads: Option<usize>,
    /// Tokens per chunk of the scan; 128 when absent.
    pub chunk_size: Option<usize>,
    /// Whether the mixers' projections have biases. Only then can a decay start anywhere but at 1/2:
    /// the heads' spans are spread from 8 to 256 tokens.
    pub bias: bool,
    /// What C is multiplied by where it starts as the teacher's queries, beyond 1/√head_dim; 1 when absent. Scores that
    /// a softmax would normalise add up to large numbers without one.
    pub query_scale: Option<f64>,
    /// Seed of the random weights. Every layer draws from a stream of its own.
    pub seed: u64,
    /// Attention heads that stay, beside mixers with all heads; without it the mixers stand alone.
    pub kept: Option<KeptHeads>,
}

/// The conversion of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerPlan {
    /// Index of the layer.
    pub layer: usize,
    /// Layers of the model; the output projection starts at `1/√n_layers` of its usual size.
    pub n_layers: usize,
    /// Where the weights start.
    pub init: Init,
    /// What queries are multiplied by, beyond 1/√head_dim.
    pub query_scale: f64,
    /// Seed of the random weights.
    pub seed: u64,
}

impl LayerPlan {
    /// The layer's own random stream, whatever other layers are converted.
    pub(crate) fn rng(&self) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.layer as u64);
        rng
    }

    /// That of what joins the layer's mixer with attention heads: the mixer starts as it would alone.
    pub(crate) fn junction_rng(&self) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(u64::MAX - self.layer as u64);
        rng
    }
}

impl ConversionPlan {
    /// The shapes of the mixer that takes the place of an attention.
    ///
    /// The inner width is that of the attention's heads where the mixer can have it, else
    /// `d_model`.
    pub fn mixer_config(&self, attention: &AttentionConfig) -> DiscreteMamba2Config {
        let d_state = self.d_state.unwrap_or(attention.head_dim);
        let n_heads = self.n_heads.unwrap_or(attention.n_heads);
        let width = attention.n_heads * attention.head_dim;
        let config = DiscreteMamba2Config::new(attention.d_model, n_heads, d_state);
        let expand = (width / attention.d_model).max(1);
        let chunk_size = self.chunk_size.unwrap_or(config.chunk_size);
        config.with_expand(expand).with_chunk_size(chunk_size).with_bias(self.bias)
    }

    /// The layers of `n_layers` that change, in order.
    ///
    /// # Errors
    ///
    /// As [`LayerSelection::resolve`]; also if a head is to be kept twice, or in a layer that does not change.
    pub fn selected(&self, n_layers: usize) -> Result<Vec<usize>, ConvertError> {
        let selected = self.layers.resolve(n_layers)?;
        self.kept.as_ref().map_or(Ok(()), |kept| kept.check(&selected))?;
        Ok(selected)
    }

    /// Converts one layer of a model of `n_layers`. `norm [d]` is the scale of the norm in front of the attention;
    /// only a [`JunctionKind::Merger`] takes it over, and the layer has no norm there afterwards.
    ///
    /// # Errors
    ///
    /// See [`attention_to_discrete_mamba2`] and [`attention_to_parallel`].
    pub fn convert_layer(
        &self,
        layer: usize,
        n_layers: usize,
        attention: &Attention,
        norm: Option<Tensor<1>>,
    ) -> Result<(Mixer, LayerReport), ConvertError> {
        let query_scale = self.query_scale.unwrap_or(1.0);
        let plan = LayerPlan { layer, n_layers, init: self.init, query_scale, seed: self.seed };
        let config = self.mixer_config(attention.config());
        match &self.kept {
            None => attention_to_discrete_mamba2(attention, &config, plan)
                .map(|(mixer, report)| (Mixer::DiscreteMamba2(mixer), report)),
            Some(kept) => attention_to_parallel(attention, &config, kept, norm, plan)
                .map(|(mixer, report)| (Mixer::Parallel(mixer), report)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_name_the_layers_that_change() {
        let resolve = |selection: LayerSelection| selection.resolve(6);
        assert_eq!(resolve(LayerSelection::All), Ok(vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(resolve(LayerSelection::EveryNth(2)), Ok(vec![0, 2, 4]));
        assert_eq!(resolve(LayerSelection::List(vec![5, 1, 1])), Ok(vec![1, 5]));
        assert_eq!(resolve(LayerSelection::AllExcept(vec![4, 1])), Ok(vec![0, 2, 3, 5]));
        assert_eq!(resolve(LayerSelection::AllExceptEveryNth(3)), Ok(vec![0, 1, 3, 4]));
        assert_eq!(resolve(LayerSelection::AllExceptEveryNth(7)), Ok(vec![0, 1, 2, 3, 4, 5]));
    }

    #[test]
    fn kept_heads_must_lie_in_layers_that_change_and_be_named_once() {
        let selected = |heads: &[(usize, usize)]| {
            let kept = KeptHeads { junction: JunctionKind::Adapter, heads: heads.to_vec() };
            let layers = LayerSelection::List(vec![1, 3]);
            ConversionPlan { layers, kept: Some(kept), ..ConversionPlan::default() }.selected(4)
        };
        assert_eq!(selected(&[(3, 0), (1, 5), (3, 2)]), Ok(vec![1, 3]));
        assert_eq!(selected(&[(2, 0)]), Err(ConvertError::HeadOutside { layer: 2, head: 0 }));
        assert_eq!(selected(&[(1, 7), (3, 7), (1, 7)]), Err(ConvertError::HeadTwice { layer: 1, head: 7 }));
    }

    #[test]
    fn impossible_selections_are_refused() {
        let missing = ConvertError::NoSuchLayer { layer: 6, n_layers: 6 };
        assert_eq!(LayerSelection::List(vec![6]).resolve(6), Err(missing));
        assert_eq!(LayerSelection::EveryNth(0).resolve(6), Err(ConvertError::NothingSelected));
        assert_eq!(LayerSelection::AllExceptMostImportant(2).resolve(6), Err(ConvertError::NotMeasured));
        assert_eq!(LayerSelection::AllExceptEveryNth(1).resolve(6), Err(ConvertError::NothingSelected));
        assert_eq!(LayerSelection::List(vec![]).resolve(6), Err(ConvertError::NothingSelected));
    }

    #[test]
    fn plans_read_as_a_recipe_writes_them() {
        let text = r#"{"layers": {"all_except": [4, 10]}, "init": "qkvo", "d_state": 64, "seed": 3}"#;
        let plan: ConversionPlan = serde_json::from_str(text).expect("a valid plan");
        assert_eq!(plan.layers, LayerSelection::AllExcept(vec![4, 10]));
        assert_eq!((plan.init, plan.d_state, plan.seed), (Init::Qkvo, Some(64), 3));
        let kept = |name: &str| format!(r#"{{"kept": {{"junction": "{name}", "heads": [[1, 3]]}}}}"#);
        for name in ["adapter", "Adapter"] {
            let plan: ConversionPlan = serde_json::from_str(&kept(name)).expect("a valid plan");
            assert_eq!(plan.kept.as_ref().map(|kept| kept.junction), Some(JunctionKind::Adapter));
            assert!(serde_json::to_string(&plan).expect("JSON").contains("\"adapter\""));
        }
        let error =
            serde_json::from_str::<ConversionPlan>(&kept("glue")).expect_err("no such junction").to_string();
        assert!(error.contains("`glue`, expected one of adapter, vanilla"), "{error}");
        assert!(serde_json::from_str::<ConversionPlan>(r#"{"dstate": 64}"#).is_err());
    }
}
