// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nodes of views that nobody looks at any more, to be used for the next view:
//! that takes a third of the time of asking an allocator, and of giving back.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::edit::Part;
use super::node::{Inner, Leaf, Nodes, Root, Row};
use crate::FlatView;

/// How many are kept of a kind: a few changes in large views need no more.
const KEPT: usize = 32;

/// How many views wait for their readers to go on to newer ones.
const RETIRED: usize = 4;

/// Nodes with nothing in them, each of which nobody else has.
pub(crate) struct Pool<H> {
    /// Views that were replaced, the oldest first. If the last reader took one
    /// down, it would touch hundreds of counters that the next change writes
    /// to as well, and the two would wait for each other.
    retired: Vec<Arc<FlatView<H>>>,
    view: Option<Arc<FlatView<H>>>,
    leaves: Vec<Arc<Leaf<H>>>,
    inners: Vec<Arc<Inner<H>>>,
}

impl<H> Default for Pool<H> {
    fn default() -> Self {
        Self {
            retired: Vec::new(),
            view: None,
            leaves: Vec::new(),
            inners: Vec::new(),
        }
    }
}

impl<H> fmt::Debug for Pool<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} + {})", self.leaves.len(), self.inners.len())
    }
}

impl<H> Pool<H> {
    /// Takes in a view that was replaced, as soon as its readers have gone on.
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
        if self.retired.len() > RETIRED {
            self.retired.remove(0);
        }
    }

    /// Leaves all views that were replaced to those who still read them.
    pub(crate) fn let_go(&mut self) {
        self.retired.clear();
    }

    /// Takes a view in, if nobody else has it, with what only it has of its
    /// nodes.
    pub(super) fn take_in(&mut self, mut view: Arc<FlatView<H>>) {
        if let Some(own) = Arc::get_mut(&mut view) {
            match &mut own.runs_mut().root {
                Root::Leaf(leaf) => leaf.empty_into(self),
                Root::Inner(inner) => inner.empty_into(self),
            }
            self.view = Some(view);
        }
    }

    /// A view with the same runs as another.
    pub(crate) fn copy(&mut self, view: &FlatView<H>) -> Arc<FlatView<H>> {
        let mut spare = self.view.take();
        match spare.as_mut().and_then(Arc::get_mut) {
            None => Arc::new(FlatView::of(view.runs().clone())),
            Some(own) => {
                let (runs, other) = (own.runs_mut(), view.runs());
                match (&mut runs.root, &other.root) {
                    (Root::Leaf(leaf), Root::Leaf(other)) => leaf.fill(other),
                    (Root::Inner(inner), Root::Inner(other)) => Kept::fill(inner, other),
                    (root, other) => *root = other.clone(),
                }
                runs.len = other.len;
                spare.unwrap_or_else(|| Arc::new(FlatView::empty()))
            }
        }
    }

    fn take_from(&mut self, inner: &mut Inner<H>) {
        match inner {
            Inner::Leaves(row) => self.take_all(row),
            Inner::Inners(row) => self.take_all(row),
        }
    }

    fn take_all<P: Part<H>>(&mut self, row: &mut Nodes<P>) {
        for mut node in row.drain() {
            // Most are shared, which is seen at less cost than that none is.
            if Arc::strong_count(&node) == 1 {
                if let Some(own) = Arc::get_mut(&mut node) {
                    own.empty_into(self);
                    let kept = P::kept(self);
                    if kept.len() < KEPT {
                        kept.push(node);
                    }
                }
            }
        }
    }
}

/// A node to change: a copy of it if others have it, too.
#[inline]
pub(super) fn own<'a, H, P: Part<H>>(
    node: &'a mut Arc<P>,
    pool: &mut Pool<H>,
) -> Option<&'a mut P> {
    if Arc::strong_count(node) > 1 {
        let mut copy = P::kept(pool).pop();
        if let Some(copy) = copy.as_mut().and_then(Arc::get_mut) {
            copy.fill(node);
        }
        *node = copy.unwrap_or_else(|| Arc::new(P::clone(node)));
    }
    Arc::get_mut(node)
}

/// A node that can be kept for another use.
pub(super) trait Kept<H>: Sized {
    fn kept(pool: &mut Pool<H>) -> &mut Vec<Arc<Self>>;

    /// Takes all out that is in it.
    fn empty_into(&mut self, pool: &mut Pool<H>);

    /// Fills a node that has nothing in it with what another has.
    fn fill(&mut self, other: &Self);
}

impl<H> Kept<H> for Leaf<H> {
    fn kept(pool: &mut Pool<H>) -> &mut Vec<Arc<Self>> {
        &mut pool.leaves
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
    fn kept(pool: &mut Pool<H>) -> &mut Vec<Arc<Self>> {
        &mut pool.inners
    }

    fn empty_into(&mut self, pool: &mut Pool<H>) {
        pool.take_from(self);
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
