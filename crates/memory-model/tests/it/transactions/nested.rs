// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parts of a transaction that are undone on their own.

use crate::common;

use std::sync::Arc;

use common::{Log, Machine, Recorder, memory, ram, take};
use memory_model::{CommitError, DirtyClients, Place, Region, TreeError};

#[test]
fn a_dropped_part_undoes_its_own_steps_and_none_else() {
    let mut m = Machine::new();
    let root = m.root;
    let a = m.put(Region::mmio("a", 0x10), 0);
    let b = m.put(Region::rom_device("b", memory(0x10)), 0x10);
    let mut t = m.model.transaction();
    t.move_to(a, 0x100).unwrap();
    {
        let mut inner = t.nested();
        inner.move_to(a, 0x200).unwrap();
        inner.set_direct_reads(b, false).unwrap();
        inner.set_dirty_logging(b, DirtyClients::VGA).unwrap();
        inner.set_global_dirty_logging(DirtyClients::MIGRATION);
        let new = inner.add(ram("new", 0x10)).unwrap();
        inner.place(new, root, 0x300, 0).unwrap();
        inner.unplace(b).unwrap();
    }
    assert_eq!(t.tree().place(a).unwrap().unwrap().address, 0x100);
    t.set_readonly(b, true).unwrap();
    t.commit().unwrap();
    assert_eq!(m.view(), ["10-1f b r+trap", "100-10f a trap"]);
    assert_eq!(m.model.global_dirty_logging(), DirtyClients::NONE);
}

#[test]
fn a_dropped_part_of_many_steps_loses_nothing_of_what_was_changed_before() {
    let mut m = Machine::new();
    let root = m.root;
    let all: Vec<_> = (0..200)
        .map(|n| m.put(Region::mmio("small", 1), n * 0x10))
        .collect();
    let last = m.put(Region::mmio("last", 0x10), 1 << 40);
    let view = m.view();
    let mut t = m.model.transaction();
    t.move_to(last, 1 << 41).unwrap();
    let mut part = t.nested();
    for (n, id) in (0..).zip(&all) {
        part.move_to(*id, 0x10_0000 + n * 0x10).unwrap();
    }
    part.set_enabled(root, false).unwrap();
    drop(part);
    t.move_to(all[0], 8).unwrap();
    t.commit().unwrap();
    let now = m.view();
    let moved = ["8-8 small trap", "20000000000-2000000000f last trap"];
    assert_eq!([&now[0], &now[200]], moved);
    assert_eq!(now[1..200], view[1..200]);
}

#[test]
fn only_the_outermost_commit_renders_and_notifies() {
    let mut m = Machine::new();
    let a = m.put(Region::mmio("a", 0x10), 0);
    let log = Log::default();
    let listener = Recorder::new("l", &log);
    m.model.add_listener(m.space, 0, listener).unwrap();
    take(&log);
    let (reader, view) = (m.model.reader(m.space), m.view());
    let mut t = m.model.transaction();
    let mut middle = t.nested();
    let mut inner = middle.nested();
    inner.move_to(a, 0x10).unwrap();
    inner.commit();
    middle.commit();
    assert!(take(&log).is_empty());
    assert_eq!(common::show(&reader.view()), view);
    t.commit().unwrap();
    let notified = ["l prepare -0-f a trap, +10-1f a trap", "l commit"];
    assert_eq!(take(&log), notified);
}

#[test]
fn what_a_committed_part_did_is_undone_with_the_part_around_it() {
    let mut m = Machine::new();
    let a = m.put(Region::mmio("a", 0x10), 0);
    let b = m.put(Region::mmio("b", 0x10), 0x10);
    let (before, view) = (m.everything(&[a, b]), m.model.view(m.space));
    let mut t = m.model.transaction();
    let mut middle = t.nested();
    middle.unplace(b).unwrap();
    let mut inner = middle.nested();
    inner.move_to(a, 0x10).unwrap();
    inner.place(b, a, 0, 0).unwrap();
    inner.commit();
    middle.move_to(a, 0x40).unwrap();
    drop(middle);
    t.commit().unwrap();
    assert_eq!(m.everything(&[a, b]), before);
    assert!(Arc::ptr_eq(&m.model.view(m.space), &view));
}

#[test]
fn what_a_committed_part_did_is_undone_with_the_whole_transaction() {
    let mut m = Machine::new();
    let a = m.put(Region::mmio("a", 0x10), 0);
    let before = m.everything(&[a]);
    let mut t = m.model.transaction();
    let mut inner = t.nested();
    inner.unplace(a).unwrap();
    inner.remove(a).unwrap();
    let b = inner.add(Region::mmio("b", 0x10)).unwrap();
    inner.commit();
    assert_eq!(t.tree().region(b).unwrap().name(), "b");
    drop(t);
    assert_eq!(m.everything(&[a]), before);
    assert!(m.model.tree().region(b).is_err());
}

#[test]
fn parts_one_after_the_other_are_undone_each_on_its_own() {
    let mut m = Machine::new();
    let root = m.root;
    let ids = ["a", "b", "c", "d"].map(|name| m.put(Region::mmio(name, 0x10), 0));
    let [a, b, c, d] = ids;
    let mut t = m.model.transaction();
    for (id, kept) in [(a, true), (c, false), (b, true), (d, false)] {
        let mut part = t.nested();
        part.move_to(id, 0).unwrap();
        part.move_to(id, 0x10).unwrap();
        part.move_to(id, 0).unwrap();
        if kept {
            part.commit();
        }
    }
    // The latest placed wins: those that were undone are as old as before.
    assert_eq!(t.tree().children(root).unwrap(), [b, a, d, c]);
    t.commit().unwrap();
    assert_eq!(m.view(), ["0-f b trap"]);
}

#[test]
fn an_entry_that_two_regions_used_is_restored_to_the_first() {
    let mut m = Machine::new();
    let first = m.add(Region::mmio("first", 0x10));
    let mut t = m.model.transaction();
    t.remove(first).unwrap();
    let second = t.add(Region::mmio("second", 0x10)).unwrap();
    let mut inner = t.nested();
    inner.remove(second).unwrap();
    let third = inner.add(Region::mmio("third", 0x10)).unwrap();
    drop(inner);
    assert_eq!(t.tree().region(second).unwrap().name(), "second");
    assert!(t.tree().region(third).is_err());
    drop(t);
    assert_eq!(m.model.tree().region(first).unwrap().name(), "first");
    assert!(m.model.tree().region(second).is_err());
}

#[test]
fn a_step_that_is_refused_leaves_the_part_as_it_was() {
    let mut m = Machine::new();
    let (a, b) = (m.add(ram("a", 0x10)), m.add(ram("b", 0x10)));
    let mut t = m.model.transaction();
    let mut inner = t.nested();
    inner.place(b, a, 8, 0).unwrap();
    let refused = inner.place(a, b, 0, 0);
    assert!(matches!(refused, Err(TreeError::Cycle { .. })));
    inner.commit();
    t.commit().unwrap();
    let place = Place {
        parent: a,
        address: 8,
        priority: 0,
    };
    assert_eq!(m.model.tree().place(b), Ok(Some(place)));
    assert_eq!(m.model.tree().place(a), Ok(None));
}

#[test]
fn a_refused_commit_undoes_the_steps_of_parts_too() {
    let mut m = Machine::new();
    let a = m.put(Region::mmio("a", 0x10), 0);
    let before = m.everything(&[a]);
    let log = Log::default();
    let listener = Recorder::new("l", &log);
    m.model.add_listener(m.space, 0, listener.clone()).unwrap();
    let refuses = &listener.refuses;
    refuses.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut t = m.model.transaction();
    let mut inner = t.nested();
    inner.move_to(a, 0x10).unwrap();
    inner.commit();
    assert!(matches!(t.commit(), Err(CommitError::Refused { .. })));
    assert_eq!(m.everything(&[a]), before);
}
