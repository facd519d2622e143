// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replaces runs, and copies the nodes from there up to the root.
//!
//! Usually a change happens in one leaf, which is at most split or joined with a
//! neighbour. Otherwise `cut` rebuilds the nodes.

use super::node::{Inner, Leaf, MAX, MIN, Nodes, Root, Row};
use super::shared::Shared;
use super::spare::{Kept, SpareNodes, own};
use super::{Edit, Runs};

impl<H> Runs<H> {
    /// Replaces the runs in the range of each edit with those of the edit. Edits do
    /// not overlap, and no old run reaches past the end of a range.
    pub(crate) fn edit(&mut self, edits: &[Edit<H>], spare: &mut SpareNodes<H>) {
        // Nodes that only this tree has are changed in place, so a node that several
        // edits change is copied once. Edits with runs come first, so that a leaf that
        // gains and loses a run does not get too small in between.
        for empty in [false, true] {
            for edit in edits.iter().filter(|edit| edit.runs.is_empty() == empty) {
                let removed = self.root.edit(edit, spare);
                self.len = self.len + edit.runs.len() - removed;
            }
        }
    }
}

impl<H> Root<H> {
    /// Replaces runs. Returns how many were replaced.
    fn edit(&mut self, edit: &Edit<H>, spare: &mut SpareNodes<H>) -> usize {
        let mut making = Making {
            edit,
            spare,
            removed: 0,
            start: None,
        };
        match self {
            Self::Leaf(leaf) => match leaf.edit(&mut making) {
                Edited::Fits => {}
                Edited::Split(right) => {
                    let left = Shared::new(core::mem::replace(leaf, Row::new()));
                    *self = Self::Inner(Part::above(Row::of([left, right].into_iter())));
                }
                Edited::Not => return self.cut_anew(edit),
            },
            Self::Inner(inner) => match inner.edit(&mut making) {
                Edited::Fits => self.lower(),
                Edited::Split(right) => {
                    let nothing = Inner::Leaves(Row::new());
                    let left = Shared::new(core::mem::replace(inner, nothing));
                    *inner = Part::above(Row::of([left, right].into_iter()));
                }
                Edited::Not => return self.cut_anew(edit),
            },
        }
        making.removed
    }

    /// Removes inner nodes at the top that have only one node below them, or none.
    pub(super) fn lower(&mut self) {
        while let Self::Inner(inner) = self {
            *self = match inner {
                _ if inner.len() > 1 => return,
                Inner::Leaves(row) => match row.remove(0) {
                    Some(leaf) => Self::Leaf(leaf.into_node()),
                    None => Self::Leaf(Row::new()),
                },
                Inner::Inners(row) => match row.remove(0) {
                    Some(inner) => Self::Inner(inner.into_node()),
                    None => Self::Leaf(Row::new()),
                },
            };
        }
    }
}

/// The state of an edit while it descends the tree.
pub(super) struct Making<'a, H> {
    edit: &'a Edit<H>,
    spare: &'a mut SpareNodes<H>,
    /// The number of runs that were replaced.
    removed: usize,
    /// The start of the node that was just changed, if it differs from before.
    start: Option<u64>,
}

/// The result of an edit of a node.
pub(super) enum Edited<P> {
    /// Everything fits in the node.
    Fits,
    /// This part no longer fits in the node.
    Split(Shared<P>),
    /// The edit does not fit in one leaf. The runs are unchanged.
    Not,
}

/// A node below the root.
pub(super) trait Part<H>: Kept<H> {
    fn len(&self) -> usize;

    /// Replaces runs, if one leaf is enough for that.
    fn edit(&mut self, making: &mut Making<'_, H>) -> Edited<Self>;

    /// Appends the entries of the next node, which must fit.
    fn append(&mut self, next: Self);

    /// The node above some nodes of this kind.
    fn above(row: Nodes<Self>) -> Inner<H>;
}

impl<H> Part<H> for Leaf<H> {
    fn len(&self) -> usize {
        Row::len(self)
    }

    fn edit(&mut self, making: &mut Making<'_, H>) -> Edited<Self> {
        let edit = making.edit;
        let (from, to) = self.places(edit.range);
        let start = self.start_of(0);
        let (replaced, runs) = (to - from, &edit.runs[..]);
        if self.len() - replaced + runs.len() > MAX + 1 {
            return Edited::Not;
        }
        making.removed += replaced;
        let both = replaced.min(runs.len());
        for (at, run) in runs[..both].iter().enumerate() {
            self.replace(from + at, run.clone());
        }
        for _ in both..replaced {
            self.remove(from + both);
        }
        let mut edited = Edited::Fits;
        for (at, run) in runs.iter().enumerate().skip(both) {
            // Only the last one can be too many.
            if let Some(right) = self.insert(from + at, run.clone()) {
                edited = Edited::Split(Shared::new(right));
            }
        }
        if from == 0 {
            making.start = Some(self.start_of(0)).filter(|now| *now != start);
        }
        edited
    }

    fn append(&mut self, next: Self) {
        Row::append(self, next);
    }

    fn above(row: Nodes<Self>) -> Inner<H> {
        Inner::Leaves(row)
    }
}

impl<H> Part<H> for Inner<H> {
    fn len(&self) -> usize {
        match self {
            Self::Leaves(row) => row.len(),
            Self::Inners(row) => row.len(),
        }
    }

    fn edit(&mut self, making: &mut Making<'_, H>) -> Edited<Self> {
        match self {
            Self::Leaves(row) => edit_below(row, making),
            Self::Inners(row) => edit_below(row, making),
        }
    }

    fn append(&mut self, next: Self) {
        match (self, next) {
            (Self::Leaves(row), Self::Leaves(next)) => row.append(next),
            (Self::Inners(row), Self::Inners(next)) => row.append(next),
            // All leaves of a tree are on the same level.
            _ => {}
        }
    }

    fn above(row: Nodes<Self>) -> Inner<H> {
        Inner::Inners(row)
    }
}

/// Makes an edit in one of the nodes in a row.
fn edit_below<H, P: Part<H>>(row: &mut Nodes<P>, making: &mut Making<'_, H>) -> Edited<Inner<H>> {
    let range = making.edit.range;
    let at = row.place_in(range.start());
    if row.starts_up_to(at + 1, range.last()) {
        return Edited::Not;
    }
    let below = row.get_mut(at).and_then(|below| own(below, making.spare));
    let Some(below) = below else {
        return Edited::Not;
    };
    let edited = below.edit(making);
    let len = below.len();
    if at > 0 {
        // Nodes above are not affected.
        let start = making.start.take();
        start.into_iter().for_each(|start| row.set_start(at, start));
    }
    match edited {
        Edited::Fits if len >= MIN => {}
        Edited::Fits if len == 0 => {
            row.remove(at);
            if at == 0 {
                making.start = Some(row.start_of(0));
            }
        }
        Edited::Fits => join(row, at),
        Edited::Not => return Edited::Not,
        Edited::Split(right) => {
            if let Some(right) = row.insert(at + 1, right) {
                return Edited::Split(Shared::new(P::above(right)));
            }
        }
    }
    Edited::Fits
}

/// Joins a node with a neighbour that has room, if there is one.
#[cold]
fn join<H, P: Part<H>>(row: &mut Nodes<P>, at: usize) {
    for left in [Some(at), at.checked_sub(1)].into_iter().flatten() {
        let two = row.get(left).zip(row.get(left + 1));
        // One entry stays free, so that the node is not split again soon.
        if two.is_some_and(|(a, b)| a.len() + b.len() < MAX) {
            if let (Some(next), Some(left)) = (row.remove(left + 1), row.get_mut(left)) {
                left.make_mut().append(next.into_node());
            }
            return;
        }
    }
}
