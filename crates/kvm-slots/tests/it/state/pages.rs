// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of pages as data, and back.

use std::sync::Arc;

use kvm_slots::convert::{
    ConvertibleMemory, ConvertibleRange, Engine, GuestMemfdSides, GuestPages, Home, PageRange,
    Request,
};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::state::PagesState;
use kvm_slots::{
    DeviceFile, FileSlice, GuestMemfdFlags, SlotAccess, SlotBacking, SlotRange, Slots, Vm,
};
use serde_json::{Value, json};

use crate::common::guest::NoExits;
use crate::common::region::private_vm;
use crate::common::{ABI, PAGE};

const BAR: u64 = 0xe000_0000;
const SIZE: u64 = 4 * PAGE;

/// A VM with RAM that can be private and private MMIO, both in slots.
struct Guest {
    engine: Engine<SimVm>,
    memory: ConvertibleMemory,
    _slots: Slots<SimVm>,
}

fn guest() -> Guest {
    let vm = SimVm::new(SimConfig {
        abi: ABI,
        ..private_vm(KernelVersion::V7_3)
    });
    let file = vm.create_guest_memfd(SIZE, GuestMemfdFlags::empty());
    let ram = SlotBacking::GuestMemfd {
        file: FileSlice::new(Arc::new(file.unwrap()), 0, SIZE).unwrap(),
        host: None,
    };
    let registers = Arc::new(vm.create_dma_buf(SIZE).unwrap());
    let registers = DeviceFile::new(FileSlice::new(registers, 0, SIZE).unwrap());
    let range = |gpa, backing| SlotRange::new(gpa, SlotAccess::ReadWrite, backing).unwrap();
    let ranges = [range(0, ram), range(BAR, SlotBacking::FdOffset(registers))];
    // SAFETY: no one else makes slots of this VM.
    let mut slots = unsafe { Slots::new(vm.clone(), ABI) };
    let plan = slots.plan(&ranges).unwrap();
    slots.apply(&plan).unwrap();
    let mut memory = ConvertibleMemory::new();
    let sides = GuestMemfdSides::Private;
    let convertible = ranges
        .iter()
        .filter_map(|r| ConvertibleRange::new(r, sides));
    memory.set_ranges(convertible).unwrap();
    let home = Home::probe(&vm).unwrap();
    Guest {
        engine: Engine::new(vm, home),
        memory,
        _slots: slots,
    }
}

/// A guest that has made two pages private and accepted two others.
fn used() -> Guest {
    let mut guest = guest();
    for (gpa, pages) in [(PAGE, 2), (BAR + PAGE, 2)] {
        let request = Request::hypercall(gpa, pages, 1 << 4).unwrap();
        let converted = guest.engine.convert(&mut guest.memory, request).unwrap();
        assert_eq!(converted.bytes, 2 * PAGE);
    }
    guest
}

/// Which pages a guest reads. Shared ones fault, for there is no host memory.
fn private(guest: &Guest) -> Vec<bool> {
    let pages = [0, PAGE, 2 * PAGE, 3 * PAGE, BAR, BAR + PAGE, BAR + 3 * PAGE];
    let vm = guest.engine.vm();
    let reads = |gpa: &u64| vm.guest_load(*gpa, &mut [0; 4], &mut NoExits).is_ok();
    pages.iter().map(reads).collect()
}

#[test]
fn page_states_are_restored_on_another_vm() {
    let old = used();
    let text = serde_json::to_string(&old.memory.state()).unwrap();
    let state: PagesState = serde_json::from_str(&text).unwrap();
    let mut new = guest();
    new.memory.restore(&state).unwrap();
    assert_ne!(private(&new), private(&old));
    assert_eq!(new.engine.restore(&mut new.memory).unwrap(), 4 * PAGE);
    assert_eq!(private(&new), private(&old));
    assert_eq!(new.memory.state(), old.memory.state());
    // What was accepted is fixed again.
    assert!(new.memory.set_ranges(None).is_err());
}

fn refused(path: &str, value: Value, because: &str) {
    let mut data = serde_json::to_value(used().memory.state()).unwrap();
    *data.pointer_mut(path).expect(path) = value;
    let mut new = guest();
    new.memory.set_state_limit(2000);
    let error = match serde_json::from_value::<PagesState>(data) {
        Err(error) => error.to_string(),
        Ok(state) => new.memory.restore(&state).unwrap_err().to_string(),
    };
    assert!(error.contains(because), "{error}");
    // Nothing has changed.
    let all = PageRange::new(0, 1 << 40).unwrap();
    assert_eq!(new.memory.private(all).count(), 0);
    assert_eq!(new.memory.accepted(all).count(), 0);
}

#[test]
fn data_that_does_not_fit_the_memory_is_refused() {
    refused("/version", json!(2), "version 2 of the state");
    refused("/private/0/start", json!(1), "whole pages");
    let ram = json!([{"start": PAGE, "last": 2 * PAGE - 1}]);
    refused("/accepted", ram, "accepted and not private MMIO");
    let shared = json!([{"start": BAR, "last": BAR + PAGE - 1}]);
    refused("/accepted", shared, "accepted and not private");
    let too_much: Vec<Value> = (0xe0..0xe8_u64)
        .map(|n| json!({"start": (n << 24) + PAGE, "last": (n << 24) + 3 * PAGE - 1}))
        .collect();
    refused("/private", json!(too_much), "more than 2000 bytes");
}
