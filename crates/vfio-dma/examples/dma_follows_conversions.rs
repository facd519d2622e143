// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! DMA mappings follow a guest's conversions: which IOMMU calls are made, and when
//! relative to the change of the pages' attributes. VM and IOMMU are simulated, so no
//! `/dev/kvm` and no device is needed.
//!
//! `cargo run -p vfio-dma --all-features --example dma_follows_conversions`

use std::error::Error;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kvm_slots::convert::{Converter, Discard, Home, ModelPages, PrivateStays};
use kvm_slots::kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
use kvm_slots::{Errno, GuestMemfdFlags, Vm};
use memmap2::{MmapOptions, MmapRaw};
use memory_model::{
    AddrRange, FileSlice, GuestMemfdSides, HostMemory, Memory, MemoryModel, Region,
};
use vfio_dma::listener::{DmaListener, DmaPolicy};
use vfio_dma::{AddressSpace, DmaLimits, DmaRange, DmaRefusal, SimIommu, SimIommuKind};

const PAGE: u64 = 0x1000;
const SIZE: u64 = 4 * PAGE;

/// Prints the calls on the IOMMU. The real one is `vfio_private::device::Iommu`.
struct PrintingIommu(SimIommu);

impl AddressSpace for PrintingIommu {
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        println!("  iommu map    {}", range.iova());
        self.0.map(range)
    }

    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        println!("  iommu unmap  {iova}");
        self.0.unmap(iova)
    }

    fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
        self.0.limits()
    }
}

/// Prints the changes of attributes. The real one is `kvm_slots::KvmVm`.
struct PrintingVm(SimVm);

impl Vm for PrintingVm {
    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        let state = match attributes {
            0 => "shared",
            _ => "private",
        };
        println!("  kvm {state:8} {gpa:#x}..={:#x}", gpa + (size - 1));
        self.0.set_memory_attributes(gpa, size, attributes)
    }

    fn check_extension(&self, capability: u32) -> i32 {
        self.0.check_extension(capability)
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        // SAFETY: the caller guarantees the same.
        unsafe { self.0.set_user_memory_region2(region) }
    }

    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        // SAFETY: the caller guarantees the same.
        unsafe { self.0.set_user_memory_region(region) }
    }

    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        self.0.create_guest_memfd(size, flags)
    }

    unsafe fn discard(&self, what: Discard) -> Result<(), Errno> {
        println!("  discard      {what}");
        // SAFETY: the caller guarantees the same.
        unsafe { self.0.discard(what) }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let vm = PrintingVm(SimVm::new(SimConfig {
        private_pages: true,
        vm_type: VmType::SwProtected,
        ..SimConfig::released(KernelVersion::V7_3)
    }));
    let home = Home::probe(&vm)?;
    let file = Arc::new(vm.create_guest_memfd(SIZE, home.file_flags())?);
    let file = FileSlice::new(file, 0, SIZE).ok_or("the RAM is empty")?;
    let map = Arc::new(MmapRaw::from(
        MmapOptions::new().len(SIZE.try_into()?).map_anon()?,
    ));
    // SAFETY: the bytes stay mapped while their owner lives, and nothing here refers to them.
    let host = unsafe { HostMemory::new(map.as_mut_ptr() as u64, SIZE, map) };
    let host = host.ok_or("the RAM is not mapped")?;
    let ram = Memory::with_guest_memfd(host, file, GuestMemfdSides::Private);

    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let root = t.add(Region::container("memory", 1 << 64))?;
    let ram = t.add(Region::ram(
        "ram",
        ram.ok_or("file and RAM differ in size")?,
    ))?;
    t.place(ram, root, 0x10_0000, 0)?;
    t.commit()?;
    let space = model.add_space("memory", root)?;

    let iovas = AddrRange::new(0, 0xfee0_0000).ok_or("no IOVAs")?;
    let limits = DmaLimits::new(PAGE, [iovas], Some(65535))?;
    let iommu = Arc::new(PrintingIommu(SimIommu::new(SimIommuKind::Type1, limits)));
    // By default, each page with a private side is a mapping of its own.
    let policy = DmaPolicy::default();
    let dma = DmaListener::new(iommu.clone(), model.reader(space), policy)?;
    let dma = Arc::new(dma);
    println!("The VMM opens a device: its mappings follow the view.");
    // Above the memslots, which have priority 0 in a VMM.
    model.add_listener(space, 1, dma.clone())?;
    // Refuses transactions that would separate private pages from their memory.
    model.add_listener(space, -1, Arc::new(PrivateStays::new(home)))?;
    let mut converter = Converter::new(vm, home, ModelPages::new(model, space));
    converter.add_listener(dma);

    println!("The guest makes two pages private.");
    let _ = converter.hypercall(0x10_1000, 2, 1 << 4)?;
    println!("The guest makes one of them shared.");
    let _ = converter.hypercall(0x10_1000, 1, 0)?;
    println!("The guest makes the other one shared, and the IOMMU refuses to map it.");
    iommu.0.fail(0, 28);
    match converter.hypercall(0x10_2000, 1, 0) {
        Ok(_) => return Err("the failure was not noticed".into()),
        Err(error) => println!("  the guest gets {}: {error}", error.hypercall_return()),
    }
    for page in 0..4 {
        let iova = 0x10_0000 + page * PAGE;
        let word = match iommu.0.reach(iova, true) {
            Some(_) => "reaches",
            None => "does not reach",
        };
        println!("A device {word} {iova:#x}.");
    }
    Ok(())
}
