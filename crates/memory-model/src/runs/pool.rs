// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A pool of views without readers, and of their nodes, for reuse in the next view.
//!
//! What changes once often changes again. A view in the pool therefore keeps its
//! contents until the next view is made from it, and each node becomes the one that
//! replaces it: most entries are in both, and their reference counts need no update.
//! Other nodes are emptied and refilled.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::edit::Part;
use super::node::{Inner, Leaf, Root, Row};
use super::shared::Shared;
use crate::view::FlatView;

/// The number of empty nodes of each kind that are kept: enough for a few changes in
/// large views.
const KEPT: usize = 32;

/// The number of views that are kept, and of further views that wait for their readers
/// to move to newer ones.
const VIEWS: usize = 4;

/// Views and nodes that only the pool owns.
pub(crate) struct Pool<H> {
    /// Views that were replaced, the oldest first. If the last reader dropped one, it
    /// would update hundreds of counters that the next change writes to as well, and
    /// the two would wait for each other.
    retired: Vec<Arc<FlatView<H>>>,
    /// Views without readers, the oldest first.
    views: Vec<Arc<FlatView<H>>>,
    leaves: Spare<Leaf<H>>,
    inners: Spare<Inner<H>>,
}

/// Nodes of one kind.
pub(super) struct Spare<N> {
    /// Nodes left over from a view that is becoming another.
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

impl<H> Default for Pool<H> {
    fn default() -> Self {
        Self {
            retired: Vec::new(),
            views: Vec::new(),
            leaves: Spare::default(),
            inners: Spare::default(),
        }
    }
}

impl<H> fmt::Debug for Pool<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let empty = (self.leaves.empty.len(), self.inners.empty.len());
        write!(f, "Pool({} views, {empty:?} nodes)", self.views.len())
    }
}

impl<H> Pool<H> {
    /// Adds a view that was replaced, as soon as it has no readers.
    pub(crate) fn retire(&mut self, view: Arc<FlatView<H>>) {
        if self.retired.is_empty() && Arc::strong_count(&view) == 1 {
            return self.take_in(view);
        }
        self.retired.push(view);
        let mut at = 0;
        while let Some(view) = self.retired.get(at) {
            match Arc::strong_count(view) {
                1 => {
                    let view = self.retired.remove(at);
                    self.take_in(view);
                }
                _ => at += 1,
            }
        }
        if self.retired.len() > VIEWS {
            self.retired.remove(0);
        }
    }

    /// Drops everything. Views with readers stay alive until these drop them.
    pub(crate) fn let_go(&mut self) {
        *self = Self::default();
    }

    /// Adds a view without readers.
    pub(super) fn take_in(&mut self, view: Arc<FlatView<H>>) {
        if self.views.len() == VIEWS {
            let mut oldest = self.views.remove(0);
            let root = Arc::get_mut(&mut oldest).map(|view| &mut view.runs_mut().root);
            match root {
                Some(Root::Inner(inner)) => inner.empty_into(self),
                Some(Root::Leaf(_)) | None => {}
            }
        }
        self.views.push(view);
    }

    /// A view with the same runs as another. The caller changes it and then calls
    /// [`tidy_up`](Self::tidy_up).
    pub(crate) fn copy(&mut self, view: &FlatView<H>) -> Arc<FlatView<H>> {
        // If several spaces change at once, they are likely to do so in the same order.
        let mut spare = match self.views.len() {
            0 | 1 => self.views.pop(),
            _ => Some(self.views.remove(0)),
        };
        match spare.as_mut().and_then(Arc::get_mut) {
            None => Arc::new(FlatView::of(view.runs().clone())),
            Some(own) => {
                let (runs, other) = (own.runs_mut(), view.runs());
                match (&mut runs.root, &other.root) {
                    (Root::Leaf(leaf), Root::Leaf(other)) => leaf.become_like(other, self),
                    (Root::Inner(inner), Root::Inner(other)) => inner.become_like(other, self),
                    (root, other) => *root = other.clone(),
                }
                runs.len = other.len;
                spare.unwrap_or_else(|| Arc::new(FlatView::empty()))
            }
        }
    }

    /// Empties the nodes that were not reused for the next view.
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
    fn leave<P: Part<H>>(&mut self, node: Shared<P>) {
        if node.is_own() {
            P::spare(self).left.push(node);
        }
    }

    /// Empties and keeps nodes, and those below them, if no other tree has them.
    #[inline]
    fn empty_all<P: Part<H>>(&mut self, nodes: impl Iterator<Item = Shared<P>>) {
        for node in nodes {
            // Most are shared, and finding that out is cheap.
            if node.is_own() {
                self.empty(node);
            }
        }
    }

    /// Empties and keeps a node, and those below it that no other tree has.
    fn empty<P: Part<H>>(&mut self, mut node: Shared<P>) {
        if let Some(own) = node.get_mut() {
            own.empty_into(self);
            let empty = &mut P::spare(self).empty;
            if empty.len() < KEPT {
                empty.push(node);
            }
        }
    }

    /// A copy of a node, made from a similar or an empty one.
    fn copy_node<P: Part<H>>(&mut self, node: &P) -> Shared<P> {
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
pub(super) fn own<'a, H, P: Part<H>>(
    node: &'a mut Shared<P>,
    pool: &mut Pool<H>,
) -> Option<&'a mut P> {
    if !node.is_own() {
        *node = pool.copy_node::<P>(node);
    }
    node.get_mut()
}

/// A node that can be reused.
pub(super) trait Kept<H>: Sized {
    fn spare(pool: &mut Pool<H>) -> &mut Spare<Self>;

    /// Whether the node is likely to have many entries in common with another.
    fn resembles(&self, other: &Self) -> bool;

    /// Becomes a copy of another, and gives its own remaining entries to the pool.
    fn become_like(&mut self, other: &Self, pool: &mut Pool<H>);

    /// Removes all entries.
    fn empty_into(&mut self, pool: &mut Pool<H>);

    /// Fills an empty node with the entries of another.
    fn fill(&mut self, other: &Self);
}

impl<H> Kept<H> for Leaf<H> {
    fn spare(pool: &mut Pool<H>) -> &mut Spare<Self> {
        &mut pool.leaves
    }

    #[inline]
    fn resembles(&self, other: &Self) -> bool {
        Row::resembles(self, other)
    }

    #[inline]
    fn become_like(&mut self, other: &Self, _: &mut Pool<H>) {
        self.take_over(other);
    }

    fn empty_into(&mut self, _: &mut Pool<H>) {
        self.drain().for_each(drop);
    }

    #[inline]
    fn fill(&mut self, other: &Self) {
        Row::fill(self, other);
    }
}

impl<H> Kept<H> for Inner<H> {
    fn spare(pool: &mut Pool<H>) -> &mut Spare<Self> {
        &mut pool.inners
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
    fn become_like(&mut self, other: &Self, pool: &mut Pool<H>) {
        match (&mut *self, other) {
            (Self::Leaves(row), Self::Leaves(other)) => row.take_over(other, |n| pool.leave(n)),
            (Self::Inners(row), Self::Inners(other)) => row.take_over(other, |n| pool.leave(n)),
            _ => *self = other.clone(),
        }
    }

    fn empty_into(&mut self, pool: &mut Pool<H>) {
        match self {
            Self::Leaves(row) => pool.empty_all(row.drain()),
            Self::Inners(row) => pool.empty_all(row.drain()),
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
