// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The difference between two flat views.

use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::view::FlatView;
use crate::view::flat_range::FlatRange;

/// The difference between two flat views, for listeners to apply.
///
/// A run is `changed` if only its attributes differ, and its bytes and addresses
/// stay. It does not have to be unmapped.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diff<H> {
    /// Runs that the new view no longer has, by address.
    pub removed: Vec<FlatRange<H>>,
    /// Runs that the old view did not have, by address.
    pub added: Vec<FlatRange<H>>,
    /// Runs whose attributes differ: the old run and the new run.
    pub changed: Vec<(FlatRange<H>, FlatRange<H>)>,
}

/// How many runs a reused diff keeps allocated.
const KEPT: usize = 16;

impl<H> Default for Diff<H> {
    fn default() -> Self {
        Self {
            removed: Vec::new(),
            added: Vec::new(),
            changed: Vec::new(),
        }
    }
}

impl<H> Diff<H> {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes all runs, and keeps some of the allocations.
    pub(crate) fn clear(&mut self) {
        clear(&mut self.removed);
        clear(&mut self.added);
        clear(&mut self.changed);
    }

    /// How many runs differ.
    pub(crate) fn len(&self) -> usize {
        self.removed.len() + self.added.len() + self.changed.len()
    }

    /// The difference from `old` to `new`. The cost is proportional to the number of
    /// runs of both.
    pub fn between(old: &FlatView<H>, new: &FlatView<H>) -> Self {
        let mut diff = Self::default();
        diff.extend(old.ranges(), new.ranges());
        diff
    }

    /// Adds the difference from `old` to `new`, which are both above all runs added
    /// before. Returns whether there is a difference.
    pub(crate) fn extend<'a>(
        &mut self,
        mut old: impl Iterator<Item = &'a FlatRange<H>>,
        mut new: impl Iterator<Item = &'a FlatRange<H>>,
    ) -> bool
    where
        H: 'a,
    {
        let before = self.len();
        let (mut old_run, mut new_run) = (old.next(), new.next());
        loop {
            let order = match (old_run, new_run) {
                (None, None) => return self.len() > before,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.range().start().cmp(&b.range().start()),
            };
            match (order, old_run, new_run) {
                (Ordering::Equal, Some(a), Some(b)) => self.compare(a, b),
                (Ordering::Less, Some(a), _) => self.removed.push(a.clone()),
                (Ordering::Greater, _, Some(b)) => self.added.push(b.clone()),
                _ => {}
            }
            if order != Ordering::Greater {
                old_run = old.next();
            }
            if order != Ordering::Less {
                new_run = new.next();
            }
        }
    }

    /// Compares two runs with the same start.
    fn compare(&mut self, old: &FlatRange<H>, new: &FlatRange<H>) {
        if old == new {
            return;
        }
        if old.same_bytes(new) {
            self.changed.push((old.clone(), new.clone()));
        } else {
            self.removed.push(old.clone());
            self.added.push(new.clone());
        }
    }
}

fn clear<T>(all: &mut Vec<T>) {
    all.clear();
    all.shrink_to(KEPT);
}
