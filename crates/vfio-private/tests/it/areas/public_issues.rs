// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Situations that are issues of other VMMs, from the facts about a device to what is mapped.
//!
//! | issue | tests |
//! | --- | --- |
//! | cloud-hypervisor #7939 | `a_sub_page_bar_…` |
//! | cloud-hypervisor #7898 | `areas_around_the_devices_table_…` |
//! | kata-containers #12929 | `a_table_in_the_middle_…` |
//! | firecracker #6183 | `an_access_…` |
//! | cloud-hypervisor #6147 | `a_bar_at_0_…`, `a_bar_over_another_…`, `two_bars_swap_…` |
//!
//! `public_dma_issues.rs` has those about DMA.

use crate::common;

use common::{Device, in_bar, index, span};
use guest_ranges::AddrRange;
use vfio_private::areas::{
    AreaAccessError, AreaChange, BarAreas, DeviceAreas, PlaceError, PlacedArea,
};
use vfio_private::{
    Access, Bar, BarKind, MsixPlacement, PageSize, PbaPolicy, Policy, Reason, Region, Relocation,
    SubPagePolicy,
};

/// The pages of the mapped areas, as offsets and sizes.
fn mapped(areas: &BarAreas) -> Vec<(u64, u64)> {
    let areas = areas.mapped();
    areas.map(|area| (area.offset(), area.size())).collect()
}

/// The guest-physical ranges of areas.
pub(super) fn at(areas: impl Iterator<Item = PlacedArea>) -> Vec<AddrRange> {
    areas.map(PlacedArea::gpa).collect()
}

/// Areas of a device at these places, with decoding on.
pub(super) fn decoding<const B: usize>(bars: [(BarAreas, u64); B]) -> DeviceAreas {
    let device = DeviceAreas::new(bars.map(|(areas, _)| areas)).unwrap();
    let moves = bars.map(|(areas, at)| (areas.bar().index(), Some(at)));
    let device = device.all_moved(moves).unwrap();
    device.with_decoding(true).unwrap()
}

/// A mappable BAR without MSI-X.
pub(super) fn plain(bar: u8, size: u64) -> BarAreas {
    let mut device = Device::with_bar(size);
    device.bar = Bar::new(index(bar), BarKind::Memory, size).unwrap();
    device.areas()
}

/// A BAR of 16 KiB with 136 vectors at 0x2000 and the PBA at 0x3000.
pub(super) fn nvme_16k() -> Device {
    Device::with_bar(0x4000).msix(in_bar(0, 0x2000, 136 * 16), in_bar(0, 0x3000, 24))
}

fn relocate_and_expand() -> Policy {
    let policy = Policy::new().with_msix(MsixPlacement::Relocate);
    policy.with_sub_page(SubPagePolicy::Expand)
}

/// cloud-hypervisor #7939: on a host with pages of 64 KiB, KVM refused a memslot of 16 KiB. What is
/// mapped of an expanded BAR is its whole host page, and the relocated MSI-X structures still trap.
#[test]
fn a_sub_page_bar_is_mapped_as_a_whole_host_page_beside_its_relocated_table() {
    let disk = nvme_16k()
        .page(PageSize::Size64K)
        .policy(relocate_and_expand());
    let relocation = Relocation::new(disk.bar, disk.msix.unwrap(), disk.page).unwrap();
    let areas = disk.areas().enlarged(&relocation).unwrap();
    assert_eq!(mapped(&areas), [(0, 0x1_0000)]);
    let table = areas.find(relocation.msix.table.range.start(), 16).unwrap();
    assert_eq!(table.access(), Access::Trap);
    let pages = areas.mapped().next().unwrap().pages();
    assert!(!pages.overlaps(relocation.msix.table.range));
    // Without the relocation, the page of the table is the only page: it traps.
    let carved = nvme_16k().page(PageSize::Size64K);
    let expand = Policy::new().with_sub_page(SubPagePolicy::Expand);
    assert_eq!(mapped(&carved.policy(expand).areas()), []);
}

/// cloud-hypervisor #7939: a guest with pages of 4 KiB can put a small BAR into a part of a host page,
/// where no memslot is possible. The BAR traps there, and is mapped again at a better place.
#[test]
fn a_sub_page_bar_traps_where_it_has_no_host_page_to_itself() {
    let expand = Policy::new().with_sub_page(SubPagePolicy::Expand);
    let small = Device::with_bar(0x4000).page(PageSize::Size64K);
    let other = plain(2, 0x1000);
    let aligned = decoding([
        (small.policy(expand).areas(), 0xe000_0000),
        (other, 0xf000_0000),
    ]);
    assert_eq!(at(aligned.mapped())[0], span(0xe000_0000, 0x1_0000));

    let off_page = aligned.moved(index(0), Some(0xe000_4000)).unwrap();
    let change = AreaChange::between(&aligned, &off_page);
    assert_eq!(at(change.unmaps()), [span(0xe000_0000, 0x1_0000)]);
    assert_eq!(at(change.maps()), []);
    let found = off_page.find(0xe000_4010, 4).unwrap();
    assert_eq!((found.offset, found.piece.access()), (0x10, Access::Trap));
    assert!(found.piece.reasons().contains(Reason::SubPageBar));

    // The other BAR moves into the host page: a memslot of the page would hide it.
    let shared = aligned.moved(index(2), Some(0xe000_8000)).unwrap();
    let change = AreaChange::between(&aligned, &shared);
    assert!(at(change.unmaps()).contains(&span(0xe000_0000, 0x1_0000)));
    assert_eq!(shared.find(0xe000_8000, 4).unwrap().bar, index(2));
    assert_eq!(
        shared.find(0xe000_0000, 4).unwrap().piece.access(),
        Access::Trap
    );
}

/// cloud-hypervisor #7898: holes were cut where the guest finds the relocated table, behind the end
/// of the device's BAR, and the kernel refused to map the rest. Areas are cut by the device's own
/// offsets, and all of them are inside its BAR.
#[test]
fn areas_around_the_devices_table_stay_inside_the_bar_when_msix_is_relocated() {
    let (table, pba) = (in_bar(0, 0x5200, 129 * 16), in_bar(0, 0xd600, 24));
    let mut disk = Device::with_bar(0x1_0000)
        .msix(table, pba)
        .policy(Policy::new().with_msix(MsixPlacement::Relocate));
    let relocation = Relocation::new(disk.bar, disk.msix.unwrap(), disk.page).unwrap();
    let areas = disk.areas().enlarged(&relocation).unwrap();
    assert_eq!(mapped(&areas), [(0, 0x1_0000)]);
    assert_eq!(areas.find(0x5200, 4).unwrap().access(), Access::Shared);
    for place in [relocation.msix.table, relocation.msix.pba] {
        let piece = areas.find(place.range.start(), 8).unwrap();
        assert_eq!(
            (piece.range(), piece.access()),
            (span(0x1_0000, 0x1_0000), Access::Trap)
        );
    }

    // A kernel that offers sparse areas around its table: they still have the device's offsets.
    disk.region.msix_mappable = false;
    let disk = disk.sparse(&[(0, 0x5000), (0x6000, 0xa000)]);
    let areas = disk.areas().enlarged(&relocation).unwrap();
    assert_eq!(mapped(&areas), [(0, 0x5000), (0x6000, 0xa000)]);
}

/// kata-containers #12929: with the table in the middle of a BAR, the kernel offers two areas. The
/// second was dropped, the trap was not set up, and no interrupt arrived.
#[test]
fn a_table_in_the_middle_of_a_bar_leaves_every_area_and_traps() {
    let disk = || {
        let disk = Device::with_bar(0x8000)
            .msix(in_bar(0, 0x4000, 513 * 16), in_bar(0, 0x3000, 72))
            .sparse(&[(0, 0x4000), (0x7000, 0x1000)]);
        let mut disk = disk;
        disk.region.msix_mappable = false;
        disk
    };
    let areas = disk().areas();
    assert_eq!(mapped(&areas), [(0, 0x3000), (0x7000, 0x1000)]);
    let map_pba = Policy::new().with_pba(PbaPolicy::Map);
    let areas = disk().policy(map_pba).areas();
    assert_eq!(mapped(&areas), [(0, 0x4000), (0x7000, 0x1000)]);
    for vector in [0, 1, 256, 512] {
        let control = areas.find(0x4000 + vector * 16 + 12, 4).unwrap();
        assert_eq!(control.access(), Access::Trap);
        assert!(control.reasons().contains(Reason::MsixTable));
    }
}

/// firecracker #6183: an access was matched with an area by where the area starts, so that its last
/// bytes could be behind the area.
#[test]
fn an_access_is_matched_by_all_of_its_bytes() {
    let device = decoding([(nvme_16k().areas(), 0xe000_0000)]);
    let last = device.find(0xe000_1ff8, 8).unwrap();
    assert_eq!((last.offset, last.piece.range()), (0x1ff8, span(0, 0x2000)));
    let into_the_table = AreaAccessError::LeavesArea {
        bar: index(0),
        range: span(0x1ff9, 8),
        area: span(0, 0x2000),
    };
    assert_eq!(device.find(0xe000_1ff9, 8), Err(into_the_table));
    let out_of_the_bar = AreaAccessError::LeavesBar {
        bar: index(0),
        range: span(0x3ffc, 8),
        bar_size: 0x4000,
    };
    assert_eq!(device.find(0xe000_3ffc, 8), Err(out_of_the_bar));
    let before_the_bar = AreaAccessError::NoBar {
        range: span(0xdfff_fffc, 8),
    };
    assert_eq!(device.find(0xdfff_fffc, 8), Err(before_the_bar));
}

/// firecracker #6183: an access in the middle of an area is found, too, with its offset in the BAR.
#[test]
fn an_access_behind_the_start_of_an_area_has_its_offset_in_the_bar() {
    let device = decoding([(nvme_16k().areas(), 0xe000_0000)]);
    let found = device.find(0xe000_2884, 4).unwrap();
    assert_eq!((found.bar, found.offset), (index(0), 0x2884));
    assert_eq!(found.piece.access(), Access::Trap);
}

/// cloud-hypervisor #6147: a guest wrote 0 to a BAR, and the VMM failed to move it there. The address
/// is refused, the areas are as before, and the BAR can be without a place.
#[test]
fn a_bar_at_0_is_refused_and_can_be_unmapped_instead() {
    let device = decoding([(plain(0, 0x8_0000), 0xe7f0_0000)]);
    let error = device.moved(index(0), Some(0)).unwrap_err();
    assert_eq!(error, PlaceError::AtZero { bar: index(0) });
    assert_eq!(device.place(index(0)), Some(0xe7f0_0000));

    let nowhere = device.moved(index(0), None).unwrap();
    let change = AreaChange::between(&device, &nowhere);
    assert_eq!(at(change.unmaps()), [span(0xe7f0_0000, 0x8_0000)]);
    assert_eq!(at(change.dma_unmaps()), [span(0xe7f0_0000, 0x8_0000)]);
    assert_eq!(at(change.maps()), []);
    let none = AreaAccessError::NoBar {
        range: span(0xe7f0_0000, 4),
    };
    assert_eq!(nowhere.find(0xe7f0_0000, 4), Err(none));
}

/// cloud-hypervisor #6147: the guest moves a BAR over another one of the device. While decoding is
/// off, this is an ordinary step on the way to other addresses.
#[test]
fn a_bar_over_another_is_refused_while_the_device_decodes() {
    let bars = [
        (plain(0, 0x4000), 0xe000_0000),
        (plain(2, 0x1_0000), 0xe001_0000),
    ];
    let device = decoding(bars);
    let overlap = PlaceError::Overlap {
        bar: index(0),
        range: span(0xe001_4000, 0x4000),
        other: index(2),
        other_range: span(0xe001_0000, 0x1_0000),
    };
    assert_eq!(device.moved(index(0), Some(0xe001_4000)), Err(overlap));

    let off = device.with_decoding(false).unwrap();
    assert_eq!(off.mapped().count(), 0);
    let range = span(0xe000_0000, 4);
    assert_eq!(
        off.find(0xe000_0000, 4),
        Err(AreaAccessError::DecodeOff { range })
    );
    let over = off.moved(index(0), Some(0xe001_4000)).unwrap();
    assert!(AreaChange::between(&off, &over).is_empty());
    assert_eq!(over.with_decoding(true), Err(overlap));
    let apart = over.moved(index(2), Some(0xe000_0000)).unwrap();
    let on = apart.with_decoding(true).unwrap();
    let expected = [span(0xe001_4000, 0x4000), span(0xe000_0000, 0x1_0000)];
    assert_eq!(at(on.mapped()), expected);
}

/// cloud-hypervisor #6147: two BARs take each other's place at once. Each is unmapped before either
/// is mapped.
#[test]
fn two_bars_swap_their_places() {
    let (one, other) = (span(0xe000_0000, 0x4000), span(0xe001_0000, 0x4000));
    let bars = [
        (plain(0, 0x4000), one.start()),
        (plain(2, 0x4000), other.start()),
    ];
    let device = decoding(bars);
    assert!(device.moved(index(0), Some(other.start())).is_err());
    let moves = [
        (index(0), Some(other.start())),
        (index(2), Some(one.start())),
    ];
    let swapped = device.all_moved(moves).unwrap();
    let change = AreaChange::between(&device, &swapped);
    assert_eq!(at(change.unmaps()), [one, other]);
    assert_eq!(at(change.maps()), [other, one]);
}

/// The flags and areas that `vfio-ioctls` has are enough for a [`Region`].
#[test]
fn a_region_is_made_of_flags_and_areas() {
    let mut region = Region::of_flags(0xf);
    assert_eq!((region.mmap, region.msix_mappable), (true, false));
    assert!(!Region::of_flags(0x3).mmap);
    region.sparse = Some([(0, 0x1000), (0x2000, 0x2000)].map(Into::into).to_vec());
    let bar = Bar::new(index(0), BarKind::Memory, 0x4000).unwrap();
    let input = vfio_private::BarInput::new(bar, &region);
    let areas = BarAreas::carve(&input, PageSize::Size4K, Policy::new()).unwrap();
    assert_eq!(mapped(&areas), [(0, 0x1000), (0x2000, 0x2000)]);
}
