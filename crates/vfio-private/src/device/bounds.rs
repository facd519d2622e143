// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which bytes of a region can be accessed and mapped, and where they are in the device's file.

use guest_ranges::{AddrRange, PageSize};

use super::error::DeviceError;
use crate::bar::BarIndex;
use crate::piece::Piece;
use crate::reason::Reason;
use crate::region_info::RegionInfo;

/// The offset in the device's file of bytes to read or write.
pub(super) fn of_access(region: &RegionInfo, offset: u64, len: u64) -> Result<u64, DeviceError> {
    within(region.size, region, offset, len)
}

/// The offset in the device's file of bytes to map.
pub(super) fn of_mapping(
    region: &RegionInfo,
    range: AddrRange,
    page: PageSize,
) -> Result<u64, DeviceError> {
    let size = match is_expandable(region, page) {
        true => page.bytes(),
        false => region.size,
    };
    // 2^64 bytes leave every region.
    let len = range.size_u64().unwrap_or(u64::MAX);
    within(size, region, range.start(), len)
}

/// What to map for a shared piece: its bytes, or the host page of an expanded BAR.
pub(super) fn pages_of_piece(piece: Piece, page: PageSize) -> AddrRange {
    match piece.reasons().contains(Reason::ExpandedBar) {
        true => page.round_out(piece.range()),
        false => piece.range(),
    }
}

/// Whether a region is a BAR that can be mapped with the rest of its host page.
///
/// For a BAR smaller than a page, vfio-pci sets the mmap flag only if the BAR starts on a page and the
/// rest of the page could be reserved (`vfio_pci_probe_mmaps` in drivers/vfio/pci/vfio_pci_core.c). The
/// last page of a larger BAR is not reserved, so nothing behind the end of such a BAR is mapped.
fn is_expandable(region: &RegionInfo, page: PageSize) -> bool {
    let is_bar = region.index < u32::from(BarIndex::COUNT);
    is_bar && region.region.mmap && (1..page.bytes()).contains(&region.size)
}

fn within(size: u64, region: &RegionInfo, offset: u64, len: u64) -> Result<u64, DeviceError> {
    let is_inside = offset.checked_add(len).is_some_and(|end| end <= size);
    let at = region.offset.checked_add(offset).filter(|_| is_inside);
    at.ok_or(DeviceError::Outside {
        offset,
        len,
        size: region.size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::areas::{BarAreas, MappedArea};
    use crate::{Bar, BarInput, BarKind, Policy, SubPagePolicy};
    use vfio_bindings::bindings::vfio as uapi;

    /// Where vfio-pci has region 1 in the device's file.
    const OFFSET: u64 = 1 << 40;

    fn region(index: u32, size: u64, flags: u32) -> RegionInfo {
        let mut bytes = Vec::new();
        bytes.extend([32, flags, index, 0].map(u32::to_ne_bytes).as_flattened());
        bytes.extend([size, OFFSET].map(u64::to_ne_bytes).as_flattened());
        RegionInfo::parse(&bytes).unwrap()
    }

    fn bar(size: u64) -> RegionInfo {
        region(1, size, uapi::VFIO_REGION_INFO_FLAG_MMAP)
    }

    fn range(start: u64, end: u64) -> AddrRange {
        AddrRange::from_bounds(start, end - 1).unwrap()
    }

    fn outside(offset: u64, len: u64, size: u64) -> Result<u64, DeviceError> {
        Err(DeviceError::Outside { offset, len, size })
    }

    #[test]
    fn a_bar_smaller_than_a_page_can_be_mapped_to_the_end_of_its_page() {
        for page in PageSize::ALL {
            let size = page.bytes();
            for of_bar in [0x10, 0x100, size / 2] {
                let bar = bar(of_bar);
                for end in [1, of_bar, of_bar + 1, size] {
                    assert_eq!(of_mapping(&bar, range(0, end), page), Ok(OFFSET));
                }
                let next = of_mapping(&bar, range(0, size + 1), page);
                assert_eq!(next, outside(0, size + 1, of_bar));
                let next = of_mapping(&bar, range(size, size + 1), page);
                assert_eq!(next, outside(size, 1, of_bar));
                assert_eq!(of_access(&bar, 0, of_bar), Ok(OFFSET));
                assert_eq!(of_access(&bar, of_bar, 1), outside(of_bar, 1, of_bar));
            }
        }
    }

    #[test]
    fn nothing_behind_any_other_region_can_be_mapped() {
        let page = PageSize::Size64K;
        let mmap = uapi::VFIO_REGION_INFO_FLAG_MMAP;
        let regions = [
            bar(0x1_0000),
            bar(0x2_0000),
            // Of Enhanced Allocation. The kernel maps it with its last page, which it does not reserve.
            bar(0x1_4000),
            // A BAR that shares its page, or an I/O BAR.
            region(1, 0x4000, 0),
            region(uapi::VFIO_PCI_ROM_REGION_INDEX, 0x4000, mmap),
            region(uapi::VFIO_PCI_CONFIG_REGION_INDEX, 0x1000, mmap),
            // Of a vendor's driver.
            region(uapi::VFIO_PCI_NUM_REGIONS, 0x4000, mmap),
        ];
        for region in regions {
            let size = region.size;
            assert_eq!(of_mapping(&region, range(0, size), page), Ok(OFFSET));
            let behind = of_mapping(&region, range(0, size + 1), page);
            assert_eq!(behind, outside(0, size + 1, size));
        }
        let none = of_mapping(&bar(0), range(0, 1), page);
        assert_eq!(none, outside(0, 1, 0));
    }

    #[test]
    fn an_expanded_piece_is_mapped_as_a_whole_page() {
        let policy = Policy::new().with_sub_page(SubPagePolicy::Expand);
        for (size, due) in [
            (0x4000, 0x1_0000),
            (0x1_0000, 0x1_0000),
            (0x2_0000, 0x2_0000),
        ] {
            let region = bar(size);
            let bar = Bar::new(BarIndex::new(1).unwrap(), BarKind::Memory, size).unwrap();
            let input = BarInput::new(bar, &region.region);
            let page = PageSize::Size64K;
            let areas = BarAreas::carve(&input, page, policy).unwrap();
            let mapped: Vec<AddrRange> = areas.mapped().map(MappedArea::pages).collect();
            assert_eq!(mapped, [range(0, due)]);
            assert_eq!(of_mapping(&region, mapped[0], page), Ok(OFFSET));
            let pieces = areas.all().iter();
            let pages: Vec<AddrRange> = pieces.map(|p| pages_of_piece(*p, page)).collect();
            assert_eq!(pages, mapped);
        }
    }

    #[test]
    fn bytes_that_wrap_are_outside() {
        let page = PageSize::Size4K;
        let bar = bar(0x4000);
        let end = u64::MAX;
        assert_eq!(of_access(&bar, end, 2), outside(end, 2, 0x4000));
        let all = of_mapping(&bar, AddrRange::ALL, page);
        assert_eq!(all, outside(0, end, 0x4000));
    }
}
