// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Aliases, and how the flat view shows them.

use crate::common;

use common::{EVERYTHING, Machine, ram, switches};
use memory_model::{AddSpaceError, CommitError, Region, RegionId, TreeError, Use};

#[test]
fn an_alias_shows_its_target_from_its_offset_on() {
    let mut m = Machine::new();
    let target = m.add(ram("ram", 0x1000));
    m.put(Region::alias("window", target, 0x200, 0x100), 0x5000);
    assert_eq!(m.view(), ["5000-50ff ram @200 rw"]);
}

#[test]
fn an_alias_that_reaches_past_its_targets_end_shows_nothing_there() {
    let mut m = Machine::new();
    m.put(Region::mmio("below", 0x200), 0);
    let target = m.add(ram("ram", 0x100));
    m.put_over(Region::alias("window", target, 0x80, 0x180), 0);
    m.put_over(Region::alias("beyond", target, 0x100, 0x10), 0x300);
    m.put_over(Region::alias("far", target, u64::MAX, 0x10), 0x400);
    assert_eq!(m.view(), ["0-7f ram @80 rw", "80-1ff below @80 trap"]);
}

#[test]
fn an_alias_of_an_alias_adds_the_offsets_and_cuts_to_both() {
    let mut m = Machine::new();
    let target = m.add(ram("ram", 0x1000));
    let inner = m.add(Region::alias("inner", target, 0x100, 0x80));
    m.put(Region::alias("outer", inner, 0x40, 0x100), 0x5000);
    assert_eq!(m.view(), ["5000-503f ram @140 rw"]);
}

#[test]
fn an_alias_does_not_care_where_its_target_lies() {
    let mut m = Machine::new();
    let target = m.add(ram("ram", 0x100));
    m.put(Region::alias("window", target, 0x10, 0x10), 0x5000);
    assert_eq!(m.view(), ["5000-500f ram @10 rw"]);
    let root = m.root;
    m.change(|t| t.place(target, root, 0x9000, 0));
    assert_eq!(m.view(), ["5000-500f ram @10 rw", "9000-90ff ram rw"]);
    m.change(|t| t.move_to(target, 0xa000));
    assert_eq!(m.view(), ["5000-500f ram @10 rw", "a000-a0ff ram rw"]);
}

#[test]
fn an_alias_of_a_container_shows_all_that_is_in_it_with_its_holes() {
    let mut m = Machine::new();
    let bus = m.add(Region::container("bus", EVERYTHING));
    m.put_in(bus, ram("low", 0x10), 0xff8);
    m.put_in(bus, ram("high", 0x10), 0x1018);
    m.put(Region::alias("window", bus, 0x1000, 0x20), 0x10);
    assert_eq!(m.view(), ["10-17 low @8 rw", "28-2f high rw"]);
}

#[test]
fn what_lies_in_an_alias_is_never_seen() {
    let mut m = Machine::new();
    let target = m.add(ram("ram", 0x10));
    let window = m.put(Region::alias("window", target, 0, 0x10), 0);
    m.put_in(window, Region::mmio("unseen", 0x10), 0);
    assert_eq!(m.view(), ["0-f ram rw"]);
}

#[test]
fn a_disabled_alias_and_a_disabled_target_both_show_nothing() {
    let mut m = Machine::new();
    let target = m.put(ram("ram", 0x10), 0x100);
    let window = m.put(Region::alias("window", target, 0, 0x10), 0);
    m.change(|t| t.set_enabled(window, false));
    assert_eq!(m.view(), ["100-10f ram rw"]);
    m.change(|t| {
        t.set_enabled(window, true)?;
        t.set_enabled(target, false)
    });
    assert!(m.view().is_empty());
}

#[test]
fn an_alias_passes_its_switches_on_and_knows_nothing_of_its_targets_parents() {
    let mut m = Machine::new();
    let off = switches(|s| {
        s.enabled = false;
        s.readonly = true;
    });
    let hidden = m.put(Region::container("hidden", 0x100).with_switches(off), 0);
    let target = m.put_in(hidden, ram("ram", 0x10), 0);
    let window = Region::alias("window", target, 0, 0x10);
    m.put(window.clone(), 0);
    m.put(
        window.with_switches(switches(|s| s.nonvolatile = true)),
        0x20,
    );
    assert_eq!(m.view(), ["0-f ram rw", "20-2f ram rw nv"]);
}

#[test]
fn a_window_onto_the_end_of_the_target_may_lie_at_the_end_of_the_space() {
    let mut m = Machine::new();
    let all = m.add(Region::mmio("all", EVERYTHING));
    m.put(Region::alias("a", all, u64::MAX, EVERYTHING), u64::MAX);
    m.put(Region::alias("b", all, u64::MAX - 0xf, 0x10), 0);
    assert_eq!(
        m.view(),
        [
            "0-f all @fffffffffffffff0 trap",
            "ffffffffffffffff-ffffffffffffffff all @ffffffffffffffff trap",
        ]
    );
}

/// A PC's C segment: RAM lies below everything, and per 16 KiB an alias says
/// whether reads and writes reach it or the bus.
#[test]
fn shadow_ram_switches_between_bus_rom_and_ram() {
    let mut m = Machine::new();
    let root = m.root;
    let ram = m.put(ram("ram", 0x10_0000), 0);
    let bus = m.add(Region::container("bus", EVERYTHING));
    m.put_in(bus, Region::rom("bios", common::memory(0x8000)), 0xc_0000);
    m.put_over(Region::alias("bus window", bus, 0xc_0000, 0x8000), 0xc_0000);
    let [writable, rom, pci] = m.change(|t| {
        let off = switches(|s| s.enabled = false);
        let readonly = switches(|s| (s.enabled, s.readonly) = (false, true));
        let writable = Region::alias("pam-ram", ram, 0xc_0000, 0x4000).with_switches(off);
        let rom = Region::alias("pam-rom", ram, 0xc_0000, 0x4000).with_switches(readonly);
        let pci = Region::alias("pam-pci", bus, 0xc_0000, 0x4000);
        let ids = [t.add(writable)?, t.add(rom)?, t.add(pci)?];
        for id in ids {
            t.place(id, root, 0xc_0000, 2)?;
        }
        Ok(ids)
    });
    let show = |m: &mut Machine, shown: RegionId| {
        m.change(|t| {
            for id in [writable, rom, pci] {
                t.set_enabled(id, id == shown)?;
            }
            Ok(())
        });
        m.view()
    };
    let bus = [
        "0-bffff ram rw",
        "c0000-c7fff bios ro",
        "c8000-fffff ram @c8000 rw",
    ];
    assert_eq!(m.view(), bus);
    assert_eq!(
        show(&mut m, rom),
        [
            "0-bffff ram rw",
            "c0000-c3fff ram @c0000 ro",
            "c4000-c7fff bios @4000 ro",
            "c8000-fffff ram @c8000 rw",
        ]
    );
    assert_eq!(
        show(&mut m, writable),
        [
            "0-c3fff ram rw",
            "c4000-c7fff bios @4000 ro",
            "c8000-fffff ram @c8000 rw",
        ]
    );
    assert_eq!(show(&mut m, pci), bus);
}

/// A container that holds two aliases of the one before, `levels` times.
fn doubling(m: &mut Machine, innermost: RegionId, levels: usize) -> RegionId {
    let mut inner = innermost;
    for level in 0..levels {
        inner = m.change(|t| {
            let outer = t.add(Region::container(&format!("level {level}"), 0x10))?;
            for name in ["left", "right"] {
                let alias = t.add(Region::alias(name, inner, 0, 0x10))?;
                t.place(alias, outer, 0, 0)?;
            }
            Ok(outer)
        });
    }
    inner
}

#[test]
fn aliases_of_aliases_may_multiply_a_little() {
    let mut m = Machine::new();
    let ram = m.add(ram("ram", 0x10));
    let inner = doubling(&mut m, ram, 8);
    m.put(Region::alias("window", inner, 4, 8), 0x100);
    assert_eq!(m.view(), ["100-107 ram @4 rw"]);
}

#[test]
fn aliases_of_aliases_that_multiply_without_end_are_refused() {
    let mut m = Machine::new();
    let ram = m.add(ram("ram", 0x10));
    let inner = doubling(&mut m, ram, 64);
    m.put(Region::mmio("device", 0x10), 0);
    let before = m.everything(&[inner]);
    let root = m.root;

    let refused = m.try_change(|t| t.place(inner, root, 0x100, 0));

    assert!(
        matches!(&refused, Err(CommitError::TooComplex { space, .. }) if space == "memory"),
        "{refused:?}"
    );
    assert_eq!(m.everything(&[inner]), before);
}

#[test]
fn a_space_that_would_not_end_is_not_added() {
    let mut m = Machine::new();
    // Many regions that are out of sight, so that giving up does not take long.
    let crowd = m.add(Region::container("crowd", 0x10));
    for _ in 0..256 {
        m.put_in(crowd, Region::mmio("beyond", 1), 0x10);
    }
    let inner = doubling(&mut m, crowd, 64);
    let refused = m.model.add_space("endless", inner);
    assert!(
        matches!(
            refused,
            Err(AddSpaceError::Render(CommitError::TooComplex { .. }))
        ),
        "{refused:?}"
    );
    assert_eq!(m.model.spaces().count(), 1);
    // Its root is not held: only what lies in it keeps it.
    let error = m.model.transaction().remove(inner).unwrap_err();
    assert!(
        matches!(
            &error,
            TreeError::InUse {
                by: Use::HasChildren,
                ..
            }
        ),
        "{error:?}"
    );
}
