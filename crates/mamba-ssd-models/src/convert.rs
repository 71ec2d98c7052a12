//! A model with other mixers.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use mamba_ssd::norm::RmsNorm;
use mamba_ssd::{Backbone, Junction, Mixer};
use mamba_ssd_convert::{ConversionPlan, ConversionReport, ConvertError, LayerReport};

use crate::config::kind;
use crate::{LlamaBlock, Model};

impl Model {
    /// The model with the attention of the plan's layers turned into `DiscreteMamba2` mixers, and a
    /// report of what became of every parameter; beside them stay the heads that the plan keeps.
    ///
    /// Everything outside those mixers is copied: embedding, norms, MLPs, head, and the attention of
    /// the other layers. The result is trainable and shares no parameter with `self`.
    ///
    /// # Errors
    ///
    /// If the plan selects layers or heads that do not exist or hold no attention, shapes that do not fit, or keeps
    /// heads of another model than a Llama.
    pub fn convert(&self, plan: &ConversionPlan) -> Result<(Model, ConversionReport), ConvertError> {
        let selected = plan.selected(self.n_layers())?;
        if plan.kept.is_some() && !matches!(self, Self::Llama(_)) {
            return Err(ConvertError::NoPlaceForHeads { family: self.config().family() });
        }
        let mut student = self.clone();
        let layers = convert_layers(&mut student.places(), &selected, plan)?;
        let student = student.map(&mut Fresh);
        let student_params = student.n_params();
        let new: usize = selected.iter().map(|&layer| student.mixer(layer).num_params()).sum();
        let report = ConversionReport {
            n_layers: self.n_layers(),
            layers,
            copied_outside: student_params - new,
            teacher_params: self.n_params(),
            student_params,
        };
        Ok((student, report))
    }

    fn places(&mut self) -> Vec<Place<'_>> {
        match self {
            Self::Llama(model) => model.layers.iter_mut().map(Place::in_llama).collect(),
            Self::Phi(model) => model.layers.iter_mut().map(|layer| Place::alone(&mut layer.mixer)).collect(),
            Self::Mamba2(model) => {
                model.layers.iter_mut().map(|layer| Place::alone(&mut layer.mixer)).collect()
            }
        }
    }
}

/// A mixer in its layer.
struct Place<'a> {
    mixer: &'a mut Mixer,
    /// The norm in front, where a mixer may take its place.
    norm: Option<&'a mut Option<RmsNorm>>,
}

impl<'a> Place<'a> {
    fn in_llama(layer: &'a mut LlamaBlock) -> Self {
        Self { mixer: &mut layer.mixer, norm: Some(&mut layer.input_layernorm) }
    }

    fn alone(mixer: &'a mut Mixer) -> Self {
        Self { mixer, norm: None }
    }

    fn norm_weight(&self) -> Option<Tensor<1>> {
        self.norm.as_ref()?.as_ref().map(|norm| norm.weight.val())
    }

    fn fill(&mut self, mixer: Mixer) {
        let merger =
            matches!(&mixer, Mixer::Parallel(mixer) if matches!(mixer.junction, Some(Junction::Merger(_))));
        if let Some(norm) = self.norm.as_mut().filter(|_| merger) {
            **norm = None;
        }
        *self.mixer = mixer;
    }
}

fn convert_layers(
    places: &mut [Place],
    selected: &[usize],
    plan: &ConversionPlan,
) -> Result<Vec<LayerReport>, ConvertError> {
    let n_layers = places.len();
    let mut reports = Vec::with_capacity(selected.len());
    for &layer in selected {
        let place = &mut places[layer];
        let Mixer::Attention(attention) = &*place.mixer else {
            return Err(ConvertError::NotAttention { layer, found: kind(&place.mixer.config()) });
        };
        let (mixer, report) = plan.convert_layer(layer, n_layers, attention, place.norm_weight())?;
        place.fill(mixer);
        reports.push(report);
    }
    Ok(reports)
}

/// Gives every parameter an identity of its own, apart from the graph and freezing of the original.
struct Fresh;

impl ModuleMapper for Fresh {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        Param::from_tensor(param.val().detach())
    }
}
