// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device's DMA while a guest converts its pages.

use std::os::fd::AsFd;
use std::sync::Arc;

use guest_ranges::{HostMemory, PAGE_SIZE};
use kvm_slots::convert::{Engine, Home, ModelPages, Request};
use kvm_slots::sim::{Sharing, VmType};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{
    AbiProfile, Errno, FileAttributesError, GuestMemfdFlags, KvmVm, SlotId, SlotListener,
    SlotRules, Slots, VcpusStopped, Vm,
};
use memory_model::{FileSlice, GuestMemfdSides, Memory, MemoryModel, Region, RegionId, SpaceId};
use vfio_dma::listener::{DmaListener, DmaPolicy};
use vfio_dma::{DmaAccess, DmaObstacle, DmaRange, DmaRefusal};
use vfio_private::device::{Device, Iommu, VfioInterface};
use vmm::with_causes;

use super::edu::{Edu, map, unmap};
use super::guest::Exits;
use super::{at, iommu_of, same};
use crate::subject::{Arena, Real, Subject, host_page_size, peek, poke};

/// The host's mapping of a guest_memfd can be pinned. The file itself is not a
/// memfd, so an iommufd refuses it.
pub(super) fn reaches_a_guest_memfd(device: &Device) -> Result<(), String> {
    let edu = Edu::new(device)?;
    let real = Real::new(VmType::Plain, false)?;
    let size = host_page_size();
    let file = real.vm().create_guest_memfd(size, GuestMemfdFlags::all());
    let file = Arc::new(file.map_err(at("a guest_memfd"))?);
    let mapping = real.map_file(file.as_fd(), 0, size, Sharing::Shared);
    let mapping = Arc::new(mapping.map_err(at("its mapping"))?);
    let address = mapping.address();
    // SAFETY: the bytes are in the mapping, to which there are no references.
    unsafe { poke(address, b"in file.") }.map_err(at("memory"))?;

    // SAFETY: `mapping` owns the bytes, to which there are no references.
    let memory = unsafe { HostMemory::new(address, size, mapping) }.ok_or("no memory")?;
    let range = DmaRange::new(RAM, memory, DmaAccess::ReadWrite);
    map(device, &range.map_err(at("a range"))?).map_err(at("mapping"))?;
    edu.carry(RAM, RAM + 8)?;
    same("copied", peek(address + 8), Ok(*b"in file."))?;
    same("unmapped", unmap(device, RAM, size), Ok(size))?;

    if iommu_of(device).interface() == VfioInterface::LegacyGroup {
        return Ok(());
    }
    let file = FileSlice::new(file, 0, size).ok_or("no bytes")?;
    let range = DmaRange::new(RAM, file, DmaAccess::ReadWrite).map_err(at("a range"))?;
    let refused = map(device, &range).map_err(DmaRefusal::obstacle);
    same("as a file", refused, Err(Some(DmaObstacle::Iova)))
}

/// The address of the guest's memory, within reach of the guest and of edu.
const RAM: u64 = 0x1_0000;
const PAGES: u64 = 8;

/// The model, KVM's memslots, the IOMMU's mappings and the conversion engine
/// together: no device reaches a page that the guest has made private.
pub(super) fn follows_conversions(device: &Device) -> Result<(), String> {
    let edu = Edu::new(device)?;
    let mut real = Real::new(VmType::SwProtected, true)?;
    let arena = Arc::new(Arena::new(usize::try_from(PAGES).expect("a few")));
    let page = arena.page_size();
    let home = Home::probe(real.vm()).map_err(at("the home"))?;
    let file = real
        .vm()
        .create_guest_memfd(PAGES * page, home.file_flags());
    let file = Arc::new(file.map_err(at("a guest_memfd"))?);
    let file = FileSlice::new(file, 0, PAGES * page).ok_or("no bytes")?;
    let host = arena.host_memory(0, arena.pages());
    let memory = Memory::with_guest_memfd(host, file, GuestMemfdSides::Private);
    let Confidential {
        mut model,
        space,
        ram,
        engine,
        dma,
    } = Confidential::new(device, &real, memory.ok_or("sizes differ")?)?;

    let mut vmm = Exits::default();
    let mut guest = |gpa, value| {
        real.access(gpa, 8, value, &mut vmm)
            .map_err(at("the guest"))
    };
    let (first, second) = (RAM, RAM + page);
    let mut convert = |private: bool| {
        let request = Request::hypercall(second, 2 * page / PAGE_SIZE, u64::from(private) << 4);
        let mut pages = ModelPages::new(&mut model, space);
        let converted = engine.convert(&mut pages, request.map_err(at("a request"))?);
        converted.map(drop).map_err(at("a conversion"))
    };
    guest(first, Some(0x1111))?;
    edu.carry(first, second + 8)?;
    same("what the guest sees", guest(second + 8, None)?, 0x1111)?;

    convert(true)?;
    same("mappings", dma.table().len() as u64, PAGES - 2)?;
    guest(second + 8, Some(0x2222))?;
    edu.carry(first, second + 8)?;
    same("a private page", guest(second + 8, None)?, 0x2222)?;
    same("its shared side", arena.read(page + 8), Ok([0; 8]))?;
    edu.carry(second + 8, first + 8)?;
    if guest(first + 8, None)? == 0x2222 {
        return Err("a private page was read".into());
    }

    convert(false)?;
    same("mappings", dma.table().len() as u64, PAGES)?;
    same("shared again", guest(second + 8, None)?, 0)?;
    edu.carry(first, second + 8)?;
    same("what the guest sees", guest(second + 8, None)?, 0x1111)?;

    let mut t = model.transaction();
    t.set_enabled(ram, false).map_err(at("ram"))?;
    t.commit().map_err(at("ram"))?;
    same("mappings", dma.table().len(), 0)?;
    edu.carry(first, second)?;
    same("memory that has gone", arena.read(page), Ok([0; 8]))
}

/// A VM with RAM, and a device that reaches the shared pages of it.
struct Confidential {
    model: MemoryModel,
    space: SpaceId,
    ram: RegionId,
    engine: Engine<KvmVm>,
    dma: Arc<DmaListener<Iommu, ()>>,
}

impl Confidential {
    fn new(device: &Device, real: &Real, memory: Memory) -> Result<Self, String> {
        let mut model: MemoryModel = MemoryModel::new();
        let mut t = model.transaction();
        let root = t
            .add(Region::container("memory", 1 << 40))
            .map_err(at("memory"))?;
        let ram = t.add(Region::ram("ram", memory)).map_err(at("ram"))?;
        t.place(ram, root, RAM, 0).map_err(at("ram"))?;
        t.commit().map_err(at("ram"))?;
        let space = model.add_space("memory", root).map_err(at("memory"))?;

        let own = SlotId::try_from(real.own_slot()).map_err(at("a slot"))?;
        let rules = SlotRules::new().reserving(own..=own);
        // SAFETY: the VM's only other slot is the guest's own, whose number `rules`
        // reserves.
        let slots = unsafe { Slots::new(real.vm().clone(), AbiProfile::None) };
        let slots = SlotListener::new(slots.with_rules(rules), VcpusStopped);
        let home = Home::probe(real.vm()).map_err(at("the home"))?;
        let mut engine = Engine::new(real.vm().clone(), home);
        let dma = DmaListener::new(
            iommu_of(device).clone(),
            model.reader(space),
            DmaPolicy::default(),
        );
        let dma = Arc::new(dma.map_err(at("limits"))?);
        model
            .add_listener(space, 0, Arc::new(slots))
            .map_err(|error| with_causes(&error))?;
        model
            .add_listener(space, 1, dma.clone())
            .map_err(|error| with_causes(&error))?;
        engine.add_listener(dma.clone());
        same("mappings", dma.table().len() as u64, PAGES)?;
        Ok(Self {
            model,
            space,
            ram,
            engine,
            dma,
        })
    }
}

/// RAM is one guest_memfd, and the IOMMU's mappings hold its pages: none of them becomes
/// private before the listener has unmapped it.
pub(super) fn follows_conversions_in_place(device: &Device) -> Result<(), String> {
    let edu = Edu::new(device)?;
    let mut real = Real::new(VmType::SwProtected, true)?;
    let page = real.page_size();
    let size = PAGES * page;
    let file = real.vm().create_guest_memfd(size, GuestMemfdFlags::all());
    let file = Arc::new(file.map_err(at("a guest_memfd"))?);
    let mapping = real.map_file(file.as_fd(), 0, size, Sharing::Shared);
    let mapping = Arc::new(mapping.map_err(at("its mapping"))?);
    let address = mapping.address();
    let host = |offset: u64| peek(address + offset).map(u64::from_le_bytes);
    // SAFETY: `mapping` owns the bytes, to which there are no references.
    let memory = unsafe { HostMemory::new(address, size, mapping.clone()) };
    let slice = FileSlice::new(file.clone(), 0, size).ok_or("no bytes")?;
    let memory = Memory::with_guest_memfd(memory.ok_or("no memory")?, slice, GuestMemfdSides::Both);
    let Confidential {
        mut model,
        space,
        engine,
        dma,
        ..
    } = Confidential::new(device, &real, memory.ok_or("sizes differ")?)?;

    let (first, second) = (RAM, RAM + page);
    let vm = real.vm().clone();
    let mut vmm = Exits::default();
    let mut guest = |gpa, value| {
        real.access(gpa, 8, value, &mut vmm)
            .map_err(at("the guest"))
    };
    let mut convert = |private: bool| {
        let request = Request::hypercall(second, 2 * page / PAGE_SIZE, u64::from(private) << 4);
        let mut pages = ModelPages::new(&mut model, space);
        let converted = engine.convert(&mut pages, request.map_err(at("a request"))?);
        converted.map(drop).map_err(at("a conversion"))
    };
    guest(first, Some(0x1111))?;
    edu.carry(first, second + 8)?;
    same("what the guest sees", guest(second + 8, None)?, 0x1111)?;

    // Without the listener: the IOMMU holds the pages.
    let set = vm.set_file_attributes(file.as_fd(), page, 2 * page, MEMORY_ATTRIBUTE_PRIVATE);
    let held = FileAttributesError {
        errno: Errno::EAGAIN,
        pinned_at: Some(page),
    };
    same("pages that are mapped for DMA", set, Err(held))?;
    same("what the host sees", host(page + 8), Ok(0x1111))?;

    convert(true)?;
    same("mappings", dma.table().len() as u64, PAGES - 2)?;
    same("what the host sees", host(page + 8), Err(Errno::EFAULT))?;
    guest(second + 8, Some(0x2222))?;
    edu.carry(first, second + 8)?;
    same("a private page", guest(second + 8, None)?, 0x2222)?;
    edu.carry(second + 8, first + 8)?;
    if guest(first + 8, None)? == 0x2222 {
        return Err("a private page was read".into());
    }

    convert(false)?;
    same("mappings", dma.table().len() as u64, PAGES)?;
    guest(second + 8, Some(0))?;
    edu.carry(first, second + 8)?;
    same("what the guest sees", guest(second + 8, None)?, 0x1111)?;
    same("what the host sees", host(page + 8), Ok(0x1111))
}
