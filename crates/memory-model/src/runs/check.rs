// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Consistency check of a tree of runs.

use super::Runs;
use super::node::{Entry, Inner, Leaf, MAX, Node, Nodes, Root, Row};
use crate::validate::invalid::Broken;

impl<H> Runs<H> {
    /// Checks that all leaves are on one level, that no node below the root is empty,
    /// that each address in a node is the start of its entry, and that the runs are
    /// sorted, do not overlap and have the recorded number. Returns the number of
    /// levels.
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

/// The state of a check, which visits the runs by address.
#[derive(Default)]
struct Walk {
    runs: usize,
    /// The end of the latest run.
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

    /// Checks a node and all nodes below it. Returns the number of levels.
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

/// Checks that the entries come first, and that their starts are correct.
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
