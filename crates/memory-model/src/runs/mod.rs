// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The runs of a flat view, in a tree of shared nodes. A new view shares all unchanged
//! nodes with the old one, so its cost depends on the change.
//!
//! The tree is a B+ tree of small nodes. A node changes only while one tree owns it.
//! Replacing runs copies the nodes from there up to the root. All others belong to both
//! trees.

mod check;
mod cut;
mod edit;
mod node;
mod reuse;
mod shared;
pub(crate) mod spare;

use core::slice::Iter;

use guest_ranges::AddrRange;
use smallvec::SmallVec;

use self::node::{Entry, Inner, Leaf, Root, Row};
use self::shared::Shared;
use crate::view::flat_range::FlatRange;

/// Sorted runs that do not overlap. Clones share all nodes but the root, which is
/// stored inline so that a lookup follows one pointer less.
#[derive(Debug)]
pub(crate) struct Runs<H> {
    root: Root<H>,
    len: usize,
}

/// New runs for a range of addresses: sorted, and inside it.
#[derive(Debug)]
pub(crate) struct Edit<H> {
    pub(crate) range: AddrRange,
    pub(crate) runs: SmallVec<[FlatRange<H>; 2]>,
}

impl<H> Clone for Runs<H> {
    fn clone(&self) -> Self {
        Self {
            root: self.root.clone(),
            len: self.len,
        }
    }
}

impl<H> Runs<H> {
    pub(crate) fn new() -> Self {
        Self {
            root: Root::Leaf(Leaf::new()),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The last run that starts at or below `address`, or the first run if there is
    /// none. `None` if there are no runs.
    #[inline(always)]
    pub(crate) fn near(&self, address: u64) -> Option<&FlatRange<H>> {
        if address == u64::MAX {
            return self.last();
        }
        let mut inner = match &self.root {
            Root::Leaf(leaf) => return leaf.find(address),
            // A tree that has just outgrown its height.
            Root::Inner(Inner::Inners(row)) if row.is_two_below() => row.find_of_two(address)?,
            Root::Inner(inner) => inner,
        };
        loop {
            match inner {
                Inner::Inners(row) => inner = row.find(address)?,
                Inner::Leaves(row) => {
                    let leaf = row.find(address)?;
                    return leaf.find(address);
                }
            }
        }
    }

    /// The last run.
    #[cold]
    fn last(&self) -> Option<&FlatRange<H>> {
        let mut inner = match &self.root {
            Root::Leaf(leaf) => return leaf.last(),
            Root::Inner(inner) => inner,
        };
        loop {
            match inner {
                Inner::Inners(row) => inner = row.last()?,
                Inner::Leaves(row) => return row.last()?.last(),
            }
        }
    }

    /// The runs from the one at `address` on, or from the first above it.
    pub(crate) fn from(&self, address: u64) -> Ranges<'_, H> {
        let mut ranges = Ranges {
            inners: SmallVec::new(),
            leaves: [].iter(),
            runs: [].iter(),
        };
        match &self.root {
            Root::Leaf(leaf) => ranges.enter_leaf(leaf, address),
            Root::Inner(inner) => ranges.enter(inner, address),
        }
        ranges
    }

    /// Calls `visit` for the runs that have an address of `range`, by address.
    pub(crate) fn meeting<'a>(
        &'a self,
        range: AddrRange,
        visit: &mut impl FnMut(&'a FlatRange<H>),
    ) {
        let mut inner = match &self.root {
            Root::Leaf(leaf) => return meeting_leaf(leaf, range, visit),
            Root::Inner(inner) => inner,
        };
        // Down as long as all of them are in one node.
        loop {
            match inner {
                Inner::Inners(row) => match row.only_in(range) {
                    Some(below) => inner = below,
                    None => return meeting(inner, range, visit),
                },
                Inner::Leaves(row) => match row.only_in(range) {
                    Some(leaf) => return meeting_leaf(leaf, range, visit),
                    None => return meeting(inner, range, visit),
                },
            }
        }
    }
}

/// Calls `visit` for the runs below a node.
fn meeting<'a, H>(inner: &'a Inner<H>, range: AddrRange, visit: &mut impl FnMut(&'a FlatRange<H>)) {
    match inner {
        Inner::Inners(row) => each_in(row, range, |below| meeting(below, range, visit)),
        Inner::Leaves(row) => each_in(row, range, |leaf| meeting_leaf(leaf, range, visit)),
    }
}

fn meeting_leaf<'a, H>(
    leaf: &'a Leaf<H>,
    range: AddrRange,
    visit: &mut impl FnMut(&'a FlatRange<H>),
) {
    each_in(leaf, range, |run| {
        if run.range().last() >= range.start() {
            visit(run);
        }
    });
}

/// Calls `visit` for the entry that can have the first address of a range, and for
/// those after it that start in the range.
fn each_in<'a, E: Entry>(row: &'a Row<E>, range: AddrRange, mut visit: impl FnMut(&'a E)) {
    let mut at = row.place_in(range.start());
    while row.starts_up_to(at, range.last()) {
        row.get(at).into_iter().for_each(&mut visit);
        at += 1;
    }
}

/// The rest of a row.
type Rest<'a, E> = Iter<'a, Option<E>>;

/// An iterator over the runs of a [`FlatView`](crate::FlatView), by address.
#[derive(Debug)]
pub struct Ranges<'a, H> {
    /// The rests of the nodes above the leaves, the topmost first.
    inners: SmallVec<[Rest<'a, Shared<Inner<H>>>; 6]>,
    leaves: Rest<'a, Shared<Leaf<H>>>,
    runs: Rest<'a, FlatRange<H>>,
}

impl<H> Clone for Ranges<'_, H> {
    fn clone(&self) -> Self {
        Self {
            inners: self.inners.clone(),
            leaves: self.leaves.clone(),
            runs: self.runs.clone(),
        }
    }
}

impl<'a, H> Ranges<'a, H> {
    /// Continues in a node with the run at `address`, or with the first above it.
    fn enter(&mut self, mut inner: &'a Inner<H>, address: u64) {
        loop {
            match inner {
                Inner::Inners(row) => {
                    let mut rest = row.from(row.place_in(address));
                    let first = rest.next().and_then(Option::as_deref);
                    self.inners.push(rest);
                    let Some(first) = first else { return };
                    inner = first;
                }
                Inner::Leaves(row) => {
                    self.leaves = row.from(row.place_in(address));
                    if let Some(leaf) = self.leaves.next().and_then(Option::as_deref) {
                        self.enter_leaf(leaf, address);
                    }
                    return;
                }
            }
        }
    }

    fn enter_leaf(&mut self, leaf: &'a Leaf<H>, address: u64) {
        let mut at = leaf.place_in(address);
        if leaf.get(at).is_some_and(|run| run.range().last() < address) {
            at += 1;
        }
        self.runs = leaf.from(at);
    }
}

impl<'a, H> Iterator for Ranges<'a, H> {
    type Item = &'a FlatRange<H>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(run) = self.runs.next() {
                return run.as_ref();
            }
            if let Some(Some(leaf)) = self.leaves.next() {
                self.runs = leaf.from(0);
                continue;
            }
            // Up to where something is left, and down again to its first leaf.
            match self.inners.last_mut()?.next() {
                Some(Some(inner)) => self.enter(inner, 0),
                _ => drop(self.inners.pop()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
