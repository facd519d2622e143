// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The host pages that VFIO's sparse-mmap areas hold as a whole, as sorted ranges that do not touch.

use alloc::vec::Vec;

use guest_ranges::{AddrRange, PageSize};

use crate::bar::Bar;
use crate::bar_input::{Region, SparseArea};
use crate::error::ClassifyError;

/// How many ranges [`Room`] has without an allocation: 16 areas, and what follows a small BAR.
const INLINE: usize = 17;

/// Room for ranges. Only a device with more sparse-mmap areas than any known one has causes an
/// allocation.
pub(crate) struct Room {
    inline: [AddrRange; INLINE],
    heap: Vec<AddrRange>,
}

impl Room {
    pub(crate) const fn new() -> Self {
        Self {
            inline: [AddrRange::ALL; INLINE],
            heap: Vec::new(),
        }
    }

    fn slots(&mut self, count: usize) -> &mut [AddrRange] {
        match self.inline.get_mut(..count) {
            Some(slots) => slots,
            None => {
                self.heap.resize(count, AddrRange::ALL);
                &mut self.heap
            }
        }
    }
}

/// The pages of `bar` that userspace may map by its sparse-mmap areas; all of it without areas.
pub(crate) fn mappable_pages<'a>(
    bar: Bar,
    region: &Region,
    page: PageSize,
    room: &'a mut Room,
) -> Result<&'a [AddrRange], ClassifyError> {
    let Some(areas) = &region.sparse else {
        let whole = room.slots(1);
        whole.fill(bar.extent());
        return Ok(whole);
    };
    // What follows a BAR that is smaller than a page is no byte of the region, so that no area can
    // hold it or need to.
    let behind = AddrRange::from_bounds(bar.size(), page.round_out(bar.extent()).last());
    let filled = areas.iter().filter(|area| area.size != 0);
    let ranges = filled.map(|area| area_in(bar, area));
    let ranges = ranges.chain(behind.map(Ok));
    let slots = room.slots(areas.len() + 1);
    let mut count = 0;
    for (slot, range) in slots.iter_mut().zip(ranges) {
        *slot = range?;
        count += 1;
    }
    let pages = keep_whole_pages(&mut slots[..count], page);
    Ok(&slots[..pages])
}

fn area_in(bar: Bar, area: &SparseArea) -> Result<AddrRange, ClassifyError> {
    let range = AddrRange::new(area.offset, area.size.into());
    let inside = range.filter(|&range| bar.extent().covers(range));
    inside.ok_or(ClassifyError::SparseAreaOutsideBar {
        bar: bar.index(),
        bar_size: bar.size(),
        offset: area.offset,
        size: area.size,
    })
}

/// Sorts the ranges, joins those that touch or overlap, and rounds each to whole pages. Returns how
/// many are left, at the front.
fn keep_whole_pages(ranges: &mut [AddrRange], page: PageSize) -> usize {
    ranges.sort_unstable();
    let (mut pages, mut at) = (0, 0);
    while let Some(&first) = ranges.get(at) {
        // Joined first: two touching areas may hold a page between them.
        let mut run = first;
        at += 1;
        while let Some(next) = ranges.get(at).filter(|next| touches(run, **next)) {
            run.extend_to(next.last());
            at += 1;
        }
        if let Some(whole) = page.round_in(run) {
            ranges[pages] = whole;
            pages += 1;
        }
    }
    pages
}

/// Whether `next`, which does not start below `run`, overlaps it or starts right behind.
fn touches(run: AddrRange, next: AddrRange) -> bool {
    next.start() <= run.last().saturating_add(1)
}

/// Whether sorted ranges hold `offset`.
pub(crate) fn contains(ranges: &[AddrRange], offset: u64) -> bool {
    at_or_above(ranges, offset).is_some_and(|range| range.contains(offset))
}

/// The first of the sorted ranges that does not end below `offset`.
pub(crate) fn at_or_above(ranges: &[AddrRange], offset: u64) -> Option<AddrRange> {
    let below = ranges.partition_point(|range| range.last() < offset);
    ranges.get(below).copied()
}
