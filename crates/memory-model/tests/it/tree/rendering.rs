// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which region answers where: from the tree to the flat view.

use crate::common;

use common::{EVERYTHING, Machine, bytes, host, memory, private_mmio, ram, switches};
use memory_model::{Backing, Region};

#[test]
fn a_higher_priority_covers_a_lower_one() {
    let mut m = Machine::new();
    let root = m.root;
    m.change(|t| {
        let front = t.add(Region::mmio("front", 0x10))?;
        let back = t.add(Region::mmio("back", 0x30))?;
        t.place(front, root, 0x10, -1)?;
        t.place(back, root, 0, -2)
    });
    assert_eq!(
        m.view(),
        ["0-f back trap", "10-1f front trap", "20-2f back @20 trap"]
    );
}

#[test]
fn priorities_count_among_siblings_only() {
    let mut m = Machine::new();
    let root = m.root;
    m.change(|t| {
        let low = t.add(Region::container("low", 0x20))?;
        let high = t.add(Region::mmio("high in low", 0x20))?;
        t.place(high, low, 0, i32::MAX)?;
        t.place(low, root, 0, 0)?;
        let other = t.add(Region::mmio("other", 0x10))?;
        t.place(other, root, 0, 1)
    });
    assert_eq!(m.view(), ["0-f other trap", "10-1f high in low @10 trap"]);
}

#[test]
fn among_equal_priorities_the_latest_placed_wins() {
    let mut m = Machine::new();
    let first = m.put(Region::mmio("first", 0x20), 0);
    m.put(Region::mmio("second", 0x20), 0x10);
    assert_eq!(m.view(), ["0-f first trap", "10-2f second trap"]);
    // Moving it, even to where it is, places it anew.
    m.change(|t| t.move_to(first, 0));
    assert_eq!(m.view(), ["0-1f first trap", "20-2f second @10 trap"]);
}

#[test]
fn moving_does_not_beat_a_higher_priority() {
    let mut m = Machine::new();
    m.put_over(Region::mmio("high", 0x10), 0);
    let low = m.put(Region::mmio("low", 0x10), 0x100);
    m.change(|t| t.move_to(low, 8));
    assert_eq!(m.view(), ["0-f high trap", "10-17 low @8 trap"]);
}

#[test]
fn children_are_cut_to_their_parent() {
    let mut m = Machine::new();
    let outer = m.put(Region::container("outer", 0x30), 0x100);
    let inner = m.put_in(outer, Region::container("inner", 0x100), 0x20);
    m.put_in(inner, ram("ram", 0x1000), 8);
    m.put_in(outer, Region::mmio("outside", 8), 0x30);
    assert_eq!(m.view(), ["128-12f ram rw"]);
}

#[test]
fn a_region_that_answers_is_the_background_of_its_children() {
    let mut m = Machine::new();
    let mmio = m.put(Region::mmio("mmio", 0x30), 0);
    m.put_in(mmio, ram("ram", 0x10), 0x10);
    let reserved = m.put(Region::reservation("reserved", 0x20), 0x100);
    m.put_in(reserved, Region::mmio("child", 0x10), 0);
    assert_eq!(
        m.view(),
        [
            "0-f mmio trap",
            "10-1f ram rw",
            "20-2f mmio @20 trap",
            "100-10f child trap",
            "110-11f reserved @10 trap",
        ]
    );
}

#[test]
fn holes_of_a_container_fall_through() {
    let mut m = Machine::new();
    m.put(ram("below", 0x40), 0);
    let container = m.put_over(Region::container("container", 0x40), 0);
    m.put_in(container, Region::mmio("device", 0x10), 0x10);
    assert_eq!(
        m.view(),
        ["0-f below rw", "10-1f device trap", "20-3f below @20 rw"]
    );
}

#[test]
fn a_disabled_region_prunes_all_that_is_in_it() {
    let mut m = Machine::new();
    let outer = m.put(Region::container("outer", 0x100), 0);
    let mmio = m.put_in(outer, Region::mmio("mmio", 0x20), 0);
    m.put_in(mmio, ram("ram", 0x10), 0);
    m.put_in(outer, ram("sibling", 0x10), 0x40);
    m.change(|t| t.set_enabled(mmio, false));
    assert_eq!(m.view(), ["40-4f sibling rw"]);
    m.change(|t| t.set_enabled(outer, false));
    assert!(m.view().is_empty());
    // Inside a disabled region, enabled or not makes no difference.
    m.change(|t| t.set_enabled(mmio, true));
    assert!(m.view().is_empty());
}

#[test]
fn a_disabled_root_shows_nothing() {
    let mut m = Machine::new();
    let root = m.root;
    m.put(ram("ram", 0x10), 0);
    m.change(|t| t.set_enabled(root, false));
    assert!(m.view().is_empty());
}

#[test]
fn readonly_is_inherited_by_all_memory_and_by_no_register() {
    let mut m = Machine::new();
    let readonly = switches(|s| s.readonly = true);
    let outer = m.put(
        Region::container("outer", 0x1000).with_switches(readonly),
        0,
    );
    let inner = m.put_in(outer, Region::container("inner", 0x1000), 0);
    m.put_in(inner, ram("ram", 0x10), 0);
    m.put_in(inner, private_mmio("private mmio", 0x10), 0x10);
    m.put_in(inner, Region::device_ram("device ram", host(0x10)), 0x20);
    m.put_in(inner, Region::rom("rom", memory(0x10)), 0x30);
    m.put_in(inner, Region::rom_device("flash", memory(0x10)), 0x40);
    m.put_in(inner, Region::mmio("mmio", 0x10), 0x50);
    assert_eq!(
        m.view(),
        [
            "0-f ram ro",
            "10-1f private mmio ro",
            "20-2f device ram ro",
            "30-3f rom ro",
            "40-4f flash r+trap",
            "50-5f mmio trap",
        ]
    );
    m.change(|t| t.set_readonly(outer, false));
    let access: Vec<_> = m.view().into_iter().take(5).collect();
    assert_eq!(
        access,
        [
            "0-f ram rw",
            "10-1f private mmio rw",
            "20-2f device ram rw",
            "30-3f rom ro",
            "40-4f flash r+trap",
        ]
    );
}

#[test]
fn nonvolatile_and_unmergeable_are_inherited() {
    let mut m = Machine::new();
    let region = Region::container("c", 0x20).with_switches(switches(|s| {
        s.nonvolatile = true;
        s.unmergeable = true;
    }));
    let container = m.put(region, 0);
    m.put_in(container, ram("ram", 0x10), 0);
    m.put(ram("other", 0x10), 0x20);
    assert_eq!(m.view(), ["0-f ram rw nv apart", "20-2f other rw"]);
}

#[test]
fn readonly_of_one_way_to_a_region_leaves_the_other_way_writable() {
    let mut m = Machine::new();
    let ram = m.put(ram("ram", 0x1000), 0);
    let rom = Region::alias("window", ram, 0, 0x10);
    m.put(rom.with_switches(switches(|s| s.readonly = true)), 0xf_0000);
    assert_eq!(m.view(), ["0-fff ram rw", "f0000-f000f ram ro"]);
}

#[test]
fn a_rom_device_answers_reads_directly_or_traps() {
    let mut m = Machine::new();
    let flash = m.put(Region::rom_device("flash", memory(0x10)), 0);
    assert_eq!(m.view(), ["0-f flash r+trap"]);
    m.change(|t| t.set_direct_reads(flash, false));
    assert_eq!(m.view(), ["0-f flash trap"]);
    // It is still memory: mapping and access are two things.
    let view = m.model.view(m.space);
    assert_eq!(
        view.find(0).unwrap().backing(),
        Backing::Memory(memory(0x10))
    );
    m.change(|t| t.set_direct_reads(flash, true));
    assert_eq!(m.view(), ["0-f flash r+trap"]);
}

#[test]
fn neighbours_are_merged_if_they_continue_each_other() {
    let mut m = Machine::new();
    let target = m.add(ram("ram", 0x40));
    m.put(Region::alias("first", target, 0, 0x10), 0x100);
    m.put(Region::alias("second", target, 0x10, 0x10), 0x110);
    // The next bytes, but not next to it.
    m.put(Region::alias("third", target, 0x20, 0x10), 0x121);
    // Next to it, but not the next bytes.
    m.put(Region::alias("fourth", target, 0x31, 0xf), 0x131);
    assert_eq!(
        m.view(),
        ["100-11f ram rw", "121-130 ram @20 rw", "131-13f ram @31 rw"]
    );
}

#[test]
fn neighbours_of_other_regions_or_attributes_stay_apart() {
    let mut m = Machine::new();
    let target = m.add(ram("ram", 0x40));
    let alias = |offset, change: fn(&mut memory_model::Switches)| {
        Region::alias("a", target, offset, 0x10).with_switches(switches(change))
    };
    m.put(alias(0, |_| {}), 0);
    m.put(alias(0x10, |s| s.readonly = true), 0x10);
    m.put(alias(0x20, |s| s.nonvolatile = true), 0x20);
    m.put(alias(0x30, |s| s.unmergeable = true), 0x30);
    m.put(ram("other", 0x10), 0x40);
    assert_eq!(
        m.view(),
        [
            "0-f ram rw",
            "10-1f ram @10 ro",
            "20-2f ram @20 rw nv",
            "30-3f ram @30 rw apart",
            "40-4f other rw",
        ]
    );
}

#[test]
fn unmergeable_neighbours_stay_apart() {
    let mut m = Machine::new();
    let apart = switches(|s| s.unmergeable = true);
    let target = m.add(ram("ram", 0x20).with_switches(apart));
    m.put(Region::alias("first", target, 0, 0x10), 0);
    m.put(Region::alias("second", target, 0x10, 0x10), 0x10);
    assert_eq!(m.view(), ["0-f ram rw apart", "10-1f ram @10 rw apart"]);
}

#[test]
fn a_region_of_two_to_the_64_bytes_fills_the_space() {
    let mut m = Machine::new();
    m.put(Region::mmio("all", EVERYTHING), 0);
    m.put_over(ram("ram", 0x1000), 0x1000);
    assert_eq!(
        m.view(),
        [
            "0-fff all trap",
            "1000-1fff ram rw",
            "2000-ffffffffffffffff all @2000 trap",
        ]
    );
    let view = m.model.view(m.space);
    assert_eq!(view.find(u64::MAX).unwrap().backing(), Backing::Nothing);
}

#[test]
fn one_region_of_two_to_the_64_bytes_is_one_run() {
    let mut m = Machine::new();
    m.put(Region::mmio("all", EVERYTHING), 0);
    let view = m.model.view(m.space);
    assert_eq!(view.ranges().next().unwrap().range().size(), EVERYTHING);
    assert_eq!(m.view(), ["0-ffffffffffffffff all trap"]);
}

#[test]
fn regions_reach_the_last_address_and_are_cut_there() {
    let mut m = Machine::new();
    m.put(ram("last", 0x10), u64::MAX - 0xf);
    let big = m.add(Region::mmio("huge", EVERYTHING));
    m.put_over(Region::alias("tail", big, 0, EVERYTHING), u64::MAX - 7);
    assert_eq!(
        m.view(),
        [
            "fffffffffffffff0-fffffffffffffff7 last rw",
            "fffffffffffffff8-ffffffffffffffff huge trap",
        ]
    );
}

#[test]
fn a_space_shows_its_root_from_address_zero_wherever_it_lies() {
    let mut m = Machine::new();
    let bus = m.put(Region::container("bus", 0x100), 0x1000);
    m.put_in(bus, ram("ram", 0x10), 0x20);
    let space = m.model.add_space("bus", bus).unwrap();
    assert_eq!(m.view(), ["1020-102f ram rw"]);
    assert_eq!(common::show(&m.model.view(space)), ["20-2f ram rw"]);
}

#[test]
fn a_run_gives_out_exactly_its_own_bytes() {
    let mut m = Machine::new();
    m.put(private_mmio("bar", 0x4000), 0xe000_0000);
    m.put_over(Region::mmio("table", 0x1000), 0xe000_1000);
    let view = m.model.view(m.space);
    let run = view.find(0xe000_2800).unwrap();
    let Backing::PrivateMmio(bytes_of_run) = run.backing() else {
        panic!("{run:?} is no private MMIO");
    };
    let file = bytes_of_run.file();
    let fd = common::file(1).fd();
    assert_eq!(
        (file.fd(), file.offset(), file.size()),
        (fd, 0x2000, 0x2000)
    );
    assert!(run.backing_of(bytes(0xe000_3000, 0x1001)).is_none());
    assert!(run.backing_of(bytes(0xe000_1fff, 2)).is_none());
    let clipped = run.clipped(bytes(0xe000_3000, 0x10_0000)).unwrap();
    assert_eq!(clipped.range(), bytes(0xe000_3000, 0x1000));
    assert_eq!(clipped.backing(), run.backing_of(clipped.range()).unwrap());
    assert!(run.clipped(bytes(0xe000_0000, 0x2000)).is_none());
}
