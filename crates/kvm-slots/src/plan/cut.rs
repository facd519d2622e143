// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ranges cut to what a slot can be: whole pages, and not too many of them.
//!
//! Each range is cut by itself, whatever lies beside it, and by where its bytes
//! are, wherever the guest sees them. So a range that stays has its slots
//! whatever happens to its neighbours, and one that moves has the same slots.

use guest_ranges::AddrRange;

use crate::abi::{self, AbiProfile, Unsupported};
use crate::caps::Capabilities;
use crate::range::{Backing, SlotAccess, SlotRange};
use crate::slot::{Slot, SlotId};

use super::error::PlanError;

/// Cuts between slots are at multiples of this where the maximum is one, too:
/// no processor that KVM runs on maps larger pages for a guest.
const LARGEST_PAGE: u64 = 1 << 30;

/// A slot that has no number yet.
#[derive(Clone, Debug)]
pub(crate) struct NewSlot {
    pub(crate) gpa: u64,
    pub(crate) size: u64,
    pub(crate) access: SlotAccess,
    pub(crate) backing: Backing,
    pub(crate) log_dirty: bool,
}

impl NewSlot {
    pub(crate) fn numbered(self, id: SlotId) -> Slot {
        Slot {
            id,
            gpa: self.gpa,
            size: self.size,
            access: self.access,
            backing: self.backing,
            log_dirty: self.log_dirty,
        }
    }

    pub(crate) fn last(&self) -> u64 {
        self.gpa + (self.size - 1)
    }

    /// Whether `slot` has these bytes with this access, wherever it lies.
    pub(crate) fn is_same_memory(&self, slot: &Slot) -> bool {
        (self.size, self.access) == (slot.size, slot.access) && self.backing == slot.backing
    }

    /// Whether a slot for it can exist at all.
    pub(crate) fn check(
        &self,
        capabilities: &Capabilities,
        abi: AbiProfile,
    ) -> Result<(), Unsupported> {
        abi::check(
            self.size,
            self.access,
            self.log_dirty,
            &self.backing,
            capabilities,
            abi,
        )
    }

    /// How many slots of at most `max` bytes it takes.
    fn slots(&self, max: u64) -> u64 {
        match self.first_slot(max) {
            size if size == self.size => 1,
            size => 1 + (self.size - size).div_ceil(max),
        }
    }

    /// The size of the first slot: such that all others start at a multiple of
    /// the largest page in the bytes behind, if `max` allows.
    fn first_slot(&self, max: u64) -> u64 {
        if self.size <= max {
            return self.size;
        }
        let at = match (&self.backing, self.backing.file()) {
            (Backing::Host(host), _) => host.address(),
            (_, file) => file.map_or(0, |file| file.offset()),
        };
        let align = LARGEST_PAGE.min(1 << max.trailing_zeros());
        max - at % align
    }

    /// The slots of at most `max` bytes.
    fn split(self, max: u64, slots: &mut Vec<Self>) {
        let (mut from, mut size) = (0, self.first_slot(max));
        while from < self.size {
            // It is inside the backing, so the slice exists.
            slots.extend(self.backing.slice(from, size).map(|backing| Self {
                gpa: self.gpa + from,
                size,
                backing,
                ..self
            }));
            from += size;
            size = max.min(self.size - from);
        }
    }
}

impl From<Slot> for NewSlot {
    fn from(slot: Slot) -> Self {
        Self {
            gpa: slot.gpa,
            size: slot.size,
            access: slot.access,
            backing: slot.backing,
            log_dirty: slot.log_dirty,
        }
    }
}

/// What is left of ranges when they are cut to whole pages.
#[derive(Debug)]
pub(crate) struct Pages {
    pub(crate) ranges: Vec<NewSlot>,
    pub(crate) trapped: Vec<AddrRange>,
}

/// Cuts ranges to whole pages: starts up, ends down. The rest is trapped.
pub(crate) fn whole_pages(ranges: &[SlotRange], page: u64) -> Result<Pages, PlanError> {
    let mut sorted: Vec<&SlotRange> = ranges.iter().collect();
    sorted.sort_by_key(|range| range.gpa());
    let mut pages = Pages {
        ranges: Vec::with_capacity(ranges.len()),
        trapped: Vec::new(),
    };
    let mut previous: Option<&SlotRange> = None;
    for range in sorted {
        let gpa = range.gpa();
        if let Some(other) = previous.filter(|other| gpa <= other.last()) {
            return Err(overlap(gpa, range.size(), other.gpa(), other.size()));
        }
        previous = Some(range);
        pages.add(range, page);
    }
    Ok(pages)
}

/// A range overlaps another range or slot.
pub(crate) fn overlap(gpa: u64, size: u64, other_gpa: u64, other_size: u64) -> PlanError {
    PlanError::Overlap {
        gpa,
        size,
        other_gpa,
        other_size,
    }
}

impl Pages {
    /// Adds the whole pages of a range.
    fn add(&mut self, range: &SlotRange, page: u64) {
        // In 128 bits, where the end of the last page does not wrap.
        let (first, end) = (u128::from(range.gpa()), u128::from(range.last()) + 1);
        let page = u128::from(page);
        let (up, down) = (first.next_multiple_of(page), end / page * page);
        if up >= down {
            return self.trap(first, end);
        }
        self.trap(first, up);
        self.trap(down, end);
        let (skipped, size) = (narrow(up - first), narrow(down - up));
        // They are inside the range, so the slice exists.
        self.ranges
            .extend(range.backing().slice(skipped, size).map(|backing| NewSlot {
                gpa: narrow(up),
                size,
                access: range.access(),
                backing,
                log_dirty: range.log_dirty(),
            }));
    }

    fn trap(&mut self, from: u128, to: u128) {
        // Both are at most 2^64, so a range that is not empty fits.
        let size = to.saturating_sub(from);
        self.trapped.extend(AddrRange::new(narrow(from), size));
    }
}

fn narrow(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// How many slots of at most `max` bytes the ranges take. More than memory
/// could hold are counted, too: nothing is allocated.
pub(crate) fn count(ranges: &[NewSlot], max: u64) -> usize {
    let slots = ranges.iter().map(|range| range.slots(max));
    let total = slots.fold(0, u64::saturating_add);
    usize::try_from(total).unwrap_or(usize::MAX)
}

/// Cuts ranges of whole pages into slots of at most `max` bytes.
pub(crate) fn split(ranges: Vec<NewSlot>, max: u64) -> Vec<NewSlot> {
    if ranges.iter().all(|range| range.size <= max) {
        return ranges;
    }
    let mut slots = Vec::with_capacity(ranges.len());
    for range in ranges {
        range.split(max, &mut slots);
    }
    slots
}
