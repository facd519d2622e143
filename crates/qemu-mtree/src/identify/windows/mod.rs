// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which of several regions of one name an alias shows, by what is there.
//!
//! Every PCI bridge has a bus of the same name behind it and shows it to the
//! bus before it through aliases of the same names. The order of a dump tells
//! them apart only while all addresses ascend alike. But firmware opens a
//! bridge's windows where the devices behind it are, so:
//!
//! 1. Aliases of one name show different targets, if there are enough of them.
//! 2. The aliases that show one target lie in the same region, and no more
//!    targets are shown in it than it has aliases of one name.
//! 3. No region lies, through aliases, inside itself.
//! 4. Among what these allow, a window shows the target that fills most of it,
//!    and of equals the one that does so with larger pieces: the outer of two
//!    nested buses never fills less than the inner one, nor with smaller ones.

pub(super) mod assigned;
pub(super) mod fits;

use super::identity::Identity;
use crate::parse::dump::Dump;

/// An alias whose target's name and type several regions have, at least as many
/// as there are aliases of its own name that show one of them.
pub(crate) struct Window {
    /// The region that is the alias.
    pub(crate) alias: usize,
    /// Equal for aliases of one name that show targets of one name and type.
    pub(crate) class: usize,
    /// What it may show: roots of blocks.
    pub(crate) targets: Vec<usize>,
}

/// Which tree each region is in.
pub(crate) struct Trees<'a> {
    dump: &'a Dump,
    identity: &'a Identity,
    roots: Vec<usize>,
}

impl<'a> Trees<'a> {
    pub(crate) fn of(dump: &'a Dump, identity: &'a Identity) -> Self {
        let mut roots: Vec<usize> = Vec::with_capacity(dump.regions.len());
        // Parents come before their children.
        for (index, region) in dump.regions.iter().enumerate() {
            roots.push(region.parent.map_or(index, |parent| roots[parent]));
        }
        Self {
            dump,
            identity,
            roots,
        }
    }

    /// The root of the tree that a region is in.
    fn root(&self, region: usize) -> usize {
        let root = self.roots[self.identity.same(region)];
        self.identity.same(root)
    }

    /// The region that an alias lies in.
    fn place(&self, alias: usize) -> Option<usize> {
        let parent = self.dump.regions[alias].parent?;
        Some(self.identity.same(parent))
    }
}
