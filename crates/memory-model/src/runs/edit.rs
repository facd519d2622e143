// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replacing runs: new blocks and nodes from there up to the root.
//!
//! What is usual is that a block gains or loses a run and stays a block: then
//! the nodes above it change in one place each. Otherwise they are cut anew.

use alloc::sync::Arc;
use alloc::vec::Vec;

use smallvec::SmallVec;

use super::node::{Blocks, Entries, Index, MAX, MIN, Node, Starts, behind, place_in};
use super::{Edit, Runs};
use crate::FlatRange;

/// As many entries as a block with one too many has.
const ONE_MORE: usize = MAX + 1;

impl<H> Runs<H> {
    /// The same runs, but in the range of each edit those of the edit. Edits
    /// do not overlap, and no old run reaches over the end of a range.
    pub(crate) fn edited(&self, edits: &[Edit<H>]) -> Self {
        // Nodes that only the new tree has are changed where they are: so
        // those that several edits meet are copied once.
        let mut new = self.clone();
        // A block that is first given a run and then loses one does not get
        // too small in between.
        let takes_only = |edit: &&Edit<H>| edit.runs.is_empty();
        let gives = edits.iter().filter(|edit| !takes_only(edit));
        for edit in gives.chain(edits.iter().filter(takes_only)) {
            let removed = replace(&mut new.root, edit).unwrap_or_else(|| {
                let mut removed = 0;
                let nodes = cut_anew(&new.root, edit, &edit.runs, &mut removed);
                new.root = root(nodes);
                removed
            });
            new.len = new.len + edit.runs.len() - removed;
        }
        new
    }
}

/// The root above nodes of one level.
fn root<H>(mut level: Nodes<H>) -> Arc<Node<H>> {
    while level.len() > 1 {
        level = cut(level.into_vec());
    }
    let mut root = level.pop().unwrap_or_else(|| Arc::new(Node::empty()));
    while let Entries::Nodes(blocks) = &root.entries {
        match blocks {
            [Some(only), None, ..] if only.len() == 1 => root = only[0].clone(),
            _ => break,
        }
    }
    root
}

/// Replaces runs in one block, if that is all that it takes; says how many
/// there were.
fn replace<H>(node: &mut Arc<Node<H>>, edit: &Edit<H>) -> Option<usize> {
    let index = &node.index;
    match &node.entries {
        Entries::Runs(blocks) => {
            let (at, _) = place_in(index, blocks, edit.range.start());
            let block = blocks.get(at)?.as_deref()?;
            let next = blocks.get(at + 1).and_then(Option::as_ref);
            if next.is_some() && index.heads()[at + 1] <= edit.range.last() {
                return None;
            }
            let starts = &index.starts()[at][..block.len()];
            let (from, to) = touched(starts, edit);
            let len = block.len() - (to - from) + edit.runs.len();
            // What is taken away and put back again often comes back to the
            // block before the one that it was in, which may be full.
            let new = block[..from].iter().chain(&edit.runs);
            let new = new.chain(&block[to..]).cloned();
            let (new, next) = match (len, next) {
                (1..=MAX, _) if len >= MIN || blocks[1].is_none() => (new.collect(), None),
                (ONE_MORE, Some(next)) if next.len() < MAX => {
                    let mut new: Vec<_> = new.collect();
                    let given = new.split_off(MAX).into_iter();
                    (
                        new.into(),
                        Some(given.chain(next.iter().cloned()).collect()),
                    )
                }
                _ => return None,
            };
            let node = Arc::make_mut(node);
            set(node, at, new);
            if let Some(next) = next {
                set(node, at + 1, next);
            }
            Some(to - from)
        }
        Entries::Nodes(blocks) => {
            let place = place_in(index, blocks, edit.range.start());
            let next = behind(blocks, place);
            if next.is_some_and(|next| index.start(next) <= edit.range.last()) {
                return None;
            }
            let node = Arc::make_mut(node);
            let Entries::Nodes(blocks) = &mut node.entries else {
                return None;
            };
            let block = Arc::make_mut(blocks.get_mut(place.0)?.as_mut()?);
            let child = block.get_mut(place.1)?;
            let removed = replace(child, edit)?;
            node.index.set_one(place, child.start());
            Some(removed)
        }
    }
}

/// Which of the runs that start at `starts` an edit replaces.
fn touched<H>(starts: &[u64], edit: &Edit<H>) -> (usize, usize) {
    let from = starts.iter().filter(|&&start| start < edit.range.start());
    let to = starts.iter().filter(|&&start| start <= edit.range.last());
    (from.count(), to.count())
}

fn set<H>(node: &mut Node<H>, at: usize, block: Arc<[FlatRange<H>]>) {
    node.index.set(at, starts(&block));
    if let Entries::Runs(blocks) = &mut node.entries {
        blocks[at] = Some(block);
    }
}

/// Nodes of one level.
type Nodes<H> = SmallVec<[Arc<Node<H>>; 2]>;

/// What takes the place of `node` with `runs` for those that the edit
/// replaces: nodes of the same level, none if nothing is left.
fn cut_anew<H>(
    node: &Node<H>,
    edit: &Edit<H>,
    runs: &[FlatRange<H>],
    removed: &mut usize,
) -> Nodes<H> {
    match &node.entries {
        Entries::Runs(blocks) => {
            let mut all = all(blocks);
            let starts: Vec<u64> = all.iter().map(Entry::start).collect();
            let (from, to) = touched(&starts, edit);
            *removed += to - from;
            all.splice(from..to, runs.iter().cloned());
            cut(all)
        }
        Entries::Nodes(blocks) => {
            let mut all = all(blocks);
            let before = |address| {
                let place = place_in(&node.index, blocks, address);
                let before = blocks.iter().take(place.0).flatten();
                before.map(|block| block.len()).sum::<usize>() + place.1
            };
            // New runs go into the first child that has some of the range.
            let (first, last) = (before(edit.range.start()), before(edit.range.last()));
            let mut runs = runs;
            let mut new = Vec::new();
            for child in &all[first..=last] {
                new.extend(cut_anew(child, edit, core::mem::take(&mut runs), removed));
            }
            all.splice(first..=last, new);
            join_small(&mut all);
            cut(all)
        }
    }
}

fn all<E: Clone>(blocks: &Blocks<E>) -> Vec<E> {
    let mut all = Vec::with_capacity(MAX * MAX + 1);
    for block in blocks.iter().flatten() {
        all.extend_from_slice(block);
    }
    all
}

/// What blocks are made of.
trait Entry<H>: Clone {
    /// The address of the first run in it.
    fn start(&self) -> u64;

    fn entries(blocks: Blocks<Self>) -> Entries<H>;
}

impl<H> Entry<H> for FlatRange<H> {
    fn start(&self) -> u64 {
        self.range().start()
    }

    fn entries(blocks: Blocks<Self>) -> Entries<H> {
        Entries::Runs(blocks)
    }
}

impl<H> Entry<H> for Arc<Node<H>> {
    fn start(&self) -> u64 {
        Node::start(self)
    }

    fn entries(blocks: Blocks<Self>) -> Entries<H> {
        Entries::Nodes(blocks)
    }
}

/// The starts of a block's entries.
fn starts<H, E: Entry<H>>(block: &[E]) -> Starts {
    let mut starts = [u64::MAX; MAX];
    for (to, entry) in starts.iter_mut().zip(block) {
        *to = entry.start();
    }
    starts
}

/// As few nodes as possible for these entries, all of like size.
fn cut<H, E: Entry<H>>(all: Vec<E>) -> Nodes<H> {
    let count = all.len().div_ceil(MAX * MAX).max(1);
    let size = all.len().div_ceil(count).max(1);
    let mut rest = all.into_iter();
    let mut nodes = Nodes::new();
    while rest.len() > 0 {
        let of_node = rest.len().min(size);
        let per_block = of_node.div_ceil(of_node.div_ceil(MAX));
        let mut own = rest.by_ref().take(of_node);
        let (mut index, mut blocks) = (Index::new(), Blocks::default());
        for (at, place) in blocks.iter_mut().enumerate() {
            let block: Vec<E> = own.by_ref().take(per_block).collect();
            if !block.is_empty() {
                index.set(at, starts(&block));
                *place = Some(block.into());
            }
        }
        let entries = E::entries(blocks);
        nodes.push(Arc::new(Node { index, entries }));
    }
    nodes
}

/// Joins nodes that became too small with a neighbour.
fn join_small<H>(nodes: &mut Vec<Arc<Node<H>>>) {
    // From the last to the first, so that what is joined moves nobody who is
    // still to be looked at.
    for at in (0..nodes.len()).rev() {
        let is_small = nodes.get(at).is_some_and(|node| node.len() < MIN);
        if is_small && nodes.len() > 1 {
            let left = at.min(nodes.len() - 2);
            let joined = joined(&nodes[left], &nodes[left + 1]);
            nodes.splice(left..left + 2, joined);
        }
    }
}

/// Two neighbours of the same level as one, or two if one is too small.
fn joined<H>(left: &Node<H>, right: &Node<H>) -> Nodes<H> {
    fn both<E: Clone>(a: &Blocks<E>, b: &Blocks<E>) -> Vec<E> {
        [all(a), all(b)].concat()
    }
    match (&left.entries, &right.entries) {
        (Entries::Runs(a), Entries::Runs(b)) => cut(both(a, b)),
        (Entries::Nodes(a), Entries::Nodes(b)) => cut(both(a, b)),
        // All leaves of a tree are on one level.
        _ => Nodes::new(),
    }
}
