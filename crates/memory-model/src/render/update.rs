// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Updates a view: renders, compares and replaces only what can have changed. Pure
//! functions.

use alloc::sync::Arc;

use guest_ranges::AddrRange;
use smallvec::SmallVec;

use crate::diff::Diff;
use crate::ids::RegionId;
use crate::render::{TooComplex, render};
use crate::runs::Edit;
use crate::tree::Tree;
use crate::view::FlatView;
use crate::view::flat_range::{FlatRange, push};
use crate::view::pool::Pool;

/// The view of `root` that replaces `old`, which is correct outside of `windows`. Adds
/// the differences to `diff`. Windows are sorted and do not overlap.
pub(crate) fn updated_view<H>(
    tree: &Tree<H>,
    root: RegionId,
    old: &Arc<FlatView<H>>,
    mut windows: &[AddrRange],
    diff: &mut Diff<H>,
    pool: &mut Pool<H>,
) -> Result<Arc<FlatView<H>>, TooComplex> {
    let mut edits: SmallVec<[Edit<H>; 2]> = SmallVec::new();
    while let Some(stretch) = Stretch::first(old, windows) {
        let mut edit = Edit {
            range: stretch.range,
            runs: SmallVec::new(),
        };
        stretch.render(tree, root, &mut edit.runs)?;
        if diff.extend(stretch.was.iter().copied(), edit.runs.iter()) {
            if !stretch.was.is_empty() && !edit.runs.is_empty() {
                stretch.trim(&mut edit);
            }
            edits.push(edit);
        }
        windows = &windows[stretch.windows.len()..];
    }
    match edits.is_empty() {
        true => Ok(old.clone()),
        false => Ok(pool.edited(old, &edits)),
    }
}

/// Windows, with all old runs that they touch. An old run that ends where a window
/// starts may have to be joined with a new run in the window. Windows that touch the
/// same old run belong to the same stretch.
struct Stretch<'a, H> {
    range: AddrRange,
    windows: &'a [AddrRange],
    /// The old runs in the range.
    was: SmallVec<[&'a FlatRange<H>; 4]>,
}

impl<'a, H> Stretch<'a, H> {
    /// The stretch of the first of some windows.
    fn first(old: &'a FlatView<H>, windows: &'a [AddrRange]) -> Option<Self> {
        let mut stretch = Self {
            range: *windows.first()?,
            windows: &[],
            was: SmallVec::new(),
        };
        for (count, window) in windows.iter().enumerate() {
            if count > 0 && window.start() > stretch.range.last().saturating_add(1) {
                break;
            }
            stretch.reach_over(*window);
            stretch.windows = &windows[..=count];
            let known = stretch.was.last().map(|run| run.range().last());
            let from = window.start().saturating_sub(1);
            let from = known.map_or(from, |last| from.max(last.saturating_add(1)));
            let last = window.last().saturating_add(1);
            let touched = AddrRange::from_bounds(from, last);
            let mut reach_over = |run: &'a FlatRange<H>| {
                stretch.reach_over(run.range());
                stretch.was.push(run);
            };
            // If the last address is known, so is everything above the window.
            if let Some(touched) = touched.filter(|_| known != Some(u64::MAX)) {
                old.runs().meeting(touched, &mut reach_over);
            }
        }
        Some(stretch)
    }

    fn reach_over(&mut self, range: AddrRange) {
        let start = self.range.start().min(range.start());
        let last = self.range.last().max(range.last());
        self.range = AddrRange::from_bounds(start, last).unwrap_or(self.range);
    }

    /// Makes the new runs of the stretch: what shows in its windows now, and the old
    /// runs around them.
    fn render(
        &self,
        tree: &Tree<H>,
        root: RegionId,
        runs: &mut SmallVec<[FlatRange<H>; 2]>,
    ) -> Result<(), TooComplex> {
        let mut from = Some(self.range.start());
        for window in self.windows {
            if !self.take_over(from, window.start().checked_sub(1), runs) {
                return self.render_whole(tree, root, runs);
            }
            render(tree, root, *window, |run| push(runs, run))?;
            from = window.last().checked_add(1);
        }
        match self.take_over(from, Some(self.range.last()), runs) {
            true => Ok(()),
            false => self.render_whole(tree, root, runs),
        }
    }

    /// Removes unchanged runs from the ends of an edit. A smaller edit fits in one leaf
    /// more often.
    #[inline(never)]
    fn trim(&self, edit: &mut Edit<H>) {
        let runs = &mut edit.runs;
        let (mut start, mut last) = (self.range.start(), self.range.last());
        let mut was = &self.was[..];
        while let (Some((old, others)), Some(new)) = (was.split_last(), runs.last()) {
            if *old != new {
                break;
            }
            last = new.range().start().saturating_sub(1);
            was = others;
            runs.pop();
        }
        let same = was
            .iter()
            .zip(runs.iter())
            .take_while(|(old, new)| **old == *new);
        let same = same.count();
        if let Some(new) = runs.drain(..same).next_back() {
            start = new.range().last().saturating_add(1);
        }
        // Something between the two differs, so the bounds are in order.
        edit.range = AddrRange::from_bounds(start, last).unwrap_or(self.range);
    }

    /// Renders the whole stretch, without the old runs.
    #[cold]
    fn render_whole(
        &self,
        tree: &Tree<H>,
        root: RegionId,
        runs: &mut SmallVec<[FlatRange<H>; 2]>,
    ) -> Result<(), TooComplex> {
        runs.clear();
        render(tree, root, self.range, |run| push(runs, run))
    }

    /// Copies the old runs between two addresses, cut to these. Returns false for runs
    /// that must not be joined: these cannot be assembled from parts, because a cut at
    /// a window's edge looks like a border between two runs.
    fn take_over(
        &self,
        from: Option<u64>,
        last: Option<u64>,
        runs: &mut SmallVec<[FlatRange<H>; 2]>,
    ) -> bool {
        let range = from
            .zip(last)
            .and_then(|(from, last)| AddrRange::from_bounds(from, last));
        let Some(range) = range else { return true };
        let first = self
            .was
            .partition_point(|run| run.range().last() < range.start());
        for run in &self.was[first..] {
            match run.clipped(range) {
                None => break,
                Some(_) if run.attributes().unmergeable => return false,
                Some(run) => push(runs, run),
            }
        }
        true
    }
}
