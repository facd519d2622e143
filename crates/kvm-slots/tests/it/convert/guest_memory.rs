// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory of the crate `vm-memory`: ranges, and devices that follow conversions.

use crate::common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::region::private_vm;
use common::{ABI, PAGE};
use kvm_slots::convert::{
    Conversion, ConversionListener, ConversionListenerError, Engine, Home, ModelPages, PageRange,
    Request,
};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{GuestMemfdFlags, GuestMemoryRangeError, SlotRange, Slots, Vm};
use memory_model::{
    FileSlice, GuestMemfdSides, HostMemory, Memory, MemoryModel, PrivateMmio, Region, RegionId,
    SharedMemory, SharedMemoryListener, SpaceId,
};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap,
    MmapRegion,
};

const BAR: u64 = 0xe000_0000;
const SIZE: u64 = 4 * PAGE;

struct Machine {
    engine: Engine<SimVm>,
    model: MemoryModel,
    space: SpaceId,
    root: RegionId,
    bar: RegionId,
    devices: GuestMemoryAtomic<SharedMemory<MmapRegion>>,
    refuses: Arc<Refuses>,
}

/// Is asked after the devices' listener, and refuses while `on` is set.
struct Refuses {
    on: AtomicBool,
    devices: GuestMemoryAtomic<SharedMemory<MmapRegion>>,
}

impl ConversionListener for Refuses {
    fn name(&self) -> &str {
        "refuses"
    }

    fn prepare(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        if !self.on.load(Ordering::Relaxed) {
            return Ok(());
        }
        let at = GuestAddress(change.stretches[0].range.start());
        let reads = self.devices.memory().read_obj::<u8>(at).is_ok();
        Err(format!("devices read: {reads}").into())
    }
}

fn mapping(size: u64) -> HostMemory {
    let mapping = MmapRegion::<()>::new(usize::try_from(size).unwrap()).unwrap();
    HostMemory::of_mmap(Arc::new(mapping)).unwrap()
}

fn machine() -> Machine {
    let vm = SimVm::new(SimConfig {
        abi: ABI,
        ..private_vm(KernelVersion::V7_3)
    });
    let file = vm.create_guest_memfd(SIZE, GuestMemfdFlags::empty());
    let file = FileSlice::new(Arc::new(file.unwrap()), 0, SIZE).unwrap();
    let ram = Memory::with_guest_memfd(mapping(SIZE), file, GuestMemfdSides::Private).unwrap();
    let registers = Arc::new(vm.create_dma_buf(SIZE).unwrap());
    let registers = PrivateMmio::new(FileSlice::new(registers, 0, SIZE).unwrap());

    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let root = t.add(Region::container("memory", 1 << 64)).unwrap();
    let ram = t.add(Region::ram("ram", ram)).unwrap();
    let bar = t.add(Region::private_mmio("bar", registers)).unwrap();
    t.place(ram, root, 0, 0).unwrap();
    t.place(bar, root, BAR, 0).unwrap();
    t.commit().unwrap();
    let space = model.add_space("memory", root).unwrap();
    let listener = Arc::new(SharedMemoryListener::<MmapRegion, ()>::of_owners());
    model.add_listener(space, 0, listener.clone()).unwrap();
    let devices = listener.memory();
    let refuses = Arc::new(Refuses {
        on: AtomicBool::new(false),
        devices: devices.clone(),
    });
    let home = Home::probe(&vm).unwrap();
    let mut engine = Engine::new(vm, home);
    engine.add_listener(listener);
    engine.add_listener(refuses.clone());
    Machine {
        engine,
        model,
        space,
        root,
        bar,
        devices,
        refuses,
    }
}

impl Machine {
    fn convert(&mut self, gpa: u64, pages: u64, attributes: u64) -> Result<u64, String> {
        let request = Request::hypercall(gpa, pages, attributes).unwrap();
        let mut pages = ModelPages::new(&mut self.model, self.space);
        let converted = self.engine.convert(&mut pages, request);
        converted.map(|c| c.bytes).map_err(|e| e.to_string())
    }

    /// Whether devices read each page of the RAM.
    fn reads(&self) -> Vec<bool> {
        let memory = self.devices.memory();
        let at = |page: u64| GuestAddress(page * PAGE);
        let reads = |page| memory.read_obj::<u64>(at(page)).is_ok();
        (0..4).map(reads).collect()
    }
}

const PRIVATE: u64 = 1 << 4;
const SHARED: u64 = 0;

#[test]
fn devices_reach_pages_while_they_are_shared() {
    let mut m = machine();
    assert_eq!(m.reads(), [true; 4]);
    let held = m.devices.memory();
    m.convert(PAGE, 2, PRIVATE).unwrap();
    assert_eq!(m.reads(), [true, false, false, true]);
    assert!(held.read_obj::<u8>(GuestAddress(PAGE)).is_err());
    m.convert(2 * PAGE, 1, SHARED).unwrap();
    assert_eq!(m.reads(), [true, false, true, true]);
}

#[test]
fn devices_lose_pages_before_they_are_private_and_have_them_back_after_a_refusal() {
    let mut m = machine();
    m.convert(0, 1, PRIVATE).unwrap();
    m.refuses.on.store(true, Ordering::Relaxed);
    let refused = m.convert(PAGE, 2, PRIVATE).unwrap_err();
    assert!(refused.contains("devices read: false"), "{refused}");
    assert_eq!(m.reads(), [false, true, true, true]);
    // To shared, devices come after the guest, and are undone as well.
    let refused = m.convert(0, 1, SHARED).unwrap_err();
    assert!(refused.contains("devices read: true"), "{refused}");
    assert_eq!(m.reads(), [false, true, true, true]);
}

#[test]
fn accepted_registers_leave_no_trace_in_the_memory_of_devices() {
    let mut m = machine();
    m.convert(BAR, 4, PRIVATE).unwrap();
    let range = PageRange::new(BAR, SIZE).unwrap();
    let mut pages = ModelPages::new(&mut m.model, m.space);
    assert_eq!(m.engine.revoke(&mut pages, range).bytes, SIZE);
    let mut t = m.model.transaction();
    t.unplace(m.bar).unwrap();
    let ram = Memory::host_only(mapping(SIZE));
    let ram = t.add(Region::ram("other", ram)).unwrap();
    t.place(ram, m.root, BAR, 0).unwrap();
    t.commit().unwrap();
    let memory = m.devices.memory();
    assert!(memory.read_obj::<u64>(GuestAddress(BAR)).is_ok());
}

#[test]
fn guest_memory_of_vm_memory_is_a_slot_for_each_region() {
    let guest: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x8000), (GuestAddress(1 << 32), 0x4000)])
            .unwrap();
    guest.write_obj(0x1234_u32, GuestAddress(1 << 32)).unwrap();
    let vm = SimVm::new(SimConfig::released(KernelVersion::V6_18));
    // SAFETY: no one else makes slots of this VM.
    let mut slots = unsafe { Slots::new(vm, kvm_slots::AbiProfile::None) };
    let plan = slots
        .plan(&SlotRange::of_guest_memory(&guest).unwrap())
        .unwrap();
    slots.apply(&plan).unwrap();
    drop(guest);
    let found: Vec<(u64, u64)> = slots.table().slots().map(|s| (s.gpa(), s.size())).collect();
    assert_eq!(found, [(0, 0x8000), (1 << 32, 0x4000)]);
}

#[test]
fn a_mapping_that_the_guest_cannot_write_is_refused() {
    const PROT_READ: i32 = 1;
    let readonly = MmapRegionBuilder::<()>::new(0x1000)
        .with_mmap_prot(PROT_READ)
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
        .build()
        .unwrap();
    let region = GuestRegionMmap::new(readonly, GuestAddress(0x4000)).unwrap();
    let guest = GuestMemoryMmap::from_regions(vec![region]).unwrap();
    let refused = SlotRange::of_guest_memory(&guest).unwrap_err();
    let expected = GuestMemoryRangeError::NotMapped {
        gpa: 0x4000,
        size: 0x1000,
    };
    assert_eq!(refused, expected);
}
