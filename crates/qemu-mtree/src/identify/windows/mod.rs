// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds the target of an alias among regions of the same name, by what the
//! alias's window shows.
//!
//! The secondary bus of every PCI bridge has the same name, and aliases of the
//! same names show it on the primary bus. The order of a dump distinguishes the
//! buses only while all addresses ascend in the same order. But firmware opens
//! a bridge's windows where the devices behind the bridge are. The rules are:
//!
//! 1. Aliases of one name show different targets, if there are enough targets.
//! 2. All aliases of one target lie in the same region. That region shows at
//!    most as many targets as it has aliases of one name.
//! 3. No region contains itself through aliases.
//! 4. Among the remaining targets, a window shows the one that fills most of
//!    it. Among equals it shows the one with larger pieces: the outer of two
//!    nested buses never fills less than the inner one, and never with smaller
//!    pieces.

pub(super) mod assigned;
pub(super) mod fits;

use super::identity::Identity;
use crate::parse::dump::Dump;

/// An alias with several candidate targets of one name and type. There are at
/// least as many candidates as aliases of the same class.
pub(crate) struct Window {
    /// The region that is the alias.
    pub(crate) alias: usize,
    /// Equal for aliases of one name that show targets of one name and type.
    pub(crate) class: usize,
    /// The candidate targets: roots of blocks.
    pub(crate) targets: Vec<usize>,
}

/// The tree of each region.
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

    /// Returns the root of the tree that contains a region.
    fn root(&self, region: usize) -> usize {
        let root = self.roots[self.identity.canonical(region)];
        self.identity.canonical(root)
    }

    /// Returns the region that contains an alias.
    fn place(&self, alias: usize) -> Option<usize> {
        let parent = self.dump.regions[alias].parent?;
        Some(self.identity.canonical(parent))
    }
}
