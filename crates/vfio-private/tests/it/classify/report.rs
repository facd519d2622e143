// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a TDISP report changes, and which reports no host page size can honour.

use crate::common;

use common::{Device, in_bar, index, non_tee, span, tee};
use vfio_private::Access::{Blocked, Private, Shared, Trap};
use vfio_private::{
    ClassifyError, MsixPart, Neighbour, PageSize, PbaPolicy, Policy, Reason, SubPagePolicy,
};

#[test]
fn a_report_splits_the_bar_at_every_boundary() {
    let ranges = [tee(0, 0x1000), non_tee(0x2000, 0x1000), tee(0x3000, 0x1000)];
    assert_eq!(
        Device::with_bar(0x8000).report(&ranges).lines(),
        [
            "0x0-0xfff private: TDISP report lists it as TEE memory",
            "0x1000-0x1fff blocked: TDISP report does not list it",
            "0x2000-0x2fff shared: TDISP report lists it as non-TEE memory",
            "0x3000-0x3fff private: TDISP report lists it as TEE memory",
            "0x4000-0x7fff blocked: TDISP report does not list it",
        ]
    );
}

#[test]
fn kvm_maps_private_and_shared_pieces_but_dma_only_shared_ones() {
    let device = Device::with_bar(0x4000).report(&[tee(0, 0x1000), non_tee(0x1000, 0x1000)]);
    let pieces = device.classify().unwrap();
    let mapped: Vec<_> = pieces
        .iter()
        .map(|p| (p.kvm_mappable(), p.dma_mappable()))
        .collect();
    assert_eq!(mapped, [(true, false), (true, true), (false, false)]);
}

#[test]
fn a_report_that_is_silent_on_the_bar_blocks_all_of_it() {
    assert_eq!(
        Device::with_bar(0x4000).report(&[]).shape(),
        [(0, 0x4000, Blocked)]
    );
}

#[test]
fn ranges_of_one_kind_may_overlap_and_come_in_any_order() {
    let ranges = [
        tee(0x1000, 0x2000),
        tee(0x3000, 0x1000),
        tee(0, 0x2000),
        tee(0, 0x1000),
    ];
    assert_eq!(
        Device::with_bar(0x4000).report(&ranges).shape(),
        [(0, 0x4000, Private)]
    );
}

#[test]
fn a_private_range_needs_nothing_from_vfio_mmap() {
    let mut device = Device::with_bar(0x4000).report(&[tee(0, 0x2000), non_tee(0x2000, 0x2000)]);
    device.region.mmap = false;
    assert_eq!(
        device.shape(),
        [(0, 0x2000, Private), (0x2000, 0x2000, Trap)]
    );
}

#[test]
fn a_private_bar_around_the_table_keeps_its_three_pieces() {
    let device = Device::with_bar(0x4000)
        .msix(in_bar(0, 0x2000, 16), in_bar(0, 0x2800, 8))
        .report(&[tee(0, 0x2000), non_tee(0x2000, 0x1000), tee(0x3000, 0x1000)]);
    let three = [
        (0, 0x2000, Private),
        (0x2000, 0x1000, Trap),
        (0x3000, 0x1000, Private),
    ];
    assert_eq!(device.shape(), three);
    assert!(
        !device.classify().unwrap()[1]
            .reasons()
            .contains(Reason::ReportedNonTee)
    );
}

#[test]
fn the_pages_of_the_table_are_trapped_even_if_unreported() {
    let device = Device::with_bar(0x2000)
        .msix(in_bar(0, 0, 16), in_bar(1, 0, 8))
        .report(&[]);
    assert_eq!(
        device.lines(),
        [
            "0x0-0xfff trap: TDISP report does not list it; host page holds the MSI-X table",
            "0x1000-0x1fff blocked: TDISP report does not list it",
        ]
    );
}

#[test]
fn shared_bytes_in_a_page_with_unreported_ones_are_trapped() {
    let device = Device::with_bar(0x8000)
        .page(PageSize::Size16K)
        .report(&[non_tee(0, 0x5000)]);
    assert_eq!(
        device.lines(),
        [
            "0x0-0x3fff shared: TDISP report lists it as non-TEE memory",
            "0x4000-0x4fff trap: host page also holds bytes the TDISP report does not list",
            "0x5000-0x7fff blocked: TDISP report does not list it",
        ]
    );
}

#[test]
fn a_hole_in_a_page_is_found_between_two_ranges() {
    let device = Device::with_bar(0x4000)
        .page(PageSize::Size16K)
        .report(&[non_tee(0x2000, 0x2000), non_tee(0, 0x1000)]);
    let holed = [
        (0, 0x1000, Trap),
        (0x1000, 0x1000, Blocked),
        (0x2000, 0x2000, Trap),
    ];
    assert_eq!(device.shape(), holed);
}

#[test]
fn a_sub_page_bar_obeys_the_report_where_it_can() {
    let page = PageSize::Size16K;
    let device = Device::with_bar(0x2000)
        .page(page)
        .report(&[non_tee(0, 0x1000)]);
    assert_eq!(
        device.shape(),
        [(0, 0x1000, Trap), (0x1000, 0x1000, Blocked)]
    );
    let expand = Policy::new().with_sub_page(SubPagePolicy::Expand);
    let device = device.policy(expand);
    assert_eq!(
        device.shape(),
        [(0, 0x1000, Trap), (0x1000, 0x1000, Blocked)]
    );
    assert_eq!(
        device.report(&[non_tee(0, 0x2000)]).shape(),
        [(0, 0x2000, Shared)]
    );
}

/// The error of a device on pages of 16 KiB whose BAR is of 64 KiB.
fn not_separable(device: Device) -> (vfio_private::AddrRange, Neighbour, vfio_private::AddrRange) {
    match device.page(PageSize::Size16K).classify() {
        Err(ClassifyError::PrivateNotSeparable {
            bar,
            private,
            neighbour,
            page,
        }) => {
            assert_eq!(bar, index(0));
            (private, neighbour, page)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_private_range_that_shares_a_page_with_a_shared_one_is_an_error() {
    let device = Device::with_bar(0x1_0000).report(&[non_tee(0x5000, 0x3000), tee(0, 0x5000)]);
    let neighbour = Neighbour::NonTee(span(0x5000, 0x3000));
    assert_eq!(
        not_separable(device),
        (span(0, 0x5000), neighbour, span(0x4000, 0x4000))
    );
}

#[test]
fn a_private_range_that_shares_a_page_with_unreported_bytes_is_an_error() {
    let device = Device::with_bar(0x1_0000).report(&[tee(0x2000, 0x6000)]);
    let neighbour = Neighbour::Unreported(span(0, 0x2000));
    assert_eq!(
        not_separable(device),
        (span(0x2000, 0x6000), neighbour, span(0, 0x4000))
    );
}

#[test]
fn a_private_range_that_shares_a_page_with_the_table_is_an_error() {
    let device = Device::with_bar(0x1_0000)
        .msix(in_bar(0, 0xa000, 0x100), in_bar(0, 0xb000, 8))
        .report(&[tee(0, 0x8000), tee(0x9000, 0x1000)]);
    let table = Neighbour::Msix(MsixPart::Table, span(0xa000, 0x100));
    assert_eq!(
        not_separable(device),
        (span(0x9000, 0x1000), table, span(0x8000, 0x4000))
    );
}

#[test]
fn a_private_range_around_the_table_is_an_error_even_if_it_fills_the_page() {
    let device = Device::with_bar(0x1_0000)
        .msix(in_bar(0, 0xa000, 0x100), in_bar(1, 0, 8))
        .report(&[tee(0, 0x1_0000)]);
    let error = device
        .clone()
        .page(PageSize::Size16K)
        .classify()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "BAR 0: private range 0x0-0xffff shares the host page 0x8000-0xbfff \
         with the MSI-X table 0xa000-0xa0ff"
    );
    let table = Neighbour::Msix(MsixPart::Table, span(0xa000, 0x100));
    assert_eq!(
        not_separable(device),
        (span(0, 0x1_0000), table, span(0x8000, 0x4000))
    );
}

#[test]
fn a_pba_may_be_private_if_the_policy_is_not_to_trap_it() {
    let device = Device::with_bar(0x1_0000)
        .msix(in_bar(1, 0, 16), in_bar(0, 0xc000, 8))
        .report(&[tee(0, 0x1_0000)]);
    let pba = Neighbour::Msix(MsixPart::Pba, span(0xc000, 8));
    let error = (span(0, 0x1_0000), pba, span(0xc000, 0x4000));
    assert_eq!(not_separable(device.clone()), error);
    let mapped = device.policy(Policy::new().with_pba(PbaPolicy::Map));
    assert_eq!(mapped.shape(), [(0, 0x1_0000, Private)]);
}

#[test]
fn the_lowest_page_is_named_when_several_cannot_be_separated() {
    let device = Device::with_bar(0x1_0000)
        .msix(in_bar(0, 0, 16), in_bar(0, 0x8000, 8))
        .report(&[tee(0x4000, 0x5000), tee(0xd000, 0x1000)]);
    let pba = Neighbour::Msix(MsixPart::Pba, span(0x8000, 8));
    assert_eq!(
        not_separable(device),
        (span(0x4000, 0x5000), pba, span(0x8000, 0x4000))
    );
}

#[test]
fn a_trapped_page_is_named_before_a_higher_one_that_is_private_in_part() {
    let device = Device::with_bar(0x1_0000)
        .msix(in_bar(0, 0x5000, 16), in_bar(1, 0, 8))
        .report(&[tee(0, 0xd000)]);
    let table = Neighbour::Msix(MsixPart::Table, span(0x5000, 16));
    assert_eq!(
        not_separable(device),
        (span(0, 0xd000), table, span(0x4000, 0x4000))
    );
}

#[test]
fn a_sub_page_bar_cannot_be_private_as_what_follows_it_is_in_the_page() {
    for policy in [
        Policy::new(),
        Policy::new().with_sub_page(SubPagePolicy::Expand),
    ] {
        let device = Device::with_bar(0x2000)
            .policy(policy)
            .report(&[tee(0, 0x2000)]);
        let behind = Neighbour::BehindBar(span(0x2000, 0x2000));
        assert_eq!(
            not_separable(device),
            (span(0, 0x2000), behind, span(0, 0x4000))
        );
    }
}
