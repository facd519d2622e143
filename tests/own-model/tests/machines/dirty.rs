// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty tracking.

use std::collections::BTreeSet;

use kvm_slots::dirty::DirtyPages;
use own_model::{Bytes, Region, What, page_size};

use crate::hosts::{Host, Machine, region, stamped};

const SCREEN: u64 = 0x20_0000;

/// The pages of `memory` that are among these.
fn pages(dirty: &DirtyPages, memory: &Bytes, count: u64) -> BTreeSet<u64> {
    let is_dirty = |page: &u64| dirty.contains(memory.address() + page * page_size());
    (0..count).filter(is_dirty).collect()
}

pub fn writes_are_found_after_their_slot_was_split_and_moved<V: Host>(mut machine: Machine<V>) {
    let memory = stamped(8);
    machine.change(|model| {
        model.add(Region {
            logged: true,
            ..region(1, SCREEN, 8, What::Ram(memory.clone()))
        });
    });
    let display = machine.vmm.collector().tracker().client();
    machine.stores(SCREEN + 2 * page_size(), 50);
    machine.stores(SCREEN + 7 * page_size(), 51);
    // The slot is deleted, and its log with it.
    let split = machine.change(|model| {
        model.add(Region {
            priority: 1,
            ..region(2, SCREEN + 4 * page_size(), 1, What::Trapped)
        });
    });
    assert!(split.held);
    machine.stores(SCREEN + 3 * page_size(), 52);
    machine.change(|model| model.move_to(1, 2 * SCREEN));
    machine.stores(2 * SCREEN + page_size(), 53);
    machine.vmm.collect().expect("the logs");
    let written = display.take_all();
    assert_eq!(pages(&written, &memory, 8), BTreeSet::from([1, 2, 3, 7]));
    // The new addresses.
    let slot = machine
        .vmm
        .slots()
        .table()
        .find(2 * SCREEN)
        .expect("a slot");
    let now: Vec<_> = written.in_slot(slot).collect();
    assert_eq!(
        now,
        [
            (2 * SCREEN + page_size(), 3 * page_size()),
            (2 * SCREEN + 7 * page_size(), page_size())
        ]
    );
    machine.vmm.collect().expect("the logs");
    assert!(display.take_all().is_empty());
    machine.stores(2 * SCREEN + 2 * page_size(), 54);
    machine.change(|model| model.remove(1));
    assert_eq!(pages(&display.take_all(), &memory, 8), BTreeSet::from([2]));
}

pub fn a_write_of_the_vmm_is_reported_to_each_client_once<V: Host>(mut machine: Machine<V>) {
    let memory = stamped(4);
    machine.change(|model| {
        model.add(Region {
            logged: true,
            ..region(1, SCREEN, 4, What::Ram(memory.clone()))
        });
    });
    let tracker = machine.vmm.collector().tracker();
    let (display, migration) = (tracker.client(), tracker.client());
    memory.set(page_size(), 9).expect("in it");
    assert!(tracker.mark_guest(machine.vmm.slots().table(), SCREEN + page_size(), 1));
    assert!(!tracker.mark_guest(machine.vmm.slots().table(), SCREEN + 4 * page_size(), 1));
    for client in [display, migration] {
        assert_eq!(pages(&client.take_all(), &memory, 4), BTreeSet::from([1]));
        assert!(client.take_all().is_empty());
    }
    machine.loads(SCREEN + page_size(), 9);
}
