// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Slots as data, and back.

use std::sync::Arc;

use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::state::{SavedSlot, SlotsState};
use kvm_slots::{
    AbiProfile, FileSlice, GuestMemfdFlags, HostMemory, SlotAccess, SlotBacking, SlotRange, Slots,
    Vm,
};
use serde_json::{Value, json};

use crate::common::region::private_vm;
use crate::common::{ABI, PAGE};

fn host(size: u64) -> HostMemory {
    // SAFETY: no guest accesses the memory of these tests.
    unsafe { HostMemory::new(0x7f00_0000_0000, size, Arc::new(())) }.unwrap()
}

fn ram(size: u64) -> SlotBacking {
    SlotBacking::Host(host(size))
}

fn range(gpa: u64, backing: SlotBacking) -> SlotRange {
    SlotRange::new(gpa, SlotAccess::ReadWrite, backing).unwrap()
}

fn slots(vm: &SimVm) -> Slots<SimVm> {
    // SAFETY: no one else makes slots of this VM.
    unsafe { Slots::new(vm.clone(), ABI) }
}

fn private_sim() -> SimVm {
    SimVm::new(SimConfig {
        abi: ABI,
        ..private_vm(KernelVersion::V7_3)
    })
}

fn guest_memfd(vm: &SimVm) -> SlotBacking {
    let file = vm.create_guest_memfd(4 * PAGE, GuestMemfdFlags::empty());
    SlotBacking::GuestMemfd {
        file: FileSlice::new(Arc::new(file.unwrap()), 0, 4 * PAGE).unwrap(),
        host: Some(host(4 * PAGE)),
    }
}

fn registers(vm: &SimVm) -> SlotBacking {
    let file = Arc::new(vm.create_dma_buf(PAGE).unwrap());
    let file = FileSlice::new(file, 0, PAGE).unwrap();
    SlotBacking::FdOffset(kvm_slots::DeviceFile::new(file))
}

fn each(saved: &[SavedSlot<String>]) -> Vec<(u64, u64, String)> {
    let each = saved.iter().map(|s| (s.gpa(), s.size(), s.data().clone()));
    each.collect()
}

#[test]
fn every_kind_of_slot_is_restored_on_another_vm() {
    let vm = private_sim();
    let mut old = slots(&vm);
    let ranges = [
        range(0, ram(0x8000)).with_log_dirty(true),
        range(0xf_0000, ram(PAGE)).with_access(SlotAccess::ReadOnly),
        range(0x10_0000, guest_memfd(&vm)),
        range(0xe000_0000, registers(&vm)),
    ];
    let plan = old.plan(&ranges).unwrap();
    old.apply(&plan).unwrap();
    let state = old.table().state(|slot| slot.backing().to_string());
    let text = serde_json::to_string(&state).unwrap();

    let state: SlotsState<String> = serde_json::from_str(&text).unwrap();
    assert_eq!(state.slots().len(), 4);
    let other = private_sim();
    let supplied = state.ranges(|saved| -> Result<SlotBacking, String> {
        Ok(match saved.gpa() {
            0x10_0000 => guest_memfd(&other),
            0xe000_0000 => registers(&other),
            _ => ram(saved.size()),
        })
    });
    let mut new = slots(&other);
    let plan = new.plan(&supplied.unwrap()).unwrap();
    new.apply(&plan).unwrap();
    let again = new.table().state(|slot| slot.backing().to_string());
    let places = |state: &SlotsState<String>| {
        let all = each(state.slots()).into_iter();
        all.map(|(gpa, size, _)| (gpa, size)).collect::<Vec<_>>()
    };
    assert_eq!(places(&again), places(&state));
    let flags = |slots: &Slots<SimVm>| -> Vec<_> {
        slots
            .table()
            .slots()
            .map(|slot| slot.flag_names())
            .collect()
    };
    assert_eq!(flags(&new), flags(&old));
}

/// One slot of RAM at 0, and one of ROM above it.
fn saved() -> Value {
    let vm = SimVm::new(SimConfig::released(KernelVersion::V6_18));
    // SAFETY: no one else makes slots of this VM.
    let mut slots = unsafe { Slots::new(vm, AbiProfile::None) };
    let rom = range(0xf_0000, ram(PAGE)).with_access(SlotAccess::ReadOnly);
    let plan = slots.plan(&[range(0, ram(0x8000)), rom]).unwrap();
    slots.apply(&plan).unwrap();
    serde_json::to_value(slots.table().state(|_| "ram")).unwrap()
}

fn refused(data: Value, because: &str) {
    let error = match serde_json::from_value::<SlotsState<String>>(data) {
        Err(error) => error.to_string(),
        Ok(state) => {
            let ranges = state.ranges(|saved| match saved.size() {
                0 => Err("nothing has no bytes"),
                size => Ok(ram(size)),
            });
            ranges.unwrap_err().to_string()
        }
    };
    assert!(error.contains(because), "{error}");
}

fn with(path: &str, value: Value, because: &str) {
    let mut data = saved();
    *data.pointer_mut(path).expect(path) = value;
    refused(data, because);
}

#[test]
fn data_that_describes_no_slots_is_refused() {
    with("/version", json!(0), "version 0 of the state");
    with("/slots/0/id", json!(1), "slot 1 does not follow");
    with(
        "/slots/1/gpa",
        json!(0x7000),
        "two slots have the address 0x7000",
    );
    with("/slots/1/gpa", json!(u64::MAX - 1), "wraps");
    with(
        "/slots/0/size",
        json!(0),
        "the slot at 0x0: nothing has no bytes",
    );
    with("/slots/0/read_only", json!(1), "expected a boolean");
    with(
        "/slots/0/backing",
        json!("fd-offset"),
        "was on FdOffset, and the memory is Host",
    );
    with("/slots/0/backing", json!("own-memory"), "unknown variant");
    let mut data = saved();
    data["slots"][0]["colour"] = json!("red");
    refused(data, "unknown field `colour`");
}

#[test]
fn memory_of_another_size_is_refused() {
    let state: SlotsState<String> = serde_json::from_value(saved()).unwrap();
    let refused = state.ranges(|_| Ok::<_, String>(ram(PAGE))).unwrap_err();
    let expected = "the slot at 0x0 had 0x8000 bytes, and the memory has 0x1000";
    assert_eq!(refused.to_string(), expected);
}
