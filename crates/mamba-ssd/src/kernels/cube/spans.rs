//! States carried over the spans of a sequence.
//!
//! A walk over the whole sequence keeps one cube per row tile, head and batch row busy. Where those are
//! too few for the device the sequence is cut into spans that run side by side: first each span's own
//! state, then this recurrence over spans, then the outputs.

use cubecl::prelude::*;

/// `totals[b h span]`: the sum of a span's log decays. One cube for each.
#[cube(launch)]
pub(super) fn span_totals(
    log_a: &[f32],
    totals: &mut [f32],
    t: usize,
    heads: usize,
    span: usize,
    #[comptime] units: usize,
) {
    let (index, unit) = (CUBE_POS_X as usize, UNIT_POS as usize);
    let first = CUBE_POS_Y as usize * span;
    let end = min(first + span, t);
    let mut parts = Shared::<[f32]>::new_slice(units);
    let mut part = f32::new(0.0);
    for round in 0..span.div_ceil(units) {
        let token = first + round * units + unit;
        if token < end {
            part += log_a[(index / heads * t + token) * heads + index % heads];
        }
    }
    parts[unit] = part;
    sync_cube();
    if unit == 0 {
        let mut total = f32::new(0.0);
        for i in 0..units {
            total += parts[i];
        }
        totals[index * CUBE_COUNT_Y as usize + CUBE_POS_Y as usize] = total;
    }
}

/// From the spans' own states `[b h spans s]` and the one before them all, the state that enters each
/// span, in place, and the state that leaves the last, `[b h s]`. In reverse, spans run from the last.
#[cube(launch)]
pub(super) fn carry(
    states: &mut [f32],
    totals: &[f32],
    initial: &[f32],
    last: &mut [f32],
    heads: usize,
    spans: usize,
    size: usize,
    #[comptime] reverse: bool,
) {
    let (index, element) = (ABSOLUTE_POS / size, ABSOLUTE_POS % size);
    if index >= heads {
        terminate!();
    }
    let mut state = initial[ABSOLUTE_POS];
    for i in 0..spans {
        let span = if reverse { spans - 1 - i } else { i };
        let at = (index * spans + span) * size + element;
        let own = states[at];
        states[at] = state;
        state = totals[index * spans + span].exp() * state + own;
    }
    last[ABSOLUTE_POS] = state;
}
