// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who answers where, as far as a rendering has come.

use alloc::collections::BTreeMap;

use smallvec::{SmallVec, smallvec};

use crate::{AddrRange, FlatRange};

/// Up to so many runs are kept in a row. A window of a usual machine has no
/// more, and needs no tree.
const FEW: usize = 16;

/// Runs that are taken: by address, and not overlapping.
#[derive(Debug)]
pub(crate) enum Taken<H> {
    Few(SmallVec<[FlatRange<H>; 2]>),
    Many(Many<H>),
}

/// Runs by where they start, and the addresses that they take.
#[derive(Debug)]
pub(crate) struct Many<H> {
    runs: BTreeMap<u64, FlatRange<H>>,
    /// First to last address, joined where they touch. So the cost of a region
    /// below many runs depends on the gaps it fills, not on the runs above it.
    joined: BTreeMap<u64, u64>,
}

impl<H> Taken<H> {
    pub(crate) fn new() -> Self {
        Self::Few(SmallVec::new())
    }

    /// Takes a run, of which nobody has taken anything.
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

    /// The addresses of `clip` that nobody has taken.
    pub(crate) fn gaps(&self, clip: AddrRange) -> SmallVec<[AddrRange; 2]> {
        match self {
            Self::Few(few) if few.is_empty() => smallvec![clip],
            Self::Few(few) => between(clip, few.iter().map(|run| run.range)),
            Self::Many(many) => {
                let before = many.joined.range(..clip.start()).next_back();
                let inside = many.joined.range(clip.start()..=clip.last());
                let taken = before.into_iter().chain(inside);
                let taken = taken.filter_map(|(&start, &last)| AddrRange::from_bounds(start, last));
                between(clip, taken)
            }
        }
    }

    /// All of them.
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

/// The addresses of `clip` that are in none of these ranges, which are in order.
fn between(clip: AddrRange, taken: impl Iterator<Item = AddrRange>) -> SmallVec<[AddrRange; 2]> {
    let mut gaps = SmallVec::new();
    let mut from = clip.start();
    for run in taken {
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
