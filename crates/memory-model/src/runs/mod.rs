// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The runs of a flat view in a tree of shared nodes: a new view shares with
//! the old one all that did not change, so that it costs what changed.
//!
//! It is a B+ tree that is never modified. Every node has the first addresses
//! of what is in it side by side; replacing some runs makes new blocks and
//! nodes from there up to the root, and all others belong to both trees.

mod edit;
mod node;

use alloc::sync::Arc;

use smallvec::SmallVec;

use self::node::{Blocks, Entries, Node, entry, last};
use crate::{AddrRange, FlatRange};

/// Sorted runs that do not overlap. Clones share everything.
#[derive(Debug)]
pub(crate) struct Runs<H> {
    root: Arc<Node<H>>,
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
            root: Arc::new(Node::empty()),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The run that starts at `address` or, of those below, the nearest; the
    /// first if there is none. `None` if there are no runs.
    #[inline(always)]
    pub(crate) fn near(&self, address: u64) -> Option<&FlatRange<H>> {
        if address == u64::MAX {
            return self.last();
        }
        let mut node = &*self.root;
        loop {
            let place = node.index.place(address);
            match &node.entries {
                Entries::Runs(blocks) => return entry(blocks, place),
                Entries::Nodes(blocks) => node = entry(blocks, place)?,
            }
        }
    }

    /// The last run.
    #[cold]
    fn last(&self) -> Option<&FlatRange<H>> {
        let mut node = &*self.root;
        loop {
            match &node.entries {
                Entries::Runs(blocks) => return last(blocks),
                Entries::Nodes(blocks) => node = last(blocks)?,
            }
        }
    }

    /// The runs from the one that holds `address`, or else the first behind it.
    pub(crate) fn from(&self, address: u64) -> Ranges<'_, H> {
        let mut above = SmallVec::new();
        let mut node = &*self.root;
        if address == u64::MAX {
            let last = self.last().filter(|run| run.range().last() == address);
            let leaf = last.map_or_else(Entered::nothing, Entered::only);
            return Ranges { above, leaf };
        }
        loop {
            let place = node.index.place(address);
            match &node.entries {
                Entries::Nodes(blocks) => {
                    let mut level = Entered::at(blocks, place);
                    let Some(child) = level.next() else { break };
                    above.push(level);
                    node = child;
                }
                Entries::Runs(blocks) => {
                    let mut leaf = Entered::at(blocks, place);
                    let first = leaf.entries.as_slice().first();
                    if first.is_some_and(|run| run.range().last() < address) {
                        leaf.next();
                    }
                    return Ranges { above, leaf };
                }
            }
        }
        Ranges {
            above,
            leaf: Entered::nothing(),
        }
    }
}

/// What is left of a node that is gone through.
#[derive(Debug)]
struct Entered<'a, E> {
    blocks: core::slice::Iter<'a, Option<Arc<[E]>>>,
    entries: core::slice::Iter<'a, E>,
}

impl<E> Clone for Entered<'_, E> {
    fn clone(&self) -> Self {
        Self {
            blocks: self.blocks.clone(),
            entries: self.entries.clone(),
        }
    }
}

impl<'a, E> Entered<'a, E> {
    /// From the place of an entry on.
    fn at(blocks: &'a Blocks<E>, (block, entry): (usize, usize)) -> Self {
        let mut blocks = blocks.get(block..).unwrap_or(&[]).iter();
        let first = blocks.next().and_then(Option::as_deref).unwrap_or(&[]);
        Self {
            blocks,
            entries: first.get(entry..).unwrap_or(&[]).iter(),
        }
    }

    fn only(entry: &'a E) -> Self {
        Self {
            blocks: [].iter(),
            entries: core::slice::from_ref(entry).iter(),
        }
    }

    fn nothing() -> Self {
        Self {
            blocks: [].iter(),
            entries: [].iter(),
        }
    }
}

impl<'a, E> Iterator for Entered<'a, E> {
    type Item = &'a E;

    fn next(&mut self) -> Option<&'a E> {
        if let Some(entry) = self.entries.next() {
            return Some(entry);
        }
        self.entries = self.blocks.next()?.as_deref()?.iter();
        self.entries.next()
    }
}

/// Goes through the runs of a [`FlatView`](crate::FlatView) by address.
#[derive(Debug)]
pub struct Ranges<'a, H> {
    /// On each level above the leaf.
    above: SmallVec<[Entered<'a, Arc<Node<H>>>; 4]>,
    leaf: Entered<'a, FlatRange<H>>,
}

impl<H> Clone for Ranges<'_, H> {
    fn clone(&self) -> Self {
        Self {
            above: self.above.clone(),
            leaf: self.leaf.clone(),
        }
    }
}

impl<'a, H> Iterator for Ranges<'a, H> {
    type Item = &'a FlatRange<H>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(run) = self.leaf.next() {
                return Some(run);
            }
            // Up to where something is left, and down again to its first leaf.
            let Some(node) = self.above.last_mut()?.next() else {
                self.above.pop();
                continue;
            };
            match &node.entries {
                Entries::Nodes(blocks) => self.above.push(Entered::at(blocks, (0, 0))),
                Entries::Runs(blocks) => self.leaf = Entered::at(blocks, (0, 0)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
