// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory that a guest sees while its slots follow a view or a plan.

use crate::common;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use common::PAGE;
use common::pages::Pages;
use common::region::private_vm;
use kvm_slots::convert::PageRange;
use kvm_slots::exit::{GuestFault, MmioHandler};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{
    AbiProfile, Change, GuestMemfdFlags, SlotAccess, SlotBacking, SlotListener, SlotRange, Slots,
    VcpusStopped, Vm,
};
use memory_model::{FileSlice, GuestMemfdSides, HostMemory, Memory, MemoryModel, Region, RegionId};

/// The exits, as addresses of stores.
#[derive(Debug, Default)]
struct Exits(Vec<u64>);

impl MmioHandler for Exits {
    fn mmio_read(&mut self, gpa: u64, _data: &mut [u8]) {
        panic!("a load at {gpa:#x} is not direct");
    }

    fn mmio_write(&mut self, gpa: u64, _data: &[u8]) {
        self.0.push(gpa);
    }
}

struct Machine {
    model: MemoryModel,
    root: RegionId,
    vm: SimVm,
    slots: Arc<SlotListener<SimVm>>,
    exits: Exits,
}

impl Machine {
    fn new(config: SimConfig) -> Self {
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("memory", 1 << 64)).unwrap();
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        let vm = SimVm::new(config);
        // SAFETY: all host memory in these tests is of `Pages`, to which there
        // are no references, and which travels along as the owner.
        let slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) };
        let slots = Arc::new(SlotListener::new(slots, VcpusStopped));
        model.add_listener(space, 0, slots.clone()).unwrap();
        Self {
            model,
            root,
            vm,
            slots,
            exits: Exits::default(),
        }
    }

    fn add(&mut self, region: Region, at: u64, priority: i32) -> RegionId {
        let mut t = self.model.transaction();
        let id = t.add(region).unwrap();
        t.place(id, self.root, at, priority).unwrap();
        t.commit().unwrap();
        id
    }

    fn store(&mut self, gpa: u64, data: &[u8]) -> Result<(), GuestFault> {
        self.vm.guest_store(gpa, data, &mut self.exits)
    }

    fn load<const N: usize>(&mut self, gpa: u64) -> Result<[u8; N], GuestFault> {
        let mut data = [0; N];
        self.vm.guest_load(gpa, &mut data, &mut self.exits)?;
        Ok(data)
    }

    fn accesses(&self) -> Vec<(u64, SlotAccess)> {
        let table = self.slots.table();
        let mut slots: Vec<_> = table
            .slots()
            .map(|slot| (slot.gpa(), slot.access()))
            .collect();
        slots.sort_unstable();
        slots
    }
}

fn pages(count: usize) -> Arc<Pages> {
    Arc::new(Pages::new(count * 0x1000))
}

fn host(pages: &Arc<Pages>) -> HostMemory {
    // SAFETY: only the simulated KVM accesses it, by copies that can fail.
    unsafe { HostMemory::new(pages.address(), pages.size(), pages.clone()) }.unwrap()
}

#[test]
fn rom_in_the_middle_of_ram_is_really_read_only_and_the_ram_beside_it_is_not() {
    let mut machine = Machine::new(SimConfig::released(KernelVersion::V7_3));
    let (ram, rom) = (pages(4), pages(1));
    rom.write(0, b"firmware");
    machine.add(Region::ram("ram", Memory::host_only(host(&ram))), 0x1000, 0);
    machine.store(0x2000, b"scratch").unwrap();
    let id = machine.add(Region::rom("rom", Memory::host_only(host(&rom))), 0x2000, 1);
    assert_eq!(
        machine.accesses(),
        [
            (0x1000, SlotAccess::ReadWrite),
            (0x2000, SlotAccess::ReadOnly),
            (0x3000, SlotAccess::ReadWrite),
        ]
    );
    // A store across the border changes the RAM and not one byte of the ROM.
    machine.store(0x1ffc, b"12345678").unwrap();
    machine.store(0x2ffc, b"12345678").unwrap();
    assert_eq!(machine.exits.0, [0x2000, 0x2ffc]);
    assert_eq!(&machine.load::<8>(0x2000).unwrap(), b"firmware");
    assert_eq!(rom.read(0xffc), [0; 4]);
    assert_eq!(
        (&ram.read::<4>(0xffc), &ram.read::<4>(0x2000)),
        (b"1234", b"5678")
    );

    // The RAM below it reappears unchanged.
    let mut t = machine.model.transaction();
    t.set_enabled(id, false).unwrap();
    t.commit().unwrap();
    assert_eq!(&machine.load::<7>(0x2000).unwrap(), b"scratch");
    assert_eq!(machine.accesses(), [(0x1000, SlotAccess::ReadWrite)]);
}

#[test]
fn ram_that_becomes_read_only_for_a_while_takes_no_store_meanwhile() {
    let mut machine = Machine::new(SimConfig::released(KernelVersion::V7_3));
    let ram = pages(2);
    let id = machine.add(Region::ram("ram", Memory::host_only(host(&ram))), 0x1000, 0);
    for readonly in [true, false] {
        let mut t = machine.model.transaction();
        t.set_readonly(id, readonly).unwrap();
        t.commit().unwrap();
        machine.store(0x1008, b"new").unwrap();
        let stored = if readonly { [0; 3] } else { *b"new" };
        assert_eq!(ram.read(8), stored);
    }
    assert_eq!(machine.exits.0, [0x1008]);
}

#[test]
fn private_pages_outlive_a_slot_that_is_recreated_around_them() {
    let mut machine = Machine::new(private_vm(KernelVersion::V7_3));
    let shared = pages(4);
    let file = machine
        .vm
        .create_guest_memfd(4 * PAGE, GuestMemfdFlags::empty())
        .unwrap();
    let slice = |file: OwnedFd| {
        let _fd = file.as_raw_fd();
        FileSlice::new(Arc::new(file), 0, 4 * PAGE).unwrap()
    };
    let memory =
        Memory::with_guest_memfd(host(&shared), slice(file), GuestMemfdSides::Private).unwrap();
    machine.add(Region::ram("ram", memory), 0x1000, 0);
    let private = MEMORY_ATTRIBUTE_PRIVATE;
    machine
        .vm
        .set_memory_attributes(0x2000, PAGE, private)
        .unwrap();
    machine.store(0x2000, b"secret").unwrap();
    machine.store(0x1000, b"shared").unwrap();

    // The last page is hidden: the slot is deleted, and a shorter one made.
    let before = machine.slots.table();
    machine.add(Region::reservation("hole", PAGE.into()), 0x4000, 1);
    assert_ne!(machine.slots.table(), before);
    assert_eq!(&machine.load::<6>(0x2000).unwrap(), b"secret");
    assert_eq!(&machine.load::<6>(0x1000).unwrap(), b"shared");
    assert_eq!(shared.read(0x1000), [0; 6]);
}

/// A private page, and the plans that move it and its slot.
struct Mover {
    vm: SimVm,
    slots: Slots<SimVm>,
    range: SlotRange,
}

impl Mover {
    /// Four pages at 0x1000, the second of them private.
    fn new(shared: &Arc<Pages>) -> Self {
        let vm = SimVm::new(private_vm(KernelVersion::V7_3));
        let file = vm.create_guest_memfd(shared.size(), GuestMemfdFlags::empty());
        let file = Arc::new(file.unwrap());
        let backing = SlotBacking::GuestMemfd {
            file: FileSlice::new(file, 0, shared.size()).unwrap(),
            host: common::owned_host(shared.address(), shared.clone()).slice(0, shared.size()),
        };
        let range = SlotRange::new(0x1000, SlotAccess::ReadWrite, backing).unwrap();
        let mut mover = Self {
            // SAFETY: the host memory is of `Pages`, to which there are no
            // references, and which its slot owns.
            slots: unsafe { Slots::new(vm.clone(), AbiProfile::None) },
            vm,
            range,
        };
        let added = [mover.range.clone()];
        let is = [mover.private_page()];
        let change = Change::new(&[], &added).with_private_pages(&[], &is);
        let _ = mover.carry_out(&change);
        mover
    }

    fn private_page(&self) -> PageRange {
        PageRange::new(self.range.gpa() + PAGE, PAGE).unwrap()
    }

    fn move_to(&mut self, gpa: u64) -> kvm_slots::Applied {
        let (old, was) = (self.range.clone(), self.private_page());
        let backing = self.range.backing().clone();
        self.range = SlotRange::new(gpa, SlotAccess::ReadWrite, backing).unwrap();
        let new = self.range.clone();
        let removed = [old];
        let added = [new];
        let was = [was];
        let is = [self.private_page()];
        let change = Change::new(&removed, &added).with_private_pages(&was, &is);
        self.carry_out(&change)
    }

    fn carry_out(&mut self, change: &Change<'_>) -> kvm_slots::Applied {
        let plan = self.slots.plan_change(change).unwrap();
        self.slots.apply(&plan).unwrap()
    }

    fn undo(&mut self, applied: kvm_slots::Applied) {
        assert_eq!(self.slots.undo(applied), []);
    }

    fn load<const N: usize>(&self, gpa: u64) -> Result<[u8; N], GuestFault> {
        let mut data = [0; N];
        self.vm.guest_load(gpa, &mut data, &mut Exits::default())?;
        Ok(data)
    }
}

#[test]
fn private_bytes_move_with_their_memory_and_no_attribute_is_left_behind() {
    let shared = pages(4);
    shared.write(0x1000, b"shared");
    let mut mover = Mover::new(&shared);
    let mut exits = Exits::default();
    mover.vm.guest_store(0x2000, b"secret", &mut exits).unwrap();

    let _applied = mover.move_to(0x9000);
    assert_eq!(&mover.load::<6>(0xa000).unwrap(), b"secret");
    // A page that is still private would be a fault, and no exit.
    mover.vm.guest_store(0x2000, b"nobody", &mut exits).unwrap();
    assert_eq!(exits.0, [0x2000]);
    assert_eq!(&shared.read::<6>(0x1000), b"shared");
}

#[test]
fn private_bytes_that_moved_return_and_no_attribute_is_left_behind() {
    let shared = pages(4);
    shared.write(0x1000, b"shared");
    let mut mover = Mover::new(&shared);
    let mut exits = Exits::default();
    mover.vm.guest_store(0x2000, b"secret", &mut exits).unwrap();

    let applied = mover.move_to(0x9000);
    mover.undo(applied);
    assert_eq!(&mover.load::<6>(0x2000).unwrap(), b"secret");
    mover.vm.guest_store(0xa000, b"nobody", &mut exits).unwrap();
    assert_eq!(exits.0, [0xa000]);
    assert_eq!(&shared.read::<6>(0x1000), b"shared");
}
