// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A region as its parent sees it: the range that it covers, and its rank among
//! siblings.

use guest_ranges::AddrRange;

use crate::ids::RegionId;

/// A region in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) id: RegionId,
    /// The offsets that it covers in the parent, cut off at 2^64.
    pub(crate) range: AddrRange,
    pub(crate) priority: i32,
    /// The number of its placing. The latest has the highest.
    pub(crate) placing: u64,
}

impl Child {
    /// The sort key that puts the winner first: the highest priority, and the latest
    /// placed among equal priorities.
    #[inline]
    pub(crate) fn rank(&self) -> impl Ord + use<> {
        core::cmp::Reverse((self.priority, self.placing))
    }
}
