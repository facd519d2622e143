// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Conversions of the pages of a memory model: one state for both.

use crate::common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use common::pages::Pages;
use common::region::private_vm;
use common::{ABI, PAGE};
use kvm_slots::convert::{
    ConvertError, Converter, Engine, GuestPages, Home, ModelPages, PageRange, PageState, Refusal,
    Request, Stretch,
};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{GuestMemfdFlags, SlotListener, Slots, Vm};
use memory_model::{
    AddrRange, CommitError, FileSlice, GuestMemfdSides, HostMemory, Listener, ListenerError,
    Memory, MemoryModel, PageSet, PrivateMmio, Region, RegionId, SpaceId, Update,
};

const RAM: u64 = 0x10_0000;
const BAR: u64 = 0xe000_0000;
const SIZE: u64 = 16 * PAGE;

struct Machine {
    vm: SimVm,
    model: MemoryModel,
    space: SpaceId,
    host: Arc<Pages>,
    bar: RegionId,
    serial: RegionId,
    ram: RegionId,
}

fn range(gpa: u64, pages: u64) -> AddrRange {
    AddrRange::new(gpa, (pages * PAGE).into()).unwrap()
}

fn ranges(set: &PageSet) -> Vec<AddrRange> {
    set.iter().collect()
}

fn machine() -> Machine {
    let vm = SimVm::new(SimConfig {
        abi: ABI,
        ..private_vm(KernelVersion::V7_3)
    });
    let host = Arc::new(Pages::new(usize::try_from(SIZE).unwrap()));
    let file = Arc::new(
        vm.create_guest_memfd(SIZE, GuestMemfdFlags::empty())
            .unwrap(),
    );
    let slice = FileSlice::new(file, 0, SIZE).unwrap();
    // SAFETY: only the simulated KVM accesses it, by copies that can fail.
    let memory = unsafe { HostMemory::new(host.address(), SIZE, host.clone()) }.unwrap();
    let memory = Memory::with_guest_memfd(memory, slice, GuestMemfdSides::Private).unwrap();
    let registers = Arc::new(vm.create_dma_buf(4 * PAGE).unwrap());
    let registers = FileSlice::new(registers, 0, 4 * PAGE).unwrap();

    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let root = t.add(Region::container("memory", 1 << 64)).unwrap();
    let ram = t.add(Region::ram("ram", memory)).unwrap();
    let bar = t
        .add(Region::private_mmio("bar", PrivateMmio::new(registers)))
        .unwrap();
    let serial = t.add(Region::mmio("serial", 8)).unwrap();
    t.place(ram, root, RAM, 0).unwrap();
    t.place(bar, root, BAR, 0).unwrap();
    // In the fourth page of the RAM, and above it.
    t.place(serial, root, RAM + 3 * PAGE + 0x3f8, 1).unwrap();
    t.commit().unwrap();
    let space = model.add_space("memory", root).unwrap();
    // SAFETY: the host memory is a mapping to which there are no references;
    // it rides on its region as the owner.
    let slots = unsafe { Slots::new(vm.clone(), ABI) };
    let slots = SlotListener::new(slots, kvm_slots::VcpusStopped);
    model.add_listener(space, 0, Arc::new(slots)).unwrap();
    Machine {
        vm,
        model,
        space,
        host,
        bar,
        serial,
        ram,
    }
}

fn engine(vm: &SimVm) -> Engine<SimVm> {
    Engine::new(vm.clone(), Home::probe(vm).unwrap())
}

#[test]
fn the_models_state_is_the_engines() {
    let mut m = machine();
    let engine = engine(&m.vm);
    m.host.write(0x10, b"shared");
    let request = Request::hypercall(RAM, 3, 1 << 4).unwrap();
    let mut pages = ModelPages::new(&mut m.model, m.space);
    assert_eq!(engine.convert(&mut pages, request).unwrap().bytes, 3 * PAGE);
    assert_eq!(m.host.read(0x10), [0; 6]);
    assert_eq!(ranges(m.model.private(m.space)), [range(RAM, 3)]);
    assert!(m.model.accepted(m.space).is_empty());

    let request = Request::memory_fault(0, RAM + PAGE, PAGE).unwrap();
    let mut pages = ModelPages::new(&mut m.model, m.space);
    assert_eq!(engine.convert(&mut pages, request).unwrap().bytes, PAGE);
    let left = [range(RAM, 1), range(RAM + 2 * PAGE, 1)];
    assert_eq!(ranges(m.model.private(m.space)), left);
}

#[test]
fn a_page_that_is_memory_only_in_part_cannot_be_private() {
    let mut m = machine();
    let engine = engine(&m.vm);
    let request = Request::hypercall(RAM, 16, 1 << 4).unwrap();
    let mut pages = ModelPages::new(&mut m.model, m.space);
    let error = engine.convert(&mut pages, request).unwrap_err();
    let range = PageRange::new(RAM, SIZE).unwrap();
    let at = RAM + 3 * PAGE;
    assert!(
        matches!(error, ConvertError::Refused(refusal)
            if refusal == Refusal::NoPrivateSide { range, at }),
        "{error}"
    );
    // Without the device it can.
    let mut t = m.model.transaction();
    t.set_enabled(m.serial, false).unwrap();
    t.commit().unwrap();
    let mut pages = ModelPages::new(&mut m.model, m.space);
    assert_eq!(engine.convert(&mut pages, request).unwrap().bytes, SIZE);
}

#[test]
fn private_mmio_that_becomes_private_is_accepted_and_cannot_move() {
    let mut m = machine();
    let engine = engine(&m.vm);
    let move_bar = |model: &mut MemoryModel| {
        let mut t = model.transaction();
        t.move_to(m.bar, 2 * BAR).unwrap();
        t.commit()
    };
    let convert = |model: &mut MemoryModel, private: u64| {
        let request = Request::hypercall(BAR, 2, private << 4).unwrap();
        let mut pages = ModelPages::new(model, m.space);
        engine.convert(&mut pages, request).unwrap()
    };
    assert_eq!(convert(&mut m.model, 1).bytes, 2 * PAGE);
    assert_eq!(ranges(m.model.accepted(m.space)), [range(BAR, 2)]);
    assert!(matches!(
        move_bar(&mut m.model),
        Err(CommitError::Accepted { .. })
    ));
    // The guest makes it shared again, which gives it back.
    assert_eq!(convert(&mut m.model, 0).bytes, 2 * PAGE);
    assert!(m.model.accepted(m.space).is_empty());
    assert!(move_bar(&mut m.model).is_ok());
}

#[test]
fn private_mmio_where_memory_was_private_is_accepted_when_the_guest_asks() {
    let mut m = machine();
    let engine = engine(&m.vm);
    let mut pages = ModelPages::new(&mut m.model, m.space);
    let private = Request::hypercall(RAM, 2, 1 << 4).unwrap();
    assert_eq!(engine.convert(&mut pages, private).unwrap().bytes, 2 * PAGE);
    // The BAR takes the place of the RAM, whose pages stay private.
    let mut t = m.model.transaction();
    t.set_enabled(m.ram, false).unwrap();
    t.set_enabled(m.serial, false).unwrap();
    t.move_to(m.bar, RAM).unwrap();
    t.commit().unwrap();
    assert!(m.model.accepted(m.space).is_empty());
    let mut pages = ModelPages::new(&mut m.model, m.space);
    let accept = Request::accept(RAM, 4 * PAGE).unwrap();
    // Two pages change, and four are accepted.
    assert_eq!(engine.convert(&mut pages, accept).unwrap().bytes, 2 * PAGE);
    assert_eq!(ranges(m.model.accepted(m.space)), [range(RAM, 4)]);
    let mut t = m.model.transaction();
    t.move_to(m.bar, 2 * BAR).unwrap();
    assert!(matches!(t.commit(), Err(CommitError::Accepted { .. })));
}

/// Hears of revocations.
#[derive(Default)]
struct Ear(std::sync::Mutex<Vec<AddrRange>>);

impl Listener<()> for Ear {
    fn name(&self) -> &str {
        "ear"
    }

    fn prepare(&self, _update: &Update<'_, ()>) -> Result<(), ListenerError> {
        Ok(())
    }

    fn revoked(&self, _space: SpaceId, lost: &PageSet) {
        self.0.lock().unwrap().extend(lost.iter());
    }
}

#[test]
fn a_revocation_reaches_the_models_listeners_and_ends_the_acceptance() {
    let mut m = machine();
    let ear = Arc::new(Ear::default());
    m.model.add_listener(m.space, 0, ear.clone()).unwrap();
    let (model, space) = (m.model, m.space);
    let converter = Converter::new(
        m.vm.clone(),
        Home::VmAttributes,
        ModelPages::new(model, space),
    );
    let accept = Request::accept(BAR + PAGE, 3 * PAGE).unwrap();
    assert_eq!(converter.convert(accept).unwrap().bytes, 3 * PAGE);
    let bar = PageRange::new(BAR, 4 * PAGE).unwrap();
    assert_eq!(converter.revoke(bar).unwrap().bytes, 3 * PAGE);
    assert_eq!(*ear.0.lock().unwrap(), [range(BAR + PAGE, 3)]);
    // Through the same lock the model changes: the BAR can move again.
    let moved = converter.with_pages(|pages| {
        let mut t = pages.model().transaction();
        t.move_to(m.bar, 2 * BAR).unwrap();
        t.commit().is_ok()
    });
    assert!(moved.unwrap());
    assert_eq!(converter.revoke(bar).unwrap().bytes, 0);
}

#[test]
fn pages_stay_private_while_their_memory_is_away_and_can_be_shared_then() {
    let mut m = machine();
    let engine = engine(&m.vm);
    let mut pages = ModelPages::new(&mut m.model, m.space);
    let private = Request::hypercall(RAM, 2, 1 << 4).unwrap();
    assert_eq!(engine.convert(&mut pages, private).unwrap().bytes, 2 * PAGE);
    let enable = |model: &mut MemoryModel, on| {
        let mut t = model.transaction();
        t.set_enabled(m.ram, on).unwrap();
        t.commit().unwrap();
    };
    enable(&mut m.model, false);
    m.host.write(0x10, b"kept");
    let mut pages = ModelPages::new(&mut m.model, m.space);
    let shared = Request::hypercall(RAM, 1, 0).unwrap();
    assert_eq!(engine.convert(&mut pages, shared).unwrap().bytes, PAGE);
    enable(&mut m.model, true);
    assert_eq!(ranges(m.model.private(m.space)), [range(RAM + PAGE, 1)]);
    // Pages that were not converted while the memory was removed keep their bytes.
    assert_eq!(&m.host.read::<4>(0x10), b"kept");
}

#[test]
fn the_stretches_of_a_plan_are_where_the_view_has_them() {
    let mut m = machine();
    let host = m.host.address();
    let pages = ModelPages::new(&mut m.model, m.space);
    let request = Request::hypercall(RAM + 4 * PAGE, 12, 1 << 4).unwrap();
    let plan = kvm_slots::convert::plan_conversion(&pages, request).unwrap();
    let hosts: Vec<_> = plan.stretches.iter().map(Stretch::host).collect();
    assert_eq!(hosts, [Some(host + 4 * PAGE)]);
    assert_eq!(plan.stretches[0].range, request.range());
}

#[test]
fn a_model_without_room_for_the_state_refuses_the_request() {
    let mut m = machine();
    m.model.set_state_limit(m.space, 0);
    let engine = Engine::new(m.vm.clone(), Home::VmAttributes);
    let request = Request::hypercall(RAM, 1, 1 << 4).unwrap();
    let mut pages = ModelPages::new(&mut m.model, m.space);
    let error = engine.convert(&mut pages, request).unwrap_err();
    let no_room = matches!(error, ConvertError::Refused(Refusal::NoRoom { .. }));
    assert!(no_room, "{error}");
    assert!(m.model.private(m.space).is_empty());
}

#[test]
fn a_record_that_the_model_refuses_is_a_panic() {
    let mut m = machine();
    let hole = PageRange::new(0, PAGE).unwrap();
    let mut pages = ModelPages::new(&mut m.model, m.space);
    let record = AssertUnwindSafe(|| pages.record(hole, PageState::Private));
    let panic = catch_unwind(record).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    let expected = "the model refuses what it allowed for 0x0..0x1000: ";
    assert!(text.starts_with(expected), "{text}");
}
