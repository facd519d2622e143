// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The trees of a dump, as drawn.

use crate::region_type::RegionType;

/// A region as one line draws it. The same region is drawn several times: in
/// every address space that reaches it, and once more for being an alias's
/// target.
#[derive(Debug)]
pub(crate) struct Drawn {
    pub(crate) line: usize,
    pub(crate) name: String,
    pub(crate) kind: RegionType,
    /// Offset in the parent; of a root: in the region it lies in, or 0.
    pub(crate) address: u64,
    /// 1 to 2^64. QEMU prints a size of 0 like one of 1.
    pub(crate) size: u128,
    pub(crate) priority: i32,
    pub(crate) nonvolatile: bool,
    pub(crate) disabled: bool,
    pub(crate) alias: Option<Alias>,
    pub(crate) parent: Option<usize>,
    pub(crate) children: Vec<usize>,
}

/// What an alias says of its target.
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

/// A whole dump: regions in the order of their lines, so that a region and
/// all below it are one contiguous run.
#[derive(Debug)]
pub(crate) struct Dump {
    pub(crate) regions: Vec<Drawn>,
    pub(crate) spaces: Vec<Spaces>,
    /// The roots of the `memory-region:` blocks: what aliases show.
    pub(crate) targets: Vec<usize>,
}
