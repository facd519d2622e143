// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a tree of runs is what lookups take it for.

use super::Runs;
use super::node::{Entry, Inner, Leaf, MAX, Node, Nodes, Root, Row};
use crate::validate::Broken;

impl<H> Runs<H> {
    /// How many levels there are, if all leaves are on one, no node below the
    /// root is empty, each address in a node is where the entry starts, and the
    /// runs are sorted, do not overlap and are as many as is said. It looks at
    /// all of them.
    pub(crate) fn check(&self) -> Result<usize, Broken> {
        let mut walk = Walk::default();
        let levels = match &self.root {
            Root::Leaf(leaf) if self.len == 0 => check_row(leaf).map(|()| 1),
            Root::Leaf(leaf) => walk.leaf(leaf),
            Root::Inner(inner) => walk.root(inner),
        }?;
        match walk.runs == self.len {
            true => Ok(levels),
            false => Err(Broken::at(0, "there are not as many runs as is said")),
        }
    }
}

/// What was seen of the runs, which come by address.
#[derive(Default)]
struct Walk {
    runs: usize,
    /// Where the latest run ends.
    latest: Option<u64>,
}

impl Walk {
    fn root<H>(&mut self, inner: &Inner<H>) -> Result<usize, Broken> {
        let below = match inner {
            Inner::Leaves(row) => row.len(),
            Inner::Inners(row) => row.len(),
        };
        match below {
            0 | 1 => Err(Broken::at(inner.start(), "a root with one node below it")),
            _ => self.inner(inner),
        }
    }

    /// Checks all from a node down; returns how many levels that is.
    fn inner<H>(&mut self, inner: &Inner<H>) -> Result<usize, Broken> {
        let below = match inner {
            Inner::Leaves(row) => self.nodes(row, Self::leaf),
            Inner::Inners(row) => self.nodes(row, Self::inner),
        };
        Ok(below? + 1)
    }

    fn nodes<N: Node>(
        &mut self,
        row: &Nodes<N>,
        mut check: impl FnMut(&mut Self, &N) -> Result<usize, Broken>,
    ) -> Result<usize, Broken> {
        check_row(row)?;
        let mut levels = None;
        for node in row.iter() {
            let found = check(self, node)?;
            if levels.is_some_and(|levels| levels != found) {
                return Err(Broken::at(N::start(node), "leaves on several levels"));
            }
            levels = Some(found);
        }
        levels.ok_or(Broken::at(0, "an empty node"))
    }

    fn leaf<H>(&mut self, leaf: &Leaf<H>) -> Result<usize, Broken> {
        check_row(leaf)?;
        if leaf.len() == 0 {
            return Err(Broken::at(0, "an empty leaf"));
        }
        for run in leaf.iter().map(|run| run.range()) {
            if self.latest.is_some_and(|latest| latest >= run.start()) {
                let what = "a run starts where the one before it has not ended";
                return Err(Broken::at(run.start(), what));
            }
            self.latest = Some(run.last());
            self.runs += 1;
        }
        Ok(1)
    }
}

/// Entries first and then nothing, and beside them where they start.
fn check_row<E: Entry>(row: &Row<E>) -> Result<(), Broken> {
    for at in 0..MAX {
        let entry = row.get(at);
        let start = entry.map_or(u64::MAX, Entry::start);
        if entry.is_some() != (at < row.len()) {
            return Err(Broken::at(start, "a node with a gap, or of another length"));
        }
        if row.start_of(at) != start {
            return Err(Broken::at(start, "a node has another start for an entry"));
        }
    }
    Ok(())
}
