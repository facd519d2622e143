// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replaces any number of runs, and rebuilds all nodes that contain some of them.

use alloc::vec::Vec;

use super::Edit;
use super::edit::Part;
use super::node::{Entry, Inner, Leaf, MAX, MIN, Nodes, Root, Row};
use super::shared::Shared;
use crate::view::flat_range::FlatRange;

impl<H> Root<H> {
    /// Makes an edit of any size. Returns how many runs were replaced.
    #[cold]
    pub(super) fn cut_anew(&mut self, edit: &Edit<H>) -> usize {
        let mut cutting = Cutting {
            edit,
            runs: &edit.runs,
            removed: 0,
        };
        *self = match self {
            Self::Leaf(leaf) => root_above(cutting.leaf(leaf), Self::Leaf),
            Self::Inner(inner) => root_above(cutting.inner(inner), Self::Inner),
        };
        self.lower();
        cutting.removed
    }
}

/// The root above the nodes of one level.
fn root_above<H, P: Part<H>>(mut level: Vec<Shared<P>>, root: fn(P) -> Root<H>) -> Root<H> {
    match level.pop() {
        None => Root::Leaf(Row::new()),
        Some(only) if level.is_empty() => root(only.into_node()),
        last => {
            level.extend(last);
            root_above(inners(level), Root::Inner)
        }
    }
}

/// The state of an edit while it descends the tree.
struct Cutting<'a, H> {
    edit: &'a Edit<H>,
    /// New runs that no node has yet. They go into the first node with room.
    runs: &'a [FlatRange<H>],
    /// The number of runs that were replaced.
    removed: usize,
}

impl<H> Cutting<'_, H> {
    /// The nodes that replace a leaf, which can be none.
    fn leaf(&mut self, leaf: &Leaf<H>) -> Vec<Shared<Leaf<H>>> {
        let (from, to) = leaf.places(self.edit.range);
        self.removed += to - from;
        let new = core::mem::take(&mut self.runs);
        let before = leaf.iter().take(from).chain(new);
        let all = before.chain(leaf.iter().skip(to)).cloned();
        rows(all.collect()).map(Shared::new).collect()
    }

    /// The nodes that replace an inner node, which can be none.
    fn inner(&mut self, inner: &Inner<H>) -> Vec<Shared<Inner<H>>> {
        match inner {
            Inner::Leaves(row) => self.below(row, Self::leaf),
            Inner::Inners(row) => self.below(row, Self::inner),
        }
    }

    fn below<P: Part<H>>(
        &mut self,
        row: &Nodes<P>,
        cut: fn(&mut Self, &P) -> Vec<Shared<P>>,
    ) -> Vec<Shared<Inner<H>>> {
        let first = row.place_in(self.edit.range.start());
        let last = row.place_in(self.edit.range.last());
        let mut new = Vec::new();
        for (at, below) in row.iter().enumerate() {
            match (first..=last).contains(&at) {
                true => new.extend(cut(self, below)),
                false => new.push(below.clone()),
            }
        }
        join_small(&mut new);
        inners(new)
    }
}

/// Makes as few inner nodes as possible, of similar sizes.
fn inners<H, P: Part<H>>(all: Vec<Shared<P>>) -> Vec<Shared<Inner<H>>> {
    let inners = rows(all).map(|row| Shared::new(P::above(row)));
    inners.collect()
}

/// Makes as few rows as possible for these entries, of similar sizes.
fn rows<E: Entry>(all: Vec<E>) -> impl Iterator<Item = Row<E>> {
    let mut count = all.len().div_ceil(MAX);
    let mut rest = all.into_iter();
    core::iter::from_fn(move || {
        let size = rest.len().div_ceil(count.max(1));
        count = count.saturating_sub(1);
        (size > 0).then(|| Row::of(rest.by_ref().take(size)))
    })
}

/// Joins each node that is too small with a neighbour.
fn join_small<H, P: Part<H>>(all: &mut Vec<Shared<P>>) {
    // From the last to the first, so that a join does not move unvisited nodes.
    for right in (1..all.len()).rev() {
        let (a, b) = (all[right - 1].len(), all[right].len());
        if a.min(b) < MIN && a + b <= MAX {
            let next = all.remove(right);
            all[right - 1].make_mut().append(next.into_node());
        }
    }
}
