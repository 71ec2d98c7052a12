//! What a mixer carries from token to token, and the one way to change it.
//!
//! Forking, selecting, concatenating, saving and restoring treat every state alike: as rows of tensors, and
//! caches. A kind of state says once, in [`MixerState::map`], which of them it holds.

use std::collections::VecDeque;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::KvCache;

/// What a mixer carries from token to token.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one per layer, and handles only
pub enum MixerState {
    /// A key-value cache, which grows with every token.
    Attention {
        /// Keys and values.
        cache: KvCache,
        /// Where a convolution stands before the rotation: its last inputs, `[b k-1 c]`.
        conv: Option<Tensor<3>>,
    },
    /// A state of constant size.
    Ssm {
        /// The last inputs of the convolution, `[b k-1 c]`.
        conv: Tensor<3>,
        /// The SSD state, `[b h p n]`.
        ssm: Tensor<4>,
    },
    /// The states of SSM and attention heads of one layer.
    Parallel {
        /// That of the SSM heads.
        ssm: Box<MixerState>,
        /// That of the attention heads.
        attention: Box<MixerState>,
    },
}

/// A change of every part of a state.
pub trait StateMap {
    /// Of a part of constant size, whose first axis is the batch. Names are unique in a layer.
    fn tensor<const D: usize>(&mut self, name: &'static str, tensor: Tensor<D>) -> Tensor<D>;

    /// Of a key-value cache.
    fn cache(&mut self, cache: KvCache) -> KvCache;
}

impl MixerState {
    /// The state with every part changed, always in the same order.
    pub fn map(self, change: &mut impl StateMap) -> Self {
        match self {
            Self::Attention { cache, conv } => Self::Attention {
                cache: change.cache(cache),
                conv: conv.map(|conv| change.tensor("qkv_conv", conv)),
            },
            Self::Ssm { conv, ssm } => {
                Self::Ssm { conv: change.tensor("conv", conv), ssm: change.tensor("ssm", ssm) }
            }
            Self::Parallel { ssm, attention } => Self::parallel(ssm.map(change), attention.map(change)),
        }
    }

    /// The convolution's window and the SSD state.
    ///
    /// # Panics
    ///
    /// If this is a key-value cache.
    pub(crate) fn into_ssm(self) -> (Tensor<3>, Tensor<4>) {
        match self {
            Self::Ssm { conv, ssm } => (conv, ssm),
            Self::Attention { .. } | Self::Parallel { .. } => {
                panic!("an SSM mixer was given the key-value cache of attention")
            }
        }
    }

    /// The cache, and the convolution's window.
    ///
    /// # Panics
    ///
    /// If this is an SSM state.
    pub(crate) fn into_attention(self) -> (KvCache, Option<Tensor<3>>) {
        match self {
            Self::Attention { cache, conv } => (cache, conv),
            Self::Ssm { .. } | Self::Parallel { .. } => {
                panic!("attention was given the state of an SSM mixer")
            }
        }
    }

    /// The states of SSM and attention heads as one.
    pub(crate) fn parallel(ssm: Self, attention: Self) -> Self {
        Self::Parallel { ssm: Box::new(ssm), attention: Box::new(attention) }
    }

    /// The states of SSM and attention heads.
    ///
    /// # Panics
    ///
    /// If this is the state of one of them.
    pub(crate) fn into_parallel(self) -> [Self; 2] {
        match self {
            Self::Parallel { ssm, attention } => [*ssm, *attention],
            Self::Ssm { .. } | Self::Attention { .. } => {
                panic!("SSM and attention heads were given the state of one of them")
            }
        }
    }

    /// Whether it keeps its size from token to token.
    pub fn is_constant(&self) -> bool {
        self.measured().caches == 0
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.measured().batch
    }

    /// Bytes held for the whole batch. Buffers may have room for more: those of caches for half as many columns again, and
    /// those of all parts for the rows that left, or a quarter more.
    pub fn bytes(&self) -> usize {
        self.measured().bytes
    }

    /// Bytes that one more token of every row adds.
    pub fn bytes_per_token(&self) -> usize {
        self.measured().per_token
    }

    /// Tokens that a cache holds of its longest row; 0 where there is no cache.
    pub fn columns(&self) -> usize {
        self.measured().columns
    }

    fn measured(&self) -> Measure {
        let mut measure = Measure::default();
        self.clone().map(&mut measure);
        measure
    }
}

/// Sizes of a state, which it leaves as it is.
#[derive(Default)]
struct Measure {
    batch: usize,
    bytes: usize,
    per_token: usize,
    caches: usize,
    columns: usize,
}

impl StateMap for Measure {
    fn tensor<const D: usize>(&mut self, _name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
        self.batch = tensor.dims()[0];
        self.bytes += tensor.shape().num_elements() * tensor.dtype().size();
        tensor
    }

    fn cache(&mut self, cache: KvCache) -> KvCache {
        self.columns = self.columns.max(cache.lengths().into_iter().max().unwrap_or(0));
        self.caches += 1;
        for cached in [&cache.k, &cache.v] {
            let [b, kv, _, d] = cached.dims();
            self.per_token += b * kv * d * cached.dtype().size();
            self.tensor("", cached.clone());
        }
        cache
    }
}

/// Some rows of a state, in some order.
pub(crate) struct Rows {
    pub chosen: Vec<usize>,
    /// Nothing where moves are enough.
    index: Option<Tensor<1, Int>>,
    /// Where that is enough: what changes its place in the same buffers.
    #[cfg(any(feature = "flex", feature = "cube"))]
    moves: Option<crate::kernels::Moves>,
}

impl Rows {
    /// `chosen` of the rows of a state of `batch`.
    pub fn new(chosen: &[usize], batch: usize, device: &Device) -> Self {
        #[cfg(any(feature = "flex", feature = "cube"))]
        let moves = crate::kernels::Moves::of(chosen, batch, device);
        #[cfg(not(any(feature = "flex", feature = "cube")))]
        let (moves, _) = (None::<()>, batch);
        let index = moves.is_none().then(|| {
            let index: Vec<i64> = chosen.iter().map(|&row| row as i64).collect();
            Tensor::from_data(TensorData::new(index, [chosen.len()]), device)
        });
        Self {
            chosen: chosen.to_vec(),
            index,
            #[cfg(any(feature = "flex", feature = "cube"))]
            moves,
        }
    }

    /// These rows of the first axis.
    pub fn select<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        #[cfg(any(feature = "flex", feature = "cube"))]
        if let Some(moves) = &self.moves {
            return moves.apply(tensor);
        }
        tensor.select(0, self.index.clone().expect("rows without moves"))
    }
}

impl StateMap for Rows {
    fn tensor<const D: usize>(&mut self, _name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
        self.select(tensor)
    }

    fn cache(&mut self, cache: KvCache) -> KvCache {
        cache.select(self)
    }
}

/// The parts of a state, one after another.
#[derive(Default)]
struct Parts {
    tensors: VecDeque<Tensor<2>>, // b, all else
    caches: VecDeque<KvCache>,
}

impl StateMap for Parts {
    fn tensor<const D: usize>(&mut self, _name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
        let rows = tensor.dims()[0];
        let width = tensor.shape().num_elements() / rows.max(1);
        self.tensors.push_back(tensor.clone().reshape([rows, width]));
        tensor
    }

    fn cache(&mut self, cache: KvCache) -> KvCache {
        self.caches.push_back(cache.clone());
        cache
    }
}

/// Appends the rows of other states to those of one.
pub(crate) struct Append(Vec<Parts>);

impl Append {
    pub(crate) fn new(others: impl IntoIterator<Item = MixerState>) -> Self {
        let parts = |state: MixerState| {
            let mut parts = Parts::default();
            state.map(&mut parts);
            parts
        };
        Self(others.into_iter().map(parts).collect())
    }
}

/// All rows, where it can be in the room behind the first ones.
fn joined(rows: Vec<Tensor<2>>) -> Tensor<2> {
    #[cfg(any(feature = "flex", feature = "cube"))]
    if crate::kernels::buffers_have_room(&rows[0].device()) {
        return rows.into_iter().reduce(crate::kernels::append_rows).expect("at least one state");
    }
    Tensor::cat(rows, 0)
}

const ALIKE: &str = "states of one model";

impl StateMap for Append {
    fn tensor<const D: usize>(&mut self, _name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
        let mut shape = tensor.dims();
        let width = tensor.shape().num_elements() / shape[0].max(1);
        let mut rows = vec![tensor.reshape([shape[0], width])];
        rows.extend(self.0.iter_mut().map(|parts| parts.tensors.pop_front().expect(ALIKE)));
        let rows = joined(rows);
        shape[0] = rows.dims()[0];
        rows.reshape(shape)
    }

    fn cache(&mut self, cache: KvCache) -> KvCache {
        let mut caches = vec![cache];
        caches.extend(self.0.iter_mut().map(|parts| parts.caches.pop_front().expect(ALIKE)));
        KvCache::concat(caches)
    }
}
