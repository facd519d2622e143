// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What [`MemoryModel::validate`](crate::MemoryModel::validate) can find.

use alloc::string::String;

use guest_ranges::AddrRange;

use crate::ids::RegionId;

/// An inconsistency of a model, which is a bug in this crate and not in its use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// The table of regions is wrong.
    #[error("entry {index} in the table of regions: {what}")]
    Entry {
        /// The index in the table.
        index: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// A region is wrong, or inconsistent with another.
    #[error("'{name}' ({id:?}): {what}")]
    Region {
        /// The region.
        id: RegionId,
        /// Its name.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The number of ioeventfds and coalesced ranges differs from the recorded one.
    #[error("{counted} ioeventfds and coalesced ranges are there, {recorded} are recorded")]
    AttachmentCount {
        /// The actual number.
        counted: usize,
        /// The recorded number.
        recorded: usize,
    },
    /// An address space is wrong.
    #[error("'{space}': {what}")]
    Space {
        /// The space's name.
        space: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The runs of a view are wrong, whatever they show.
    #[error("'{space}', the view's runs at {at:#x}: {what}")]
    Runs {
        /// The space's name.
        space: String,
        /// Where.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A view is not what the whole tree renders to.
    #[error("'{space}' shows {shown}; all of it rendered anew shows {rendered}")]
    View {
        /// The space's name.
        space: String,
        /// The start of the first run that differs.
        at: u64,
        /// A description of the view's run there.
        shown: String,
        /// A description of the run that should be there.
        rendered: String,
    },
    /// The view cannot be checked: aliases of aliases multiply so much that only parts
    /// of it can be rendered. It may be correct.
    #[error("rendering all of '{space}' took more than {limit} steps")]
    TooComplex {
        /// The space's name.
        space: String,
        /// The number of regions visited before giving up.
        limit: u64,
    },
    /// An accepted page is not private MMIO.
    #[error("'{space}': of {range}, which is accepted, {at:#x} is not private MMIO")]
    Accepted {
        /// The space's name.
        space: String,
        /// Accepted pages.
        range: AddrRange,
        /// The first of these addresses that is not private MMIO.
        at: u64,
    },
    /// The representation of a set of pages is wrong.
    #[error("'{space}', its {set} pages at {at:#x}: {what}")]
    Pages {
        /// The space's name.
        space: String,
        /// Which pages: private or accepted.
        set: &'static str,
        /// Where.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// What is wrong, and at which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) at: u64,
    pub(crate) what: &'static str,
}

impl Broken {
    pub(crate) fn at(at: u64, what: &'static str) -> Self {
        Self { at, what }
    }
}
