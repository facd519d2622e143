// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VMM's rules for its slots: reserved numbers and the maximum size.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use guest_ranges::PageSize;

use crate::plan::error::PlanError;
use crate::slots::slot::SlotId;

/// `KVM_MEM_MAX_NR_PAGES`: KVM refuses larger slots
/// (include/linux/kvm_host.h).
const MAX_PAGES: u64 = (1 << 31) - 1;

/// The slot numbers that a VMM reserves, and the maximum size of a slot.
///
/// They belong to a [`SlotTable`](crate::SlotTable). Set them before the first plan:
/// existing slots stay as they are, and after another maximum size
/// [`plan_change`](crate::plan::plan_change) may not find the slots of a removed range
/// ([`PlanError::NotThere`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotRules {
    reserved: BTreeSet<(SlotId, SlotId)>,
    max_size: Option<u64>,
}

impl SlotRules {
    /// No reserved numbers, and the default maximum size.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reserves these numbers for slots that the VMM makes itself: no plan uses
    /// them. Such slots must not overlap the ranges of plans.
    #[must_use]
    pub fn reserving(mut self, ids: RangeInclusive<SlotId>) -> Self {
        if !ids.is_empty() {
            self.reserved.insert(ids.into_inner());
        }
        self
    }

    /// Cuts ranges of more than `size` bytes into several slots. The size must be a
    /// multiple of the page size and at most 2^31 - 1 pages; otherwise planning
    /// fails ([`PlanError::BadMaximum`]).
    ///
    /// The default is 2^30 host pages, 4 TiB for pages of 4 KiB: the largest power of
    /// two that KVM supports. A size that is not a multiple of the processor's
    /// large pages costs one large page at every cut, because KVM maps no large
    /// page across two slots.
    #[must_use]
    pub fn with_max_slot_size(mut self, size: u64) -> Self {
        self.max_size = Some(size);
        self
    }

    /// The reserved numbers. The ranges may overlap.
    pub fn reserved(&self) -> impl Iterator<Item = RangeInclusive<SlotId>> + '_ {
        self.reserved.iter().map(|&(first, last)| first..=last)
    }

    /// The number of reserved numbers below `limit`.
    pub(crate) fn reserved_below(&self, limit: u32) -> u32 {
        // Sorted by first number, to count overlapping numbers once.
        let mut counted = 0;
        let counts = self.reserved.iter().map(|&(first, last)| {
            let end = (u32::from(last) + 1).min(limit);
            let new = end.saturating_sub(counted.max(first.into()));
            counted = counted.max(end);
            new
        });
        counts.sum()
    }

    pub(crate) fn is_reserved(&self, id: SlotId) -> bool {
        self.reserved().any(|ids| ids.contains(&id))
    }

    /// The largest slot in bytes.
    pub(crate) fn max_slot_size(&self, page: PageSize) -> Result<u64, PlanError> {
        let Some(size) = self.max_size else {
            return Ok(page.bytes().saturating_mul(1 << 30));
        };
        match size > 0 && page.is_aligned(size) && page.number(size) <= MAX_PAGES {
            true => Ok(size),
            false => Err(PlanError::BadMaximum { size }),
        }
    }
}
