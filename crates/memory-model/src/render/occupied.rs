// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The runs that a rendering has found so far, and the gaps between them.

use alloc::collections::BTreeMap;

use guest_ranges::AddrRange;
use smallvec::{SmallVec, smallvec};

use crate::view::flat_range::FlatRange;

/// Up to this many runs are kept in a sorted array. A window of a usual machine
/// has no more, and needs no tree.
const FEW: usize = 16;

/// Runs, by address and without overlap.
#[derive(Debug)]
pub(crate) enum Occupied<H> {
    Few(SmallVec<[FlatRange<H>; 2]>),
    Many(Many<H>),
}

/// Runs by their first address, and the addresses that they occupy.
#[derive(Debug)]
pub(crate) struct Many<H> {
    runs: BTreeMap<u64, FlatRange<H>>,
    /// First to last address, joined where runs touch. The cost of a region below
    /// many runs therefore depends on the gaps that it fills, not on those runs.
    joined: BTreeMap<u64, u64>,
}

impl<H> Occupied<H> {
    pub(crate) fn new() -> Self {
        Self::Few(SmallVec::new())
    }

    /// Adds a run whose addresses are all free.
    pub(crate) fn insert(&mut self, run: FlatRange<H>) {
        let start = run.range.start();
        match self {
            Self::Few(few) if few.len() < FEW => {
                let at = few.partition_point(|other| other.range.start() < start);
                few.insert(at, run);
            }
            Self::Few(few) => {
                let mut many = Many {
                    runs: BTreeMap::new(),
                    joined: BTreeMap::new(),
                };
                few.drain(..).chain([run]).for_each(|run| many.insert(run));
                *self = Self::Many(many);
            }
            Self::Many(many) => many.insert(run),
        }
    }

    /// The addresses of `clip` that are free.
    pub(crate) fn gaps(&self, clip: AddrRange) -> SmallVec<[AddrRange; 2]> {
        match self {
            Self::Few(few) if few.is_empty() => smallvec![clip],
            Self::Few(few) => between(clip, few.iter().map(|run| run.range)),
            Self::Many(many) => {
                let before = many.joined.range(..clip.start()).next_back();
                let inside = many.joined.range(clip.start()..=clip.last());
                let occupied = before.into_iter().chain(inside);
                let occupied =
                    occupied.filter_map(|(&start, &last)| AddrRange::from_bounds(start, last));
                between(clip, occupied)
            }
        }
    }

    /// Calls `visit` for each run, by address.
    #[inline]
    pub(crate) fn for_each(self, mut visit: impl FnMut(FlatRange<H>)) {
        match self {
            Self::Few(mut few) => {
                few.reverse();
                while let Some(run) = few.pop() {
                    visit(run);
                }
            }
            Self::Many(many) => many.runs.into_values().for_each(visit),
        }
    }
}

impl<H> Many<H> {
    fn insert(&mut self, run: FlatRange<H>) {
        let (mut start, mut last) = (run.range.start(), run.range.last());
        if let Some((&before, &end)) = self.joined.range(..start).next_back() {
            if end.checked_add(1) == Some(start) {
                start = before;
            }
        }
        let next = last.checked_add(1);
        if let Some(end) = next.and_then(|next| self.joined.remove(&next)) {
            last = end;
        }
        self.joined.insert(start, last);
        self.runs.insert(run.range.start(), run);
    }
}

/// The addresses of `clip` that are in none of these sorted ranges. `gaps` of
/// guest-ranges does the same; this stays in place for the few runs of a window.
fn between(clip: AddrRange, occupied: impl Iterator<Item = AddrRange>) -> SmallVec<[AddrRange; 2]> {
    let mut gaps = SmallVec::new();
    let mut from = clip.start();
    for run in occupied {
        if run.last() < from {
            continue;
        }
        if run.start() > clip.last() {
            break;
        }
        let before = run.start().checked_sub(1);
        gaps.extend(before.and_then(|last| AddrRange::from_bounds(from, last)));
        match run.last().checked_add(1) {
            Some(next) => from = next,
            None => return gaps,
        }
    }
    gaps.extend(AddrRange::from_bounds(from, clip.last()));
    gaps
}
