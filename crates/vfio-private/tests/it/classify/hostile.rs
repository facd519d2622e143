// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Inputs that make no sense: a typed error, or a sound answer at little cost; never a panic.

use crate::common;

use common::{Device, assert_tiles, in_bar, index, non_tee, span, tee};
use proptest::prelude::*;
use vfio_private::{
    AddrRange, Bar, BarKind, BarRange, ClassifyError, Msix, MsixPart, MsixParts, PageSize,
    PbaPolicy, Policy, Region, ReportedRange, SparseArea, SubPagePolicy, TeeKind, TeeMsixPolicy,
};

fn io_bar() -> Device {
    let mut device = Device::with_bar(0x100);
    device.bar = Bar::new(index(0), BarKind::Io, 0x100).unwrap();
    device
}

#[test]
fn sparse_areas_must_stay_in_the_bar() {
    let bar_size = 0x4000;
    for (offset, size) in [(0x4000, 1), (0x3000, 0x1001), (u64::MAX, 1), (1, u64::MAX)] {
        let device = Device::with_bar(bar_size).sparse(&[(0, 0x1000), (offset, size)]);
        let bar = index(0);
        let error = ClassifyError::SparseAreaOutsideBar {
            bar,
            bar_size,
            offset,
            size,
        };
        assert_eq!(device.classify(), Err(error));
    }
}

#[test]
fn msix_structures_must_stay_in_their_bar() {
    let bar = index(0);
    let bar_size = 0x4000;
    let fits = in_bar(0, 0, 8);
    let leaves = in_bar(0, 0x3ff8, 16);
    for (part, table, pba) in [
        (MsixPart::Table, leaves, fits),
        (MsixPart::Pba, fits, leaves),
    ] {
        let span = leaves.range;
        let error = ClassifyError::MsixOutsideBar {
            bar,
            bar_size,
            part,
            range: span,
        };
        let device = Device::with_bar(bar_size).msix(table, pba);
        assert_eq!(device.classify(), Err(error));
        // Whether the PBA is to be trapped makes no difference.
        let map = Policy::new().with_pba(PbaPolicy::Map);
        assert_eq!(device.policy(map).classify(), Err(error));
    }
    // What is in another BAR can only be judged with that one.
    let elsewhere = in_bar(1, u64::MAX - 1, 1);
    assert!(
        Device::with_bar(bar_size)
            .msix(fits, elsewhere)
            .classify()
            .is_ok()
    );
}

#[test]
fn msix_structures_do_not_belong_in_an_io_bar() {
    let error = ClassifyError::MsixInIoBar {
        bar: index(0),
        part: MsixPart::Pba,
        range: span(0x80, 8),
    };
    let device = io_bar().msix(in_bar(1, 0, 16), in_bar(0, 0x80, 8));
    assert_eq!(device.classify(), Err(error));
}

#[test]
fn reported_ranges_must_stay_in_the_bar() {
    for range in [tee(0x4000, 1), non_tee(0x3000, 0x1001), tee(0, u64::MAX)] {
        let device = Device::with_bar(0x4000).report(&[tee(0, 0x1000), range]);
        let bar = index(0);
        let error = ClassifyError::ReportOutsideBar {
            bar,
            bar_size: 0x4000,
            range,
        };
        assert_eq!(device.classify(), Err(error));
    }
}

#[test]
fn reported_ranges_do_not_belong_in_an_io_bar() {
    let range = non_tee(0, 0x10);
    let error = ClassifyError::ReportInIoBar {
        bar: index(0),
        range,
    };
    assert_eq!(io_bar().report(&[range]).classify(), Err(error));
}

#[test]
fn a_byte_cannot_be_tee_and_non_tee() {
    let contradiction = |ranges: &[ReportedRange], tee: AddrRange, non_tee: AddrRange| {
        let device = Device::with_bar(0x8000).report(ranges);
        let error = ClassifyError::ReportContradicts {
            bar: index(0),
            tee,
            non_tee,
        };
        assert_eq!(device.classify(), Err(error));
    };
    let same = span(0x1000, 0x1000);
    contradiction(&[tee(0x1000, 0x1000), non_tee(0x1000, 0x1000)], same, same);
    contradiction(
        &[non_tee(0x1000, 0x1000), tee(0x1fff, 1)],
        span(0x1fff, 1),
        same,
    );
    // A short range of the same kind in between does not hide the long one.
    let long = span(0, 0x8000);
    let ranges = [tee(0, 0x8000), tee(0x1000, 0x1000), non_tee(0x4000, 0x1000)];
    contradiction(&ranges, long, span(0x4000, 0x1000));
}

#[test]
fn the_largest_bar_there_can_be_costs_no_more_than_a_small_one() {
    let size = 1 << 63;
    let device = Device::with_bar(size)
        .msix(in_bar(0, size - 0x1000, 16), in_bar(0, 0, 8))
        .report(&[tee(0x1000, size / 2), non_tee(size - 0x2000, 0x2000)])
        .sparse(&[(0, size)]);
    let pieces = device.classify().unwrap();
    assert_tiles(device.bar, &pieces);
    assert_eq!(pieces.len(), 5);
}

/// Numbers near the places where something could go wrong.
fn number() -> impl Strategy<Value = u64> {
    let edge = (0..64_u32, -2..=2_i64);
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        any::<u64>(),
        edge.prop_map(|(bit, off)| (1_u64 << bit).wrapping_add_signed(off)),
    ]
}

fn any_span() -> impl Strategy<Value = AddrRange> {
    (number(), number()).prop_filter_map("no span", |(offset, size)| {
        AddrRange::new(offset, size.into())
    })
}

fn any_place() -> impl Strategy<Value = BarRange> {
    (0..6_u8, any_span()).prop_map(|(bar, span)| BarRange {
        bar: index(bar % 2),
        range: span,
    })
}

fn any_device() -> impl Strategy<Value = Device> {
    let kind = prop_oneof![9 => Just(BarKind::Memory), 1 => Just(BarKind::Io)];
    let bar = (0..64_u32, kind).prop_map(|(bit, kind)| Bar::new(index(0), kind, 1 << bit).unwrap());
    let area = (number(), number()).prop_map(|(offset, size)| SparseArea { offset, size });
    let sparse = prop::option::of(prop::collection::vec(area, 0..4));
    let region =
        (any::<bool>(), sparse, any::<bool>()).prop_map(|(mmap, sparse, msix_mappable)| {
            let mut region = Region::mappable();
            (region.mmap, region.sparse, region.msix_mappable) = (mmap, sparse, msix_mappable);
            region
        });
    let msix = (any_place(), any_place()).prop_map(|(table, pba)| Msix { table, pba });
    let mark = prop::bool::weighted(0.1);
    let range =
        (any_span(), any::<bool>(), mark, mark).prop_map(|(span, tee, table, pba)| ReportedRange {
            range: span,
            kind: if tee { TeeKind::Tee } else { TeeKind::NonTee },
            msix: MsixParts { table, pba },
        });
    let report = prop::option::of(prop::collection::vec(range, 0..4));
    let page = prop::sample::select(vec![PageSize::Size4K, PageSize::Size16K, PageSize::Size64K]);
    let policy = prop::sample::select(vec![
        Policy::new(),
        Policy::new()
            .with_pba(PbaPolicy::Map)
            .with_sub_page(SubPagePolicy::Expand),
        Policy::new().with_tee_msix(TeeMsixPolicy::Private),
    ]);
    (bar, region, prop::option::of(msix), report, page, policy).prop_map(
        |(bar, region, msix, report, page, policy)| Device {
            bar,
            region,
            msix,
            report,
            page,
            policy,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_input_gives_an_error_or_few_pieces_that_tile_the_bar(device in any_device()) {
        if let Ok(pieces) = device.classify() {
            assert_tiles(device.bar, &pieces);
            let areas = device.region.sparse.as_ref().map_or(0, Vec::len);
            let ranges = device.report.as_ref().map_or(0, Vec::len);
            prop_assert!(pieces.len() <= 5 + 2 * areas + 6 * ranges);
        }
    }
}
