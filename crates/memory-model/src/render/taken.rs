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
    Many(BTreeMap<u64, FlatRange<H>>),
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
                let runs = few.drain(..).chain([run]);
                *self = Self::Many(runs.map(|run| (run.range.start(), run)).collect());
            }
            Self::Many(many) => drop(many.insert(start, run)),
        }
    }

    /// The addresses of `clip` that nobody has taken.
    pub(crate) fn gaps(&self, clip: AddrRange) -> SmallVec<[AddrRange; 2]> {
        match self {
            Self::Few(few) if few.is_empty() => smallvec![clip],
            Self::Few(few) => between(clip, few.iter()),
            Self::Many(many) => {
                let before = many.range(..clip.start()).next_back();
                let inside = many.range(clip.start()..=clip.last());
                between(clip, before.into_iter().chain(inside).map(|(_, run)| run))
            }
        }
    }

    /// All of them.
    #[inline]
    pub(crate) fn for_each(self, mut tell: impl FnMut(FlatRange<H>)) {
        match self {
            Self::Few(mut few) => {
                few.reverse();
                while let Some(run) = few.pop() {
                    tell(run);
                }
            }
            Self::Many(many) => many.into_values().for_each(tell),
        }
    }
}

/// The addresses of `clip` that are in none of the runs, which come by address.
fn between<'a, H: 'a>(
    clip: AddrRange,
    taken: impl Iterator<Item = &'a FlatRange<H>>,
) -> SmallVec<[AddrRange; 2]> {
    let mut gaps = SmallVec::new();
    let mut from = clip.start();
    for run in taken.map(|run| run.range) {
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
