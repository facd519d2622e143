// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Describes a change of some ranges.

use crate::range::SlotRange;
use guest_ranges::PageRange;

/// The removed and added ranges. A range that changes is removed in its old form
/// and added in its new form.
///
/// The pages are for VMs with private pages. KVM keeps the private attribute by
/// guest-physical address, with or without a slot, so it does not follow memory
/// that moves. `was_private` and `is_private` list the private pages before and
/// after the change. Pages in both lists, or in neither, cost nothing.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Change<'a> {
    /// The removed ranges, as they were originally planned.
    pub removed: &'a [SlotRange],
    /// The added ranges.
    pub added: &'a [SlotRange],
    /// Pages that are private now.
    pub was_private: &'a [PageRange],
    /// Pages that are private after the change.
    pub is_private: &'a [PageRange],
}

impl<'a> Change<'a> {
    /// A change of ranges, without private pages.
    pub fn new(removed: &'a [SlotRange], added: &'a [SlotRange]) -> Self {
        Self {
            removed,
            added,
            ..Self::default()
        }
    }

    /// Sets the pages that are private before and after the change.
    #[must_use]
    pub fn with_private_pages(self, was: &'a [PageRange], is: &'a [PageRange]) -> Self {
        Self {
            was_private: was,
            is_private: is,
            ..self
        }
    }
}
