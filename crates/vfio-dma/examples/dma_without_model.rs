// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The same without a memory model: a VMM that has its RAM as a list keeps devices to the
//! shared pages. VM and IOMMU are simulated, so no `/dev/kvm` and no device is needed.
//!
//! `cargo run -p vfio-dma --all-features --example dma_without_model`

use std::error::Error;
use std::sync::Arc;

use kvm_slots::convert::{Converter, ConvertibleMemory, ConvertibleRange, GuestMemfdSides, Home};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
use kvm_slots::{AbiProfile, FileSlice, SlotAccess, SlotBacking, SlotRange, Slots, Vm};
use memmap2::{MmapOptions, MmapRaw};
use vfio_dma::listener::RamListener;
use vfio_dma::{
    AddrRange, DmaAccess, DmaLimits, DmaRange, Gaps, HostMemory, PageSet, SimIommu, SimIommuKind,
};

const PAGE: u64 = 0x1000;
const RAM: u64 = 0x10_0000;
const SIZE: u64 = 4 * PAGE;

fn main() -> Result<(), Box<dyn Error>> {
    let vm = SimVm::new(SimConfig {
        private_pages: true,
        vm_type: VmType::SwProtected,
        ..SimConfig::released(KernelVersion::V7_3)
    });
    let home = Home::probe(&vm)?;

    // The RAM: host memory for its shared pages, and a guest_memfd for the private ones.
    let map = MmapOptions::new().len(SIZE.try_into()?).map_anon()?;
    let map = Arc::new(MmapRaw::from(map));
    // SAFETY: the bytes stay mapped while their owner lives, and nothing here refers to them.
    let host = unsafe { HostMemory::new(map.as_mut_ptr() as u64, SIZE, map) };
    let host = host.ok_or("the RAM is not mapped")?;
    let file = Arc::new(vm.create_guest_memfd(SIZE, home.file_flags())?);
    let file = FileSlice::new(file, 0, SIZE).ok_or("the RAM is empty")?;
    let ram = SlotRange::new(RAM, SlotAccess::ReadWrite, SlotBacking::Host(host.clone()))?;
    let ram = ram.with_guest_memfd(file)?;

    // Its memslot, and the state of its pages.
    // SAFETY: no one else makes slots of this VM.
    let mut slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) };
    let plan = slots.plan(std::slice::from_ref(&ram))?;
    slots.apply(&plan)?;
    let mut memory = ConvertibleMemory::new();
    memory.set_ranges(ConvertibleRange::new(&ram, GuestMemfdSides::Private))?;
    let mut converter = Converter::new(vm, home, memory);

    // What devices reach of it: each page is a mapping of its own.
    let iovas = AddrRange::new(0, 0xfee0_0000).ok_or("no IOVAs")?;
    let limits = DmaLimits::new(PAGE, [iovas], Some(65535))?;
    let iommu = Arc::new(SimIommu::new(SimIommuKind::Type1, limits));
    let dma = Arc::new(RamListener::new(iommu.clone(), Gaps::Refuse)?);
    let range = DmaRange::new(RAM, host, DmaAccess::ReadWrite)?.in_units_of(PAGE)?;
    dma.set_ram([range], &PageSet::new())?;
    converter.add_listener(dma);

    let print = |what: &str| {
        let pages = (RAM..RAM + SIZE).step_by(0x1000);
        let reached = pages.filter(|page| iommu.reach(*page, true).is_some());
        let reached: Vec<String> = reached.map(|page| format!("{page:#x}")).collect();
        println!("{what}: devices reach {}", reached.join(", "));
    };
    print("At the start");
    let _ = converter.hypercall(RAM + PAGE, 2, 1 << 4)?;
    print("Two pages are private");
    let _ = converter.hypercall(RAM + PAGE, 1, 0)?;
    print("One of them is shared again");
    Ok(())
}
