// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cuts ranges to whole pages, and into slots that are not too large.
//!
//! Cuts depend only on the range itself and on where its bytes are, not on its
//! neighbors or its guest-physical address. So a range that stays keeps its
//! slots whatever happens to its neighbors, and a range that moves is cut into
//! the same slots, which can move one by one. It is also why a plan from a
//! change is the same as the plan from all ranges.

use guest_ranges::{AddrRange, PageSize};

use super::error::PlanError;
use crate::range::{SlotBacking, SlotRange};

/// Cuts between slots are at multiples of this size if the maximum is such a
/// multiple: no processor that KVM supports maps larger pages for a guest.
const LARGEST_PAGE: u64 = 1 << 30;

/// Ranges of whole pages, and the bytes that do not fit into whole pages.
#[derive(Debug)]
pub(crate) struct Pages {
    pub(crate) ranges: Vec<SlotRange>,
    pub(crate) trapped: Vec<AddrRange>,
}

/// Cuts ranges to whole pages: rounds starts up and ends down. The remaining
/// bytes are trapped.
pub(crate) fn whole_pages(ranges: &[SlotRange], page: PageSize) -> Result<Pages, PlanError> {
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
            return Err(overlap(range, other));
        }
        previous = Some(range);
        pages.add(range, page);
    }
    Ok(pages)
}

/// The error for a range that overlaps another range or slot.
pub(crate) fn overlap(range: &SlotRange, other: &SlotRange) -> PlanError {
    PlanError::Overlap {
        gpa: range.gpa(),
        size: range.size(),
        other_gpa: other.gpa(),
        other_size: other.size(),
    }
}

impl Pages {
    /// Adds the whole pages of a range.
    fn add(&mut self, range: &SlotRange, page: PageSize) {
        // 128 bits, because the end of the last page is 2^64.
        let (first, end) = (u128::from(range.gpa()), u128::from(range.last()) + 1);
        let page = u128::from(page.bytes());
        let (up, down) = (first.next_multiple_of(page), end / page * page);
        if up >= down {
            return self.trap(first, end);
        }
        self.trap(first, up);
        self.trap(down, end);
        let (skipped, size) = (narrow(up - first), narrow(down - up));
        // The pages are inside the range, so the part exists.
        self.ranges.extend(range.part(skipped, size));
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

/// Counts the slots of at most `max` bytes that the ranges need, without
/// allocating any: there may be too many for the host's memory.
pub(crate) fn count(ranges: &[SlotRange], max: u64) -> usize {
    let slots = ranges.iter().map(|range| slots(range, max));
    let total = slots.fold(0, u64::saturating_add);
    usize::try_from(total).unwrap_or(usize::MAX)
}

/// Cuts ranges of whole pages into slots of at most `max` bytes.
pub(crate) fn split(ranges: Vec<SlotRange>, max: u64) -> Vec<SlotRange> {
    if ranges.iter().all(|range| range.size() <= max) {
        return ranges;
    }
    let mut slots = Vec::with_capacity(ranges.len());
    for range in &ranges {
        let (mut from, mut size) = (0, first_slot(range, max));
        while from < range.size() {
            // The slot is inside the range, so the part exists.
            slots.extend(range.part(from, size));
            from += size;
            size = max.min(range.size() - from);
        }
    }
    slots
}

/// The number of slots of at most `max` bytes that a range needs.
fn slots(range: &SlotRange, max: u64) -> u64 {
    match first_slot(range, max) {
        size if size == range.size() => 1,
        size => 1 + (range.size() - size).div_ceil(max),
    }
}

/// The size of a range's first slot. All other slots then start at a multiple
/// of the largest page in the backing, if `max` allows that.
fn first_slot(range: &SlotRange, max: u64) -> u64 {
    if range.size() <= max {
        return range.size();
    }
    let backing = range.backing();
    let at = match (backing, backing.file()) {
        (SlotBacking::Host(host), _) => host.address(),
        (_, file) => file.map_or(0, |file| file.offset()),
    };
    let align = LARGEST_PAGE.min(1 << max.trailing_zeros());
    max - at % align
}
