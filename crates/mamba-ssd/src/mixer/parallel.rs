//! SSM heads and attention heads in one layer, side by side on the same input.
//!
//! ```text
//! out = junction(mixer1(u), mixer2(u))
//! ```
//!
//! MOHAWK's head-level hybrids (Bick et al., code; "retrieval-aware" in their papers): every head becomes an SSM
//! head, and a few heads of the teacher, those that retrieve, stay attention beside them. Names are those of the
//! published code: `mixer1` is the SSM, `mixer2` the attention. A layer may have no attention head.
//!
//! The mixing matrix is that of the SSM, which has as many heads as the teacher, and whose rows MOHAWK's first stage
//! compares with the teacher's. What the attention adds belongs to [`MatrixMixer::output`]: its heads may have
//! another width, and their matrices are the teacher's already.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::junction::{Junction, JunctionKind};
use super::{
    Attention, AttentionConfig, DiscreteMamba2, DiscreteMamba2Config, MatrixMixer, MixerState, Mixing,
};
use crate::Segments;

/// Shapes of a [`Parallel`].
#[derive(Config, Debug)]
pub struct ParallelConfig {
    /// The SSM heads.
    pub ssm: DiscreteMamba2Config,
    /// How the two are joined.
    pub junction: JunctionKind,
    /// The attention heads, if the layer has any.
    pub attention: Option<AttentionConfig>,
}

impl ParallelConfig {
    /// Number of parameters.
    pub fn n_params(&self) -> usize {
        let attention = self.attention.as_ref().map_or(0, AttentionConfig::n_params);
        let junction = self.junction.n_params(self.ssm.d_model, self.attention.is_some());
        self.ssm.n_params() + attention + junction
    }

    /// A mixer with random weights.
    ///
    /// # Panics
    ///
    /// If the widths of the two differ, or one of them has heads that do not divide.
    pub fn init(&self, device: &Device) -> Parallel {
        if let Some(attention) = &self.attention {
            let (ssm, attention) = (self.ssm.d_model, attention.d_model);
            assert_eq!(ssm, attention, "the SSM has a width of {ssm}, the attention of {attention}");
        }
        Parallel {
            mixer1: self.ssm.init(device),
            mixer2: self.attention.as_ref().map(|attention| attention.init(device)),
            junction: self.junction.init(self.ssm.d_model, self.attention.is_some(), device),
            kind: self.junction,
        }
    }
}

/// SSM heads and attention heads side by side.
#[derive(Module, Debug)]
pub struct Parallel {
    /// The SSM heads.
    pub mixer1: DiscreteMamba2,
    /// The attention heads, if there are any.
    pub mixer2: Option<Attention>,
    /// What is learned of how to join them, if anything is.
    pub junction: Option<Junction>,
    #[module(skip)]
    kind: JunctionKind,
}

impl Parallel {
    /// Shapes of this mixer.
    pub fn config(&self) -> ParallelConfig {
        let attention = self.mixer2.as_ref().map(|mixer| mixer.config().clone());
        ParallelConfig::new(self.mixer1.config().clone(), self.kind).with_attention(attention)
    }

    /// The inputs of the SSM and of the attention.
    fn inputs<const D: usize>(&self, u: Tensor<D>) -> [Tensor<D>; 2] {
        match &self.junction {
            Some(junction) => junction.inputs(u),
            None => [u.clone(), u],
        }
    }

    fn join<const D: usize>(&self, ssm: Tensor<D>, attention: Option<Tensor<D>>) -> Tensor<D> {
        match (&self.junction, attention) {
            (Some(junction), attention) => junction.join(ssm, attention),
            (None, Some(attention)) => ssm + attention,
            (None, None) => ssm,
        }
    }

    /// Both mixers on their inputs, each with its state, and their outputs joined.
    fn advance<const D: usize>(
        &self,
        u: Tensor<D>,
        state: MixerState,
        ssm: impl Fn(&DiscreteMamba2, Tensor<D>, MixerState) -> (Tensor<D>, MixerState),
        attention: impl Fn(&Attention, Tensor<D>, MixerState) -> (Tensor<D>, MixerState),
    ) -> (Tensor<D>, MixerState) {
        let [first, second] = self.inputs(u);
        let Some(mixer2) = &self.mixer2 else {
            let (y, state) = ssm(&self.mixer1, first, state);
            return (self.join(y, None), state);
        };
        let [state1, state2] = state.into_parallel();
        let (y1, state1) = ssm(&self.mixer1, first, state1);
        let (y2, state2) = attention(mixer2, second, state2);
        (self.join(y1, Some(y2)), MixerState::parallel(state1, state2))
    }
}

impl MatrixMixer for Parallel {
    fn forward(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        let [first, second] = self.inputs(u);
        let attention = self.mixer2.as_ref().map(|mixer| mixer.forward(second, segments));
        self.join(self.mixer1.forward(first, segments), attention)
    }

    fn values(&self, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<4> {
        let [first, _] = self.inputs(u);
        self.mixer1.values(first, segments)
    }

    fn mixing(&self, u: Tensor<3>, segments: Option<&Segments>) -> Mixing {
        let [first, _] = self.inputs(u);
        self.mixer1.mixing(first, segments)
    }

    fn output(&self, mixed: Tensor<4>, u: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        let [first, second] = self.inputs(u);
        let attention = self.mixer2.as_ref().map(|mixer| mixer.forward(second, segments));
        self.join(self.mixer1.output(mixed, first, segments), attention)
    }

    /// That of the SSM alone where there are no attention heads: it keeps its size then.
    fn init_state(&self, batch: usize, device: &Device) -> MixerState {
        let ssm = self.mixer1.init_state(batch, device);
        match &self.mixer2 {
            Some(mixer2) => MixerState::parallel(ssm, mixer2.init_state(batch, device)),
            None => ssm,
        }
    }

    fn prefill(&self, u: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState) {
        self.advance(u, state, MatrixMixer::prefill, MatrixMixer::prefill)
    }

    fn step(&self, u: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState) {
        self.advance(u, state, MatrixMixer::step, MatrixMixer::step)
    }

    fn n_heads(&self) -> usize {
        self.mixer1.n_heads()
    }
}
