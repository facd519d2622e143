// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Makes a row from an existing one, which costs less than a new one.

use core::mem;

use super::node::{Entry, Leaf, Nodes, Row};
use super::shared::Shared;

impl<E: Entry> Row<E> {
    /// Removes all entries.
    #[inline]
    pub(super) fn drain(&mut self) -> impl Iterator<Item = E> {
        self.len = 0;
        self.entries.iter_mut().map_while(Option::take)
    }

    /// Fills an empty row with the entries of another.
    #[inline]
    pub(super) fn fill(&mut self, other: &Self) {
        debug_assert!(self.len == 0 && self.entries.iter().all(Option::is_none));
        self.others = other.others;
        for (entry, other) in self.entries.iter_mut().zip(&other.entries) {
            // Nothing has to be dropped.
            mem::forget(mem::replace(entry, other.clone()));
        }
        self.len = other.len;
    }

    /// Whether the row is likely to have many entries in common with another.
    #[inline]
    pub(super) fn resembles(&self, other: &Self) -> bool {
        self.others[0] == other.others[0]
    }
}

impl<N> Nodes<N> {
    /// Becomes a copy of another. Calls the closure with its own entries that the copy
    /// does not have.
    #[inline]
    pub(super) fn take_over(&mut self, other: &Self, mut leave: impl FnMut(Shared<N>)) {
        self.others = other.others;
        self.len = other.len;
        for (own, other) in self.entries.iter_mut().zip(&other.entries) {
            let same = match (&*own, other) {
                (Some(own), Some(other)) => own.is_same(other),
                (own, other) => own.is_none() && other.is_none(),
            };
            if !same {
                exchange(own, other, &mut leave);
            }
        }
    }
}

/// Out of line, because usually a single entry of a row differs.
#[inline(never)]
fn exchange<N>(
    own: &mut Option<Shared<N>>,
    other: &Option<Shared<N>>,
    leave: &mut impl FnMut(Shared<N>),
) {
    let before = mem::replace(own, other.clone());
    before.into_iter().for_each(leave);
}

impl<H> Leaf<H> {
    /// Becomes a copy of another.
    #[inline]
    pub(super) fn take_over(&mut self, other: &Self) {
        self.others = other.others;
        self.len = other.len;
        for (run, other) in self.entries.iter_mut().zip(&other.entries) {
            match (&mut *run, other) {
                // Past the last entry of both.
                (None, None) => break,
                (Some(run), Some(other)) => run.clone_from(other),
                _ => *run = other.clone(),
            }
        }
    }
}
