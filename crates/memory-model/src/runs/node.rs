// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A node of the tree of runs, and how an address is looked up in it.

use alloc::sync::Arc;

use crate::FlatRange;

/// The most blocks of a node, and the most entries of a block: as many
/// addresses as a cache line has room for.
pub(super) const MAX: usize = 8;
/// Nodes with fewer blocks, and blocks with fewer entries, are joined with a
/// neighbour.
pub(super) const MIN: usize = 3;

/// The runs, or the nodes below, of a stretch of addresses. They are in blocks
/// that nodes share, so that a change copies one block and not all entries.
/// Only the root of an empty tree has none.
#[derive(Debug)]
pub(super) struct Node<H> {
    pub(super) index: Index,
    pub(super) entries: Entries<H>,
}

#[derive(Debug)]
pub(super) enum Entries<H> {
    Runs(Blocks<FlatRange<H>>),
    Nodes(Blocks<Arc<Node<H>>>),
}

/// Blocks, none of them empty, and then nothing.
pub(super) type Blocks<E> = [Option<Arc<[E]>>; MAX];

/// A block of a node, and an entry of it.
pub(super) type Place = (usize, usize);

/// The first addresses of the entries of a block. Behind the last, all are the
/// highest address there is.
pub(super) type Starts = [u64; MAX];

/// The blocks are shared.
impl<H> Clone for Node<H> {
    fn clone(&self) -> Self {
        Self {
            index: self.index,
            entries: match &self.entries {
                Entries::Runs(blocks) => Entries::Runs(blocks.clone()),
                Entries::Nodes(blocks) => Entries::Nodes(blocks.clone()),
            },
        }
    }
}

impl<H> Node<H> {
    pub(super) fn empty() -> Self {
        Self {
            index: Index::new(),
            entries: Entries::Runs(Blocks::default()),
        }
    }

    /// How many blocks it has.
    pub(super) fn len(&self) -> usize {
        match &self.entries {
            Entries::Runs(blocks) => count(blocks),
            Entries::Nodes(blocks) => count(blocks),
        }
    }

    /// The address of the first run in it.
    pub(super) fn start(&self) -> u64 {
        self.index.heads[0]
    }
}

/// The first addresses of all entries of a node: inside the node, so that
/// nothing has to be waited for, and searched without branches, so that
/// nothing has to be guessed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Index {
    /// The first of each block.
    heads: Starts,
    starts: [Starts; MAX],
}

impl Index {
    /// Of no block.
    pub(super) fn new() -> Self {
        Self {
            heads: [u64::MAX; MAX],
            starts: [[u64::MAX; MAX]; MAX],
        }
    }

    /// Has another block in one place.
    pub(super) fn set(&mut self, block: usize, starts: Starts) {
        self.heads[block] = starts[0];
        self.starts[block] = starts;
    }

    /// Has another entry in one place.
    pub(super) fn set_one(&mut self, (block, entry): Place, start: u64) {
        self.starts[block][entry] = start;
        self.heads[block] = self.starts[block][0];
    }

    /// Where the entry at a place starts.
    pub(super) fn start(&self, (block, entry): Place) -> u64 {
        self.starts[block][entry]
    }

    pub(super) fn heads(&self) -> &Starts {
        &self.heads
    }

    pub(super) fn starts(&self) -> &[Starts; MAX] {
        &self.starts
    }

    /// In which block, and where in it, the last entry is that starts at
    /// `address` or below; the first entry if none does. There is no telling
    /// for the highest address of all, which stands behind the last entry.
    #[inline(always)]
    pub(super) fn place(&self, address: u64) -> Place {
        let block = match self.heads[1] {
            // There is only one; of a large tree, every node has more.
            u64::MAX => 0,
            _ => others_up_to(&self.heads, address) % MAX,
        };
        (block, others_up_to(&self.starts[block], address))
    }
}

/// How many of `starts` but the first are not above `address`: all are
/// compared, since that takes less time than to wait for one comparison before
/// the next.
#[inline(always)]
fn others_up_to(starts: &Starts, address: u64) -> usize {
    let others = starts.iter().skip(1);
    others.map(|&start| usize::from(start <= address)).sum()
}

/// What is at a place.
#[inline(always)]
pub(super) fn entry<E>(blocks: &Blocks<E>, (block, entry): Place) -> Option<&E> {
    blocks.get(block)?.as_ref()?.get(entry)
}

/// The place behind another.
pub(super) fn behind<E>(blocks: &Blocks<E>, (block, entry): Place) -> Option<Place> {
    if blocks.get(block)?.as_ref()?.len() > entry + 1 {
        return Some((block, entry + 1));
    }
    blocks.get(block + 1)?.as_ref()?;
    Some((block + 1, 0))
}

/// As [`Index::place`], for all addresses.
pub(super) fn place_in<E>(index: &Index, blocks: &Blocks<E>, address: u64) -> Place {
    match (address, count(blocks).checked_sub(1)) {
        (u64::MAX, Some(block)) => {
            let entries = blocks[block].as_ref().map_or(0, |block| block.len());
            (block, entries.saturating_sub(1))
        }
        _ => index.place(address),
    }
}

/// How many blocks there are.
pub(super) fn count<E>(blocks: &Blocks<E>) -> usize {
    blocks.iter().flatten().count()
}

/// The last of all.
pub(super) fn last<E>(blocks: &Blocks<E>) -> Option<&E> {
    blocks.iter().flatten().next_back()?.last()
}
