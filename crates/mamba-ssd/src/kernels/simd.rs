//! The widest vectors of the CPU, and its threads where there is work for them.

use rayon::prelude::*;

/// Runs `work` compiled for the widest vectors that this CPU has.
///
/// That takes hold of what is inlined, and of nothing else: the closure, and every function on the way to an inner
/// loop, must be `#[inline(always)]`.
#[inline(always)]
pub(super) fn vectorized<T>(work: impl FnMut() -> T) -> T {
    pulp::Arch::new().dispatch(Work(work))
}

/// [`vectorized`], with whether those vectors can multiply and add with one rounding.
#[inline(always)]
pub(super) fn vectorized_fused<T>(mut work: impl FnMut(bool) -> T) -> T {
    let fused = !matches!(pulp::Arch::new(), pulp::Arch::Scalar);
    vectorized(
        #[inline(always)]
        || work(fused),
    )
}

/// Calls the closure by reference. By value there would be a function in between, which is not inlined.
struct Work<F>(F);

impl<T, F: FnMut() -> T> pulp::NullaryFnOnce for Work<F> {
    type Output = T;

    #[inline(always)]
    fn call(mut self) -> T {
        (self.0)()
    }
}

/// How many threads a piece of work should be shared by, of which `worth` is worth one: equal shares, since some of a
/// step's parts would wait for the others.
pub(super) fn shares(work: usize, worth: usize) -> usize {
    (work / worth).clamp(1, rayon::current_num_threads())
}

/// Calls `run` for every part: on this thread if there is one, else on all. Waking another thread costs tens of
/// microseconds, so a part should be worth as much.
pub(super) fn each_part<P: Send>(parts: impl Iterator<Item = P>, run: impl Fn(P) + Send + Sync) {
    map_parts(parts, run);
}

/// What `run` makes of every part, in their order, as [`each_part`] calls it.
pub(super) fn map_parts<P: Send, T: Send>(
    mut parts: impl Iterator<Item = P>,
    run: impl Fn(P) -> T + Send + Sync,
) -> Vec<T> {
    let (Some(first), second) = (parts.next(), parts.next()) else { return Vec::new() };
    let Some(second) = second else { return vec![run(first)] };
    let parts: Vec<P> = [first, second].into_iter().chain(parts).collect();
    parts.into_par_iter().map(run).collect()
}
