// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! VFIO's info of a container as the ioctl returns it.

use crate::common::bytes::container;
use vfio_private::iommu_info::{IommuInfo, IommuInfoError};
use vfio_private::{AddrRange, PageSize};

fn put(mut bytes: Vec<u8>, at: usize, value: u32) -> Vec<u8> {
    bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    bytes
}

fn iovas() -> [AddrRange; 2] {
    let ranges = [(0, 0xfedf_ffff), (0xfef0_0000, u64::MAX)];
    ranges.map(|(first, last)| AddrRange::from_bounds(first, last).unwrap())
}

#[test]
fn page_sizes_ranges_and_the_number_of_mappings_are_read() {
    let info = IommuInfo::parse(&container()).unwrap();
    assert_eq!(info.page_sizes, Some(0x4020_1000));
    assert_eq!(info.iovas, Some(iovas().to_vec()));
    assert_eq!(info.available, Some(65535));
}

#[test]
fn a_kernel_without_capabilities_reports_only_its_page_sizes() {
    let bytes = put(container(), 4, 1);
    let info = IommuInfo::parse(&bytes).unwrap();
    assert_eq!(info.page_sizes, Some(0x4020_1000));
    assert_eq!((info.iovas, info.available), (None, None));
    let bytes = put(put(container(), 4, 0), 0, 16);
    assert_eq!(IommuInfo::parse(&bytes[..16]).unwrap().page_sizes, None);
}

#[test]
fn too_small_a_buffer_is_an_error_that_says_how_large_it_must_be() {
    for len in 0..16 {
        let error = IommuInfoError::Short { len };
        assert_eq!(IommuInfo::parse(&container()[..len]), Err(error));
    }
    let error = IommuInfoError::Incomplete { argsz: 88, len: 24 };
    assert_eq!(IommuInfo::parse(&container()[..24]), Err(error));
}

#[test]
fn a_chain_without_an_end_and_a_count_without_ranges_are_errors() {
    let truncated = |offset| IommuInfoError::Truncated { offset, len: 88 };
    let cases = [
        (76, 24_u32, IommuInfoError::Twice { offset: 24, id: 1 }),
        (76, 8, IommuInfoError::InsideFixedPart { offset: 8 }),
        (76, 72, IommuInfoError::Twice { offset: 72, id: 3 }),
        (28, 4096, truncated(4096)),
        (32, 900, truncated(24)),
        (
            24,
            0x2_0001,
            IommuInfoError::Version {
                offset: 24,
                id: 1,
                version: 2,
            },
        ),
    ];
    for (at, value, error) in cases {
        let bytes = put(container(), at, value);
        assert_eq!(IommuInfo::parse(&bytes), Err(error), "{value} at {at}");
    }
    // Of a kind that is not known, so that there may be several.
    let bytes = put(put(container(), 72, 0x1_0777), 76, 72);
    let cycle = IommuInfoError::Cycle { offset: 72 };
    assert_eq!(IommuInfo::parse(&bytes), Err(cycle));
}

#[test]
fn a_range_that_ends_before_it_starts_is_an_error() {
    // The first IOVA of the first range, whose last one is 0xfedfffff.
    let bytes = put(container(), 40, 0xfee0_0000);
    let error = IommuInfoError::NotARange {
        first: 0xfee0_0000,
        last: 0xfedf_ffff,
    };
    assert_eq!(IommuInfo::parse(&bytes), Err(error));
}

#[test]
fn limits_have_the_host_s_pages_and_count_the_mappings_that_there_are() {
    let info = IommuInfo::parse(&container()).unwrap();
    let limits = info.dma_limits(PageSize::Size4K, 3);
    assert_eq!(limits.page_size(), 0x1000);
    assert!(limits.allowed().eq(iovas()));
    assert_eq!(limits.mappings(), Some(65538));
    let limits = info.dma_limits(PageSize::Size64K, 0);
    assert_eq!(limits.page_size(), 0x1_0000);

    let none = put(put(container(), 4, 0), 0, 24);
    let limits = IommuInfo::parse(&none).unwrap();
    let limits = limits.dma_limits(PageSize::Size16K, 3);
    assert_eq!((limits.page_size(), limits.mappings()), (0x4000, None));
    assert!(limits.allowed().eq([AddrRange::ALL]));
}
