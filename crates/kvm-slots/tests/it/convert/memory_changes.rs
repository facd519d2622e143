// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which changes of a guest's memory are allowed, and which accepted pages
//! prevent.

use crate::common;

use common::{PAGE, device, guest_memfd, ram};
use kvm_slots::SlotRange;
use kvm_slots::convert::{
    ConvertibleMemory, ConvertibleRange, GuestMemfdSides, GuestPages, MemoryError, PageRange,
};

const FD: i32 = 7;
const BAR: u64 = 16 * PAGE;

fn pages(first: u64, count: u64) -> PageRange {
    PageRange::new(first * PAGE, count * PAGE).unwrap()
}

fn set(memory: &mut ConvertibleMemory, ranges: &[SlotRange]) -> Result<(), MemoryError> {
    let convertible = |range| ConvertibleRange::new(range, GuestMemfdSides::Private);
    memory.set_ranges(ranges.iter().filter_map(convertible))
}

/// The page range of each stretch.
fn shown(memory: &ConvertibleMemory) -> Vec<PageRange> {
    let all = memory.memory(PageRange::new(0, 1 << 40).unwrap());
    all.map(|stretch| stretch.range).collect()
}

/// RAM of four pages, and two BARs of four; pages 17 and 18 are accepted.
fn accepted() -> ([SlotRange; 3], ConvertibleMemory) {
    let ranges = [
        guest_memfd(0, 4 * PAGE, 3, 0),
        device(BAR, 4 * PAGE, FD, 8 * PAGE),
        device(BAR + 4 * PAGE, 4 * PAGE, FD, 12 * PAGE),
    ];
    let mut memory = ConvertibleMemory::new();
    set(&mut memory, &ranges).unwrap();
    memory.accept(pages(17, 2));
    (ranges, memory)
}

#[test]
fn registers_behind_accepted_pages_cannot_become_other_registers() {
    let (ranges, mut memory) = accepted();
    let before = shown(&memory);
    let other = |range: SlotRange| [ranges[0].clone(), range, ranges[2].clone()];
    for (what, changed) in [
        ("offset", device(BAR, 4 * PAGE, FD, 4 * PAGE)),
        ("file", device(BAR, 4 * PAGE, FD + 1, 8 * PAGE)),
        ("size", device(BAR, 3 * PAGE, FD, 8 * PAGE)),
        ("start", device(BAR + PAGE, 3 * PAGE, FD, 9 * PAGE)),
        ("place", device(BAR - 8 * PAGE, 4 * PAGE, FD, 8 * PAGE)),
        ("kind", guest_memfd(BAR, 4 * PAGE, FD, 8 * PAGE)),
        ("no private side", ram(BAR, 4 * PAGE, 0x7000_0000)),
    ] {
        let refused = set(&mut memory, &other(changed));
        let pages = pages(17, 2);
        assert_eq!(refused, Err(MemoryError::Accepted { pages }), "{what}");
        assert_eq!(shown(&memory), before, "{what}");
    }
    let [ram, ..] = ranges.clone();
    let grown = set(&mut memory, &[ram, device(BAR, 8 * PAGE, FD, 8 * PAGE)]);
    assert_eq!(
        grown,
        Err(MemoryError::Accepted {
            pages: pages(17, 2)
        })
    );
    // The same ranges again, in any order, and without those not accepted.
    let [one, two, three] = ranges;
    set(&mut memory, &[three, two.clone(), one]).unwrap();
    assert_eq!(shown(&memory), before);
    set(&mut memory, &[two]).unwrap();
    assert_eq!(shown(&memory), [pages(16, 4)]);
    // Other ranges, once nothing is accepted.
    memory.revoke(pages(17, 2));
    set(&mut memory, &[device(BAR, 4 * PAGE, FD, 0)]).unwrap();
}

#[test]
fn ranges_beside_accepted_pages_change() {
    let (mut ranges, mut memory) = accepted();
    ranges[0] = guest_memfd(0, 8 * PAGE, 3, 0);
    ranges[2] = device(BAR + 4 * PAGE, 4 * PAGE, FD + 1, 0);
    set(&mut memory, &ranges).unwrap();
    assert_eq!(shown(&memory), [pages(0, 8), pages(16, 4), pages(20, 4)]);
}

#[test]
fn ranges_that_overlap_are_refused_in_any_order() {
    let (ranges, mut memory) = accepted();
    let before = shown(&memory);
    let [one, two, three] = ranges;
    // Over the last page of one, and the first of the next.
    for (over, overlap) in [
        (guest_memfd(3 * PAGE, 2 * PAGE, 4, 0), pages(3, 1)),
        (guest_memfd(15 * PAGE, 2 * PAGE, 4, 0), pages(16, 1)),
    ] {
        let all = [three.clone(), over, two.clone(), one.clone()];
        let refused = set(&mut memory, &all);
        assert_eq!(refused, Err(MemoryError::Overlap { pages: overlap }));
        assert_eq!(shown(&memory), before);
    }
}
