// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The responders of accesses that exit to the VMM.

use crate::common;

use common::{Machine, host, memory, private_mmio, ram, switches};
use memory_model::AccessDirection::{self, Read, Write};
use memory_model::{AccessPart, FlatView, Region, Responder};

/// A part in a line: address, size, who answers and with which bytes.
fn line(part: AccessPart<'_, ()>) -> String {
    let name = part.responder.run().map_or("", |run| run.region().name());
    let who = match part.responder {
        Responder::Device { offset, .. } => format!("device {name}+{offset:#x}"),
        Responder::Memory { offset, .. } => format!("memory {name}+{offset:#x}"),
        Responder::ReadOnly(_) => format!("read-only {name}"),
        Responder::PrivateMmio(_) => format!("private {name}"),
        Responder::Reservation(_) => format!("reserved {name}"),
        Responder::Nothing => "nothing".to_string(),
    };
    format!("{:#x} {}: {who}", part.address, part.size)
}

fn parts(
    view: &FlatView<()>,
    address: u64,
    size: usize,
    direction: AccessDirection,
) -> Vec<String> {
    let parts = view.access_parts(address, size, direction);
    parts.map(line).collect()
}

/// One page of each kind.
fn machine() -> Machine {
    let mut machine = Machine::new();
    let root = machine.root;
    let mut t = machine.model.transaction();
    let trapping = switches(|switches| switches.direct_reads = false);
    let readonly = switches(|switches| switches.readonly = true);
    let regions = [
        ram("ram", 0x1000),
        Region::rom("rom", memory(0x1000)),
        Region::rom_device("flash", memory(0x1000)),
        Region::rom_device("busy flash", memory(0x1000)).with_switches(trapping),
        Region::device_ram("bar", host(0x1000)),
        private_mmio("private bar", 0x1000),
        Region::mmio("uart", 0x1000),
        Region::reservation("reserved", 0x1000),
        ram("write-protected", 0x1000).with_switches(readonly),
        private_mmio("read-only private bar", 0x1000).with_switches(readonly),
    ];
    for (region, page) in regions.into_iter().zip(0..) {
        let id = t.add(region).unwrap();
        t.place(id, root, page * 0x1000, 0).unwrap();
    }
    t.commit().unwrap();
    machine
}

#[test]
fn each_kind_of_region_answers_in_its_own_way() {
    let machine = machine();
    let view = machine.model.view(machine.space);
    let cases = [
        ("memory ram+0x8", "memory ram+0x8"),
        ("memory rom+0x8", "read-only rom"),
        ("memory flash+0x8", "device flash+0x8"),
        ("device busy flash+0x8", "device busy flash+0x8"),
        ("memory bar+0x8", "memory bar+0x8"),
        ("private private bar", "private private bar"),
        ("device uart+0x8", "device uart+0x8"),
        ("reserved reserved", "reserved reserved"),
        ("memory write-protected+0x8", "read-only write-protected"),
        (
            "private read-only private bar",
            "read-only read-only private bar",
        ),
        ("nothing", "nothing"),
    ];
    for ((read, write), page) in cases.into_iter().zip(0_u64..) {
        let at = page * 0x1000 + 8;
        assert_eq!(parts(&view, at, 4, Read), [format!("{at:#x} 4: {read}")]);
        assert_eq!(parts(&view, at, 4, Write), [format!("{at:#x} 4: {write}")]);
    }
}

#[test]
fn only_memory_has_a_host_address_and_it_is_that_of_the_part() {
    let machine = machine();
    let view = machine.model.view(machine.space);
    let host = |at, size, direction| {
        let part = view.access_parts(at, size, direction).next().unwrap();
        part.host().map(|host| (host.address(), host.size()))
    };
    let start = common::host(0x1000).address();
    assert_eq!(host(0x8, 4, Read), Some((start + 8, 4)));
    assert_eq!(host(0xffc, 8, Write), Some((start + 0xffc, 4)));
    assert_eq!(host(0x4008, 4, Write), Some((start + 8, 4)));
    for page in [1, 2, 3, 5, 6, 7, 8, 9, 10] {
        assert_eq!(host(page * 0x1000, 4, Write), None, "page {page}");
    }
}

#[test]
fn an_access_across_ranges_and_holes_has_a_part_for_each() {
    let mut machine = Machine::new();
    let root = machine.root;
    let mut t = machine.model.transaction();
    let places = [
        ("low", 0x1000, 6),
        ("next", 0x1006, 2),
        ("high", 0x100a, 0x10),
    ];
    for (name, at, size) in places {
        let id = t.add(Region::mmio(name, size)).unwrap();
        t.place(id, root, at, 0).unwrap();
    }
    t.commit().unwrap();
    let view = machine.model.view(machine.space);
    let expected = [
        "0x1004 2: device low+0x4",
        "0x1006 2: device next+0x0",
        "0x1008 2: nothing",
        "0x100a 2: device high+0x0",
    ];
    assert_eq!(parts(&view, 0x1004, 8, Read), expected);
    assert_eq!(
        parts(&view, 0xffc, 8, Write),
        ["0xffc 4: nothing", "0x1000 4: device low+0x0"]
    );
    assert_eq!(
        parts(&view, 0x1018, 8, Write),
        ["0x1018 2: device high+0xe", "0x101a 6: nothing"]
    );
    assert_eq!(parts(&view, 0x1000, 6, Read), ["0x1000 6: device low+0x0"]);
    assert!(parts(&view, 0x1000, 0, Read).is_empty());
}

#[test]
fn an_access_that_passes_2_to_the_64_continues_at_0() {
    let mut machine = Machine::new();
    let root = machine.root;
    let view = machine.model.view(machine.space);
    let last = u64::MAX - 3;
    let holes = ["0xfffffffffffffffc 4: nothing", "0x0 4: nothing"];
    assert_eq!(parts(&view, last, 8, Read), holes);

    let mut t = machine.model.transaction();
    let top = t.add(Region::mmio("top", 0x1000)).unwrap();
    t.place(top, root, u64::MAX - 0xfff, 0).unwrap();
    let low = t.add(ram("low", 0x1000)).unwrap();
    t.place(low, root, 0, 0).unwrap();
    t.commit().unwrap();
    let view = machine.model.view(machine.space);
    let ends = ["0xfffffffffffffffc 4: device top+0xffc"];
    assert_eq!(parts(&view, last, 4, Read), ends);
    let wraps = [ends[0], "0x0 4: memory low+0x0"];
    assert_eq!(parts(&view, last, 8, Read), wraps);

    // All of the space as one region, and an access as large as there can be.
    let mut t = machine.model.transaction();
    let all = t.add(Region::mmio("all", 1 << 64)).unwrap();
    t.place(all, root, 0, 1).unwrap();
    t.commit().unwrap();
    let view = machine.model.view(machine.space);
    let whole = [format!("0x0 {}: device all+0x0", usize::MAX)];
    assert_eq!(parts(&view, 0, usize::MAX, Read), whole);
}
