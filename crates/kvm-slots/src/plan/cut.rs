// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ranges cut to what a slot can be: whole pages, and not too many of them.
//!
//! Each range is cut by itself, whatever lies beside it, and by where its bytes
//! are, wherever the guest sees them. So a range that stays has its slots
//! whatever happens to its neighbours, and one that moves has the same slots.

use crate::abi::{self, AbiProfile, Unsupported};
use crate::caps::Capabilities;
use crate::range::{Backing, SlotAccess, SlotRange};
use crate::slot::{Slot, SlotId};

use super::error::PlanError;
use super::outcome::Remainder;

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
        let at = match &self.backing {
            Backing::Host(host) => host.address(),
            Backing::GuestMemfd { file, .. } | Backing::FdOffset(file) => file.offset(),
        };
        let align = LARGEST_PAGE.min(1 << max.trailing_zeros());
        max - at % align
    }

    /// The slots of at most `max` bytes; `None` if an address would wrap.
    fn split(self, max: u64, slots: &mut Vec<Self>) -> Option<()> {
        let (mut from, mut size) = (0, self.first_slot(max));
        while from < self.size {
            slots.push(Self {
                gpa: self.gpa + from,
                size,
                backing: self.backing.advanced(from)?,
                ..self
            });
            from += size;
            size = max.min(self.size - from);
        }
        Some(())
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
    pub(crate) trapped: Vec<Remainder>,
}

/// Cuts ranges to whole pages: starts up, ends down. The rest is trapped.
pub(crate) fn whole_pages(ranges: &[SlotRange], page: u64) -> Result<Pages, PlanError> {
    let mut sorted: Vec<&SlotRange> = ranges.iter().collect();
    sorted.sort_by_key(|range| range.gpa);
    let mut pages = Pages {
        ranges: Vec::with_capacity(ranges.len()),
        trapped: Vec::new(),
    };
    let mut previous: Option<(&SlotRange, u64)> = None;
    for range in sorted {
        let (gpa, size) = (range.gpa, range.size);
        let more = size.checked_sub(1).ok_or(PlanError::EmptyRange { gpa })?;
        let last = gpa.checked_add(more);
        let last = last.ok_or(PlanError::RangeWraps { gpa, size })?;
        if let Some((other, _)) = previous.filter(|(_, last)| gpa <= *last) {
            return Err(overlap(gpa, size, other.gpa, other.size));
        }
        previous = Some((range, last));
        let added = pages.add(range, last, page);
        added.ok_or(PlanError::BackingWraps { gpa, size })?;
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
    /// Adds a range that ends at `last`; `None` if the backing would wrap.
    fn add(&mut self, range: &SlotRange, last: u64, page: u64) -> Option<()> {
        // In 128 bits, where the end of the last page does not wrap.
        let (first, end) = (u128::from(range.gpa), u128::from(last) + 1);
        let page = u128::from(page);
        let (up, down) = (first.next_multiple_of(page), end / page * page);
        if up >= down {
            self.trap(first, end);
            return Some(());
        }
        self.trap(first, up);
        self.trap(down, end);
        self.ranges.push(NewSlot {
            gpa: narrow(up),
            size: narrow(down - up),
            access: range.access,
            backing: range.backing.advanced(narrow(up - first))?,
            log_dirty: range.log_dirty,
        });
        Some(())
    }

    fn trap(&mut self, from: u128, to: u128) {
        if from < to {
            self.trapped.push(Remainder {
                gpa: narrow(from),
                size: narrow(to - from),
            });
        }
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
pub(crate) fn split(ranges: Vec<NewSlot>, max: u64) -> Result<Vec<NewSlot>, PlanError> {
    if ranges.iter().all(|range| range.size <= max) {
        return Ok(ranges);
    }
    let mut slots = Vec::with_capacity(ranges.len());
    for range in ranges {
        let (gpa, size) = (range.gpa, range.size);
        let bad = PlanError::BackingWraps { gpa, size };
        range.split(max, &mut slots).ok_or(bad)?;
    }
    Ok(slots)
}
