// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The nodes of the tree of runs, and lookups in them.

use core::mem;

use super::shared::Shared;
use guest_ranges::AddrRange;

use crate::view::flat_range::FlatRange;

/// The nodes of one level below an inner node.
pub(super) type Nodes<N> = Row<Shared<N>>;

/// The most entries of a row, so that their addresses fit in a cache line.
pub(super) const MAX: usize = 8;
/// Rows with fewer entries are joined with a neighbour that has room.
pub(super) const MIN: usize = 3;

/// Entries by address, followed by empty places. The first addresses of the entries lie
/// side by side, so that a lookup waits for little memory. The search has no branches,
/// so that none is mispredicted.
///
/// A lookup needs one entry and the addresses of all entries but the first. Together
/// with the kind of the node, these fill one cache line.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Row<E> {
    /// The starts of all entries but the first. Past the last entry, the highest
    /// address.
    pub(super) others: [u64; MAX - 1],
    pub(super) entries: [Option<E>; MAX],
    pub(super) len: usize,
}

/// A leaf: the runs of a stretch of addresses.
pub(super) type Leaf<H> = Row<FlatRange<H>>;

/// An inner node: one or more leaves or inner nodes of a stretch of addresses.
#[derive(Debug)]
pub(super) enum Inner<H> {
    Leaves(Nodes<Leaf<H>>),
    Inners(Nodes<Inner<H>>),
}

/// The topmost node. An inner one has at least two nodes below it.
// Its size matters little, as it is part of a view, of which there are few.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
#[repr(u64, align(64))]
pub(super) enum Root<H> {
    Leaf(Leaf<H>),
    Inner(Inner<H>),
}

/// An entry of a row.
pub(super) trait Entry: Clone {
    /// The address of the first run in it.
    fn start(&self) -> u64;
}

impl<H> Entry for FlatRange<H> {
    #[inline]
    fn start(&self) -> u64 {
        self.range.start()
    }
}

impl<N: Node> Entry for Shared<N> {
    #[inline]
    fn start(&self) -> u64 {
        Node::start(&**self)
    }
}

/// A node below the root.
pub(super) trait Node: Clone {
    /// The address of the first run in it.
    fn start(&self) -> u64;
}

impl<H> Node for Leaf<H> {
    #[inline]
    fn start(&self) -> u64 {
        self.start_of(0)
    }
}

impl<H> Node for Inner<H> {
    #[inline]
    fn start(&self) -> u64 {
        match self {
            Self::Leaves(row) => row.start_of(0),
            Self::Inners(row) => row.start_of(0),
        }
    }
}

// By hand, as a handle can be cloned without `H: Clone`.
impl<H> Clone for Inner<H> {
    #[inline]
    fn clone(&self) -> Self {
        match self {
            Self::Leaves(row) => Self::Leaves(row.clone()),
            Self::Inners(row) => Self::Inners(row.clone()),
        }
    }
}

impl<H> Clone for Root<H> {
    #[inline]
    fn clone(&self) -> Self {
        match self {
            Self::Leaf(leaf) => Self::Leaf(leaf.clone()),
            Self::Inner(inner) => Self::Inner(inner.clone()),
        }
    }
}

impl<E: Clone> Clone for Row<E> {
    #[inline]
    fn clone(&self) -> Self {
        Self {
            others: self.others,
            entries: core::array::from_fn(|at| self.entries[at].clone()),
            len: self.len,
        }
    }
}

impl<E> Row<E> {
    pub(super) fn new() -> Self {
        Self {
            others: [u64::MAX; MAX - 1],
            entries: [const { None }; MAX],
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The entry that [`place`](Self::place) finds.
    #[inline(always)]
    pub(super) fn find(&self, address: u64) -> Option<&E> {
        let place = self.place(address);
        // The place is always valid. The check makes the compiler finish the sum first.
        match place < self.len {
            true => self.entries[place].as_ref(),
            false => None,
        }
    }

    /// Whether at most two entries start below the highest address. The check reads only
    /// what a lookup reads anyway.
    #[inline(always)]
    pub(super) fn is_two_below(&self) -> bool {
        self.others[1] == u64::MAX
    }

    /// As [`find`](Self::find), if there are [two](Self::is_two_below).
    #[inline(always)]
    pub(super) fn find_of_two(&self, address: u64) -> Option<&E> {
        self.entries[usize::from(self.others[0] <= address)].as_ref()
    }

    #[inline]
    pub(super) fn get(&self, at: usize) -> Option<&E> {
        self.entries.get(at)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut E> {
        self.entries.get_mut(at)?.as_mut()
    }

    pub(super) fn last(&self) -> Option<&E> {
        self.get(self.len.checked_sub(1)?)
    }

    /// The entries from a place on.
    pub(super) fn from(&self, at: usize) -> core::slice::Iter<'_, Option<E>> {
        self.entries.get(at..self.len).unwrap_or(&[]).iter()
    }

    /// The place of the last entry that starts at or below `address`, or the first place
    /// if there is none. It does not work for the highest address, which also fills the
    /// places past the last entry.
    ///
    /// All starts are compared, because independent comparisons take less time than
    /// dependent ones.
    #[inline(always)]
    pub(super) fn place(&self, address: u64) -> usize {
        let others = self.others.iter();
        others.map(|&start| usize::from(start <= address)).sum()
    }

    /// As [`place`](Self::place), for all addresses.
    #[inline]
    pub(super) fn place_in(&self, address: u64) -> usize {
        match address {
            u64::MAX => self.len.saturating_sub(1),
            _ => self.place(address),
        }
    }
}

impl<E: Entry> Row<E> {
    /// The start of an entry, or the highest address if there is none.
    #[inline]
    pub(super) fn start_of(&self, at: usize) -> u64 {
        match at.checked_sub(1) {
            None => self.entries[0].as_ref().map_or(u64::MAX, E::start),
            Some(at) => self.others[at],
        }
    }

    /// Updates the start of an entry other than the first.
    #[inline]
    pub(super) fn set_start(&mut self, at: usize, start: u64) {
        if let Some(other) = at.checked_sub(1).and_then(|at| self.others.get_mut(at)) {
            *other = start;
        }
    }

    /// The only entry with something that starts in a range, if there is only one.
    #[inline]
    pub(super) fn only_in(&self, range: AddrRange) -> Option<&E> {
        let at = self.place_in(range.start());
        match self.starts_up_to(at + 1, range.last()) {
            true => None,
            false => self.get(at),
        }
    }

    /// Whether there is an entry at a place, and it starts at or below `address`.
    #[inline]
    pub(super) fn starts_up_to(&self, at: usize, address: u64) -> bool {
        at < self.len && self.start_of(at) <= address
    }

    /// The place of the first entry that starts in a range, and of the first one past
    /// the range.
    #[inline]
    pub(super) fn places(&self, range: AddrRange) -> (usize, usize) {
        let at = self.place_in(range.start());
        let from = at + usize::from(at < self.len && self.start_of(at) < range.start());
        let mut to = from;
        while self.starts_up_to(to, range.last()) {
            to += 1;
        }
        (from, to)
    }

    /// Up to [`MAX`] entries, by address.
    pub(super) fn of(entries: impl Iterator<Item = E>) -> Self {
        let mut row = Self::new();
        entries.take(MAX).for_each(|entry| row.push(entry));
        row
    }

    fn push(&mut self, entry: E) {
        self.set_start(self.len, entry.start());
        self.entries[self.len] = Some(entry);
        self.len += 1;
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, at: usize) -> Option<E> {
        let entry = self.entries.get_mut(at)?.take()?;
        self.entries[at..self.len].rotate_left(1);
        match at.checked_sub(1) {
            None => self.others.copy_within(1.., 0),
            Some(at) => self.others.copy_within(at + 1.., at),
        }
        self.others[MAX - 2] = u64::MAX;
        self.len -= 1;
        Some(entry)
    }

    /// Inserts an entry. If there is no room, the second half is split off.
    pub(super) fn insert(&mut self, at: usize, entry: E) -> Option<Self> {
        if self.len < MAX {
            self.insert_in(at, entry);
            return None;
        }
        // The entry goes into the smaller half.
        let half = if at > MAX / 2 { MAX / 2 + 1 } else { MAX / 2 };
        let mut right = Self::new();
        for entry in &mut self.entries[half..] {
            entry.take().into_iter().for_each(|entry| right.push(entry));
        }
        self.others[half - 1..].fill(u64::MAX);
        self.len = half;
        match at.checked_sub(half) {
            Some(at) if at > 0 || half > MAX / 2 => right.insert_in(at, entry),
            _ => self.insert_in(at, entry),
        }
        Some(right)
    }

    fn insert_in(&mut self, at: usize, entry: E) {
        self.len += 1;
        match at.checked_sub(1) {
            None => {
                self.others.copy_within(..MAX - 2, 1);
                self.others[0] = self.start_of(0);
            }
            Some(at) => self.others.copy_within(at..MAX - 2, at + 1),
        }
        self.set_start(at, entry.start());
        self.entries[at..self.len].rotate_right(1);
        self.entries[at] = Some(entry);
    }

    /// Replaces an entry.
    pub(super) fn replace(&mut self, at: usize, entry: E) {
        self.set_start(at, entry.start());
        self.entries[at] = Some(entry);
    }

    /// Appends the entries of the next row, which must fit.
    pub(super) fn append(&mut self, next: Self) {
        next.into_entries().for_each(|entry| self.push(entry));
    }

    pub(super) fn into_entries(mut self) -> impl Iterator<Item = E> {
        let entries = mem::replace(&mut self.entries, [const { None }; MAX]);
        entries.into_iter().flatten()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &E> {
        self.entries.iter().flatten()
    }
}
