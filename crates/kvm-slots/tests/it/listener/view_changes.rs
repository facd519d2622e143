// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memslots stay in sync with a flat view, transaction by transaction.

use crate::common;

use std::sync::Arc;

use common::{ABI, HOST, PAGE, device, ram, readonly, texts};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{
    AbiProfile, FollowError, PlanError, SlotBacking, SlotListener, Slots, Unsupported,
    VcpusStopped, slot_ranges,
};
use memory_model::{
    CommitError, DirtyClients, FileSlice, GuestMemfdSides, HostMemory, Listener, ListenerError,
    Memory, MemoryModel, PrivateMmio, Region, RegionId, SpaceId, Switches, Update,
};

/// Slots on files need a descriptor; these tests only plan with it.
const FD: i32 = 1000;

fn host(address: u64) -> HostMemory {
    // SAFETY: nothing is mapped there, and the simulated KVM copies.
    unsafe { HostMemory::new(address, PAGE, Arc::new(())) }.unwrap()
}

fn memory(address: u64) -> Memory {
    Memory::host_only(host(address))
}

fn file(offset: u64) -> FileSlice {
    // SAFETY: nothing uses the descriptor.
    unsafe { FileSlice::from_raw_fd(FD, offset, PAGE, Arc::new(())) }.unwrap()
}

/// A model with its only space, and the regions in it: the root first.
type Built = (MemoryModel, SpaceId, Vec<RegionId>);

/// A model whose root shows these regions.
fn model(regions: Vec<(u64, Region)>) -> Built {
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let root = t.add(Region::container("memory", 1 << 64)).unwrap();
    let mut ids = vec![root];
    for (at, region) in regions {
        let id = t.add(region).unwrap();
        t.place(id, root, at, 0).unwrap();
        ids.push(id);
    }
    t.commit().unwrap();
    let space = model.add_space("memory", root).unwrap();
    (model, space, ids)
}

/// Follows with the slots of a simulated VM.
fn listener(abi: AbiProfile) -> Arc<SlotListener<SimVm>> {
    let config = SimConfig::released(KernelVersion::V7_3);
    let vm = SimVm::new(SimConfig { abi, ..config });
    // SAFETY: no guest loads or stores, so no one accesses the addresses.
    let slots = unsafe { Slots::new(vm, abi) };
    Arc::new(SlotListener::new(slots, VcpusStopped).keeping_latest_plan())
}

/// Refuses every change but the first view.
struct Never;

impl Listener<()> for Never {
    fn name(&self) -> &str {
        "never"
    }

    fn prepare(&self, update: &Update<'_, ()>) -> Result<(), ListenerError> {
        match update.old.is_empty() {
            true => Ok(()),
            false => Err("never".into()),
        }
    }
}

#[test]
fn everything_that_is_not_trapped_is_a_range() {
    let mixed = Memory::with_guest_memfd(host(HOST + 0x4000), file(0), GuestMemfdSides::Private);
    let registers = PrivateMmio::new(file(0x8000));
    let trapping = Switches {
        direct_reads: false,
        ..Switches::default()
    };
    let (model, space, _) = model(vec![
        (0x0000, Region::ram("ram", memory(HOST))),
        (0x2000, Region::rom("rom", memory(HOST + 0x1000))),
        (0x4000, Region::rom_device("flash", memory(HOST + 0x2000))),
        (
            0x6000,
            Region::rom_device("trapping", memory(HOST)).with_switches(trapping),
        ),
        (0x8000, Region::mmio("serial", PAGE.into())),
        (0xa000, Region::device_ram("bar", host(HOST + 0x3000))),
        (0xc000, Region::ram("mixed", mixed.unwrap())),
        (0xe000, Region::private_mmio("private", registers)),
        (0x1_0000, Region::reservation("hole", PAGE.into())),
    ]);
    let in_both = SlotBacking::GuestMemfd {
        file: common::file(FD, 0),
        host: Some(common::host(HOST + 0x4000)),
    };
    assert_eq!(
        slot_ranges(&model.view(space)),
        [
            ram(0x0000, PAGE, HOST),
            readonly(ram(0x2000, PAGE, HOST + 0x1000)),
            readonly(ram(0x4000, PAGE, HOST + 0x2000)),
            ram(0xa000, PAGE, HOST + 0x3000),
            common::range(0xc000, PAGE, in_both),
            device(0xe000, PAGE, FD, 0x8000),
        ]
    );
}

#[test]
fn a_commit_moves_the_slots_and_an_abort_moves_them_back() {
    let (mut model, space, ids) = model(vec![(0x1000, Region::ram("bar", memory(HOST)))]);
    let slots = listener(ABI);
    model.add_listener(space, 0, slots.clone()).unwrap();
    assert_eq!(slots.table().len(), 1);

    let mut t = model.transaction();
    t.move_to(ids[1], 0x8000).unwrap();
    t.commit().unwrap();
    assert_eq!(
        texts(&slots.take_latest_plan().unwrap()),
        ["MOVE slot 0 from 0x1000 to 0x8000"]
    );

    // Another listener refuses, after the slots have moved.
    model.add_listener(space, 1, Arc::new(Never)).unwrap();
    let before = slots.table();
    let mut t = model.transaction();
    t.move_to(ids[1], 0x1_0000).unwrap();
    assert!(t.commit().is_err());
    assert_eq!(slots.table(), before);
}

#[test]
fn an_unsupported_range_refuses_the_commit_and_changes_nothing() {
    let (mut model, space, ids) = model(vec![(0x1000, Region::ram("ram", memory(HOST)))]);
    let slots = listener(AbiProfile::None);
    model.add_listener(space, 0, slots.clone()).unwrap();
    let before = slots.table();

    let mut t = model.transaction();
    let registers = PrivateMmio::new(file(0));
    let bar = t.add(Region::private_mmio("bar", registers)).unwrap();
    t.place(bar, ids[0], 0x8000, 0).unwrap();
    let error = t.commit().unwrap_err();
    let CommitError::Refused { source, .. } = error else {
        panic!("{error:?}");
    };
    let Some(FollowError::Plan(PlanError::Unsupported(ranges))) = source.downcast_ref() else {
        panic!("{source:?}");
    };
    assert_eq!(ranges[0].why, Unsupported::NoHostAddress);
    assert_eq!(slots.table(), before);
}

#[test]
fn logged_memory_has_a_slot_with_a_log_if_kvm_supports_it() {
    let mixed = Memory::with_guest_memfd(host(HOST + 0x4000), file(0), GuestMemfdSides::Private);
    let registers = PrivateMmio::new(file(0x8000));
    let (mut model, space, ids) = model(vec![
        (0x0000, Region::ram("ram", memory(HOST))),
        (0x2000, Region::rom("rom", memory(HOST + 0x1000))),
        (0xa000, Region::device_ram("bar", host(HOST + 0x3000))),
        (0xc000, Region::ram("mixed", mixed.unwrap())),
        (0xe000, Region::private_mmio("private", registers)),
    ]);
    let logged = |model: &MemoryModel| -> Vec<u64> {
        let ranges = slot_ranges(&model.view(space)).into_iter();
        ranges.filter(|r| r.log_dirty()).map(|r| r.gpa()).collect()
    };
    assert!(logged(&model).is_empty());
    let mut t = model.transaction();
    t.set_dirty_logging(ids[1], DirtyClients::VGA).unwrap();
    t.commit().unwrap();
    assert_eq!(logged(&model), [0]);
    let mut t = model.transaction();
    t.set_global_dirty_logging(DirtyClients::MIGRATION);
    t.commit().unwrap();
    assert_eq!(logged(&model), [0, 0x2000]);
}

#[test]
fn a_log_starts_and_stops_without_any_slot_going() {
    let ram = Region::ram("ram", memory(HOST));
    let (mut model, space, ids) = model(vec![(0x1000, ram)]);
    let slots = listener(ABI);
    model.add_listener(space, 0, slots.clone()).unwrap();
    slots.take_latest_plan();
    for (clients, flag) in [(DirtyClients::VGA, "starts"), (DirtyClients::NONE, "stops")] {
        let mut t = model.transaction();
        t.set_dirty_logging(ids[1], clients).unwrap();
        t.commit().unwrap();
        let plan = texts(&slots.take_latest_plan().unwrap());
        assert!(plan.len() == 1 && plan[0].contains(flag), "{plan:?}");
    }
    // The slots depend only on whether any client logs, not on which one.
    let mut t = model.transaction();
    t.set_global_dirty_logging(DirtyClients::NONE);
    t.commit().unwrap();
    assert!(slots.take_latest_plan().is_none());
}

#[test]
fn slots_are_deleted_when_the_listener_is_removed_and_recreated_when_it_is_added() {
    let regions = [0x1000, 0x8000].map(|at| (at, Region::ram("ram", memory(HOST + at))));
    let (mut model, space, _) = model(regions.to_vec());
    let slots = listener(ABI);
    model.add_listener(space, 0, slots.clone()).unwrap();
    let both = slots.table();
    assert_eq!(both.len(), 2);
    model.remove_listener(space, &slots).unwrap();
    assert!(slots.table().is_empty() && slots.vm().memslots().is_empty());
    assert_eq!(model.view(space).len(), 2);
    model.add_listener(space, 0, slots.clone()).unwrap();
    assert_eq!(slots.table(), both);
}
