// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Gives a device's registers to a guest without mapping them in the VMM.
//!
//!     cargo run --example mmio_without_mapping
//!
//! The device has attested its registers as private. VFIO exports them as a dma-buf, and KVM takes
//! the file instead of a host address. No released kernel has such memslots, so KVM is simulated.

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kvm_slots::exit::MmioHandler;
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{AbiProfile, DeviceFile, FileSlice, SlotAccess, SlotBacking, SlotRange, Slots};
use vfio_private::areas::{BarAreas, DeviceAreas};
use vfio_private::{
    Bar, BarIndex, BarInput, BarKind, Msix, PageSize, Policy, Region, ReportedRange, TeeKind,
};

/// Answers the guest's accesses that exit.
struct Vmm<'a>(&'a DeviceAreas);

impl MmioHandler for Vmm<'_> {
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        match self.0.find(gpa, data.len() as u64) {
            Ok(found) => println!(
                "  exit: {} + {:#x}, {}",
                found.bar, found.offset, found.piece
            ),
            Err(error) => println!("  exit: {error}"),
        }
        data.fill(0);
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}
}

fn main() -> Result<(), Box<dyn Error>> {
    // What the device is: a BAR with registers, the MSI-X table, and more registers.
    let index = BarIndex::new(0)?;
    let bar = Bar::new(index, BarKind::Memory, 0x4000)?;
    let region = Region::mappable();
    let private = |at, size| ReportedRange::new(at, size, TeeKind::Tee);
    let report = [private(0, 0x2000)?, private(0x3000, 0x1000)?];
    let msix = Msix::with_vectors(33, (index, 0x2000), (index, 0x2800))?;
    let input = BarInput::new(bar, &region);
    let input = input.with_msix(Some(msix)).with_report(Some(&report));
    let areas = BarAreas::carve(&input, PageSize::Size4K, Policy::new())?;
    let device = DeviceAreas::new([areas])?.moved(index, Some(0xe000_0000))?;
    let device = device.with_decoding(true)?;

    // A kernel with such memslots, and a file in place of VFIO's dma-buf of the BAR.
    let mut config = SimConfig::released(KernelVersion::V7_3);
    config.abi = AbiProfile::FD_OFFSET_BIT_4;
    let vm = SimVm::new(config);
    let dma_buf = Arc::new(File::from(vm.create_dma_buf(bar.size())?));
    dma_buf.write_all_at(b"REGISTER", 0x1000)?;
    // SAFETY: no one else makes slots of this VM.
    let mut slots = unsafe { Slots::new(vm, AbiProfile::FD_OFFSET_BIT_4) };

    println!("The areas become memslots without a host address:");
    let mut ranges = Vec::new();
    for placed in device.mapped() {
        let (offset, size) = (placed.area().offset(), placed.area().size());
        let slice = FileSlice::new(dma_buf.clone(), offset, size).ok_or("an empty area")?;
        let backing = SlotBacking::FdOffset(DeviceFile::new(slice));
        let gpa = placed.gpa().start();
        ranges.push(SlotRange::new(gpa, SlotAccess::ReadWrite, backing)?);
        println!("  {placed}");
    }
    let plan = slots.plan(&ranges)?;
    plan.ops().iter().for_each(|op| println!("  {op}"));
    slots.apply(&plan)?;
    let vm = slots.vm();

    println!("The guest reads a register, without an exit:");
    let mut data = [0; 8];
    vm.guest_load(0xe000_1000, &mut data, &mut Vmm(&device))?;
    println!("  {}", String::from_utf8_lossy(&data));
    println!("The guest reads the MSI-X table, which the VMM answers:");
    vm.guest_load(0xe000_2010, &mut data, &mut Vmm(&device))?;
    let reached = device.dma().count();
    println!("Areas that other devices reach by a host address: {reached}");
    Ok(())
}
