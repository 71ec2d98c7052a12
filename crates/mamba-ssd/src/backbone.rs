//! A stack of layers around mixers: what MOHAWK distils from and into, and what can be decoded.

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor};

use crate::{KvCache, MatrixMixer, Mixer, MixerState, Mixing, Segments, State, StateMap};

/// A language model made of an embedding, layers that each hold one mixer, and a head.
///
/// Implement it for your own model to distil it; the provided methods do the rest.
pub trait Backbone: Module {
    /// Number of layers.
    fn n_layers(&self) -> usize;

    /// Width of the residual stream, d.
    fn d_model(&self) -> usize;

    /// Rows of the head, v.
    fn vocab_size(&self) -> usize;

    /// The mixer of a layer.
    fn mixer(&self, layer: usize) -> &Mixer;

    /// Positions that attention has learnt, where there is attention that has a last one.
    fn max_positions(&self) -> Option<usize> {
        None
    }

    /// Token embeddings, `[b t]` to `[b t d]`.
    fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3>;

    /// A whole layer with its residuals, `[b t d]` to `[b t d]`.
    fn layer(&self, layer: usize, hidden: Tensor<3>, segments: Option<&Segments>) -> Tensor<3>;

    /// The norm in front of a layer's mixer, `[b t d]` to `[b t d]`.
    fn mixer_input(&self, layer: usize, hidden: Tensor<3>) -> Tensor<3>;

    /// Final norm and head, `[b t d]` to logits `[b t v]`.
    fn head(&self, hidden: Tensor<3>) -> Tensor<3>;

    /// A layer over a sequence that continues `state`.
    fn layer_prefill(&self, layer: usize, hidden: Tensor<3>, state: MixerState) -> (Tensor<3>, MixerState);

    /// A layer over one token, `[b d]`.
    fn layer_step(&self, layer: usize, hidden: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState);

    /// The output of a layer's mixer alone, from the hidden state that enters the layer.
    fn mixer_output(&self, layer: usize, hidden: Tensor<3>, segments: Option<&Segments>) -> Tensor<3> {
        self.mixer(layer).forward(self.mixer_input(layer, hidden), segments)
    }

    /// The mixing matrix of a layer by its factors, from the hidden state that enters the layer.
    fn mixing(&self, layer: usize, hidden: Tensor<3>, segments: Option<&Segments>) -> Mixing {
        self.mixer(layer).mixing(self.mixer_input(layer, hidden), segments)
    }

    /// The mixing matrix of a layer `[b h t t]`, from the hidden state that enters the layer.
    fn mixing_matrix(&self, layer: usize, hidden: Tensor<3>, segments: Option<&Segments>) -> Tensor<4> {
        self.mixing(layer, hidden, segments).whole()
    }

    /// The input of every layer, then the output of the last, before the final norm: `n_layers + 1`
    /// tensors `[b t d]`.
    fn hidden_states(&self, tokens: Tensor<2, Int>, segments: Option<&Segments>) -> Vec<Tensor<3>> {
        let mut states = vec![self.embed(tokens)];
        for layer in 0..self.n_layers() {
            states.push(self.layer(layer, states[layer].clone(), segments));
        }
        states
    }

    /// Logits `[b t v]` of tokens `[b t]`.
    fn forward(&self, tokens: Tensor<2, Int>, segments: Option<&Segments>) -> Tensor<3> {
        self.head(self.hidden(tokens, segments))
    }

    /// What [`Backbone::head`] turns into logits, `[b t d]`: for when only some of them are wanted.
    fn hidden(&self, tokens: Tensor<2, Int>, segments: Option<&Segments>) -> Tensor<3> {
        let embedded = self.embed(tokens);
        (0..self.n_layers()).fold(embedded, |hidden, layer| self.layer(layer, hidden, segments))
    }

    /// The state before the first token.
    fn init_state(&self, batch: usize, device: &Device) -> State {
        let dtype = self.embed(Tensor::zeros([1, 1], device)).dtype();
        let layers = (0..self.n_layers()).map(|layer| self.mixer(layer).init_state(batch, device));
        State { layers: layers.map(|state| state.map(&mut EmptyCaches(dtype))).collect() }
    }

    /// Logits `[b t v]` of tokens `[b t]` that continue `state`, and the state after them.
    fn prefill(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<3>, State) {
        let (hidden, state) = self.prefill_hidden(tokens, state);
        (self.head(hidden), state)
    }

    /// [`Backbone::prefill`] without the head, `[b t d]`.
    fn prefill_hidden(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<3>, State) {
        let mut hidden = self.embed(tokens);
        let mut layers = Vec::with_capacity(state.layers.len());
        for (layer, state) in state.layers.into_iter().enumerate() {
            let (output, state) = self.layer_prefill(layer, hidden, state);
            hidden = output;
            layers.push(state);
        }
        (hidden, State { layers })
    }

    /// Logits `[b v]` of one token a row, `[b]`, and the state after it.
    fn step(&self, tokens: Tensor<1, Int>, state: State) -> (Tensor<2>, State) {
        let mut hidden = self.embed(tokens.unsqueeze_dim::<2>(1)).squeeze_dim::<2>(1);
        let mut layers = Vec::with_capacity(state.layers.len());
        for (layer, state) in state.layers.into_iter().enumerate() {
            let (output, state) = self.layer_step(layer, hidden, state);
            hidden = output;
            layers.push(state);
        }
        let logits = self.head(hidden.unsqueeze_dim::<3>(1)).squeeze_dim(1);
        (logits, State { layers })
    }
}

/// Gives the caches of a new state the dtype of the residual stream, which weights may be stored narrower than.
struct EmptyCaches(DType);

impl StateMap for EmptyCaches {
    fn tensor<const D: usize>(&mut self, _name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
        tensor
    }

    fn cache(&mut self, cache: KvCache) -> KvCache {
        cache.empty_in(self.0)
    }
}
