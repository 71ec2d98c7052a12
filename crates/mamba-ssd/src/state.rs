//! What a model carries from token to token: rows that can be repeated, chosen and joined.

use burn::tensor::{DType, Device, FloatDType, Tensor};

use crate::mixer::{Append, KvCache, MixerState, Rows, StateMap};

/// What a model carries from token to token, layer by layer. Rows of the batch are independent of each
/// other.
///
/// A state is a handle: cloning one costs nothing, and the clone stays as it is while the original moves on. (On GPUs numbers that
/// burn was asked for with `into_data` and that were not looked at yet are no clone.)
///
/// # Example
///
/// ```ignore
/// let (logits, state) = model.prefill(prompt, model.init_state(1, &device));
/// let state = state.fork(16); // sixteen samples of one prompt
/// ```
#[derive(Clone, Debug)]
pub struct State {
    /// One state per layer.
    pub layers: Vec<MixerState>,
}

impl State {
    /// Bytes held for the whole batch.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(MixerState::bytes).sum()
    }

    /// Bytes that one more token of every row adds.
    pub fn bytes_per_token(&self) -> usize {
        self.layers.iter().map(MixerState::bytes_per_token).sum()
    }

    /// Bytes that [`State::fork`] will hold, before it allocates them.
    pub fn fork_bytes(&self, n: usize) -> usize {
        self.bytes().saturating_mul(n)
    }

    /// Tokens that caches hold of their longest row; 0 where there is no cache.
    pub fn columns(&self) -> usize {
        self.layers.iter().map(MixerState::columns).max().unwrap_or(0)
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.layers.first().map_or(0, MixerState::batch)
    }

    /// Whether both have the same parts in the same shapes, but for rows and for tokens in caches: states of one model have.
    pub fn is_like(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }

    fn parts(&self) -> Vec<(usize, &'static str, Vec<usize>)> {
        #[derive(Default)]
        struct Parts(Vec<(&'static str, Vec<usize>)>);
        impl StateMap for Parts {
            fn tensor<const D: usize>(&mut self, name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
                self.0.push((name, tensor.dims()[1..].to_vec()));
                tensor
            }

            fn cache(&mut self, cache: KvCache) -> KvCache {
                let [_, heads, _, width] = cache.k.dims();
                self.0.push(("cache", vec![heads, width]));
                cache
            }
        }
        let of_layer = |(layer, state): (usize, &MixerState)| {
            let mut parts = Parts::default();
            state.clone().map(&mut parts);
            parts.0.into_iter().map(move |(name, shape)| (layer, name, shape))
        };
        self.layers.iter().enumerate().flat_map(of_layer).collect()
    }

    /// Whether it keeps its size from token to token.
    pub fn is_constant(&self) -> bool {
        self.layers.iter().all(MixerState::is_constant)
    }

    /// Every row `n` times, copies side by side: rows a b become a a b b. The key-value cache of an only row is shared until
    /// a token is appended.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    pub fn fork(self, n: usize) -> Self {
        let rows: Vec<usize> = (0..self.batch()).flat_map(|row| std::iter::repeat_n(row, n)).collect();
        self.select(&rows)
    }

    /// These rows, in this order, any of them several times. Caches lose columns that no kept row needs, on GPUs when they
    /// are a quarter of all.
    ///
    /// A state that nothing else holds stays where it is if every row that changes its place comes from behind those
    /// that are kept, as `[0, 3, 2]` of four do, and at least half are kept: nothing but that row is copied.
    ///
    /// # Panics
    ///
    /// If no row is named, or one that is not there.
    pub fn select(self, rows: &[usize]) -> Self {
        let batch = self.batch();
        assert!(!rows.is_empty(), "a state has at least one row");
        assert!(rows.iter().all(|&row| row < batch), "rows {rows:?} of a state of {batch}");
        let Some(device) = self.device() else { return self };
        self.map(&mut Rows::new(rows, batch, &device))
    }

    /// All rows of all states, which are states of one model. Caches of different lengths are aligned at
    /// their last tokens; their empty columns are never seen.
    ///
    /// # Panics
    ///
    /// If there is no state, or they are of different models.
    pub fn concat(states: Vec<Self>) -> Self {
        let depth = states.first().expect("at least one state").layers.len();
        assert!(states.iter().all(|state| state.layers.len() == depth), "states of one model");
        let mut layers: Vec<_> = states.into_iter().map(|state| state.layers.into_iter()).collect();
        let joined = (0..depth).map(|_| {
            let mut of_layer = layers.iter_mut().filter_map(Iterator::next);
            let first = of_layer.next().expect("as many layers in every state");
            let mut append = Append::new(of_layer);
            first.map(&mut append)
        });
        Self { layers: joined.collect() }
    }

    /// The state before the last `tokens` of every row, if it consists of caches alone; parts of constant size have
    /// forgotten it, see [`History`](crate::History).
    ///
    /// # Panics
    ///
    /// If a row of a cache has fewer tokens.
    pub fn without_last(self, tokens: usize) -> Option<Self> {
        let mut cut = WithoutLast { tokens, forgotten: false };
        let state = self.map(&mut cut);
        (!cut.forgotten).then_some(state)
    }

    /// The same with SSD states kept in `dtype`: half as many bytes in bf16, which is what a step of a large batch is
    /// made of. Steps compute in f32 and round what they keep; a prefill leaves its states in f32 or wider again.
    pub fn with_ssm_dtype(self, dtype: FloatDType) -> Self {
        self.map(&mut InDtype(dtype.into()))
    }

    /// Every part changed, layer by layer.
    pub fn map(self, change: &mut impl StateMap) -> Self {
        Self { layers: self.layers.into_iter().map(|layer| layer.map(change)).collect() }
    }

    fn device(&self) -> Option<Device> {
        struct Find(Option<Device>);
        impl StateMap for Find {
            fn tensor<const D: usize>(&mut self, _name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
                self.0 = Some(tensor.device());
                tensor
            }

            fn cache(&mut self, cache: KvCache) -> KvCache {
                self.0 = Some(cache.k.device());
                cache
            }
        }
        let mut find = Find(None);
        self.layers.first()?.clone().map(&mut find);
        find.0
    }
}

/// Changes the dtype of SSD states.
struct InDtype(DType);

impl StateMap for InDtype {
    fn tensor<const D: usize>(&mut self, name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
        if name == "ssm" { tensor.cast(self.0) } else { tensor }
    }

    fn cache(&mut self, cache: KvCache) -> KvCache {
        cache
    }
}

/// Cuts caches.
struct WithoutLast {
    tokens: usize,
    /// Whether there is a part that cannot be cut.
    forgotten: bool,
}

impl StateMap for WithoutLast {
    fn tensor<const D: usize>(&mut self, _name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
        self.forgotten = true;
        tensor
    }

    fn cache(&mut self, cache: KvCache) -> KvCache {
        cache.without_last(self.tokens)
    }
}
