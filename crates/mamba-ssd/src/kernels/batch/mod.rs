//! Rows and columns that come and go in the buffers of a state. No gradients.
//!
//! A batch that is decoded loses rows and gets others, and its caches grow by a column a token. Written as selections and
//! concatenations each of these copies everything that is held. Here a buffer may be larger than what it holds:
//!
//! ```text
//! [rows + room ...]                 a state of constant size
//! [rows + room, kv, columns + room, d]     keys, or values
//! ```
//!
//! and what comes is written into the room, while nobody else holds the buffer and the room lasts.

#[cfg(feature = "flex")]
mod flex;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Columns that a new buffer has room for behind those that it holds, besides half of those.
pub(super) const ROOM: usize = 64;

/// The operations.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub trait BatchOps: Backend {
    /// Keys and values `[b kv s d]` with `more [b kv t d]` of each behind.
    #[fusion(meta = |k, v, more_k, _more_v| {
        let mut longer = [k.clone(), v.clone()];
        for cached in &mut longer {
            cached.shape[2] += more_k.shape[2];
        }
        let [k, v] = longer;
        (k, v)
    })]
    fn append_columns(
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        more_k: FloatTensor<Self>,
        more_v: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Keys and values `[b kv s d]` with further rows, of at most as many columns, which they end in. What is in front
    /// of them is zeros.
    #[fusion(meta = |k, v, more_k, _more_v| {
        let mut longer = [k.clone(), v.clone()];
        for cached in &mut longer {
            cached.shape[0] += more_k.shape[0];
        }
        let [k, v] = longer;
        (k, v)
    })]
    fn append_cached_rows(
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        more_k: FloatTensor<Self>,
        more_v: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// `state [b w]` with further rows.
    #[fusion(meta = |state, more| {
        let mut longer = state.clone();
        longer.shape[0] += more.shape[0];
        longer
    })]
    fn append_rows(state: FloatTensor<Self>, more: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The first `kept` rows after `count` moves, row `moves[0, i]` to place `moves[1, i]`. No place is a row that moves.
    #[fusion(meta = |state, _moves, _count, kept| {
        let mut fewer = state.clone();
        fewer.shape[0] = *kept;
        fewer
    })]
    fn keep_rows(
        state: FloatTensor<Self>,
        moves: IntTensor<Self>,
        count: usize,
        kept: usize,
    ) -> FloatTensor<Self>;
}

/// Whether buffers on `device` have room. Not where gradients are recorded.
pub(crate) fn buffers_have_room(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    if super::step::is_cube(device) {
        return !device.is_autodiff();
    }
    crate::computes_on_host(device) && !device.is_autodiff()
}

/// [`BatchOps::append_columns`].
pub(crate) fn append_columns([k, v]: [Tensor<4>; 2], more: [Tensor<4>; 2]) -> [Tensor<4>; 2] {
    let [more_k, more_v] = more.map(|more| more.cast(k.dtype()).into_dispatch());
    let (k, v) = Dispatch::append_columns(k.into_dispatch(), v.into_dispatch(), more_k, more_v);
    [k, v].map(Tensor::from_dispatch)
}

/// [`BatchOps::append_cached_rows`].
pub(crate) fn append_cached_rows([k, v]: [Tensor<4>; 2], more: [Tensor<4>; 2]) -> [Tensor<4>; 2] {
    let [more_k, more_v] = more.map(|more| more.cast(k.dtype()).into_dispatch());
    let (k, v) = Dispatch::append_cached_rows(k.into_dispatch(), v.into_dispatch(), more_k, more_v);
    [k, v].map(Tensor::from_dispatch)
}

/// [`BatchOps::append_rows`].
pub(crate) fn append_rows(state: Tensor<2>, more: Tensor<2>) -> Tensor<2> {
    let more = more.cast(state.dtype());
    Tensor::from_dispatch(Dispatch::append_rows(state.into_dispatch(), more.into_dispatch()))
}

/// A choice of rows in which every row that changes its place comes from behind those that are kept.
#[derive(Clone, Debug)]
pub(crate) struct Moves {
    /// From and to, `[2 max(count, 1)]`.
    index: Tensor<2, Int>,
    count: usize,
    kept: usize,
}

impl Moves {
    /// The choice of `rows` of `batch`, if it is such a one and buffers on `device` have room. Of fewer than half a copy is made: it
    /// would hold the buffer of all.
    pub fn of(rows: &[usize], batch: usize, device: &Device) -> Option<Self> {
        let moved = || rows.iter().enumerate().filter(|&(to, &from)| to != from);
        let kept = rows.len();
        let worth = kept <= batch && 2 * kept >= batch;
        if !buffers_have_room(device) || !worth || moved().any(|(_, &from)| from < kept) {
            return None;
        }
        let (mut to, mut from): (Vec<i32>, Vec<i32>) =
            moved().map(|(to, &from)| (to as i32, from as i32)).unzip();
        let count = to.len();
        to.resize(count.max(1), 0);
        from.resize(count.max(1), 0);
        let data = TensorData::new([from, to].concat(), [2, count.max(1)]);
        Some(Self { index: Tensor::from_data(data, device), count, kept })
    }

    /// The rows that are kept, of the first axis.
    pub fn apply<const D: usize>(&self, state: Tensor<D>) -> Tensor<D> {
        let index = self.index.clone().into_dispatch();
        Tensor::from_dispatch(Dispatch::keep_rows(state.into_dispatch(), index, self.count, self.kept))
    }
}
