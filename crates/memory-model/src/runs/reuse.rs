// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Making a row of another, at less cost than a new one takes.

use core::mem;

use super::node::{Entry, Leaf, Nodes, Row};
use super::shared::Shared;

impl<E: Entry> Row<E> {
    /// Takes all out.
    #[inline]
    pub(super) fn drain(&mut self) -> impl Iterator<Item = E> {
        self.len = 0;
        self.entries.iter_mut().map_while(Option::take)
    }

    /// Fills a row that has nothing in it with what another has.
    #[inline]
    pub(super) fn fill(&mut self, other: &Self) {
        debug_assert!(self.len == 0 && self.entries.iter().all(Option::is_none));
        self.others = other.others;
        for (entry, other) in self.entries.iter_mut().zip(&other.entries) {
            // There is nothing that would have to be dropped.
            mem::forget(mem::replace(entry, other.clone()));
        }
        self.len = other.len;
    }

    /// Whether it seems to have much in common with another.
    #[inline]
    pub(super) fn resembles(&self, other: &Self) -> bool {
        self.others[0] == other.others[0]
    }
}

impl<N> Nodes<N> {
    /// Takes over all entries that another has; tells those of its own that it
    /// has no more.
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

/// Out of line, since of a whole row it is usually one.
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
    /// Takes over all runs that another has.
    #[inline]
    pub(super) fn take_over(&mut self, other: &Self) {
        self.others = other.others;
        self.len = other.len;
        for (run, other) in self.entries.iter_mut().zip(&other.entries) {
            match (&mut *run, other) {
                // Behind the last of both.
                (None, None) => break,
                (Some(run), Some(other)) => run.clone_from(other),
                _ => *run = other.clone(),
            }
        }
    }
}
