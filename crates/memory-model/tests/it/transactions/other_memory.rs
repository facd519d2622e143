// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Regions that are put on other memory.

use crate::common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{Log, Machine, Recorder, guest_memfd_ram, memory, private_mmio, ram, take};
use memory_model::{
    Backing, DirtyClients, GuestMemfdSides, Kind, Memory, Region, TreeError, Unloggable,
};

/// The host address behind an address of the space.
fn host(m: &Machine, address: u64) -> u64 {
    let view = m.model.view(m.space);
    let run = view.find(address).expect("memory");
    match run.backing() {
        Backing::Memory(memory) => memory.host().address(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_view_of_the_region_shows_the_new_memory() {
    let mut m = Machine::new();
    let id = m.put(ram("ram", 0x40), 0);
    m.put(Region::alias("window", id, 0x10, 0x20), 0x100);
    m.put_over(Region::mmio("hole", 0x10), 0x20);
    let before = m.view();
    // The same bytes from another address on.
    let all = memory(0x80);
    let new = all.slice(0x40, 0x40).unwrap();
    let address = new.host().address();
    m.change(|t| t.set_memory(id, new));
    assert_eq!(m.view(), before);
    assert_eq!(host(&m, 0), address);
    assert_eq!(host(&m, 0x38), address + 0x30);
    assert_eq!(host(&m, 0x100), address + 0x10);
    assert_eq!(m.model.tree().region(id).unwrap().name(), "ram");
}

#[test]
fn listeners_see_the_old_memory_removed_and_the_new_memory_added() {
    let mut m = Machine::new();
    let id = m.put(ram("ram", 0x40), 0x1000);
    let log = Log::default();
    let recorder = Recorder::new("one", &log);
    m.model.add_listener(m.space, 0, recorder.clone()).unwrap();
    take(&log);
    let new = memory(0x80).slice(0x40, 0x40).unwrap();
    m.change(|t| t.set_memory(id, new.clone()));
    let seen = [
        "one prepare -1000-103f ram rw, +1000-103f ram rw",
        "one commit",
    ];
    assert_eq!(take(&log), seen);
    // A refusal leaves the memory that was there.
    recorder.refuses.store(true, Ordering::Relaxed);
    let before = host(&m, 0x1000);
    assert!(m.try_change(|t| t.set_memory(id, memory(0x40))).is_err());
    assert_eq!(host(&m, 0x1000), before);
    let kind = m.model.tree().region(id).unwrap().kind().clone();
    assert!(matches!(kind, memory_model::Kind::Ram(memory) if memory == new));
}

#[test]
fn a_dropped_transaction_leaves_the_memory_that_was_there() {
    let mut m = Machine::new();
    let id = m.put(ram("ram", 0x40), 0);
    let (before, view) = (host(&m, 0), m.model.view(m.space));
    let mut t = m.model.transaction();
    t.set_memory(id, memory(0x40)).unwrap();
    t.set_readonly(id, true).unwrap();
    t.set_memory(id, memory(0x40)).unwrap();
    drop(t);
    assert_eq!(host(&m, 0), before);
    assert!(Arc::ptr_eq(&m.model.view(m.space), &view));
}

#[test]
fn a_region_that_is_not_memory_of_that_size_is_refused() {
    let mut m = Machine::new();
    let ids = [
        m.put(ram("ram", 0x40), 0),
        m.put(Region::mmio("mmio", 0x20), 0x100),
        m.put(private_mmio("registers", 0x20), 0x200),
    ];
    for id in ids {
        let mut t = m.model.transaction();
        let refused = t.set_memory(id, memory(0x20)).unwrap_err();
        assert!(matches!(refused, TreeError::OtherMemory { size: 0x20, .. }));
    }
    let text = {
        let mut t = m.model.transaction();
        t.set_memory(ids[1], memory(0x20)).unwrap_err().to_string()
    };
    assert_eq!(text, "'mmio' is not memory of 0x20 bytes");
}

#[test]
fn rom_and_rom_devices_stay_what_they_are() {
    let mut m = Machine::new();
    let rom = m.put(Region::rom("rom", memory(0x40)), 0);
    let flash = m.put(Region::rom_device("flash", memory(0x40)), 0x100);
    m.change(|t| t.set_direct_reads(flash, false));
    let before = m.view();
    let new = |m: &mut Machine, id, memory: Memory| m.change(|t| t.set_memory(id, memory));
    new(&mut m, rom, memory(0x40));
    new(&mut m, flash, memory(0x40));
    assert_eq!(m.view(), before);
}

#[test]
fn a_region_whose_writes_are_logged_stays_on_memory_that_can_be_logged() {
    let mut m = Machine::new();
    let id = m.put(ram("ram", 0x1000), 0);
    m.change(|t| t.set_dirty_logging(id, DirtyClients::VGA));
    let unloggable = || {
        let region = guest_memfd_ram("other", 0x1000, GuestMemfdSides::Private);
        let Kind::Ram(memory) = region.kind() else {
            panic!("{region:?}");
        };
        memory.clone()
    };
    let mut t = m.model.transaction();
    let why = Unloggable::GuestMemfd;
    let refused = t.set_memory(id, unloggable()).unwrap_err();
    assert!(matches!(refused, TreeError::NotLoggable { why: w, .. } if w == why));
    // Without clients it can be put there, and the undo puts both back.
    t.set_dirty_logging(id, DirtyClients::NONE).unwrap();
    t.set_memory(id, unloggable()).unwrap();
    t.set_dirty_logging(id, DirtyClients::VGA).unwrap_err();
    drop(t);
    assert_eq!(m.model.tree().dirty_logging(id), Ok(DirtyClients::VGA));
    m.change(|t| t.set_dirty_logging(id, DirtyClients::NONE));
    m.change(|t| t.set_memory(id, unloggable()));
    assert_eq!(m.model.validate(), Ok(()));
}
