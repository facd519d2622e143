// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A change of some ranges.

use crate::range::SlotRange;
use guest_ranges::PageRange;

/// The ranges that are removed and added. A range that changes is removed as it
/// was and added as it is to be.
///
/// The pages are for VMs with private pages. KVM keeps that attribute by
/// guest-physical address whether or not there is a slot, so that it stays
/// behind when memory moves. Say in `was_private` and `is_private` which pages
/// are private before and after: pages in both, and in neither, cost nothing.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Change<'a> {
    /// The removed ranges, as they were asked for.
    pub removed: &'a [SlotRange],
    /// The added ranges.
    pub added: &'a [SlotRange],
    /// Pages that are private now, all that may have to change.
    pub was_private: &'a [PageRange],
    /// Pages that shall be private.
    pub is_private: &'a [PageRange],
}

impl<'a> Change<'a> {
    /// A change of ranges and of no private page.
    pub fn new(removed: &'a [SlotRange], added: &'a [SlotRange]) -> Self {
        Self {
            removed,
            added,
            ..Self::default()
        }
    }

    /// With the pages that are private before and after it.
    #[must_use]
    pub fn with_private_pages(self, was: &'a [PageRange], is: &'a [PageRange]) -> Self {
        Self {
            was_private: was,
            is_private: is,
            ..self
        }
    }
}
