// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Changes that happen together or not at all.

use crate::common;

use std::sync::Arc;

use common::{EVERYTHING, Machine, host_at, memory, ram, switches};
use memory_model::{Memory, MemoryModel, Place, Region, TreeError, Use};

#[test]
fn a_dropped_transaction_never_happened() {
    let mut m = Machine::new();
    let root = m.root;
    let a = m.put(Region::mmio("a", 0x20), 0);
    let b = m.put(Region::mmio("b", 0x20), 0x10);
    let c = m.put(Region::rom_device("c", memory(0x20)), 0x20);
    let spare = m.add(Region::mmio("spare", 0x10));
    let regions = [a, b, c];
    let (before, view) = (m.everything(&regions), m.model.view(m.space));

    let mut t = m.model.transaction();
    t.move_to(a, 0x18).unwrap();
    t.unplace(b).unwrap();
    t.set_enabled(c, false).unwrap();
    t.set_readonly(c, true).unwrap();
    t.set_direct_reads(c, false).unwrap();
    t.move_to(c, 0).unwrap();
    t.remove(spare).unwrap();
    let new = t.add(Region::mmio("new", 0x10)).unwrap();
    t.place(new, root, 0, 7).unwrap();
    t.place(b, new, 0, 0).unwrap();
    drop(t);

    assert_eq!(m.everything(&regions), before);
    assert!(Arc::ptr_eq(&m.model.view(m.space), &view));
    assert_eq!(m.model.tree().region(spare).unwrap().name(), "spare");
}

#[test]
fn a_dropped_transaction_keeps_the_order_among_equal_siblings() {
    let mut m = Machine::new();
    let ids = ["a", "b", "c", "d"].map(|name| m.put(Region::mmio(name, 0x10), 0));
    let [a, b, c, d] = ids;
    let before = m.model.tree().children(m.root).unwrap().to_vec();
    assert_eq!(before, [d, c, b, a]);

    let mut t = m.model.transaction();
    for id in [b, d, a, c, b] {
        t.move_to(id, 4).unwrap();
    }
    t.unplace(d).unwrap();
    drop(t);

    assert_eq!(m.model.tree().children(m.root).unwrap(), before);
    // The order is what it was to the next change, too.
    m.change(|t| t.set_enabled(d, false));
    assert_eq!(m.view(), ["0-f c trap"]);
}

#[test]
fn a_refused_step_leaves_the_transaction_as_it_was() {
    let mut m = Machine::new();
    let root = m.root;
    let a = m.put(ram("a", 0x10), 0);
    let mut t = m.model.transaction();
    t.move_to(a, 0x100).unwrap();
    t.place(a, root, 0, 0).unwrap_err();
    t.remove(a).unwrap_err();
    t.set_direct_reads(a, false).unwrap_err();
    t.commit().unwrap();
    assert_eq!(m.view(), ["100-10f a rw"]);
}

#[test]
fn a_transaction_without_steps_commits() {
    let mut m = Machine::new();
    m.change(|_| Ok(()));
    assert!(m.view().is_empty());
}

#[test]
fn sizes_other_than_1_to_2_to_the_64_are_refused() {
    let mut m = Machine::new();
    let mut t = m.model.transaction();
    for size in [0, EVERYTHING + 1, u128::MAX] {
        let name = String::from("odd");
        assert_eq!(
            t.add(Region::mmio("odd", size)),
            Err(TreeError::BadSize { name, size })
        );
    }
    t.add(Region::mmio("one", 1)).unwrap();
    t.add(Region::mmio("all", EVERYTHING)).unwrap();
}

#[test]
fn a_region_lies_in_one_place_only() {
    let mut m = Machine::new();
    let root = m.root;
    let a = m.put(ram("a", 0x10), 0x40);
    let name = String::from("a");
    let place = Place {
        parent: root,
        address: 0x40,
        priority: 0,
    };
    assert_eq!(m.model.tree().place(a), Ok(Some(place)));

    let mut t = m.model.transaction();
    let again = t.place(a, root, 0, 0);
    assert_eq!(again, Err(TreeError::AlreadyPlaced { name: name.clone() }));
    t.unplace(a).unwrap();
    let not_placed = Err(TreeError::NotPlaced { name });
    assert_eq!(t.unplace(a), not_placed);
    assert_eq!(t.move_to(a, 0), not_placed);
}

#[test]
fn direct_reads_are_switched_on_rom_devices_only() {
    let mut m = Machine::new();
    let rom = m.put(Region::rom("rom", memory(0x10)), 0);
    let flash = m.put(Region::rom_device("flash", memory(0x10)), 0x10);
    let mut t = m.model.transaction();
    let name = String::from("rom");
    assert_eq!(
        t.set_direct_reads(rom, false),
        Err(TreeError::NotRomDevice { name })
    );
    t.set_direct_reads(flash, false).unwrap();
}

#[test]
fn each_use_of_a_region_keeps_it() {
    let mut m = Machine::new();
    let root = m.root;
    let container = m.add(Region::container("container", 0x100));
    let child = m.put_in(container, ram("child", 0x10), 0);
    let target = m.add(ram("target", 0x10));
    let alias = m.add(Region::alias("alias", target, 0, 0x10));

    let in_use = |name: &str, by| {
        let name = name.into();
        TreeError::InUse { name, by }
    };
    let mut t = m.model.transaction();
    assert_eq!(t.remove(root).unwrap_err(), in_use("root", Use::Root));
    assert_eq!(t.remove(child).unwrap_err(), in_use("child", Use::Placed));
    assert_eq!(
        t.remove(container).unwrap_err(),
        in_use("container", Use::HasChildren)
    );
    assert_eq!(
        t.remove(target).unwrap_err(),
        in_use("target", Use::AliasTarget)
    );

    // Without that use, it goes.
    t.unplace(child).unwrap();
    t.remove(alias).unwrap();
    for unused in [child, container, target] {
        t.remove(unused).unwrap();
    }
    t.commit().unwrap();
}

#[test]
fn an_undone_removal_of_an_alias_keeps_its_target_in_use() {
    let mut m = Machine::new();
    let target = m.add(ram("target", 0x10));
    let alias = m.add(Region::alias("alias", target, 0, 0x10));
    let mut t = m.model.transaction();
    t.remove(alias).unwrap();
    t.remove(target).unwrap();
    drop(t);
    let in_use = m.model.transaction().remove(target).unwrap_err();
    let name = String::from("target");
    let by = Use::AliasTarget;
    assert_eq!(in_use, TreeError::InUse { name, by });
    // And an alias that was never added uses nothing.
    m.change(|t| t.remove(alias));
    m.model
        .transaction()
        .add(Region::alias("undone", target, 0, 1))
        .unwrap();
    m.change(|t| t.remove(target));
}

#[test]
fn no_region_comes_to_contain_itself() {
    let mut m = Machine::new();
    let outer = m.add(Region::container("outer", 0x100));
    let inner = m.add(Region::container("inner", 0x100));
    let cycle = |child: &str, parent: &str| {
        let (child, parent) = (child.into(), parent.into());
        Err(TreeError::Cycle { child, parent })
    };
    let mut t = m.model.transaction();
    assert_eq!(t.place(outer, outer, 0, 0), cycle("outer", "outer"));
    t.place(inner, outer, 0, 0).unwrap();
    assert_eq!(t.place(outer, inner, 0, 0), cycle("outer", "inner"));
    t.unplace(inner).unwrap();
    t.place(outer, inner, 0, 0).unwrap();
}

#[test]
fn no_region_comes_to_contain_itself_through_aliases() {
    let mut m = Machine::new();
    let target = m.add(Region::container("target", 0x100));
    let alias = m.add(Region::alias("alias", target, 0, 0x10));
    let second = m.add(Region::alias("second", alias, 0, 0x10));
    let between = m.add(Region::container("between", 0x100));
    let mut t = m.model.transaction();
    for (child, name) in [(alias, "alias"), (second, "second")] {
        let (child_name, parent) = (String::from(name), String::from("target"));
        let cycle = TreeError::Cycle {
            child: child_name,
            parent,
        };
        assert_eq!(t.place(child, target, 0, 0), Err(cycle));
    }
    // Not at once, but in two steps, in either order.
    t.place(second, between, 0, 0).unwrap();
    let refused = t.place(between, target, 0, 0);
    assert!(matches!(refused, Err(TreeError::Cycle { .. })));
    t.unplace(second).unwrap();
    t.place(between, target, 0, 0).unwrap();
    let refused = t.place(second, between, 0, 0);
    assert!(matches!(refused, Err(TreeError::Cycle { .. })));
}

#[test]
fn the_id_of_a_removed_region_is_an_error_everywhere() {
    let mut m = Machine::new();
    let root = m.root;
    let removed = m.add(ram("removed", 0x10));
    m.change(|t| t.remove(removed));
    let other = m.add(ram("other", 0x10));
    assert_ne!(removed, other);

    let error = TreeError::NoSuchRegion(removed);
    let tree = m.model.tree();
    assert_eq!(tree.region(removed).unwrap_err(), error);
    assert_eq!(tree.switches(removed).unwrap_err(), error);
    assert_eq!(tree.place(removed).unwrap_err(), error);
    assert_eq!(tree.children(removed).unwrap_err(), error);
    assert!(tree.walk(removed).is_empty());
    assert!(m.model.add_space("removed", removed).is_err());

    let mut t = m.model.transaction();
    let results = [
        t.place(removed, root, 0, 0),
        t.place(other, removed, 0, 0),
        t.unplace(removed),
        t.move_to(removed, 0),
        t.set_enabled(removed, true),
        t.set_readonly(removed, true),
        t.set_direct_reads(removed, true),
        t.remove(removed).map(drop),
        t.add(Region::alias("a", removed, 0, 1)).map(drop),
    ];
    for (step, result) in results.into_iter().enumerate() {
        assert_eq!(result, Err(error.clone()), "step {step}");
    }
}

#[test]
fn the_id_of_a_region_that_was_never_committed_names_no_later_region() {
    let mut m = Machine::new();
    let mut t = m.model.transaction();
    let never = t.add(ram("never", 0x10)).unwrap();
    drop(t);
    let later = m.add(ram("later", 0x10));
    assert_ne!(never, later);
    let error = m.model.tree().region(never).unwrap_err();
    assert_eq!(error, TreeError::NoSuchRegion(never));
}

#[test]
fn a_tree_is_walked_parents_first_and_by_address() {
    let mut m = Machine::new();
    let bus = m.put(Region::container("bus", 0x100), 0x100);
    let low = m.put_in(bus, ram("low", 0x10), 0x10);
    let high = m.put_in(bus, ram("high", 0x10), 0x20);
    assert_eq!(m.model.tree().children(bus), Ok(vec![high, low]));
    let first = m.put(ram("first", 0x10), 0);
    let walk = m.model.tree().walk(m.root);
    assert_eq!(
        walk,
        [(0, m.root), (1, first), (1, bus), (2, low), (2, high)]
    );
}

#[test]
fn the_roots_of_a_tree_are_the_regions_that_lie_in_no_other() {
    let mut m = Machine::new();
    let bus = m.put(Region::container("bus", 0x100), 0x100);
    let spare = m.add(ram("spare", 0x10));
    m.put_in(bus, ram("low", 0x10), 0x10);
    let roots = |m: &Machine| m.model.tree().roots().collect::<Vec<_>>();
    assert_eq!(roots(&m), [m.root, spare]);
    m.change(|t| t.unplace(bus).map(drop));
    assert_eq!(roots(&m), [m.root, bus, spare]);
    m.change(|t| t.remove(spare).map(drop));
    assert_eq!(roots(&m), [m.root, bus]);
}

#[test]
fn a_reader_keeps_the_view_it_has_and_then_sees_the_new_one() {
    let mut m = Machine::new();
    let ram = m.put(ram("ram", 0x10), 0);
    let reader = m.model.reader(m.space);
    let (guard, snapshot) = (reader.view(), reader.snapshot());
    let elsewhere = reader.clone();
    m.change(|t| t.move_to(ram, 0x100));
    for old in [&*guard, &*snapshot] {
        assert_eq!(common::show(old), ["0-f ram rw"]);
    }
    for new in [&*reader.view(), &*elsewhere.snapshot()] {
        assert_eq!(common::show(new), ["100-10f ram rw"]);
    }
}

#[test]
fn a_change_that_does_not_show_keeps_the_very_view() {
    let mut m = Machine::new();
    m.put(ram("ram", 0x10), 0);
    let view = m.model.view(m.space);
    m.put(Region::container("empty", 0x10), 0);
    assert!(Arc::ptr_eq(&m.model.view(m.space), &view));
}

#[test]
fn what_a_region_is_made_of_lives_as_long_as_a_snapshot_shows_it() {
    let mapping = Arc::new(());
    let mut m = Machine::new();
    let host = host_at(0x1000, 0x1000, mapping.clone());
    let ram = m.put(Region::ram("ram", Memory::host_only(host)), 0);
    let snapshot = m.model.reader(m.space).snapshot();
    m.change(|t| {
        t.unplace(ram)?;
        t.remove(ram)
    });
    assert!(m.view().is_empty());
    assert!(Arc::strong_count(&mapping) > 1, "a snapshot shows it");
    drop(snapshot);
    assert_eq!(Arc::strong_count(&mapping), 1, "nothing shows it");
}

#[test]
fn spaces_that_share_regions_change_together() {
    let mut m = Machine::new();
    let bus = m.put(Region::container("bus", 0x100), 0x1000);
    let ram = m.put_in(bus, ram("ram", 0x10), 0);
    let second = m.model.add_space("bus", bus).unwrap();
    m.change(|t| t.move_to(ram, 0x20));
    assert_eq!(m.view(), ["1020-102f ram rw"]);
    assert_eq!(common::show(&m.model.view(second)), ["20-2f ram rw"]);
    let spaces: Vec<_> = m.model.spaces().collect();
    assert_eq!(spaces, [(m.space, "memory", m.root), (second, "bus", bus)]);
}

#[test]
fn lookups_return_the_callers_handle() {
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let root = Region::container("root", 0x100).with_handle("nobody");
    let root = t.add(root).unwrap();
    let region = Region::mmio("uart", 8).with_handle("driver");
    let off = switches(|s| s.enabled = false);
    let uart = t.add(region.with_switches(off)).unwrap();
    t.place(uart, root, 0x40, 0).unwrap();
    t.commit().unwrap();
    let space = model.add_space("ports", root).unwrap();
    assert!(model.view(space).find(0x42).is_none());
    let mut t = model.transaction();
    t.set_enabled(uart, true).unwrap();
    t.commit().unwrap();
    let view = model.view(space);
    let run = view.find(0x42).unwrap();
    assert_eq!((run.id(), *run.region().handle()), (uart, "driver"));
    assert_eq!(*model.tree().region(uart).unwrap().handle(), "driver");
}
