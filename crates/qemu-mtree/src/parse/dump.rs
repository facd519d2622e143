// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The trees of a dump, as QEMU draws them.

use crate::region_type::RegionType;

/// A region as one line draws it. QEMU draws the same region several times: in
/// every address space that reaches it, and again if it is the target of an
/// alias.
#[derive(Debug)]
pub(crate) struct Drawn {
    pub(crate) line: usize,
    pub(crate) name: String,
    pub(crate) kind: RegionType,
    /// The offset in the parent. For a root: the offset in the region that
    /// contains it, or 0.
    pub(crate) address: u64,
    /// 1 to 2^64. QEMU prints a size of 0 as a size of 1.
    pub(crate) size: u128,
    pub(crate) priority: i32,
    pub(crate) nonvolatile: bool,
    pub(crate) disabled: bool,
    pub(crate) alias: Option<Alias>,
    pub(crate) parent: Option<usize>,
    pub(crate) children: Vec<usize>,
}

/// What an alias states about its target.
#[derive(Debug)]
pub(crate) struct Alias {
    pub(crate) target: String,
    pub(crate) offset: u64,
}

/// The address spaces that share one root.
#[derive(Debug)]
pub(crate) struct Spaces {
    pub(crate) names: Vec<String>,
    pub(crate) root: usize,
}

/// A whole dump. The regions are in the order of their lines, so each subtree
/// is contiguous.
#[derive(Debug)]
pub(crate) struct Dump {
    pub(crate) regions: Vec<Drawn>,
    pub(crate) spaces: Vec<Spaces>,
    /// The roots of the `memory-region:` blocks, which are the targets of
    /// aliases.
    pub(crate) targets: Vec<usize>,
}
