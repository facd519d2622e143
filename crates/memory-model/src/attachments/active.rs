// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The attachments that are active in a view, and the difference between two views.
//! Pure functions.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use guest_ranges::AddrRange;

use crate::attachments::{EventFd, IoEventFd, IoEventKey, Trigger};
use crate::diff::Diff;
use crate::ids::RegionId;
use crate::region::GuestAccess;
use crate::render::windows::Windows;
use crate::tree::Tree;
use crate::view::FlatView;
use crate::view::flat_range::FlatRange;

/// The ioeventfds and coalesced ranges that a listener has to remove, and then those
/// that it has to add. They have the guest's addresses and are sorted by them.
///
/// An ioeventfd is active where all bytes of its writes lie in one trapped run. A
/// coalesced range is cut to the trapped runs that show a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachmentDiff {
    /// Ioeventfds that are no longer active.
    pub ioeventfds_removed: Vec<IoEventFd>,
    /// Ioeventfds that become active.
    pub ioeventfds_added: Vec<IoEventFd>,
    /// Ranges that are no longer coalesced.
    pub coalesced_removed: Vec<AddrRange>,
    /// Ranges that become coalesced.
    pub coalesced_added: Vec<AddrRange>,
}

impl AttachmentDiff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.ioeventfds_removed.is_empty()
            && self.ioeventfds_added.is_empty()
            && self.coalesced_removed.is_empty()
            && self.coalesced_added.is_empty()
    }

    /// The difference from nothing to all that is active in `view`. The cost is
    /// proportional to the number of runs.
    pub(crate) fn to_all_of<H>(tree: &Tree<H>, view: &FlatView<H>) -> Self {
        let mut after = Active::default();
        if tree.has_attachments() {
            view.ranges().for_each(|run| after.add(tree, run));
        }
        Active::default().diff_to(after)
    }

    /// The change from the new state back to the old.
    pub(crate) fn reversed(self) -> Self {
        Self {
            ioeventfds_removed: self.ioeventfds_added,
            ioeventfds_added: self.ioeventfds_removed,
            coalesced_removed: self.coalesced_added,
            coalesced_added: self.coalesced_removed,
        }
    }

    /// The difference from one view to the next. `diff` is the difference of their
    /// runs. `marked` has all addresses at which the new view shows what was
    /// `touched`.
    pub(crate) fn between<H>(
        tree: &Tree<H>,
        touched: &Touched,
        [old, new]: [&FlatView<H>; 2],
        diff: &Diff<H>,
        marked: &[AddrRange],
    ) -> Self {
        let (mut before, mut after) = (Active::default(), Active::default());
        let changed = diff.changed.iter();
        for run in diff.removed.iter().chain(changed.clone().map(|c| &c.0)) {
            before.add_as_before(tree, touched, run);
        }
        for run in diff.added.iter().chain(changed.map(|c| &c.1)) {
            after.add(tree, run);
        }
        let mut latest = None;
        for run in marked.iter().flat_map(|window| new.intersecting(*window)) {
            let start = run.range().start();
            // A run that two windows reach into counts once. A run that differs was
            // handled with the diff.
            if latest.replace(start) != Some(start) && old.find(start) == Some(run) {
                before.add_touched_before(touched, run);
                after.add_touched_now(tree, touched, run);
            }
        }
        before.diff_to(after)
    }
}

/// The active attachments, at the guest's addresses.
#[derive(Default)]
struct Active {
    ioeventfds: Vec<IoEventFd>,
    coalesced: Vec<AddrRange>,
}

impl Active {
    /// Adds what is active in a run.
    fn add<H>(&mut self, tree: &Tree<H>, run: &FlatRange<H>) {
        if let (Some(offsets), Some(now)) = (trapped(run), tree.attachments(run.id())) {
            self.add_ioeventfds(run, now.ioeventfds(offsets));
            self.add_coalesced(run, now.coalesced(offsets));
        }
    }

    /// Adds what was active in a run before the transaction.
    fn add_as_before<H>(&mut self, tree: &Tree<H>, touched: &Touched, run: &FlatRange<H>) {
        let id = run.id();
        if let (Some(offsets), Some(now)) = (trapped(run), tree.attachments(id)) {
            let same = |e: &IoEventFd| !touched.ioeventfds.contains_key(&(id, e.key()));
            self.add_ioeventfds(run, now.ioeventfds(offsets).filter(same));
            let same = |range: &AddrRange| !touched.coalesced.contains_key(&(id, *range));
            self.add_coalesced(run, now.coalesced(offsets).filter(same));
        }
        self.add_touched_before(touched, run);
    }

    /// Adds the touched attachments that were active in a run before the transaction.
    fn add_touched_before<H>(&mut self, touched: &Touched, run: &FlatRange<H>) {
        let Some(offsets) = trapped(run) else { return };
        let ioeventfds = touched.ioeventfds_of(run.id(), offsets);
        let before = ioeventfds.filter_map(|((at, trigger), before)| {
            Some(IoEventFd {
                at,
                trigger,
                event: before.clone()?,
            })
        });
        self.add_ioeventfds(run, before);
        let coalesced = touched.coalesced_of(run.id());
        let before = coalesced.filter_map(|(range, before)| before.then_some(range));
        self.add_coalesced(run, before);
    }

    /// Adds the touched attachments that are active in a run now.
    fn add_touched_now<H>(&mut self, tree: &Tree<H>, touched: &Touched, run: &FlatRange<H>) {
        let id = run.id();
        if let (Some(offsets), Some(now)) = (trapped(run), tree.attachments(id)) {
            let ioeventfds = touched.ioeventfds_of(id, offsets);
            let ioeventfds = ioeventfds.filter_map(|(key, _)| now.ioeventfd(key));
            self.add_ioeventfds(run, ioeventfds);
            let coalesced = touched.coalesced_of(id).map(|(range, _)| range);
            self.add_coalesced(run, coalesced.filter(|range| now.has_coalesced(*range)));
        }
    }

    fn add_ioeventfds<H>(
        &mut self,
        run: &FlatRange<H>,
        ioeventfds: impl Iterator<Item = IoEventFd>,
    ) {
        let shown = trapped(run);
        let whole = |e: &IoEventFd| {
            let both = shown.zip(e.range());
            both.is_some_and(|(shown, writes)| shown.covers(writes))
        };
        let address = |e: IoEventFd| IoEventFd {
            at: run.range().start() + (e.at - run.offset()),
            ..e
        };
        self.ioeventfds
            .extend(ioeventfds.filter(whole).map(address));
    }

    fn add_coalesced<H>(&mut self, run: &FlatRange<H>, ranges: impl Iterator<Item = AddrRange>) {
        let address = |range: AddrRange| {
            let seen = trapped(run)?.intersect(range)?;
            let start = run.range().start() + (seen.start() - run.offset());
            AddrRange::new(start, seen.size())
        };
        self.coalesced.extend(ranges.filter_map(address));
    }

    /// The difference from this to `after`.
    fn diff_to(mut self, mut after: Self) -> AttachmentDiff {
        keep_differences(&mut self.ioeventfds, &mut after.ioeventfds);
        keep_differences(&mut self.coalesced, &mut after.coalesced);
        AttachmentDiff {
            ioeventfds_removed: self.ioeventfds,
            ioeventfds_added: after.ioeventfds,
            coalesced_removed: self.coalesced,
            coalesced_added: after.coalesced,
        }
    }
}

/// The offsets in its region that a run shows, if it traps.
fn trapped<H>(run: &FlatRange<H>) -> Option<AddrRange> {
    match run.access() {
        GuestAccess::Trap => AddrRange::new(run.offset(), run.range().size()),
        _ => None,
    }
}

/// Sorts both, and removes what both contain. Neither contains duplicates.
fn keep_differences<T: Ord + Clone>(a: &mut Vec<T>, b: &mut Vec<T>) {
    a.sort_unstable();
    b.sort_unstable();
    let before = a.clone();
    a.retain(|item| b.binary_search(item).is_err());
    b.retain(|item| before.binary_search(item).is_err());
}

/// What a transaction has attached or detached, each with its state before.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    ioeventfds: BTreeMap<(RegionId, IoEventKey), Option<EventFd>>,
    coalesced: BTreeMap<(RegionId, AddrRange), bool>,
}

impl Touched {
    /// Records that an ioeventfd is touched. Only the first record counts.
    pub(crate) fn ioeventfd(&mut self, id: RegionId, key: IoEventKey, before: Option<EventFd>) {
        self.ioeventfds.entry((id, key)).or_insert(before);
    }

    /// Records that a coalesced range is touched. Only the first record counts.
    pub(crate) fn coalesced(&mut self, id: RegionId, range: AddrRange, before: bool) {
        self.coalesced.entry((id, range)).or_insert(before);
    }

    /// The addresses at which the touched attachments show now.
    pub(crate) fn windows<H>(&self, tree: &Tree<H>) -> Windows {
        let mut windows = Windows::default();
        for &(id, (at, _)) in self.ioeventfds.keys() {
            let first = AddrRange::from_bounds(at, at);
            first.into_iter().for_each(|at| windows.add(tree, id, at));
        }
        for &(id, range) in self.coalesced.keys() {
            windows.add(tree, id, range);
        }
        windows
    }

    fn ioeventfds_of(
        &self,
        id: RegionId,
        offsets: AddrRange,
    ) -> impl Iterator<Item = (IoEventKey, &Option<EventFd>)> {
        let from = (id, (offsets.start(), Trigger::FIRST));
        let to = (id, (offsets.last(), Trigger::LAST));
        let touched = self.ioeventfds.range(from..=to);
        touched.map(|(&(_, key), before)| (key, before))
    }

    fn coalesced_of(&self, id: RegionId) -> impl Iterator<Item = (AddrRange, bool)> + '_ {
        // No range sorts before the range of the first byte.
        let from = AddrRange::from_bounds(0, 0).map(|first| (id, first));
        let touched = from
            .into_iter()
            .flat_map(|from| self.coalesced.range(from..));
        let own = touched.take_while(move |((other, _), _)| *other == id);
        own.map(|(&(_, range), &before)| (range, before))
    }
}
