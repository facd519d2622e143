// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nodes without a tree, for reuse in the next one.
//!
//! What changes once often changes again. A node left over from an older tree becomes
//! the one that replaces it: most entries are in both, and their reference counts need
//! no update. Other nodes are emptied and refilled.

use alloc::vec::Vec;
use core::fmt;

use super::Runs;
use super::node::{Inner, Leaf, Node, Root, Row};
use super::shared::Shared;

/// The number of empty nodes of each kind that are kept: enough for a few changes in
/// large views.
const KEPT: usize = 32;

/// Nodes that no tree has.
pub(crate) struct SpareNodes<H> {
    leaves: Spare<Leaf<H>>,
    inners: Spare<Inner<H>>,
}

/// Nodes of one kind.
pub(super) struct Spare<N> {
    /// Nodes left over from a tree that is becoming another.
    left: Vec<Shared<N>>,
    /// Empty nodes.
    empty: Vec<Shared<N>>,
}

impl<N> Default for Spare<N> {
    fn default() -> Self {
        Self {
            left: Vec::new(),
            empty: Vec::new(),
        }
    }
}

impl<H> Default for SpareNodes<H> {
    fn default() -> Self {
        Self {
            leaves: Spare::default(),
            inners: Spare::default(),
        }
    }
}

impl<H> fmt::Debug for SpareNodes<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let empty = (self.leaves.empty.len(), self.inners.empty.len());
        write!(f, "{empty:?} nodes")
    }
}

impl<H> Runs<H> {
    /// Becomes a copy of another, and leaves its own nodes for the next change. The
    /// caller then calls [`SpareNodes::tidy_up`].
    #[inline]
    pub(crate) fn become_like(&mut self, other: &Self, spare: &mut SpareNodes<H>) {
        match (&mut self.root, &other.root) {
            (Root::Leaf(leaf), Root::Leaf(other)) => leaf.become_like(other, spare),
            (Root::Inner(inner), Root::Inner(other)) => inner.become_like(other, spare),
            (root, other) => *root = other.clone(),
        }
        self.len = other.len;
    }

    /// Empties the nodes below the root, and keeps those that no other tree has.
    pub(crate) fn empty_into(&mut self, spare: &mut SpareNodes<H>) {
        match &mut self.root {
            Root::Inner(inner) => inner.empty_into(spare),
            Root::Leaf(_) => {}
        }
    }
}

impl<H> SpareNodes<H> {
    /// Empties the nodes that were not reused for the next tree.
    pub(crate) fn tidy_up(&mut self) {
        while let Some(node) = self.inners.left.pop() {
            self.empty(node);
        }
        while let Some(node) = self.leaves.left.pop() {
            self.empty(node);
        }
    }

    /// Keeps a node for a similar one, if no other tree has it.
    #[inline]
    fn leave<P: Kept<H>>(&mut self, node: Shared<P>) {
        if node.is_own() {
            P::spare(self).left.push(node);
        }
    }

    /// Empties and keeps nodes, and those below them, if no other tree has them.
    #[inline]
    fn empty_all<P: Kept<H>>(&mut self, nodes: impl Iterator<Item = Shared<P>>) {
        for node in nodes {
            // Most are shared, and finding that out is cheap.
            if node.is_own() {
                self.empty(node);
            }
        }
    }

    /// Empties and keeps a node, and those below it that no other tree has.
    fn empty<P: Kept<H>>(&mut self, mut node: Shared<P>) {
        if let Some(own) = node.get_mut() {
            own.empty_into(self);
            let empty = &mut P::spare(self).empty;
            if empty.len() < KEPT {
                empty.push(node);
            }
        }
    }

    /// A copy of a node, made from a similar or an empty one.
    fn copy_node<P: Kept<H>>(&mut self, node: &P) -> Shared<P> {
        let Spare { left, empty } = P::spare(self);
        let like = left.iter().rposition(|left| left.resembles(node));
        let mut copy = match like {
            Some(at) => Some(left.swap_remove(at)),
            None => empty.pop(),
        };
        if let Some(copy) = copy.as_mut().and_then(Shared::get_mut) {
            match like {
                Some(_) => copy.become_like(node, self),
                None => copy.fill(node),
            }
        }
        copy.unwrap_or_else(|| Shared::new(node.clone()))
    }
}

/// A node to change: a copy if another tree has it, too.
#[inline]
pub(super) fn own<'a, H, P: Kept<H>>(
    node: &'a mut Shared<P>,
    spare: &mut SpareNodes<H>,
) -> Option<&'a mut P> {
    if !node.is_own() {
        *node = spare.copy_node::<P>(node);
    }
    node.get_mut()
}

/// A node that can be reused.
pub(super) trait Kept<H>: Node {
    fn spare(spare: &mut SpareNodes<H>) -> &mut Spare<Self>;

    /// Whether the node is likely to have many entries in common with another.
    fn resembles(&self, other: &Self) -> bool;

    /// Becomes a copy of another, and leaves its own remaining entries as spare nodes.
    fn become_like(&mut self, other: &Self, spare: &mut SpareNodes<H>);

    /// Removes all entries.
    fn empty_into(&mut self, spare: &mut SpareNodes<H>);

    /// Fills an empty node with the entries of another.
    fn fill(&mut self, other: &Self);
}

impl<H> Kept<H> for Leaf<H> {
    fn spare(spare: &mut SpareNodes<H>) -> &mut Spare<Self> {
        &mut spare.leaves
    }

    #[inline]
    fn resembles(&self, other: &Self) -> bool {
        Row::resembles(self, other)
    }

    #[inline]
    fn become_like(&mut self, other: &Self, _: &mut SpareNodes<H>) {
        self.take_over(other);
    }

    fn empty_into(&mut self, _: &mut SpareNodes<H>) {
        self.drain().for_each(drop);
    }

    #[inline]
    fn fill(&mut self, other: &Self) {
        Row::fill(self, other);
    }
}

impl<H> Kept<H> for Inner<H> {
    fn spare(spare: &mut SpareNodes<H>) -> &mut Spare<Self> {
        &mut spare.inners
    }

    #[inline]
    fn resembles(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Leaves(row), Self::Leaves(other)) => row.resembles(other),
            (Self::Inners(row), Self::Inners(other)) => row.resembles(other),
            _ => false,
        }
    }

    #[inline]
    fn become_like(&mut self, other: &Self, spare: &mut SpareNodes<H>) {
        match (&mut *self, other) {
            (Self::Leaves(row), Self::Leaves(other)) => row.take_over(other, |n| spare.leave(n)),
            (Self::Inners(row), Self::Inners(other)) => row.take_over(other, |n| spare.leave(n)),
            _ => *self = other.clone(),
        }
    }

    fn empty_into(&mut self, spare: &mut SpareNodes<H>) {
        match self {
            Self::Leaves(row) => spare.empty_all(row.drain()),
            Self::Inners(row) => spare.empty_all(row.drain()),
        }
    }

    #[inline]
    fn fill(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Leaves(row), Self::Leaves(other)) => row.fill(other),
            (Self::Inners(row), Self::Inners(other)) => row.fill(other),
            _ => *self = other.clone(),
        }
    }
}
