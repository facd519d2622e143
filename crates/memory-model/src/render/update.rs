// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From one view to the next: only what can have changed is rendered, compared
//! and replaced. Pure functions.

use alloc::sync::Arc;

use guest_ranges::AddrRange;
use smallvec::SmallVec;

use crate::diff::Diff;
use crate::region::RegionId;
use crate::render::{TooComplex, render};
use crate::runs::{Edit, Pool};
use crate::tree::Tree;
use crate::view::{FlatRange, FlatView, push};

/// The view of `root` that takes the place of `old`, which is right everywhere
/// but in `windows`; adds what differs to `diff`. Windows are sorted and do not
/// overlap.
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
        false => Ok(old.edited(&edits, pool)),
    }
}

/// Windows, and all of the old runs that they touch: a run that ends where a
/// window starts may have to be joined with what comes into the window, and
/// windows that touch the same old run belong together.
struct Stretch<'a, H> {
    range: AddrRange,
    windows: &'a [AddrRange],
    /// The old runs in the range.
    was: SmallVec<[&'a FlatRange<H>; 4]>,
}

impl<'a, H> Stretch<'a, H> {
    /// The first of some windows, and those that belong to it.
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
            // Behind the last address, there is nothing that is not known.
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

    /// Makes the runs of the stretch as it is now: what shows in its windows,
    /// and the old runs around them.
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

    /// Takes out of an edit of the stretch what need not be replaced: the runs
    /// at its ends that are as they were. Then it is more often in one leaf.
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
        // Something differs between the two.
        edit.range = AddrRange::from_bounds(start, last).unwrap_or(self.range);
    }

    /// The same, without anything of the old view.
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

    /// Takes over the old runs between two addresses, cut to that; nothing if
    /// there is nothing between the two. What must not be joined with
    /// neighbours cannot be put together from parts, since nobody could tell a
    /// cut at a window's edge from one that was there: then it says no.
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
