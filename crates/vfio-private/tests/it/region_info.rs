// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! VFIO's region info as the ioctl returns it.

use crate::common;

use common::bytes::Info;
use vfio_private::SparseArea;
use vfio_private::region_info::{RegionInfo, RegionInfoError, RegionType};

const READ: u32 = 1;
const WRITE: u32 = 2;
const MMAP: u32 = 4;
const CAPS: u32 = 8;

fn area(offset: u64, size: u64) -> SparseArea {
    SparseArea { offset, size }
}

#[test]
fn a_region_without_capabilities_is_its_fixed_part() {
    let info = RegionInfo::parse(&Info::new(2, READ | MMAP, 0x4000).bytes).unwrap();
    assert_eq!((info.index, info.size, info.offset), (2, 0x4000, 2 << 40));
    assert_eq!((info.readable, info.writable), (true, false));
    assert!(info.region.mmap && !info.region.msix_mappable);
    assert_eq!((info.region.sparse, info.kind), (None, None));
    let info = RegionInfo::parse(&Info::new(0, WRITE, 0).bytes).unwrap();
    assert!(info.writable && !info.readable && !info.region.mmap);
}

#[test]
fn all_capabilities_of_the_chain_are_read_and_unknown_ones_passed_over() {
    let info = Info::new(0, MMAP | CAPS, 0x10_0000)
        .capability(3, 1, &[])
        .capability(0x1234, 7, &[0xff; 12])
        // Unsorted, and one empty.
        .sparse(&[(0x8000, 0x8000), (0x4000, 0), (0, 0x2000)])
        .capability(2, 1, &[0xde, 0x10, 0, 0x80, 2, 0, 0, 0]);
    let info = RegionInfo::parse(&info.bytes).unwrap();
    assert!(info.region.msix_mappable);
    let areas = vec![area(0x8000, 0x8000), area(0x4000, 0), area(0, 0x2000)];
    assert_eq!(info.region.sparse, Some(areas));
    let kind = RegionType {
        kind: u32::from_ne_bytes([0xde, 0x10, 0, 0x80]),
        subtype: u32::from_ne_bytes([2, 0, 0, 0]),
    };
    assert_eq!(info.kind, Some(kind));
}

#[test]
fn a_list_without_areas_is_not_the_same_as_no_list() {
    let info = Info::new(0, MMAP | CAPS, 0x1000).sparse(&[]);
    let info = RegionInfo::parse(&info.bytes).unwrap();
    assert_eq!(info.region.sparse, Some(vec![]));
}

#[test]
fn without_the_flag_there_is_no_chain() {
    let info = Info::new(0, MMAP, 0x1000).sparse(&[(0, 0x1000)]);
    let info = RegionInfo::parse(&info.bytes).unwrap();
    assert_eq!(info.region.sparse, None);
}

#[test]
fn bytes_behind_what_the_kernel_filled_do_not_matter() {
    let mut info = Info::new(0, MMAP | CAPS, 0x1000).capability(3, 1, &[]);
    info.bytes.extend([0xff; 100]);
    assert!(RegionInfo::parse(&info.bytes).unwrap().region.msix_mappable);
}

#[test]
fn too_small_a_buffer_is_an_error_that_says_how_large_it_must_be() {
    for len in 0..32 {
        let bytes = &Info::new(0, MMAP, 0x1000).bytes[..len];
        assert_eq!(
            RegionInfo::parse(bytes),
            Err(RegionInfoError::Short { len })
        );
    }
    // The kernel says so by argsz, and leaves the offset of the chain 0.
    let info = Info::new(0, MMAP | CAPS, 0x1000).put(0, 0x50);
    let error = RegionInfoError::Incomplete {
        argsz: 0x50,
        len: 32,
    };
    assert_eq!(RegionInfo::parse(&info.bytes), Err(error));
}

#[test]
fn a_chain_that_leaves_the_bytes_is_an_error() {
    let chain = Info::new(0, MMAP | CAPS, 0x1000).capability(3, 1, &[]);
    for offset in [1, 12, 31] {
        let error = RegionInfoError::InsideFixedPart { offset };
        let first = u32::try_from(offset).unwrap();
        let info = chain.clone().put(12, first);
        assert_eq!(RegionInfo::parse(&info.bytes), Err(error));
    }
    for offset in [33, 40, u32::MAX] {
        let error = RegionInfoError::Truncated {
            offset: usize::try_from(offset).unwrap(),
            len: 40,
        };
        let info = chain.clone().put(12, offset);
        assert_eq!(RegionInfo::parse(&info.bytes), Err(error));
    }
}

#[test]
fn a_chain_that_comes_back_to_itself_is_an_error() {
    // Two capabilities of a kind that there may be several of.
    let info = Info::new(0, MMAP | CAPS, 0x1000)
        .capability(77, 1, &[])
        .capability(78, 1, &[])
        .put(44, 32);
    let error = RegionInfo::parse(&info.bytes).unwrap_err();
    assert!(
        matches!(error, RegionInfoError::Cycle { offset: 32 | 40 }),
        "{error}"
    );
}

#[test]
fn more_areas_than_there_are_bytes_for_is_an_error() {
    let info = Info::new(0, MMAP | CAPS, 0x1000).sparse(&[(0, 0x1000)]);
    let error = RegionInfoError::Truncated {
        offset: 32,
        len: 64,
    };
    for count in [2, 0x1000_0000, u32::MAX] {
        let info = info.clone().put(40, count);
        assert_eq!(RegionInfo::parse(&info.bytes), Err(error));
    }
}

#[test]
fn a_second_list_of_areas_is_an_error() {
    let info = Info::new(0, MMAP | CAPS, 0x1000)
        .sparse(&[(0, 0x1000)])
        .sparse(&[]);
    let error = RegionInfoError::Twice { offset: 64, id: 1 };
    assert_eq!(RegionInfo::parse(&info.bytes), Err(error));
}

#[test]
fn a_list_of_areas_of_an_unknown_version_does_not_make_all_mappable() {
    let info = Info::new(0, MMAP | CAPS, 0x1000).capability(1, 2, &[0; 8]);
    let error = RegionInfoError::Version {
        offset: 32,
        id: 1,
        version: 2,
    };
    assert_eq!(RegionInfo::parse(&info.bytes), Err(error));
}
