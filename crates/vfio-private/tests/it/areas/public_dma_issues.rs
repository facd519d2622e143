// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Situations that are issues of other VMMs, about what devices reach of each other's BARs.
//!
//! | issue | tests |
//! | --- | --- |
//! | openvmm #3367 | `unmapped_ranges_…` |
//! | cloud-hypervisor #7027 | `the_iommu_follows_…` |
//! | cloud-hypervisor #6329 | `a_dma_range_…` |
//!
//! The tests of the crate `vfio-dma` have the same issues for its plans.

use super::public_issues::{at, decoding, nvme_16k, plain};
use crate::common;

use common::{Device, index, span};
use guest_ranges::HostMemory;
use vfio_dma::{
    DmaLimits, DmaMemory, DmaTable, Gaps, SimIommu, SimIommuKind, apply_dma, plan_dma_change,
};
use vfio_private::Access;
use vfio_private::areas::{AreaAccessError, AreaChange, AreaDmaError, DeviceAreas, PlacedArea};

/// openvmm #3367: type1 accepts an unmap that is wider than the mapping, and unmaps what else is
/// there. Unmapped ranges are the mapped ones, however large the BAR is.
#[test]
fn unmapped_ranges_are_exactly_the_mapped_ones() {
    let none = DeviceAreas::new([nvme_16k().areas(), plain(2, 0x1000)]).unwrap();
    let moves = [(index(0), Some(0xe000_0000)), (index(2), Some(0xe000_4000))];
    let device = none.all_moved(moves).unwrap().with_decoding(true).unwrap();
    let boot = AreaChange::between(&none, &device);
    let in_bar_0 = span(0xe000_0000, 0x2000);
    assert_eq!(at(boot.dma_maps()), [in_bar_0, span(0xe000_4000, 0x1000)]);

    let moved = device.moved(index(0), Some(0xf000_0000)).unwrap();
    let change = AreaChange::between(&device, &moved);
    // Neither the trapped half of the BAR nor the BAR right behind it.
    assert_eq!(at(change.unmaps()), [in_bar_0]);
    assert_eq!(at(change.dma_unmaps()), [in_bar_0]);
    let off = AreaChange::between(&moved, &none);
    assert!(off.unmaps().eq(moved.mapped()) && off.dma_unmaps().eq(moved.dma()));
}

/// An IOMMU that follows a device's areas. Each area has memory of its own.
struct Iommu {
    space: SimIommu,
    table: DmaTable,
    limits: DmaLimits,
    memory: HostMemory,
}

impl Iommu {
    fn new() -> Self {
        let limits = DmaLimits::new(0x1000, [span(0, 1 << 40)], Some(65535)).unwrap();
        Self {
            space: SimIommu::new(SimIommuKind::Type1, limits.clone()),
            table: DmaTable::new(),
            limits,
            memory: HostMemory::placeholder(0x10_0000).unwrap(),
        }
    }

    /// The VMM's mapping of BAR 0.
    fn memory(&self, placed: PlacedArea) -> Option<HostMemory> {
        let area = placed.area();
        self.memory.slice(area.offset(), area.size())
    }

    fn follow(&mut self, change: AreaChange<'_>) {
        let lists = change.dma_lists(|area| self.memory(area)).unwrap();
        let change = lists.change();
        let plan = plan_dma_change(&self.table, &change, &self.limits, Gaps::Refuse).unwrap();
        let _ = apply_dma(&self.space, &plan, &mut self.table).unwrap();
    }

    /// The offset in the BAR that other devices reach at an address.
    fn reach(&self, iova: u64) -> Option<u64> {
        match self.space.reach(iova, true)? {
            DmaMemory::Host(host) => Some(host.address() - self.memory.address()),
            DmaMemory::File(_) => None,
        }
    }
}

/// cloud-hypervisor #7027: a BAR moved in KVM, and its IOMMU mappings stayed where it had been.
#[test]
fn the_iommu_follows_a_bar_that_moves() {
    let mut iommu = Iommu::new();
    let none = DeviceAreas::new([nvme_16k().areas()]).unwrap();
    let device = none.moved(index(0), Some(0xe000_0000)).unwrap();
    let device = device.with_decoding(true).unwrap();
    iommu.follow(AreaChange::between(&none, &device));
    assert_eq!(iommu.reach(0xe000_1004), Some(0x1004));
    assert_eq!(iommu.reach(0xe000_2000), None);

    let moved = device.moved(index(0), Some(0xf000_0000)).unwrap();
    iommu.follow(AreaChange::between(&device, &moved));
    let old = (0xe000_0000..0xe000_4000_u64).step_by(0x1000);
    assert!(old.clone().all(|iova| iommu.reach(iova).is_none()));
    assert_eq!(iommu.reach(0xf000_1004), Some(0x1004));
    assert_eq!(iommu.space.mappings(), moved.dma().count());

    // Decoding off, for a reset for example: nothing is left.
    let off = moved.with_decoding(false).unwrap();
    iommu.follow(AreaChange::between(&moved, &off));
    assert_eq!(iommu.space.mappings(), 0);
    iommu.follow(AreaChange::between(&off, &moved));
    assert_eq!(iommu.reach(0xf000_1004), Some(0x1004));
}

/// cloud-hypervisor #6329: a DMA range that several regions back passed the check of its address,
/// although it has no one host address. Here, one area must hold all of it.
#[test]
fn a_dma_range_over_several_areas_has_no_host_address() {
    // Two areas with a hole, then another BAR right behind.
    let hole = Device::with_bar(0x8000).sparse(&[(0, 0x3000), (0x5000, 0x3000)]);
    let device = decoding([(hole.areas(), 0xe000_0000), (plain(2, 0x4000), 0xe000_8000)]);
    let whole = device.find_dma(0xe000_5000, 0x3000).unwrap();
    assert_eq!((whole.bar(), whole.area().offset()), (index(0), 0x5000));
    assert_eq!(whole.gpa(), span(0xe000_5000, 0x3000));

    let over_the_hole = AreaAccessError::LeavesArea {
        bar: index(0),
        range: span(0x2000, 0x4000),
        area: span(0, 0x3000),
    };
    assert_eq!(device.find_dma(0xe000_2000, 0x4000), Err(over_the_hole));
    let into_the_next_bar = AreaAccessError::LeavesBar {
        bar: index(0),
        range: span(0x7000, 0x2000),
        bar_size: 0x8000,
    };
    assert_eq!(device.find_dma(0xe000_7000, 0x2000), Err(into_the_next_bar));
    let trapped = AreaAccessError::NotForDma {
        bar: index(0),
        range: span(0x3000, 0x2000),
        access: Access::Trap,
    };
    assert_eq!(device.find_dma(0xe000_3000, 0x1000), Err(trapped));
}

#[test]
fn an_area_without_memory_or_with_memory_of_another_size_is_not_mapped() {
    let none = DeviceAreas::new([nvme_16k().areas()]).unwrap();
    let device = none.moved(index(0), Some(0xe000_0000)).unwrap();
    let device = device.with_decoding(true).unwrap();
    let change = AreaChange::between(&none, &device);
    let area = device.dma().next().unwrap();
    let missing = change.dma_lists(|_| None::<HostMemory>);
    assert_eq!(missing, Err(AreaDmaError::NoMemory { area }));
    let size = area.area().size() + 0x1000;
    let larger = change.dma_lists(|_| HostMemory::placeholder(size));
    assert_eq!(larger, Err(AreaDmaError::WrongSize { area, size }));
    // What is only unmapped needs no memory.
    let lists = change.undo().dma_lists(|_| None::<HostMemory>).unwrap();
    assert_eq!(lists.change().removed, at(device.dma()));
}
