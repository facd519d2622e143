// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! TDISP interface reports: their bytes, and how they are placed in BARs.

use crate::common;

use common::bytes::report;
use common::{index, non_tee, tee};
use vfio_private::report::ReportError;
use vfio_private::{
    Bar, BarKind, InterfaceReport, MsixParts, OffsetRule, PlaceError, PlacedReport, ReportedRange,
};

const NON_TEE: u32 = 1 << 2;

const fn id(bar: u32) -> u32 {
    bar << 16
}

fn bar(number: u8, size: u64) -> Bar {
    Bar::new(index(number), BarKind::Memory, size).unwrap()
}

fn place(ranges: &[(u64, u32, u32)], rule: OffsetRule) -> Result<PlacedReport, PlaceError> {
    let bars = [
        bar(0, 0x8000),
        Bar::new(index(1), BarKind::Io, 0x20).unwrap(),
        bar(2, 0x1_0000),
    ];
    let report = InterfaceReport::parse(&report(ranges, &[])).unwrap();
    report.place(&bars, rule)
}

fn of_bar_0(ranges: &[(u64, u32, u32)], rule: OffsetRule) -> Vec<ReportedRange> {
    place(ranges, rule).unwrap().of(index(0)).to_vec()
}

#[test]
fn a_report_is_read_in_full() {
    let bytes = report(&[(0x1234_5678_9abc, 0x10, 0x0004_000f)], b"own");
    let report = InterfaceReport::parse(&bytes).unwrap();
    assert_eq!(report.interface_info, 3);
    assert_eq!(report.msix_control, 0x8020);
    assert_eq!((report.lnr_control, report.tph_control), (0, 0));
    assert_eq!(report.device_specific, b"own");
    let [range] = report.ranges[..] else {
        panic!("{report:?}");
    };
    assert_eq!((range.first_page, range.pages), (0x1234_5678_9abc, 0x10));
    assert_eq!(range.id(), 4);
    assert!(range.is_non_tee() && range.is_updatable());
    let both = MsixParts {
        table: true,
        pba: true,
    };
    assert_eq!(range.msix(), both);
}

#[test]
fn reserved_attributes_are_ignored() {
    let bytes = report(&[(0, 1, 0xfff0)], &[]);
    let [range] = InterfaceReport::parse(&bytes).unwrap().ranges[..] else {
        panic!();
    };
    assert_eq!((range.id(), range.msix()), (0, MsixParts::NONE));
    assert!(!range.is_non_tee() && !range.is_updatable());
}

#[test]
fn a_report_that_was_cut_off_anywhere_is_an_error() {
    let bytes = report(&[(0, 1, 0), (1, 1, 0)], b"own bytes");
    for len in 0..bytes.len() {
        let error = InterfaceReport::parse(&bytes[..len]).unwrap_err();
        let expected = match len {
            0..16 => ReportError::Short { len },
            16..48 => ReportError::TooManyRanges { count: 2, len },
            _ => ReportError::DeviceSpecific { offset: 48, len },
        };
        assert_eq!(error, expected, "{len}");
    }
}

#[test]
fn more_ranges_than_there_are_bytes_for_is_an_error() {
    let mut bytes = report(&[(0, 1, 0)], &[]);
    for count in [2, 0x1000_0000, u32::MAX] {
        bytes[12..16].copy_from_slice(&count.to_le_bytes());
        let error = ReportError::TooManyRanges { count, len: 36 };
        assert_eq!(InterfaceReport::parse(&bytes), Err(error));
    }
}

#[test]
fn a_report_may_be_filled_up_with_zeros_to_a_unit_of_the_transport_but_with_nothing_else() {
    let bytes = report(&[(0, 1, 0)], b"x");
    let with = |tail: &[u8]| InterfaceReport::parse(&[&bytes, tail].concat());
    assert_eq!(with(&[0; 3]), with(&[]));
    assert!(with(&[]).is_ok());
    for tail in [&[0; 4][..], &[0, 1], &[7; 16]] {
        let error = ReportError::TrailingBytes {
            offset: bytes.len(),
            len: bytes.len() + tail.len(),
        };
        assert_eq!(with(tail), Err(error));
    }
}

#[test]
fn an_empty_range_and_one_that_wraps_are_errors_that_name_it() {
    let good = (0, 1, 0);
    let error = ReportError::EmptyRange { n: 1, offset: 32 };
    let bytes = report(&[good, (5, 0, 0)], &[]);
    assert_eq!(InterfaceReport::parse(&bytes), Err(error));
    for (first_page, pages) in [(u64::MAX, 1), (1 << 52, 1), ((1 << 52) - 1, 2)] {
        let error = ReportError::RangeWraps {
            n: 2,
            offset: 48,
            first_page,
            pages,
        };
        let bytes = report(&[good, good, (first_page, pages, 0)], &[]);
        assert_eq!(InterfaceReport::parse(&bytes), Err(error));
    }
    // The last page of the address space is a page like any other.
    let bytes = report(&[((1 << 52) - 1, 1, 0)], &[]);
    assert!(InterfaceReport::parse(&bytes).is_ok());
}

#[test]
fn both_rules_agree_on_a_bar_that_is_reported_from_its_first_page_on() {
    let ranges = [(0x8_0000, 2, id(0)), (0x8_0002, 1, id(0) | NON_TEE)];
    let placed = [tee(0, 0x2000), non_tee(0x2000, 0x1000)];
    assert_eq!(of_bar_0(&ranges, OffsetRule::Relative), placed);
    assert_eq!(of_bar_0(&ranges, OffsetRule::Masked), placed);
}

#[test]
fn a_reporting_offset_that_is_off_the_size_of_the_bar_needs_the_relative_rule() {
    let ranges = [(0x8_0003, 8, id(0))];
    assert_eq!(of_bar_0(&ranges, OffsetRule::Relative), [tee(0, 0x8000)]);
    let error = PlaceError::OutsideBar {
        n: 0,
        bar: index(0),
        bar_size: 0x8000,
        offset: 0x3000,
        pages: 8,
    };
    assert_eq!(place(&ranges, OffsetRule::Masked), Err(error));
}

#[test]
fn a_bar_whose_first_pages_are_not_reported_needs_the_masked_rule() {
    let ranges = [(0x8_0002, 2, id(0)), (0x8_0006, 2, id(0))];
    assert_eq!(
        of_bar_0(&ranges, OffsetRule::Masked),
        [tee(0x2000, 0x2000), tee(0x6000, 0x2000)]
    );
    // By the other rule it would be taken for two other places. No consumer can tell.
    assert_eq!(
        of_bar_0(&ranges, OffsetRule::Relative),
        [tee(0, 0x2000), tee(0x4000, 0x2000)]
    );
}

#[test]
fn ranges_count_from_the_lowest_page_of_their_own_bar_in_any_order() {
    let ranges = [
        (0x905, 1, id(2)),
        (0x104, 4, id(0)),
        (0x900, 1, id(2) | NON_TEE),
        (0x100, 2, id(0)),
    ];
    let placed = place(&ranges, OffsetRule::Relative).unwrap();
    assert_eq!(placed.of(index(0)), [tee(0x4000, 0x4000), tee(0, 0x2000)]);
    assert_eq!(
        placed.of(index(2)),
        [tee(0x5000, 0x1000), non_tee(0, 0x1000)]
    );
    assert_eq!(placed.of(index(1)), []);
}

#[test]
fn a_negative_reporting_offset_is_undone_like_any_other() {
    // A BAR at 0xe0000000 with an offset of -0x100000000: the address wrapped below 0.
    let first = (0xe_0000_u64).wrapping_sub(0x10_0000) & ((1 << 52) - 1);
    let ranges = [(first, 8, id(0))];
    for rule in [OffsetRule::Relative, OffsetRule::Masked] {
        assert_eq!(of_bar_0(&ranges, rule), [tee(0, 0x8000)]);
    }
}

#[test]
fn ranges_whose_id_is_no_bar_are_left_out_and_the_others_are_placed() {
    for rule in [OffsetRule::Relative, OffsetRule::Masked] {
        for (id_of_range, words) in [
            (
                6,
                "range 1 has ID 6, which stands for what is behind a bridge",
            ),
            (7, "range 1 has ID 7, which stands for memory without a BAR"),
            (8, "range 1 has ID 8, a group of the device's own"),
            (0xffff, "range 1 has ID 65535, a group of the device's own"),
        ] {
            // Neither its place nor its size has to fit anything.
            let ranges = [(0x100, 2, id(0)), (0, u32::MAX, id(id_of_range))];
            let placed = place(&ranges, rule).unwrap();
            assert_eq!(placed.of(index(0)), [tee(0, 0x2000)]);
            let [left_out] = placed.left_out() else {
                panic!("{placed:?}");
            };
            assert_eq!(left_out.to_string(), words);
        }
    }
}

#[test]
fn a_report_that_does_not_fit_the_bars_is_refused_as_a_whole() {
    let good = (0, 1, id(0));
    for rule in [OffsetRule::Relative, OffsetRule::Masked] {
        for number in [3, 4, 5] {
            let error = PlaceError::NoSuchBar {
                n: 1,
                id: u16::try_from(number).unwrap(),
            };
            assert_eq!(place(&[good, (0, 1, id(number))], rule), Err(error));
        }
        let error = PlaceError::IoBar {
            n: 1,
            bar: index(1),
        };
        assert_eq!(place(&[good, (0, 1, id(1))], rule), Err(error));
        for pages in [9, u32::MAX] {
            let error = PlaceError::OutsideBar {
                n: 0,
                bar: index(0),
                bar_size: 0x8000,
                offset: 0,
                pages,
            };
            assert_eq!(place(&[(0, pages, id(0)), good], rule), Err(error));
        }
    }
}
