//! What can stand in the way of a conversion.

use thiserror::Error;

/// A conversion that cannot be done, and what to change.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConvertError {
    /// A selected layer does not exist.
    #[error("layer {layer} was selected, but the model has layers 0 to {}; choose among those", n_layers - 1)]
    NoSuchLayer {
        /// The layer asked for.
        layer: usize,
        /// Layers of the model.
        n_layers: usize,
    },
    /// A selection is empty.
    #[error("no layer was selected for conversion; select at least one")]
    NothingSelected,
    /// A selection by importance, which nobody has measured.
    #[error(
        "which layers are important has to be measured first: `mamba-ssd distill` does, or name those that `mamba-ssd importance` prints"
    )]
    NotMeasured,
    /// A selected layer is not attention.
    #[error("layer {layer} is {found}, only attention can be converted; leave it out of the selection")]
    NotAttention {
        /// The layer asked for.
        layer: usize,
        /// Its mixer.
        found: &'static str,
    },
    /// Teacher and student differ in width.
    #[error("the attention has d_model {teacher}, the mixer {student}; they must be equal")]
    Width {
        /// Width of the attention.
        teacher: usize,
        /// Width of the mixer.
        student: usize,
    },
    /// Heads that do not divide.
    #[error("{heads} heads do not divide a width of {d_inner}; choose a divisor as n_heads")]
    HeadDim {
        /// Heads of the mixer.
        heads: usize,
        /// Inner width of the mixer.
        d_inner: usize,
    },
    /// Groups that do not divide.
    #[error("{groups} query-key heads do not divide {heads} heads; choose a divisor as n_qk_heads")]
    Groups {
        /// Heads of B and C.
        groups: usize,
        /// Heads of x.
        heads: usize,
    },
    /// Heads whose projections cannot be copied.
    #[error(
        "the attention has {teacher} heads of {head_dim}, the mixer {student} heads ({groups} for B and C): \
         Q, K, V and O can be copied when the mixer's head counts are multiples of {teacher}; \
         choose n_heads = {teacher}, or init = mohawk, which copies none of them"
    )]
    Heads {
        /// Query heads of the attention.
        teacher: usize,
        /// Features per head of the attention.
        head_dim: usize,
        /// Heads of the mixer.
        student: usize,
        /// Heads of B and C of the mixer.
        groups: usize,
    },
    /// An inner width that is not the attention's.
    #[error(
        "the attention's heads add up to {teacher} features, the mixer's to {student}; choose `expand` so that they agree, or init = mohawk"
    )]
    InnerWidth {
        /// Query heads times head dimension.
        teacher: usize,
        /// `d_inner` of the mixer.
        student: usize,
    },
    /// A state too small for a key.
    #[error(
        "a state of {d_state} cannot hold keys of {head_dim} features; choose d_state >= {head_dim}, or init = mohawk"
    )]
    StateSize {
        /// State size of the mixer.
        d_state: usize,
        /// Features per head of the attention.
        head_dim: usize,
    },
    /// A head to keep that does not exist.
    #[error("head {head} of layer {layer} was to be kept, but that layer has heads 0 to {}; choose among those", n_heads - 1)]
    NoSuchHead {
        /// Layer of the head.
        layer: usize,
        /// The head asked for.
        head: usize,
        /// Heads of that layer.
        n_heads: usize,
    },
    /// A head to keep that is named twice.
    #[error("head {head} of layer {layer} was to be kept twice; name it once")]
    HeadTwice {
        /// Layer of the head.
        layer: usize,
        /// The head asked for.
        head: usize,
    },
    /// A head to keep in a layer that does not change.
    #[error(
        "head {head} of layer {layer} was to be kept, but that layer is not converted; select it, or leave the head out"
    )]
    HeadOutside {
        /// Layer of the head.
        layer: usize,
        /// The head asked for.
        head: usize,
    },
    /// A model whose layers cannot hold both.
    #[error("heads were to be kept beside mixers, which is for layers of Llama or Qwen2; this is a {family}")]
    NoPlaceForHeads {
        /// What the model is.
        family: &'static str,
    },
    /// Heads that share a convolution.
    #[error(
        "layer {layer} has a convolution before its heads, which cannot be kept apart; leave its heads out"
    )]
    HeadsWithConvolution {
        /// Layer of the heads.
        layer: usize,
    },
    /// A convolution that cannot pass its input through.
    #[error(
        "Q, K and V cannot pass through a convolution with an activation; choose activation = identity, or init = mohawk"
    )]
    Activation,
}
