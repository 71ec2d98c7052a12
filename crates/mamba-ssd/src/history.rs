//! Going back by a few tokens.
//!
//! A key-value cache goes back by dropping columns. A state of constant size has forgotten what it was, so it is
//! kept as it was in front of each of the last few tokens; the caches beside it are not kept again.

use std::collections::VecDeque;

use burn::tensor::Tensor;

use crate::State;
use crate::mixer::{KvCache, StateMap};

/// The states in front of the last tokens, as many as a window holds.
///
/// # Example
///
/// ```ignore
/// let mut history = History::new(4);
/// for token in draft {
///     history.push(&state); // one call for each token
///     state = model.step(token, state).1;
/// }
/// let state = history.rollback(2, state); // two tokens back
/// ```
#[derive(Clone, Debug)]
pub struct History {
    window: usize,
    before: VecDeque<State>,
}

impl History {
    /// A history of at most `window` tokens.
    pub fn new(window: usize) -> Self {
        Self { window, before: VecDeque::new() }
    }

    /// Remembers the state in front of the next token.
    pub fn push(&mut self, state: &State) {
        self.before.push_back(state.clone().map(&mut WithoutCaches));
        while self.before.len() > self.window {
            self.before.pop_front();
        }
    }

    /// Most tokens that are remembered.
    pub fn window(&self) -> usize {
        self.window
    }

    /// How many tokens [`History::rollback`] can go back.
    pub fn depth(&self) -> usize {
        self.before.len()
    }

    /// The state `tokens` before `now`, and the history up to then.
    ///
    /// # Panics
    ///
    /// If `tokens` is more than [`History::depth`].
    pub fn rollback(&mut self, tokens: usize, now: State) -> State {
        assert!(tokens <= self.depth(), "{tokens} tokens back, {} are kept", self.depth());
        if tokens == 0 {
            return now;
        }
        let kept = self.depth() - tokens;
        let then = self.before.drain(kept..).next().expect("one for each token");
        let mut caches = Caches { tokens, of: VecDeque::new() };
        now.map(&mut Collect(&mut caches));
        then.map(&mut caches)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.before.iter().map(State::bytes).sum()
    }
}

/// Empties the caches.
struct WithoutCaches;

impl StateMap for WithoutCaches {
    fn tensor<const D: usize>(&mut self, _name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
        tensor
    }

    fn cache(&mut self, cache: KvCache) -> KvCache {
        let [b, kv, _, d] = cache.k.dims();
        KvCache::empty(Tensor::zeros([b, kv, 0, d], (&cache.k.device(), cache.k.dtype())))
    }
}

/// The caches of now, which are put back without their last tokens.
struct Caches {
    tokens: usize,
    of: VecDeque<KvCache>,
}

struct Collect<'a>(&'a mut Caches);

impl StateMap for Collect<'_> {
    fn tensor<const D: usize>(&mut self, _name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
        tensor
    }

    fn cache(&mut self, cache: KvCache) -> KvCache {
        self.0.of.push_back(cache.clone());
        cache
    }
}

impl StateMap for Caches {
    fn tensor<const D: usize>(&mut self, _name: &'static str, tensor: Tensor<D>) -> Tensor<D> {
        tensor
    }

    fn cache(&mut self, _empty: KvCache) -> KvCache {
        self.of.pop_front().expect("states of one model").without_last(self.tokens)
    }
}
