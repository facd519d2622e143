// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From one view to the next: only what can have changed is rendered, compared
//! and replaced. Pure functions.

use alloc::vec::Vec;

use crate::range_set::RangeSet;
use crate::render::{TooComplex, render};
use crate::tree::Tree;
use crate::view::merged;
use crate::{AddrRange, Diff, FlatRange, FlatView, RegionId};

/// The view of `root` that takes the place of `old`, which is right everywhere
/// but in `windows`, and what differs.
pub(crate) fn follow<H>(
    tree: &Tree<H>,
    root: RegionId,
    old: &FlatView<H>,
    windows: &RangeSet,
) -> Result<(FlatView<H>, Diff<H>), TooComplex> {
    let mut runs = old.runs().clone();
    let mut diff = Diff::default();
    for stretch in stretches(old, windows) {
        let was: Vec<FlatRange<H>> = old.intersecting(stretch.range).cloned().collect();
        let is = rendered(tree, root, old, &stretch)?;
        if was != is {
            diff.extend(was.iter(), is.iter());
            runs = runs.replaced(stretch.range, is);
        }
    }
    Ok((FlatView::of(runs), diff))
}

/// Windows, and all of the old runs that they touch: a run that ends where a
/// window starts may have to be joined with what comes into the window.
struct Stretch {
    range: AddrRange,
    windows: Vec<AddrRange>,
}

/// Windows that touch the same old run belong to one stretch.
fn stretches<H>(old: &FlatView<H>, windows: &RangeSet) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for window in windows.iter() {
        let range = extended(old, window);
        match stretches.last_mut() {
            Some(stretch) if range.start() <= stretch.range.last() => {
                stretch.windows.push(window);
                let last = stretch.range.last().max(range.last());
                let joined = AddrRange::from_bounds(stretch.range.start(), last);
                stretch.range = joined.unwrap_or(stretch.range);
            }
            _ => stretches.push(Stretch {
                range,
                windows: [window].into(),
            }),
        }
    }
    stretches
}

fn extended<H>(old: &FlatView<H>, window: AddrRange) -> AddrRange {
    let before = window
        .start()
        .checked_sub(1)
        .and_then(|address| old.find(address));
    let behind = window
        .last()
        .checked_add(1)
        .and_then(|address| old.find(address));
    let start = before.map_or(window.start(), |run| run.range().start());
    let last = behind.map_or(window.last(), |run| run.range().last());
    AddrRange::from_bounds(start, last).unwrap_or(window)
}

/// A stretch as it is now.
fn rendered<H>(
    tree: &Tree<H>,
    root: RegionId,
    old: &FlatView<H>,
    stretch: &Stretch,
) -> Result<Vec<FlatRange<H>>, TooComplex> {
    // What must not be joined with neighbours cannot be put together from
    // parts: nobody could tell a cut at a window's edge from one that was
    // there. Then all is rendered.
    let mut outside = outside_windows(stretch).flat_map(|(from, last)| taken_over(old, from, last));
    if outside.any(|run| run.attributes().unmergeable) {
        return Ok(merged(render(tree, root, stretch.range)?));
    }
    let mut pieces = Vec::new();
    for &window in &stretch.windows {
        pieces.extend(render(tree, root, window)?);
    }
    let outside = outside_windows(stretch).flat_map(|(from, last)| taken_over(old, from, last));
    pieces.extend(outside);
    pieces.sort_unstable_by_key(|piece| piece.range().start());
    Ok(merged(pieces))
}

/// The first and last addresses of what lies between a stretch's windows, and
/// on both sides of them. Where nothing does, the last is not behind the first.
fn outside_windows(stretch: &Stretch) -> impl Iterator<Item = (u64, u64)> + use<'_> {
    let windows = stretch.windows.iter();
    let starts = windows
        .clone()
        .filter_map(|window| window.last().checked_add(1));
    let starts = core::iter::once(stretch.range.start()).chain(starts);
    let lasts = windows.map(|window| window.start().checked_sub(1));
    let lasts = lasts.chain([Some(stretch.range.last())]);
    starts
        .zip(lasts)
        .filter_map(|(start, last)| Some((start, last?)))
}

/// The old runs from `from` to `last`, cut to that; none if there is nothing
/// between the two.
fn taken_over<H>(
    old: &FlatView<H>,
    from: u64,
    last: u64,
) -> impl Iterator<Item = FlatRange<H>> + use<'_, H> {
    let range = AddrRange::from_bounds(from, last);
    let runs = range.map(|range| {
        old.intersecting(range)
            .filter_map(move |run| run.clipped(range))
    });
    runs.into_iter().flatten()
}
