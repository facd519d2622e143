// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replacing runs: new blocks and nodes from there up to the root, in one walk
//! for all the places that change.

use alloc::sync::Arc;
use alloc::vec::Vec;

use smallvec::{SmallVec, smallvec};

use super::node::{
    Blocks, Entries, Index, MAX, MIN, Node, Place, Starts, behind, count, entry, place_in,
};
use super::{Edit, Runs};
use crate::{AddrRange, FlatRange};

impl<H> Runs<H> {
    /// The same runs, but in the range of each edit those of the edit. Edits
    /// are sorted and do not overlap, and no old run reaches over the end of a
    /// range.
    pub(crate) fn edited(&self, edits: &[Edit<H>]) -> Self {
        if edits.is_empty() {
            return self.clone();
        }
        let mut removed = 0;
        let mut level = edited(&self.root, AddrRange::ALL, edits, &mut removed);
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
        let added: usize = edits.iter().map(|edit| edit.runs.len()).sum();
        Self {
            root,
            len: self.len + added - removed,
        }
    }
}

/// What takes the place of one node: nodes of the same level, none if nothing
/// is left of it.
type Nodes<H> = SmallVec<[Arc<Node<H>>; 2]>;

/// What takes the place of `node`, in which all runs of `within` are or would
/// be.
fn edited<H>(
    node: &Node<H>,
    within: AddrRange,
    edits: &[Edit<H>],
    removed: &mut usize,
) -> Nodes<H> {
    match &node.entries {
        Entries::Runs(blocks) => edited_leaf(&node.index, blocks, within, edits, removed),
        Entries::Nodes(blocks) => edited_inner(&node.index, blocks, within, edits, removed),
    }
}

/// Blocks of a leaf as they shall be.
type Changed<H> = SmallVec<[(usize, Vec<FlatRange<H>>); 2]>;

fn edited_leaf<H>(
    index: &Index,
    blocks: &Blocks<FlatRange<H>>,
    within: AddrRange,
    edits: &[Edit<H>],
    removed: &mut usize,
) -> Nodes<H> {
    let mut changed = Changed::new();
    // A tree without runs takes its first as if it had a block for them.
    let heads = &index.heads()[..count(blocks).max(1)];
    for touched in touched(heads, within, edits) {
        let block = blocks[touched.at].as_deref().unwrap_or(&[]);
        let starts = &index.starts()[touched.at][..block.len()];
        changed.push((touched.at, touched.edited(block, starts, removed)));
    }
    spill(blocks, &mut changed);
    let only = blocks[1].is_none();
    if changed.iter().all(|(_, block)| is_block(block, only)) {
        let (mut index, mut blocks) = (index.clone(), blocks.clone());
        for (at, block) in changed {
            index.set(at, starts(&block));
            blocks[at] = Some(block.into());
        }
        let entries = Entries::Runs(blocks);
        return smallvec![Arc::new(Node { index, entries })];
    }
    let mut all = Vec::with_capacity(MAX * MAX);
    let mut changed = changed.into_iter().peekable();
    for (at, block) in blocks.iter().enumerate() {
        match (changed.next_if(|next| next.0 == at), block) {
            (Some((_, block)), _) => all.extend(block),
            (None, Some(block)) => all.extend_from_slice(block),
            (None, None) => {}
        }
    }
    cut(all)
}

fn edited_inner<H>(
    index: &Index,
    blocks: &Blocks<Arc<Node<H>>>,
    within: AddrRange,
    edits: &[Edit<H>],
    removed: &mut usize,
) -> Nodes<H> {
    let mut changed: SmallVec<[(Place, Nodes<H>); 2]> = SmallVec::new();
    let mut left = edits;
    let mut next = Some((0, 0));
    while let (Some(edit), Some(not_yet)) = (left.first(), next) {
        // The next child that holds some of an edit's range, and what it holds.
        let place = place_in(index, blocks, edit.range.start()).max(not_yet);
        let Some(child) = entry(blocks, place) else {
            break;
        };
        next = behind(blocks, place);
        let start = match place {
            (0, 0) => within.start(),
            _ => index.start(place),
        };
        let last = next.and_then(|next| index.start(next).checked_sub(1));
        let last = last.unwrap_or(within.last());
        let Some(within) = AddrRange::from_bounds(start, last) else {
            break;
        };
        let reach_in = left.iter().take_while(|edit| edit.range.start() <= last);
        let own = &left[..reach_in.count()];
        changed.push((place, edited(child, within, own, removed)));
        let end_in = left.iter().take_while(|edit| edit.range.last() <= last);
        left = &left[end_in.count()..];
    }
    let stays = |new: &Nodes<H>| matches!(&new[..], [node] if node.len() >= MIN);
    if changed.iter().all(|(_, new)| stays(new)) {
        let (mut index, mut blocks) = (index.clone(), blocks.clone());
        for (place, mut new) in changed {
            if let (Some(node), Some(block)) = (new.pop(), &mut blocks[place.0]) {
                index.set_one(place, node.start());
                put(block, place.1, node);
            }
        }
        let entries = Entries::Nodes(blocks);
        return smallvec![Arc::new(Node { index, entries })];
    }
    let mut all = Vec::with_capacity(MAX * MAX);
    let mut changed = changed.into_iter().peekable();
    let mut place = Some((0, 0));
    while let Some((here, node)) = place.and_then(|here| Some((here, entry(blocks, here)?))) {
        match changed.next_if(|next| next.0 == here) {
            Some((_, new)) => all.extend(new),
            None => all.push(node.clone()),
        }
        place = behind(blocks, here);
    }
    join_small(&mut all);
    cut(all)
}

/// Has another entry in one place of a block, in a block of its own if others
/// have it too.
fn put<E: Clone>(block: &mut Arc<[E]>, at: usize, entry: E) {
    if Arc::get_mut(block).is_none() {
        *block = block.iter().cloned().collect();
    }
    if let Some(place) = Arc::get_mut(block).and_then(|block| block.get_mut(at)) {
        *place = entry;
    }
}

/// Has a block that is too large by one give its last entry to the next, if
/// that has room: what is taken away and put back again often comes back to
/// the block before the one that it was in.
fn spill<H>(blocks: &Blocks<FlatRange<H>>, changed: &mut Changed<H>) {
    let [(at, block)] = &mut changed[..] else {
        return;
    };
    let behind = *at + 1;
    let next = blocks.get(behind).and_then(Option::as_deref);
    let Some(next) = next.filter(|next| next.len() < MAX && block.len() == MAX + 1) else {
        return;
    };
    let given: Vec<_> = block.drain(MAX..).chain(next.iter().cloned()).collect();
    changed.push((behind, given));
}

/// Whether entries can stay one block: the `only` one of a node may be small.
fn is_block<E>(entries: &[E], only: bool) -> bool {
    let min = if only { 1 } else { MIN };
    (min..=MAX).contains(&entries.len())
}

/// One of several neighbours in which something changes.
struct Touched<'a, H> {
    /// Which.
    at: usize,
    /// The addresses of which all runs are or would be in it.
    within: AddrRange,
    /// What changes, there and perhaps further up and down.
    edits: &'a [Edit<H>],
}

/// Those of the neighbours that start at `starts` and together have all runs
/// of `within`.
fn touched<'a, H>(
    starts: &'a [u64],
    within: AddrRange,
    mut edits: &'a [Edit<H>],
) -> impl Iterator<Item = Touched<'a, H>> {
    let mut next = 0;
    core::iter::from_fn(move || {
        let edit = edits.first()?;
        let first = starts
            .iter()
            .skip(1)
            .filter(|&&start| start <= edit.range.start());
        let at = first.count().max(next);
        let from = if at == 0 {
            within.start()
        } else {
            *starts.get(at)?
        };
        // There is none behind the last, so that the last goes on to the end.
        let behind = starts.get(at + 1).copied().unwrap_or(u64::MAX);
        let last = match behind {
            u64::MAX => within.last(),
            behind => behind - 1,
        };
        let within = AddrRange::from_bounds(from, last)?;
        let reach_in = edits.iter().take_while(|edit| edit.range.start() <= last);
        let touched = &edits[..reach_in.count()];
        let end_in = edits.iter().take_while(|edit| edit.range.last() <= last);
        edits = &edits[end_in.count()..];
        next = at + 1;
        Some(Touched {
            at,
            within,
            edits: touched,
        })
    })
}

impl<H> Touched<'_, H> {
    /// What takes the place of a block of runs.
    fn edited(
        &self,
        block: &[FlatRange<H>],
        starts: &[u64],
        removed: &mut usize,
    ) -> Vec<FlatRange<H>> {
        let mut all = Vec::with_capacity(MAX + 1);
        let mut done = 0;
        for edit in self.edits {
            let from = starts.iter().filter(|&&start| start < edit.range.start());
            let to = starts.iter().filter(|&&start| start <= edit.range.last());
            let (from, to) = (from.count(), to.count());
            all.extend_from_slice(&block[done..from]);
            // Those of an edit that starts further down are already there.
            if self.within.contains(edit.range.start()) {
                all.extend_from_slice(&edit.runs);
            }
            *removed += to - from;
            done = to;
        }
        all.extend_from_slice(&block[done..]);
        all
    }
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
    fn all<E: Clone>(a: &Blocks<E>, b: &Blocks<E>) -> Vec<E> {
        let blocks = a.iter().chain(b).flatten();
        blocks.flat_map(|block| block.iter().cloned()).collect()
    }
    match (&left.entries, &right.entries) {
        (Entries::Runs(a), Entries::Runs(b)) => cut(all(a, b)),
        (Entries::Nodes(a), Entries::Nodes(b)) => cut(all(a, b)),
        // All leaves of a tree are on one level.
        _ => Nodes::new(),
    }
}
