// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest's memory on a new VM.

use crate::common;

use std::os::fd::AsFd;
use std::sync::Arc;

use common::compare::UnansweredExits;
use common::layout::HOMES;
use common::pages::Pages;
use common::region::private_vm;
use common::{ABI, PAGE};
use kvm_slots::convert::{Engine, Home, ModelPages, Request};
use kvm_slots::rebuild::{Followed, RebuildError, RebuildStep, RemakeError, rebuild};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
use kvm_slots::{SlotListener, Slots, VcpusStopped, Vm};
use memory_model::{
    AddrRange, DirtyClients, FileSlice, GuestMemfdSides, HostMemory, Memory, MemoryModel,
    PrivateMmio, Region, SpaceId,
};

const RAM: u64 = 0x10_0000;
const BAR: u64 = 0xe000_0000;
/// Memory with a dirty log.
const VIDEO: u64 = 0x80_0000;
const SIZE: u64 = 16 * PAGE;

type Listener = SlotListener<SimVm, VcpusStopped>;

fn config(home: Home) -> SimConfig {
    SimConfig {
        home,
        private_pages: true,
        abi: ABI,
        ..private_vm(KernelVersion::V7_3)
    }
}

fn listener(vm: &SimVm) -> Arc<Listener> {
    // SAFETY: the VM is new, and only this listener makes its memslots. The host memory
    // rides on its region as the owner.
    let slots = unsafe { Slots::new(vm.clone(), ABI) };
    Arc::new(SlotListener::new(slots, VcpusStopped))
}

fn engine(vm: &SimVm, home: Home) -> Engine<SimVm> {
    Engine::new(vm.clone(), home)
}

/// The same host memory with a new guest_memfd of this VM.
fn on_new_file(vm: &SimVm, home: Home, memory: &Memory) -> Result<Memory, RemakeError> {
    let (old, sides) = memory.guest_memfd().ok_or("no guest_memfd")?;
    let file = vm.create_guest_memfd(old.size(), home.file_flags())?;
    let file = FileSlice::new(Arc::new(file), 0, old.size()).ok_or("no bytes")?;
    let memory = Memory::with_guest_memfd(memory.host().clone(), file, sides);
    Ok(memory.ok_or("another size")?)
}

struct Guest {
    home: Home,
    model: MemoryModel,
    space: SpaceId,
    vm: SimVm,
    slots: Arc<Listener>,
    registers: Arc<std::os::fd::OwnedFd>,
}

impl Guest {
    /// RAM with three private pages, memory with a dirty log, a BAR that was accepted.
    fn new(home: Home) -> Self {
        let vm = SimVm::new(config(home));
        let host = Arc::new(Pages::new(usize::try_from(SIZE).unwrap()));
        // SAFETY: only the simulated KVM accesses it, by copies that can fail.
        let memory = unsafe { HostMemory::new(host.address(), SIZE, host.clone()) }.unwrap();
        let file = vm.create_guest_memfd(SIZE, home.file_flags()).unwrap();
        let file = FileSlice::new(Arc::new(file), 0, SIZE).unwrap();
        let memory = Memory::with_guest_memfd(memory, file, GuestMemfdSides::Private).unwrap();
        let registers = Arc::new(vm.create_dma_buf(4 * PAGE).unwrap());
        let slice = FileSlice::new(registers.clone(), 0, 4 * PAGE).unwrap();
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("memory", 1 << 64)).unwrap();
        let ram = t.add(Region::ram("ram", memory)).unwrap();
        let bar = Region::private_mmio("bar", PrivateMmio::new(slice));
        let bar = t.add(bar).unwrap();
        // A hole in the middle, so that there are two slots of RAM.
        let hole = t.add(Region::mmio("hole", PAGE.into())).unwrap();
        t.place(ram, root, RAM, 0).unwrap();
        t.place(bar, root, BAR, 0).unwrap();
        t.place(hole, root, RAM + 8 * PAGE, 1).unwrap();
        // Memory with a guest_memfd cannot be logged.
        let pages = Arc::new(Pages::new(2 * usize::try_from(PAGE).unwrap()));
        // SAFETY: as above.
        let video = unsafe { HostMemory::new(pages.address(), 2 * PAGE, pages.clone()) };
        let video = Memory::host_only(video.unwrap());
        let video = t.add(Region::ram("video", video)).unwrap();
        t.place(video, root, VIDEO, 0).unwrap();
        t.set_dirty_logging(video, DirtyClients::VGA).unwrap();
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        let slots = listener(&vm);
        model.add_listener(space, 0, slots.clone()).unwrap();
        let mut guest = Self {
            home,
            model,
            space,
            vm,
            slots,
            registers,
        };
        let engine = engine(&guest.vm, home);
        for page in 0..8 {
            guest.store(RAM + page * PAGE, 100 + page);
        }
        let private = Request::hypercall(RAM + 2 * PAGE, 3, 1 << 4).unwrap();
        let accept = Request::accept(BAR, 4 * PAGE).unwrap();
        for request in [private, accept] {
            let mut pages = ModelPages::new(&mut guest.model, space);
            let _ = engine.convert(&mut pages, request).unwrap();
        }
        guest.store(RAM + 2 * PAGE, 0x5ec);
        guest
    }

    fn store(&self, gpa: u64, value: u64) {
        let bytes = value.to_le_bytes();
        let stored = self.vm.guest_store(gpa, &bytes, &mut UnansweredExits);
        assert_eq!(stored, Ok(()), "{gpa:#x}");
    }

    fn rebuild(
        &mut self,
        vm: &SimVm,
        remake: impl FnMut(&Memory) -> Result<Memory, RemakeError>,
    ) -> Result<u64, RebuildError> {
        vm.adopt_dma_buf(self.registers.as_fd(), 4 * PAGE).unwrap();
        let new = listener(vm);
        let followed = Followed {
            space: self.space,
            priority: 0,
            old: &self.slots,
            new: &new,
        };
        let engine = engine(vm, self.home);
        rebuild(&mut self.model, &followed, &engine, remake)
    }

    /// The private pages of RAM, by number.
    fn private(&self) -> Vec<u64> {
        let private = self.model.private(self.space);
        let pages = 0..SIZE / PAGE;
        pages
            .filter(|page| private.contains(RAM + page * PAGE))
            .collect()
    }
}

fn load(vm: &SimVm, gpa: u64) -> Option<u64> {
    let mut data = [0; 8];
    let loaded = vm.guest_load(gpa, &mut data, &mut UnansweredExits);
    loaded.is_ok().then(|| u64::from_le_bytes(data))
}

/// Addresses, sizes and flags.
fn shape(vm: &SimVm) -> Vec<(u64, u64, u32)> {
    let slots = vm.memslots();
    slots.iter().map(|s| (s.gpa, s.size, s.flags)).collect()
}

#[test]
fn slots_logs_and_private_pages_are_those_of_the_model() {
    for home in HOMES {
        let mut guest = Guest::new(home);
        let before = shape(&guest.vm);
        assert_eq!(before.len(), 4);
        let logged = |(gpa, _, flags): &(u64, u64, u32)| *gpa == VIDEO && flags & 1 != 0;
        assert!(before.iter().any(logged));
        let vm = SimVm::new(config(home));
        let private = guest.rebuild(&vm, |memory| on_new_file(&vm, home, memory));
        assert_eq!(private.unwrap(), 3 * PAGE, "{home}");
        assert_eq!(guest.private(), [2, 3, 4]);
        // No guest has accepted the registers.
        let all = AddrRange::new(0, 1 << 64).unwrap();
        assert_eq!(guest.model.accepted(guest.space).within(all).count(), 0);
        assert!(!guest.model.private(guest.space).contains(BAR));

        assert_eq!(shape(&vm), before, "{home}");
        assert!(guest.vm.memslots().is_empty(), "{home}");
        // Shared pages are the host's, and private ones are new.
        let loads: Vec<Option<u64>> = (0..8).map(|page| load(&vm, RAM + page * PAGE)).collect();
        assert_eq!(loads[..2], [Some(100), Some(101)]);
        assert_eq!(loads[2..5], [Some(0); 3], "{home}");
        assert_eq!(loads[5..], [Some(105), Some(106), Some(107)]);
    }
}

/// The old VM has its memory as before.
fn stays(guest: &Guest, slots: &[(u64, u64, u32)]) {
    assert_eq!(shape(&guest.vm), slots);
    assert_eq!(load(&guest.vm, RAM), Some(100));
    assert_eq!(load(&guest.vm, RAM + 2 * PAGE), Some(0x5ec));
    assert_eq!(load(&guest.vm, RAM + 5 * PAGE), Some(105));
    assert_eq!(guest.private(), [2, 3, 4]);
}

#[test]
fn a_new_vm_that_refuses_a_slot_leaves_the_old_one_its_memory() {
    for home in HOMES {
        let mut guest = Guest::new(home);
        let before = shape(&guest.vm);
        let vm = SimVm::new(SimConfig {
            nr_memslots: 2,
            ..config(home)
        });
        let error = guest.rebuild(&vm, |memory| on_new_file(&vm, home, memory));
        let error = error.unwrap_err();
        assert!(matches!(error.cause, RebuildStep::Follow(_)), "{error}");
        assert!(error.not_undone.is_empty());
        assert!(vm.memslots().is_empty());
        stays(&guest, &before);
    }
}

#[test]
fn a_new_vm_without_private_pages_leaves_the_old_one_its_memory() {
    let home = Home::VmAttributes;
    let mut guest = Guest::new(home);
    let before = shape(&guest.vm);
    let vm = SimVm::new(SimConfig {
        vm_type: VmType::Plain,
        ..config(home)
    });
    let error = guest.rebuild(&vm, |memory| on_new_file(&vm, home, memory));
    let error = error.unwrap_err();
    assert!(matches!(error.cause, RebuildStep::Restore(_)), "{error}");
    assert!(error.not_undone.is_empty());
    assert_eq!(
        error.to_string(),
        "the new VM's private pages cannot be restored"
    );
    assert!(vm.memslots().is_empty());
    stays(&guest, &before);
}

#[test]
fn memory_that_cannot_be_made_again_is_named_before_anything_changes() {
    let home = Home::VmAttributes;
    let mut guest = Guest::new(home);
    let before = shape(&guest.vm);
    let vm = SimVm::new(config(home));
    let error = guest.rebuild(&vm, |_| Err("no file".into())).unwrap_err();
    assert_eq!(error.to_string(), "no new memory for 'ram'");
    stays(&guest, &before);
    assert!(guest.model.accepted(guest.space).contains(BAR));
    // Memory of another size.
    let small = |memory: &Memory| Ok(memory.slice(0, PAGE).ok_or("a page")?);
    let error = guest.rebuild(&vm, small).unwrap_err();
    assert!(matches!(error.cause, RebuildStep::Tree(_)), "{error}");
    assert!(error.not_undone.is_empty());
    stays(&guest, &before);
}
