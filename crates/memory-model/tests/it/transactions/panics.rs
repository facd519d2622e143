// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Listeners that panic, and transactions that are forgotten, leave no change half
//! made.

use crate::common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use common::{Log, Machine, Recorder, bell, bytes, host_at, private_mmio, ram, take};
use memory_model::{
    CommitError, DirtyClients, Listener, ListenerError, Memory, PageSet, Region, RegionId, SpaceId,
    Update,
};

/// Where a listener panics.
#[derive(Default)]
struct Panics {
    in_prepare: AtomicBool,
    in_commit: AtomicBool,
    in_abort: AtomicBool,
    in_revoked: AtomicBool,
}

impl Panics {
    fn maybe(when: &AtomicBool, what: &str) {
        assert!(!when.load(Relaxed), "panics in {what}");
    }
}

impl Listener<()> for Panics {
    fn name(&self) -> &str {
        "panics"
    }

    fn prepare(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
        Self::maybe(&self.in_prepare, "prepare");
        Ok(())
    }

    fn commit(&self, _: &Update<'_, ()>) {
        Self::maybe(&self.in_commit, "commit");
    }

    fn abort(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
        Self::maybe(&self.in_abort, "abort");
        Ok(())
    }

    fn revoked(&self, _: SpaceId, _: &PageSet) {
        Self::maybe(&self.in_revoked, "revoked");
    }
}

/// Two spaces with the same root. The first is followed by "a", the one that
/// panics and "b", the second by "c".
struct Panicking {
    m: Machine,
    log: Log,
    panics: Arc<Panics>,
    listeners: [Arc<Recorder>; 3],
}

impl Panicking {
    fn new() -> Self {
        let mut m = Machine::new();
        let root = m.root;
        let second = m.model.add_space("second", root).unwrap();
        let log = Log::default();
        let listeners = ["a", "b", "c"].map(|name| Recorder::new(name, &log));
        let panics = Arc::new(Panics::default());
        let [a, b, c] = listeners.clone();
        m.model.add_listener(m.space, 0, a).unwrap();
        m.model.add_listener(m.space, 1, panics.clone()).unwrap();
        m.model.add_listener(m.space, 2, b).unwrap();
        m.model.add_listener(second, 0, c).unwrap();
        Self {
            m,
            log,
            panics,
            listeners,
        }
    }

    /// Adds a region, meets a panic, and says which region it was.
    fn put(&mut self) -> RegionId {
        let root = self.m.root;
        let mut t = self.m.model.transaction();
        let x = t.add(Region::mmio("x", 1)).unwrap();
        t.place(x, root, 0, 0).unwrap();
        catch_unwind(AssertUnwindSafe(|| t.commit())).unwrap_err();
        x
    }

    /// All views are of one mind with the tree, and followed as before.
    fn check(&mut self, has: Option<RegionId>, removed: Option<RegionId>) {
        let shown = ["0-0 x trap"];
        let shown = &shown[..usize::from(has.is_some())];
        assert_eq!(self.m.view(), shown);
        let tree = self.m.model.tree();
        assert!(has.is_none_or(|id| tree.region(id).is_ok()));
        assert!(removed.is_none_or(|id| tree.region(id).is_err()));
        take(&self.log);
        self.m.put(Region::mmio("y", 1), 0x10);
        assert_eq!(self.m.view().len(), shown.len() + 1);
        let notified = take(&self.log);
        assert!(notified[0].starts_with("a prepare") && notified[5].starts_with("c commit"));
    }
}

#[test]
fn a_panic_in_commit_keeps_the_change_and_the_others_are_notified() {
    let mut p = Panicking::new();
    p.panics.in_commit.store(true, Relaxed);
    let x = p.put();
    let notified = take(&p.log);
    assert_eq!(notified[3..], ["a commit", "b commit", "c commit"]);
    p.panics.in_commit.store(false, Relaxed);
    p.check(Some(x), None);
}

/// What rides on a region, and panics when it is dropped.
struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("panics in drop");
    }
}

#[test]
fn an_owner_that_panics_as_its_region_is_removed_keeps_no_listener_from_being_notified() {
    let mut p = Panicking::new();
    let owner = Arc::new(PanicsInDrop);
    let host = host_at(0x1000, 0x10, owner);
    let ram = Region::ram("ram", Memory::host_only(host));
    let root = p.m.root;
    let mut t = p.m.model.transaction();
    let ram = t.add(ram).unwrap();
    t.commit().unwrap();
    let mut t = p.m.model.transaction();
    let x = t.add(Region::mmio("x", 1)).unwrap();
    t.place(x, root, 0, 0).unwrap();
    // The transaction still has it, and drops it when the view is published.
    drop(t.remove(ram).unwrap());
    catch_unwind(AssertUnwindSafe(|| t.commit())).unwrap_err();
    let notified = take(&p.log);
    assert_eq!(notified[3..], ["a commit", "b commit", "c commit"]);
    p.check(Some(x), None);
}

#[test]
fn what_was_removed_is_let_go_of_even_if_a_listener_panics() {
    let mut p = Panicking::new();
    let owner = Arc::new(());
    let host = host_at(0x1000, 0x10, owner.clone());
    let ram = Region::ram("ram", Memory::host_only(host));
    let ram = p.m.put(ram, 0);
    p.panics.in_commit.store(true, Relaxed);
    let mut t = p.m.model.transaction();
    t.unplace(ram).unwrap();
    t.remove(ram).unwrap();
    catch_unwind(AssertUnwindSafe(|| t.commit())).unwrap_err();
    assert_eq!(Arc::strong_count(&owner), 1);
}

#[test]
fn a_panic_in_prepare_has_those_before_abort() {
    let mut p = Panicking::new();
    p.panics.in_prepare.store(true, Relaxed);
    let x = p.put();
    assert_eq!(take(&p.log), ["a prepare +0-0 x trap", "a abort"]);
    p.panics.in_prepare.store(false, Relaxed);
    p.check(None, Some(x));
}

#[test]
fn a_panic_in_abort_has_the_others_abort_too() {
    let mut p = Panicking::new();
    p.panics.in_abort.store(true, Relaxed);
    p.listeners[2].refuses.store(true, Relaxed);
    let x = p.put();
    assert_eq!(take(&p.log)[3..], ["b abort", "a abort"]);
    p.listeners[2].refuses.store(false, Relaxed);
    p.check(None, Some(x));
}

#[test]
fn after_a_panic_in_revoked_the_others_are_notified_too() {
    let mut p = Panicking::new();
    p.m.put(private_mmio("bar", 0x1000), 0x1000);
    let page = bytes(0x1000, 0x1000);
    p.m.model.accept(p.m.space, page).unwrap();
    take(&p.log);
    p.panics.in_revoked.store(true, Relaxed);
    let (model, space) = (&mut p.m.model, p.m.space);
    catch_unwind(AssertUnwindSafe(|| model.revoke(space, page))).unwrap_err();
    let lost = "revoked {0x1000..=0x1fff}";
    assert_eq!(take(&p.log), [format!("a {lost}"), format!("b {lost}")]);
    assert!(p.m.model.accepted(space).is_empty());
}

#[test]
fn a_listener_that_panics_while_it_leaves_has_left_or_has_not() {
    let mut p = Panicking::new();
    p.m.put(ram("ram", 0x10), 0);
    let space = p.m.space;
    for (when, left) in [(&p.panics.in_prepare, false), (&p.panics.in_commit, true)] {
        when.store(true, Relaxed);
        let model = &mut p.m.model;
        let leave = AssertUnwindSafe(|| model.remove_listener(space, &p.panics));
        catch_unwind(leave).unwrap_err();
        when.store(false, Relaxed);
        let again = p.m.model.remove_listener(space, &p.panics);
        assert_eq!(again.is_err(), left);
        if !left {
            p.m.model.add_listener(space, 1, p.panics.clone()).unwrap();
        }
    }
}

/// Some steps of each kind, on a machine with a region.
fn forgotten(m: &mut Machine) -> (RegionId, RegionId) {
    let a = m.put(Region::mmio("a", 0x10), 0);
    let root = m.root;
    let mut t = m.model.transaction();
    t.move_to(a, 0x100).unwrap();
    t.attach_ioeventfd(a, bell(4, 5)).unwrap();
    t.set_global_dirty_logging(DirtyClients::VGA);
    let x = t.add(ram("x", 0x10)).unwrap();
    t.place(x, root, 0x20, 0).unwrap();
    core::mem::forget(t);
    assert!(m.model.tree().region(x).is_ok());
    assert_eq!(m.view(), ["0-f a trap"]);
    (a, x)
}

#[test]
fn a_forgotten_transaction_is_undone_by_the_next() {
    let mut m = Machine::new();
    let (a, x) = forgotten(&mut m);
    m.put(Region::mmio("y", 1), 0x10);
    assert!(m.model.tree().region(x).is_err());
    assert_eq!(m.model.tree().place(a).unwrap().unwrap().address, 0);
    assert_eq!(m.view(), ["0-f a trap", "10-10 y trap"]);
    assert!(m.model.ioeventfds(m.space).is_empty());
    assert_eq!(m.model.global_dirty_logging(), DirtyClients::NONE);
}

#[test]
fn a_forgotten_transaction_is_seen_by_no_listener_and_no_space() {
    let mut m = Machine::new();
    let (_, x) = forgotten(&mut m);
    assert!(m.model.add_space("x", x).is_err());
    forgotten(&mut m);
    let root = m.root;
    let second = m.model.add_space("second", root).unwrap();
    let seen = common::show(&m.model.view(second));
    assert_eq!(seen, m.view());
    forgotten(&mut m);
    let log = Log::default();
    let listener = Recorder::new("l", &log);
    m.model.add_listener(second, 0, listener.clone()).unwrap();
    forgotten(&mut m);
    m.model.remove_listener(second, &listener).unwrap();
    forgotten(&mut m);
    m.model.remove_space(second).unwrap();
    assert_eq!(m.model.global_dirty_logging(), DirtyClients::NONE);
    assert!(take(&log).iter().all(|notified| !notified.contains('x')));
}

#[test]
fn a_forgotten_part_is_a_part_of_the_transaction() {
    let mut m = Machine::new();
    let root = m.root;
    let mut t = m.model.transaction();
    let x = t.add(Region::mmio("x", 0x10)).unwrap();
    t.place(x, root, 0, 0).unwrap();
    let mut part = t.nested();
    let y = part.add(Region::mmio("y", 0x10)).unwrap();
    part.place(y, root, 0x10, 0).unwrap();
    core::mem::forget(part);
    core::mem::forget(t.nested());
    t.commit().unwrap();
    assert_eq!(m.view(), ["0-f x trap", "10-1f y trap"]);

    // It is undone with it, too.
    let refuse = Recorder::new("l", &Log::default());
    m.model.add_listener(m.space, 0, refuse.clone()).unwrap();
    refuse.refuses.store(true, Relaxed);
    let mut t = m.model.transaction();
    let mut part = t.nested();
    part.move_to(x, 0x100).unwrap();
    core::mem::forget(part);
    assert!(matches!(t.commit(), Err(CommitError::Refused { .. })));
    assert_eq!(m.model.tree().place(x).unwrap().unwrap().address, 0);
}
