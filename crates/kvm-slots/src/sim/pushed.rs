// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ranges that the VMM has mapped without a memslot.

use std::collections::BTreeMap;

use guest_ranges::{AddrRange, RangeSet};

use super::memslots::SimSlot;
use crate::push::ValidateExit;

/// All mapped ranges, by guest-physical address.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    pub(super) ranges: BTreeMap<u64, SimSlot>,
    /// The addresses that the guest has validated: parts of the ranges.
    pub(super) validated: RangeSet,
    /// The guest's request that the VMM has not answered.
    pub(super) unanswered: Option<ValidateExit>,
}

impl Pushed {
    pub(super) fn find(&self, gpa: u64) -> Option<&SimSlot> {
        let (_, range) = self.ranges.range(..=gpa).next_back()?;
        Some(range).filter(|range| gpa <= range.last())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SimSlot> {
        self.ranges.values()
    }

    pub(super) fn overlaps(&self, new: &SimSlot) -> bool {
        let nearest = self.ranges.range(..=new.last()).next_back();
        nearest.is_some_and(|(_, range)| new.gpa <= range.last())
    }
}

/// The guest-physical addresses of a range.
pub(super) fn addresses(range: &SimSlot) -> Option<AddrRange> {
    AddrRange::from_bounds(range.gpa, range.last())
}
