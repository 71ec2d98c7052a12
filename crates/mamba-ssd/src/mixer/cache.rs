//! The key-value cache of attention, for rows of any lengths.
//!
//! All rows end in the same column, where the next token is appended; a shorter row begins later:
//!
//! ```text
//! row 0   k0 k1 k2 k3 k4        padding 0
//! row 1    .  .  . k0 k1        padding 3, columns that no token of the row ever sees
//! ```
//!
//! So a step appends one column for all, and what a row may see is one number, its first column.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::state::Rows;

/// Keys and values of the tokens so far.
#[derive(Clone, Debug)]
pub struct KvCache {
    /// Keys after rotation, `[b kv s d]`.
    pub k: Tensor<4>,
    /// Values, `[b kv s d]`.
    pub v: Tensor<4>,
    /// Columns in front of each row's first token, b of them. They hold finite numbers and are never seen.
    pub padding: Vec<usize>,
}

impl KvCache {
    /// A cache without tokens, from its empty keys `[b kv 0 d]`.
    pub(crate) fn empty(k: Tensor<4>) -> Self {
        Self { padding: vec![0; k.dims()[0]], v: k.clone(), k }
    }

    /// Columns, s.
    pub fn columns(&self) -> usize {
        self.k.dims()[2]
    }

    /// Tokens of each row.
    pub fn lengths(&self) -> Vec<usize> {
        self.padding.iter().map(|padding| self.columns() - padding).collect()
    }

    /// Positions of the next `t` tokens, `[b t]`, or `[1 t]` where all rows are alike.
    pub(crate) fn positions(&self, t: usize, device: &Device) -> Tensor<2, Int> {
        let lengths = self.lengths();
        if lengths.windows(2).all(|pair| pair[0] == pair[1]) {
            let past = lengths.first().map_or(0, |&length| length as i64);
            return Tensor::<1, Int>::arange(past..past + t as i64, device).unsqueeze();
        }
        let positions = lengths.iter().flat_map(|&length| (length..length + t).map(|at| at as i64));
        Tensor::from_data(TensorData::new(positions.collect(), [lengths.len(), t]), device)
    }

    /// The first column that each of `t` tokens sees, `[b t]`; nothing where that is the first of all.
    pub(crate) fn first_visible(&self, t: usize, device: &Device) -> Option<Tensor<2, Int>> {
        self.padding.iter().any(|&padding| padding > 0).then(|| {
            let first = self.padding.iter().flat_map(|&padding| std::iter::repeat_n(padding as i64, t));
            Tensor::from_data(TensorData::new(first.collect(), [self.padding.len(), t]), device)
        })
    }

    /// The cache with further keys and values, `[b kv t d]` each.
    pub(crate) fn append(self, k: Tensor<4>, v: Tensor<4>) -> Self {
        if self.columns() == 0 {
            return Self { k, v, ..self };
        }
        #[cfg(any(feature = "flex", feature = "cube"))]
        if crate::kernels::buffers_have_room(&self.k.device()) {
            let [k, v] = crate::kernels::append_columns([self.k, self.v], [k, v]);
            return Self { k, v, ..self };
        }
        let [k, v] = [(self.k, k), (self.v, v)].map(|(cached, more)| Tensor::cat(vec![cached, more], 2));
        Self { k, v, ..self }
    }

    /// The cache in another dtype, if it has no tokens yet.
    pub(crate) fn empty_in(self, dtype: DType) -> Self {
        if self.columns() > 0 || self.k.dtype() == dtype {
            return self;
        }
        let empty = Tensor::zeros(self.k.dims(), (&self.k.device(), dtype));
        Self { k: empty.clone(), v: empty, ..self }
    }

    /// These rows, in this order, any of them several times. Copies of the only row are views of it, until something is
    /// appended.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub(crate) fn select(self, rows: &Rows) -> Self {
        let padding = rows.chosen.iter().map(|&row| self.padding[row]).collect();
        let [b, kv, s, d] = self.k.dims();
        let [k, v] = [self.k, self.v].map(|cached| match b == 1 && s > 0 {
            true => cached.expand([rows.chosen.len(), kv, s, d]),
            false => rows.select(cached),
        });
        Self { k, v, padding }.trimmed()
    }

    /// All rows of all caches.
    pub(crate) fn concat(caches: Vec<Self>) -> Self {
        let columns = caches.iter().map(Self::columns).max().unwrap_or(0);
        #[cfg(any(feature = "flex", feature = "cube"))]
        if caches.iter().all(|cache| cache.columns() > 0)
            && caches[0].columns() == columns
            && crate::kernels::buffers_have_room(&caches[0].k.device())
        {
            return caches.into_iter().reduce(Self::followed_by).expect("at least one cache");
        }
        let caches: Vec<Self> = caches.into_iter().map(|cache| cache.padded(columns)).collect();
        let padding = caches.iter().flat_map(|cache| cache.padding.clone()).collect();
        let (k, v) = caches.into_iter().map(|cache| (cache.k, cache.v)).unzip();
        Self { k: Tensor::cat(k, 0), v: Tensor::cat(v, 0), padding }
    }

    /// The cache with further rows, of at most as many columns, in the room of its buffer if it has some.
    #[cfg(any(feature = "flex", feature = "cube"))]
    fn followed_by(self, more: Self) -> Self {
        let front = self.columns() - more.columns();
        let [k, v] = crate::kernels::append_cached_rows([self.k, self.v], [more.k, more.v]);
        let others = more.padding.into_iter().map(|padding| padding + front);
        Self { k, v, padding: self.padding.into_iter().chain(others).collect() }
    }

    /// The cache without the last `tokens` of every row.
    ///
    /// # Panics
    ///
    /// If a row has fewer.
    pub(crate) fn without_last(self, tokens: usize) -> Self {
        let shortest = self.lengths().into_iter().min().unwrap_or(0);
        assert!(tokens <= shortest, "cannot go back {tokens} tokens in a row of {shortest}");
        let columns = self.columns() - tokens;
        self.narrowed(0, columns)
    }

    /// The cache with empty columns in front until it has `columns`.
    fn padded(self, columns: usize) -> Self {
        let [b, kv, s, d] = self.k.dims();
        let more = columns - s;
        if more == 0 {
            return self;
        }
        let zeros = Tensor::zeros([b, kv, more, d], (&self.k.device(), self.k.dtype()));
        let [k, v] = [self.k, self.v].map(|cached| Tensor::cat(vec![zeros.clone(), cached], 2));
        Self { k, v, padding: self.padding.into_iter().map(|padding| padding + more).collect() }
    }

    /// The cache without columns that no row needs. Where that is a copy, not before they are a quarter of all.
    fn trimmed(self) -> Self {
        let spare = self.padding.iter().copied().min().unwrap_or(0);
        let least =
            if crate::computes_on_host(&self.k.device()) { 1 } else { self.columns().div_ceil(4).max(1) };
        if spare < least {
            return self;
        }
        let kept = self.columns() - spare;
        let mut cache = self.narrowed(spare, kept);
        cache.padding.iter_mut().for_each(|padding| *padding -= spare);
        cache
    }

    fn narrowed(self, first: usize, columns: usize) -> Self {
        let [k, v] = [self.k, self.v].map(|cached| cached.narrow(2, first, columns));
        Self { k, v, padding: self.padding }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::Distribution;

    use super::*;

    /// From a row of the buffer to the next.
    fn stride(tensor: &Tensor<4>) -> isize {
        let primitive = tensor.clone().try_into_primitive::<Flex>().expect("on the CPU");
        primitive.layout().strides()[0]
    }

    #[test]
    fn copies_of_a_row_share_it_until_a_token_comes() {
        let device = Device::flex();
        let random = |s| Tensor::<4>::random([1, 2, s, 4], Distribution::Default, &device);
        let row = KvCache { k: random(5), v: random(5), padding: vec![0] };
        let rows = [0usize; 3];
        let forked = row.clone().select(&Rows::new(&rows, 1, &device));
        assert_eq!((stride(&forked.k), forked.k.dims()), (0, [3, 2, 5, 4]));
        let token = random(1).expand([3, 2, 1, 4]);
        let longer = forked.append(token.clone(), token.clone());
        assert!(stride(&longer.k) > 0);
        let expected = Tensor::cat(vec![row.k.expand([3, 2, 5, 4]), token], 2);
        assert_eq!(longer.k.into_data(), expected.into_data());
    }
}
