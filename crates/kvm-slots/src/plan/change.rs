// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A change of some ranges.

use crate::plan::op::PageRun;
use crate::range::SlotRange;

/// What changes: the ranges that go and those that come. A range that changes
/// goes as it was and comes as it shall be.
///
/// The pages are for VMs with private pages. KVM keeps that attribute by
/// guest-physical address whether or not there is a slot, so that it stays
/// behind when memory moves. Say in `was_private` and `is_private` which pages
/// are private before and after: pages in both, and in neither, cost nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// The ranges that go, as they were asked for.
    pub gone: &'a [SlotRange],
    /// The ranges that come.
    pub come: &'a [SlotRange],
    /// Pages that are private now, all that may have to change.
    pub was_private: &'a [PageRun],
    /// Pages that shall be private.
    pub is_private: &'a [PageRun],
}
