// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Moves a device's BAR in the guest's memory: its memslots, and the DMA mappings of other devices.
//!
//!     cargo run --example bar_move
//!
//! The lists of an `AreaChange` go to `kvm-slots` and to `vfio-dma`, which undo what they have done if
//! a step fails. KVM and the IOMMU are simulated.

use std::error::Error;
use std::sync::Arc;

use guest_ranges::{AddrRange, HostMemory};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{AbiProfile, Change, RangeError, SlotAccess, SlotBacking, SlotRange, Slots};
use memmap2::{MmapOptions, MmapRaw};
use vfio_dma::{
    DmaLimits, DmaTable, Gaps, SimIommu, SimIommuKind, apply_dma, plan_dma_change, undo_dma,
};
use vfio_private::areas::{AreaChange, BarAreas, DeviceAreas, PlacedArea};
use vfio_private::{Bar, BarIndex, BarInput, BarKind, Msix, PageSize, Policy, Region};

/// What follows the areas of a device.
struct Vmm {
    slots: Slots<SimVm>,
    iommu: SimIommu,
    limits: DmaLimits,
    table: DmaTable,
    /// The VMM's mapping of the BAR. A real one has a mapping for each area.
    mapping: HostMemory,
}

impl Vmm {
    fn new(bar: Bar) -> Result<Self, Box<dyn Error>> {
        let vm = SimVm::new(SimConfig::released(KernelVersion::V7_3));
        // SAFETY: no one else makes slots of this VM.
        let slots = unsafe { Slots::new(vm, AbiProfile::None) };
        let limits = DmaLimits::new(0x1000, [AddrRange::ALL], Some(65535))?;
        // In place of a mapping of the device's file.
        let map = MmapOptions::new().len(bar.size().try_into()?).map_anon()?;
        let map = Arc::new(MmapRaw::from(map));
        // SAFETY: the bytes stay mapped while their owner lives, and nothing here refers to them.
        let mapping = unsafe { HostMemory::new(map.as_mut_ptr() as u64, bar.size(), map) };
        Ok(Self {
            slots,
            iommu: SimIommu::new(SimIommuKind::Type1, limits.clone()),
            limits,
            table: DmaTable::new(),
            mapping: mapping.ok_or("the BAR is not mapped")?,
        })
    }

    /// The memory of an area, wherever the BAR is.
    fn memory(&self, placed: PlacedArea) -> Option<HostMemory> {
        let area = placed.area();
        self.mapping.slice(area.offset(), area.size())
    }

    /// The memslots of areas. Private areas would be `SlotBacking::FdOffset`.
    fn slots(
        &self,
        areas: impl Iterator<Item = PlacedArea>,
    ) -> Result<Vec<SlotRange>, Box<dyn Error>> {
        let slot = |placed: PlacedArea| -> Result<SlotRange, Box<dyn Error>> {
            let memory = self.memory(placed).ok_or("no memory")?;
            let backing = SlotBacking::Host(memory);
            let slot: Result<_, RangeError> =
                SlotRange::new(placed.gpa().start(), SlotAccess::ReadWrite, backing);
            Ok(slot?)
        };
        areas.map(slot).collect()
    }

    /// Plans both changes, so that none is made if the other one is impossible, and carries them out. If
    /// KVM refuses, other devices have the BAR where the guest has it.
    fn follow(&mut self, change: AreaChange<'_>) -> Result<(), Box<dyn Error>> {
        let (removed, added) = (self.slots(change.unmaps())?, self.slots(change.maps())?);
        let plan = self.slots.plan_change(&Change::new(&removed, &added))?;
        let lists = change.dma_lists(|placed| self.memory(placed))?;
        let dma = plan_dma_change(&self.table, &lists.change(), &self.limits, Gaps::Refuse)?;
        plan.ops().iter().for_each(|op| println!("  KVM: {op}"));
        dma.ops.iter().for_each(|op| println!("  IOMMU: {op}"));

        let mapped = apply_dma(&self.iommu, &dma, &mut self.table)?;
        if let Err(error) = self.slots.apply(&plan) {
            for left in undo_dma(&self.iommu, mapped, &mut self.table) {
                eprintln!("not undone: {left}");
            }
            return Err(error.into());
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // A BAR with registers, the MSI-X table, and more registers.
    let index = BarIndex::new(0)?;
    let bar = Bar::new(index, BarKind::Memory, 0x4000)?;
    let region = Region::mappable();
    let msix = Msix::with_vectors(33, (index, 0x2000), (index, 0x2800))?;
    let input = BarInput::new(bar, &region).with_msix(Some(msix));
    let areas = BarAreas::carve(&input, PageSize::Size4K, Policy::new())?;
    let mut vmm = Vmm::new(bar)?;

    println!("The guest switches memory decoding on:");
    let none = DeviceAreas::new([areas])?.moved(index, Some(0xe000_0000))?;
    let device = none.with_decoding(true)?;
    vmm.follow(AreaChange::between(&none, &device))?;
    println!("It moves the BAR:");
    let moved = device.moved(index, Some(0xf000_0000))?;
    vmm.follow(AreaChange::between(&device, &moved))?;
    let mappings = vmm.iommu.mappings();
    println!("Mappings that other devices have of the BAR: {mappings}");
    Ok(())
}
