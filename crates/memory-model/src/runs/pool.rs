// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Views that nobody looks at any more, and their nodes, to make the next view
//! of.
//!
//! They keep what is in them: what changes once changes again, so that most of
//! it is in the next view, too, and need not be counted anew.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::edit::Part;
use super::node::{Inner, Leaf, Root, Row};
use super::shared::Shared;
use crate::FlatView;

/// How many nodes are kept of a kind: a few changes in large views need no
/// more.
const KEPT: usize = 32;

/// How many of them are looked at for one that is like the next.
const LOOKED_AT: usize = 4;

/// How many views are kept, and how many more wait for their readers to go on
/// to newer ones.
const VIEWS: usize = 4;

/// Views and nodes, none of which anybody else has.
pub(crate) struct Pool<H> {
    /// Views that were replaced, the oldest first. If the last reader took one
    /// down, it would touch hundreds of counters that the next change writes
    /// to as well, and the two would wait for each other.
    retired: Vec<Arc<FlatView<H>>>,
    /// Those whose readers have gone on, the oldest first.
    views: Vec<Arc<FlatView<H>>>,
    leaves: Vec<Shared<Leaf<H>>>,
    inners: Vec<Shared<Inner<H>>>,
}

impl<H> Default for Pool<H> {
    fn default() -> Self {
        Self {
            retired: Vec::new(),
            views: Vec::new(),
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
        if self.retired.len() > VIEWS {
            self.retired.remove(0);
        }
    }

    /// Drops all, and leaves the views that somebody reads to those who do.
    pub(crate) fn let_go(&mut self) {
        *self = Self::default();
    }

    /// Takes a view in that nobody else has.
    pub(super) fn take_in(&mut self, view: Arc<FlatView<H>>) {
        self.views.push(view);
        if self.views.len() > VIEWS {
            self.views.remove(0);
        }
    }

    /// A view with the same runs as another.
    pub(crate) fn copy(&mut self, view: &FlatView<H>) -> Arc<FlatView<H>> {
        // If several spaces change at once, they do so in the same order again.
        let mut spare = (!self.views.is_empty()).then(|| self.views.remove(0));
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

    /// Keeps a node that was replaced, if nobody else has it.
    #[inline]
    fn keep<P: Part<H>>(&mut self, node: Shared<P>) {
        let kept = P::kept(self);
        if node.is_own() && kept.len() < KEPT {
            kept.push(node);
        }
    }

    /// A node to make a copy of another of: one that is like it, if one of the
    /// latest is.
    #[inline]
    fn pick<P: Part<H>>(&mut self, other: &P) -> Option<Shared<P>> {
        let kept = P::kept(self);
        if !kept.last()?.resembles(other) {
            let earlier = kept.len().saturating_sub(LOOKED_AT);
            let like = kept[earlier..].iter().position(|k| k.resembles(other));
            let last = kept.len() - 1;
            like.into_iter()
                .for_each(|at| kept.swap(earlier + at, last));
        }
        kept.pop()
    }
}

/// A node to change: a copy of it if others have it, too.
#[inline]
pub(super) fn own<'a, H, P: Part<H>>(
    node: &'a mut Shared<P>,
    pool: &mut Pool<H>,
) -> Option<&'a mut P> {
    if !node.is_own() {
        let mut copy = pool.pick::<P>(node);
        if let Some(copy) = copy.as_mut().and_then(Shared::get_mut) {
            copy.become_like(node, pool);
        }
        *node = copy.unwrap_or_else(|| Shared::new(P::clone(node)));
    }
    node.get_mut()
}

/// A node that can be kept for another use.
pub(super) trait Kept<H>: Sized {
    fn kept(pool: &mut Pool<H>) -> &mut Vec<Shared<Self>>;

    /// Whether it seems to have much in common with another.
    fn resembles(&self, other: &Self) -> bool;

    /// Takes over all that another has, and leaves what it had itself.
    fn become_like(&mut self, other: &Self, pool: &mut Pool<H>);
}

impl<H> Kept<H> for Leaf<H> {
    fn kept(pool: &mut Pool<H>) -> &mut Vec<Shared<Self>> {
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
}

impl<H> Kept<H> for Inner<H> {
    fn kept(pool: &mut Pool<H>) -> &mut Vec<Shared<Self>> {
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
            (Self::Leaves(row), Self::Leaves(other)) => row.take_over(other, |n| pool.keep(n)),
            (Self::Inners(row), Self::Inners(other)) => row.take_over(other, |n| pool.keep(n)),
            _ => *self = other.clone(),
        }
    }
}
