// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The runs of a flat view in a tree of shared nodes: a new view shares with
//! the old one all that did not change, so that it costs what changed.
//!
//! It is a B+ tree that is never modified. Every node has the first addresses
//! of what is in it side by side; replacing some runs makes new nodes from
//! there up to the root, and all others belong to both trees.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::{AddrRange, FlatRange};

/// The most entries of a node.
const MAX: usize = 64;
/// A node with fewer is joined with a neighbour.
const MIN: usize = MAX / 4;
/// More levels than any tree has that fits in memory: each has [`MIN`] times
/// as many nodes as the one above it.
const LEVELS: usize = 12;

/// Sorted runs that do not overlap. Clones share everything.
#[derive(Debug)]
pub(crate) struct Runs<H> {
    root: Arc<Node<H>>,
    len: usize,
}

#[derive(Debug)]
struct Node<H> {
    starts: Starts,
    entries: Entries<H>,
}

/// The first address of each entry of a node. They are inside the node, and
/// searched in as many steps whatever is looked for, so that a processor need
/// neither wait for a pointer nor guess.
#[derive(Clone, Copy, Debug)]
struct Starts {
    /// Behind the last, all are the highest address there is.
    starts: [u64; MAX],
    len: usize,
    /// The power of two that is not below the number of entries.
    padded: usize,
}

impl Starts {
    fn new(all: impl Iterator<Item = u64>) -> Self {
        let mut starts = [u64::MAX; MAX];
        let mut len = 0;
        for (to, start) in starts.iter_mut().zip(all) {
            *to = start;
            len += 1;
        }
        Self {
            starts,
            len,
            padded: len.next_power_of_two(),
        }
    }

    #[cfg(test)]
    fn as_slice(&self) -> &[u64] {
        &self.starts[..self.len]
    }

    /// How many start at `address` or below.
    #[inline]
    fn up_to(&self, address: u64) -> usize {
        // As many steps for every node of about this size.
        let padded = self.starts.get(..self.padded).unwrap_or(&self.starts);
        padded
            .partition_point(|&start| start <= address)
            .min(self.len)
    }

    /// How many start below `address`.
    fn below(&self, address: u64) -> usize {
        address.checked_sub(1).map_or(0, |last| self.up_to(last))
    }
}

#[derive(Debug)]
enum Entries<H> {
    Runs(Vec<FlatRange<H>>),
    /// None of them is empty.
    Nodes(Vec<Arc<Node<H>>>),
}

impl<H> Clone for Runs<H> {
    fn clone(&self) -> Self {
        Self {
            root: self.root.clone(),
            len: self.len,
        }
    }
}

impl<H> Runs<H> {
    pub(crate) fn new() -> Self {
        Self {
            root: Arc::new(Node::of_runs(Vec::new())),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The run that starts at `address` or, of those below, the nearest.
    #[inline]
    pub(crate) fn at_or_below(&self, address: u64) -> Option<&FlatRange<H>> {
        let mut node = &*self.root;
        loop {
            let index = node.starts.up_to(address).checked_sub(1)?;
            match &node.entries {
                Entries::Runs(runs) => return runs.get(index),
                Entries::Nodes(nodes) => node = nodes.get(index)?,
            }
        }
    }

    /// The runs from the one that holds `address`, or else the first behind it.
    pub(crate) fn from(&self, address: u64) -> Ranges<'_, H> {
        let mut iter = Ranges {
            path: core::array::from_fn(|_| [].iter()),
            depth: 0,
            leaf: [].iter(),
        };
        let mut node = &*self.root;
        loop {
            let index = node.starts.up_to(address).saturating_sub(1);
            match &node.entries {
                Entries::Nodes(nodes) => {
                    iter.push(nodes.get(index + 1..).unwrap_or(&[]));
                    match nodes.get(index) {
                        Some(child) => node = child,
                        None => return iter,
                    }
                }
                Entries::Runs(runs) => {
                    let ends_before = runs.get(index).is_some_and(|r| r.range().last() < address);
                    let index = index + usize::from(ends_before);
                    iter.leaf = runs.get(index..).unwrap_or(&[]).iter();
                    return iter;
                }
            }
        }
    }

    /// The same runs, but those that start in `range` replaced by `new`, which
    /// are sorted and lie in it.
    pub(crate) fn replaced(&self, range: AddrRange, new: Vec<FlatRange<H>>) -> Self {
        let mut count = Count {
            removed: 0,
            added: new.len(),
        };
        let mut level = replace(&self.root, range, new, &mut count);
        while level.len() > 1 {
            level = Node::split_nodes(level);
        }
        let mut root = level
            .pop()
            .unwrap_or_else(|| Arc::new(Node::of_runs(Vec::new())));
        while let Entries::Nodes(nodes) = &root.entries {
            match &nodes[..] {
                [only] => root = only.clone(),
                _ => break,
            }
        }
        Self {
            root,
            len: self.len + count.added - count.removed,
        }
    }
}

struct Count {
    removed: usize,
    added: usize,
}

impl<H> Node<H> {
    fn of_runs(runs: Vec<FlatRange<H>>) -> Self {
        Self {
            starts: Starts::new(runs.iter().map(|run| run.range().start())),
            entries: Entries::Runs(runs),
        }
    }

    fn of_nodes(nodes: Vec<Arc<Self>>) -> Self {
        Self {
            // Nodes that are entries are not empty.
            starts: Starts::new(nodes.iter().map(|node| node.starts.starts[0])),
            entries: Entries::Nodes(nodes),
        }
    }

    /// As few nodes as hold these runs, evenly filled; none for no runs.
    fn split_runs(runs: Vec<FlatRange<H>>) -> Vec<Arc<Self>> {
        split(runs, Self::of_runs)
    }

    /// As few nodes as hold these nodes, evenly filled; none for no nodes.
    fn split_nodes(nodes: Vec<Arc<Self>>) -> Vec<Arc<Self>> {
        split(nodes, Self::of_nodes)
    }

    fn len(&self) -> usize {
        self.starts.len
    }

    /// Two neighbours of the same level as one, or two if one is too small.
    fn joined(left: &Self, right: &Self) -> Vec<Arc<Self>> {
        match (&left.entries, &right.entries) {
            (Entries::Runs(a), Entries::Runs(b)) => Self::split_runs(chain(a, b)),
            (Entries::Nodes(a), Entries::Nodes(b)) => Self::split_nodes(chain(a, b)),
            // All leaves of a tree are on one level.
            _ => Vec::new(),
        }
    }
}

fn chain<T: Clone>(a: &[T], b: &[T]) -> Vec<T> {
    a.iter().chain(b).cloned().collect()
}

/// Cuts a list into as few nodes of at most [`MAX`] entries as possible, of
/// like size.
fn split<T, H>(all: Vec<T>, node: fn(Vec<T>) -> Node<H>) -> Vec<Arc<Node<H>>> {
    if all.len() <= MAX {
        return match all.is_empty() {
            true => Vec::new(),
            false => vec![Arc::new(node(all))],
        };
    }
    let size = all.len().div_ceil(all.len().div_ceil(MAX));
    let mut rest = all.into_iter();
    let nodes = core::iter::from_fn(|| {
        let part: Vec<T> = rest.by_ref().take(size).collect();
        (!part.is_empty()).then(|| Arc::new(node(part)))
    });
    nodes.collect()
}

/// What takes the place of `node`: nodes of the same level, none if nothing is
/// left of it.
fn replace<H>(
    node: &Node<H>,
    range: AddrRange,
    new: Vec<FlatRange<H>>,
    count: &mut Count,
) -> Vec<Arc<Node<H>>> {
    let nodes = match &node.entries {
        Entries::Nodes(nodes) => nodes,
        Entries::Runs(runs) => {
            let from = node.starts.below(range.start());
            let to = node.starts.up_to(range.last());
            count.removed += to - from;
            let mut all = Vec::with_capacity(from + new.len() + runs.len() - to);
            all.extend_from_slice(&runs[..from]);
            all.extend(new);
            all.extend_from_slice(&runs[to..]);
            return Node::split_runs(all);
        }
    };
    // The children that hold some of the range; new runs go into the first.
    let first = node.starts.up_to(range.start()).saturating_sub(1);
    let behind = node.starts.up_to(range.last()).max(first + 1);
    let mut middle = replace(&nodes[first], range, new, count);
    for child in &nodes[first + 1..behind] {
        middle.extend(replace(child, range, Vec::new(), count));
    }
    if let ([only], true) = (&middle[..], behind == first + 1) {
        if only.len() >= MIN {
            return vec![Arc::new(with_entry(node, nodes, first, only))];
        }
    }
    let mut all = Vec::with_capacity(nodes.len() + middle.len());
    all.extend_from_slice(&nodes[..first]);
    let rebuilt = middle.len();
    all.extend(middle);
    all.extend_from_slice(&nodes[behind..]);
    join_small(&mut all, first, rebuilt);
    Node::split_nodes(all)
}

/// The same node with another child in one place: what is usual, and what need
/// not look at the other children.
fn with_entry<H>(
    node: &Node<H>,
    nodes: &[Arc<Node<H>>],
    index: usize,
    child: &Arc<Node<H>>,
) -> Node<H> {
    let (mut starts, mut nodes) = (node.starts, nodes.to_vec());
    starts.starts[index] = child.starts.starts[0];
    nodes[index] = child.clone();
    Node {
        starts,
        entries: Entries::Nodes(nodes),
    }
}

/// Joins nodes that became too small with a neighbour: of the `rebuilt` ones
/// from `first` on, and the one behind them.
fn join_small<H>(nodes: &mut Vec<Arc<Node<H>>>, first: usize, rebuilt: usize) {
    // From the last to the first, so that what is joined moves nobody who is
    // still to be looked at.
    for index in (first..=first + rebuilt).rev() {
        let is_small = nodes.get(index).is_some_and(|node| node.len() < MIN);
        if !is_small || nodes.len() < 2 {
            continue;
        }
        let left = index.min(nodes.len() - 2);
        let joined = Node::joined(&nodes[left], &nodes[left + 1]);
        nodes.splice(left..left + 2, joined);
    }
}

/// Goes through the runs of a [`FlatView`](crate::FlatView) by address.
#[derive(Debug)]
pub struct Ranges<'a, H> {
    /// What is left on each level above the leaf.
    path: [core::slice::Iter<'a, Arc<Node<H>>>; LEVELS],
    depth: usize,
    leaf: core::slice::Iter<'a, FlatRange<H>>,
}

impl<'a, H> Ranges<'a, H> {
    fn push(&mut self, nodes: &'a [Arc<Node<H>>]) {
        if let Some(level) = self.path.get_mut(self.depth) {
            *level = nodes.iter();
            self.depth += 1;
        }
    }
}

impl<H> Clone for Ranges<'_, H> {
    fn clone(&self) -> Self {
        Self {
            path: self.path.clone(),
            depth: self.depth,
            leaf: self.leaf.clone(),
        }
    }
}

impl<'a, H> Iterator for Ranges<'a, H> {
    type Item = &'a FlatRange<H>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(run) = self.leaf.next() {
                return Some(run);
            }
            // Up to where something is left, and down again to its first leaf.
            let top = self.depth.checked_sub(1)?;
            let Some(node) = self.path.get_mut(top)?.next() else {
                self.depth = top;
                continue;
            };
            match &node.entries {
                Entries::Nodes(nodes) => self.push(nodes),
                Entries::Runs(runs) => self.leaf = runs.iter(),
            }
        }
    }
}

#[cfg(test)]
mod tests;
