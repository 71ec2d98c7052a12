//! A model with other mixers.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use mamba_ssd::{Backbone, Mixer};
use mamba_ssd_convert::{ConversionPlan, ConversionReport, ConvertError, LayerReport};

use crate::Model;
use crate::config::kind;

impl Model {
    /// The model with the attention of the plan's layers turned into `DiscreteMamba2` mixers, and a
    /// report of what became of every parameter.
    ///
    /// Everything outside those mixers is copied: embedding, norms, MLPs, head, and the attention of
    /// the other layers. The result is trainable and shares no parameter with `self`.
    ///
    /// # Errors
    ///
    /// If the plan selects layers that do not exist or hold no attention, or shapes that do not fit.
    pub fn convert(&self, plan: &ConversionPlan) -> Result<(Model, ConversionReport), ConvertError> {
        let selected = plan.layers.resolve(self.n_layers())?;
        let mut student = self.clone();
        let layers = convert_mixers(&mut student.mixers_mut(), &selected, plan)?;
        let student = student.map(&mut Fresh);
        let teacher_params = self.n_params();
        let replaced: usize = selected.iter().map(|&layer| self.mixer(layer).num_params()).sum();
        let report = ConversionReport {
            n_layers: self.n_layers(),
            layers,
            copied_outside: teacher_params - replaced,
            teacher_params,
            student_params: student.n_params(),
        };
        Ok((student, report))
    }

    fn mixers_mut(&mut self) -> Vec<&mut Mixer> {
        match self {
            Self::Llama(model) => model.layers.iter_mut().map(|layer| &mut layer.mixer).collect(),
            Self::Phi(model) => model.layers.iter_mut().map(|layer| &mut layer.mixer).collect(),
            Self::Mamba2(model) => model.layers.iter_mut().map(|layer| &mut layer.mixer).collect(),
        }
    }
}

fn convert_mixers(
    mixers: &mut [&mut Mixer],
    selected: &[usize],
    plan: &ConversionPlan,
) -> Result<Vec<LayerReport>, ConvertError> {
    let n_layers = mixers.len();
    let mut reports = Vec::with_capacity(selected.len());
    for &layer in selected {
        let Mixer::Attention(attention) = &*mixers[layer] else {
            return Err(ConvertError::NotAttention { layer, found: kind(&mixers[layer].config()) });
        };
        let (mixer, report) = plan.convert_layer(layer, n_layers, attention)?;
        *mixers[layer] = Mixer::DiscreteMamba2(mixer);
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
